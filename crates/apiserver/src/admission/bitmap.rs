//! An allocation bitmap: numbers of which some are taken, and the choice of a free one.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a number that was chosen counts as taken without anybody having been seen to take it.
const PROMISE: Duration = Duration::from_secs(5);

/// The numbers from 0 to below a size.
#[derive(Debug)]
pub(super) struct Bitmap {
    /// How many hold each number; more than one only for a moment, or if the stored data is at odds with itself.
    holders: Vec<u8>,
    /// A bit for each number that is taken, so that whole words of them are skipped at once.
    taken: Vec<u64>,
    /// Numbers chosen a moment ago. Only a hint: who gets a number is decided by the transaction that writes its key.
    promised: HashMap<u32, Instant>,
    /// Numbers below this are left to those who ask for a particular one, while there are others.
    reserved: u32,
}

impl Bitmap {
    /// A bitmap of `size` numbers, the first `reserved` of which are chosen last.
    pub fn new(size: u32, reserved: u32) -> Self {
        let words = size.div_ceil(64) as usize;
        let mut taken = vec![0; words];
        // What lies past the end counts as taken.
        if let Some(last) = taken.last_mut().filter(|_| !size.is_multiple_of(64)) {
            *last = !0 << (size % 64);
        }
        Self { holders: vec![0; size as usize], taken, promised: HashMap::new(), reserved: reserved.min(size) }
    }

    /// Forgets who holds what.
    pub fn clear(&mut self) {
        let promised = std::mem::take(&mut self.promised);
        *self = Self { promised, ..Self::new(self.holders.len() as u32, self.reserved) };
    }

    /// Somebody holds the number.
    pub fn take(&mut self, number: u32) {
        if let Some(holders) = self.holders.get_mut(number as usize) {
            *holders = holders.saturating_add(1);
            self.taken[number as usize / 64] |= 1 << (number % 64);
        }
    }

    /// Somebody no longer holds the number.
    pub fn give_back(&mut self, number: u32) {
        if let Some(holders) = self.holders.get_mut(number as usize) {
            *holders = holders.saturating_sub(1);
            if *holders == 0 {
                self.taken[number as usize / 64] &= !(1 << (number % 64));
            }
        }
    }

    /// True if somebody holds the number.
    #[cfg(test)]
    pub fn is_taken(&self, number: u32) -> bool {
        self.holders.get(number as usize).is_some_and(|holders| *holders > 0)
    }

    /// A free number other than `except`, near where `random` points. `None` if all are taken.
    pub fn choose(&mut self, random: u32, except: &[u32], now: Instant) -> Option<u32> {
        self.promised.retain(|_, at| now.duration_since(*at) < PROMISE);
        let size = self.holders.len() as u32;
        let (low, high) = (0..self.reserved, self.reserved..size);
        let chosen = self
            .search(high.clone(), random, except, true)
            .or_else(|| self.search(low.clone(), random, except, true))
            // Everything free is promised; some of the promises may have come to nothing.
            .or_else(|| self.search(high, random, except, false))
            .or_else(|| self.search(low, random, except, false))?;
        self.promised.insert(chosen, now);
        Some(chosen)
    }

    fn search(&self, range: std::ops::Range<u32>, random: u32, except: &[u32], keep_promises: bool) -> Option<u32> {
        if range.is_empty() {
            return None;
        }
        let start = range.start + random % (range.end - range.start);
        let free = |number: &u32| !except.contains(number) && (!keep_promises || !self.promised.contains_key(number));
        self.free(start..range.end).find(free).or_else(|| self.free(range.start..start).find(free))
    }

    /// The free numbers of a range in order, a word at a time.
    fn free(&self, range: std::ops::Range<u32>) -> impl Iterator<Item = u32> + '_ {
        let words = range.start / 64..range.end.div_ceil(64);
        words.flat_map(move |word| {
            let mut bits = !self.taken[word as usize];
            let range = range.clone();
            std::iter::from_fn(move || {
                loop {
                    if bits == 0 {
                        return None;
                    }
                    let number = word * 64 + bits.trailing_zeros();
                    bits &= bits - 1;
                    if range.contains(&number) {
                        return Some(number);
                    }
                }
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_number_is_chosen_once_and_then_there_is_none() {
        let mut bitmap = Bitmap::new(130, 16);
        let now = Instant::now();
        let mut chosen: Vec<u32> = Vec::new();
        for i in 0..130 {
            let number = bitmap.choose(i * 7919, &[], now).unwrap();
            bitmap.take(number);
            chosen.push(number);
        }
        assert!(chosen[..114].iter().all(|n| *n >= 16), "reserved numbers go last");
        chosen.sort_unstable();
        assert_eq!(chosen, (0..130).collect::<Vec<_>>());
        assert_eq!(bitmap.choose(5, &[], now), None);
        bitmap.give_back(77);
        assert_eq!(bitmap.choose(5, &[], now), Some(77));
    }

    #[test]
    fn a_promise_is_kept_for_a_while_and_not_for_ever() {
        let mut bitmap = Bitmap::new(2, 0);
        let now = Instant::now();
        let first = bitmap.choose(0, &[], now).unwrap();
        assert_eq!(bitmap.choose(0, &[], now), Some(1 - first));
        assert!(bitmap.choose(0, &[], now).is_some(), "rather a promised one than none");
        assert_eq!(bitmap.choose(0, &[], now + PROMISE * 2), Some(0));
    }

    #[test]
    fn a_number_is_free_when_the_last_holder_gives_it_back() {
        let mut bitmap = Bitmap::new(1, 0);
        bitmap.take(0);
        bitmap.take(0);
        bitmap.give_back(0);
        assert!(bitmap.is_taken(0));
        bitmap.give_back(0);
        assert!(!bitmap.is_taken(0));
        bitmap.take(9);
        assert!(!bitmap.is_taken(9), "numbers outside are nobody's");
    }

    proptest! {
        #[test]
        fn what_is_chosen_was_free(
            taken in prop::collection::vec(0u32..300, 0..400),
            except in prop::collection::vec(0u32..300, 0..4),
            random: u32,
        ) {
            let mut bitmap = Bitmap::new(300, 20);
            taken.iter().for_each(|n| bitmap.take(*n));
            let all_taken = (0..300).all(|n| bitmap.is_taken(n) || except.contains(&n));
            match bitmap.choose(random, &except, Instant::now()) {
                Some(n) => prop_assert!(n < 300 && !bitmap.is_taken(n) && !except.contains(&n)),
                None => prop_assert!(all_taken),
            }
        }
    }
}
