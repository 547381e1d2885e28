//! Reading a request's body: within its time, at no less than a walking pace, and no more of it than there is room for.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use api::{StatusError, status::Reason};
use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures::StreamExt;
use http_body::Frame;
use tokio::time::{Instant, timeout_at};

use super::limits::{Account, Charge};

/// How fast a body must come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// How long a body may take whatever its size.
    pub(super) grace: Duration,
    /// Bytes a second that it must come with beyond that.
    pub(super) rate: u64,
    /// How long any body may take.
    pub(super) longest: Duration,
}

/// Five seconds, and one more for each 256 KiB, but no more than thirty.
pub(super) const PACE: Pace = Pace { grace: Duration::from_secs(5), rate: 256 << 10, longest: Duration::from_secs(30) };
/// A gRPC message's prefix: whether it is compressed, and its length.
pub(super) const PREFIX: usize = 5;

/// A body of one gRPC message of which some has come.
pub(super) struct Incoming {
    rest: BodyDataStream,
    came: VecDeque<Bytes>,
    length: usize,
    ended: bool,
    begun: Instant,
    pace: Pace,
}

// === impl Pace ===

impl Pace {
    /// When, after its beginning, a body is late of which so many bytes have come.
    fn due(self, came: usize) -> Duration {
        let paced = Duration::from_millis((came as u64).saturating_mul(1000) / self.rate.max(1));
        (self.grace + paced).min(self.longest)
    }
}

// === impl Incoming ===

impl Incoming {
    /// Nothing has come yet.
    pub(super) fn new(body: Body, pace: Pace) -> Self {
        let rest = body.into_data_stream();
        Self { rest, came: VecDeque::new(), length: 0, ended: false, begun: Instant::now(), pace }
    }

    /// Reads on until so many bytes have come, or the end. True if that is the end.
    ///
    /// # Errors
    /// When the body is late or breaks off, or there is no room for more of it.
    pub(super) async fn read_to(&mut self, bytes: usize, charge: &mut Charge) -> Result<bool, StatusError> {
        while !self.ended && self.length < bytes {
            let due = self.begun + self.pace.due(self.length);
            let Ok(next) = timeout_at(due, self.rest.next()).await else { return Err(late(self.length)) };
            match next {
                None => self.ended = true,
                Some(Err(error)) => {
                    return Err(StatusError::bad_request(format!("the request cannot be read: its body broke off: {error}")));
                }
                Some(Ok(piece)) => {
                    charge.add_bytes(piece.len()).map_err(|full| no_room(&full))?;
                    self.length += piece.len();
                    self.came.push_back(piece);
                }
            }
        }
        Ok(self.ended)
    }

    /// How long the message says that it is; 0 if it has not said so yet.
    pub(super) fn announced(&self) -> usize {
        let prefix: Vec<u8> = self.came.iter().flat_map(|piece| piece.iter().copied()).take(PREFIX).collect();
        match prefix[..] {
            [_, a, b, c, d] => u32::from_be_bytes([a, b, c, d]) as usize,
            _ => 0,
        }
    }

    /// Refuses a message that says it is longer than this.
    ///
    /// # Errors
    /// When it does.
    pub(super) fn at_most(&self, most: usize) -> Result<(), StatusError> {
        // One that turns out longer than it says is not read any further.
        let length = self.announced().max(self.length.saturating_sub(PREFIX));
        if length <= most {
            return Ok(());
        }
        let message = format!(
            "Request entity too large: the message has {length} bytes, the limit is {most}; split it into several requests"
        );
        Err(StatusError::new(Reason::RequestEntityTooLarge, message))
    }

    /// The message as far as it has come.
    pub(super) fn message(&self) -> Vec<u8> {
        let pieces: Vec<&[u8]> = self.came.iter().map(|piece| &piece[..]).collect();
        pieces.concat().split_off(PREFIX.min(self.length))
    }

    /// What has come, as a whole body.
    pub(super) fn into_body(self) -> Body {
        let pieces = self.came.into_iter().map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
        Body::new(http_body_util::StreamBody::new(futures::stream::iter(pieces)))
    }
}

fn late(came: usize) -> StatusError {
    let message = format!("the request's body did not come in time: {came} bytes of it did; please try again");
    StatusError::new(Reason::Timeout, message)
}

/// The refusal of what an account has no room for.
pub(super) fn no_room(full: &Account) -> StatusError {
    StatusError::too_many_requests(format!("{full} hold as much as they may; please try again later"), 1)
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;
    use crate::gate::limits::{Amount, Class, Ledgers};

    fn charge() -> Charge {
        let accounts = vec![Account::Class(Class::Other), Account::User("ann".into(), Class::Other)];
        Ledgers::new(1).charge(accounts, Amount::default()).unwrap()
    }

    /// A body that sends so many bytes at this interval for ever.
    fn dripping(bytes: usize, every: Duration) -> Incoming {
        let drops = stream::unfold((), move |()| async move {
            tokio::time::sleep(every).await;
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from(vec![0; bytes]))), ()))
        });
        Incoming::new(Body::new(http_body_util::StreamBody::new(drops)), PACE)
    }

    #[test]
    fn a_body_has_its_grace_then_its_pace_then_its_end() {
        assert_eq!(PACE.due(0), Duration::from_secs(5));
        assert_eq!(PACE.due(1 << 20), Duration::from_secs(9));
        assert_eq!(PACE.due(usize::MAX), Duration::from_secs(30));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_dawdles_is_not_waited_for() {
        for (bytes, every, lasts) in [(1, 1, 5), (64 << 10, 1, 7), (200_000, 1, 17)] {
            let begun = Instant::now();
            let error = dripping(bytes, Duration::from_secs(every)).read_to(8 << 20, &mut charge()).await.unwrap_err();
            assert_eq!(error.reason(), Reason::Timeout);
            let took = begun.elapsed().as_secs();
            assert!(took.abs_diff(lasts) <= 1, "{bytes} bytes a second: {took} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_there_is_no_room_for_is_not_read() {
        let mut body = dripping(1 << 20, Duration::from_millis(10));
        let error = body.read_to(usize::MAX, &mut charge()).await.unwrap_err();
        assert_eq!(error.reason(), Reason::TooManyRequests);
        assert!(body.length <= 24 << 20 && error.message().starts_with("user \"ann\" hold"), "{error}");
    }

    #[tokio::test]
    async fn a_message_says_how_long_it_is() {
        let pieces = [&[0u8, 0][..], &[1, 0, 0], b"abc"].map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from_static(piece))));
        let body = Body::new(http_body_util::StreamBody::new(stream::iter(pieces)));
        let mut body = Incoming::new(body, PACE);
        assert_eq!(body.announced(), 0);
        assert!(body.read_to(usize::MAX, &mut charge()).await.unwrap());
        assert_eq!((body.announced(), body.message().as_slice()), (1 << 16, &b"abc"[..]));
        assert_eq!(body.at_most(1 << 10).unwrap_err().reason(), Reason::RequestEntityTooLarge);
        assert!(body.at_most(1 << 16).is_ok());
    }
}
