//! Many requests of one kind, in batches that grow.

use std::future::Future;

use futures::future::join_all;

/// Makes `count` requests in batches of one, two, four and so on, each batch at once, and hands every outcome to `done`. The first batch with
/// a failure is the last one, so that what fails for all fails a few times and not five hundred. Answers that failure.
///
/// # Errors
/// The last failure of the batch that had one. The requests after that batch were not made.
pub async fn in_growing_batches<T, E, F: Future<Output = Result<T, E>>>(
    count: usize,
    mut request: impl FnMut(usize) -> F,
    mut done: impl FnMut(Result<T, &E>),
) -> Result<(), E> {
    let (mut made, mut batch) = (0, 1);
    while made < count {
        let next = (made + batch).min(count);
        let mut failure = None;
        for outcome in join_all((made..next).map(&mut request)).await {
            match outcome {
                Ok(answer) => done(Ok(answer)),
                Err(error) => {
                    done(Err(&error));
                    failure = Some(error);
                }
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        (made, batch) = (next, batch * 2);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    async fn run(count: usize, fails: impl Fn(usize) -> bool) -> (Result<(), usize>, Vec<usize>) {
        let made = RefCell::new(Vec::new());
        let request = |n: usize| {
            made.borrow_mut().push(n);
            std::future::ready(if fails(n) { Err(n) } else { Ok(n) })
        };
        let mut answers = 0;
        let outcome = in_growing_batches(count, request, |_| answers += 1).await;
        let made = made.into_inner();
        assert_eq!(answers, made.len());
        (outcome, made)
    }

    #[tokio::test]
    async fn what_fails_for_all_is_tried_once_and_what_fails_later_stops_its_batch() {
        assert_eq!(run(500, |_| true).await, (Err(0), vec![0]));
        // One, two, then four of which one fails.
        assert_eq!(run(500, |n| n == 4).await, (Err(4), (0..7).collect()));
        assert_eq!(run(500, |_| false).await, (Ok(()), (0..500).collect()));
        assert_eq!(run(0, |_| true).await, (Ok(()), vec![]));
    }
}
