//! How fast jobs may fetch that were made by orders with a rate: beside the limit for all jobs together.
//!
//! A rate is named by what the idempotency keys of its jobs begin with, as [`Gates`](super::gates::Gates) are; the jobs
//! that begin so share it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::source::ReadLimit;

/// The rates.
#[derive(Debug, Default)]
pub struct Rates(Mutex<HashMap<String, Arc<ReadLimit>>>);

impl Rates {
    /// Limits the jobs whose keys begin with this, if they are not limited yet; 0 lifts the limit.
    pub fn set(&self, prefix: &str, bytes_per_sec: u64) {
        match ReadLimit::new(bytes_per_sec) {
            // Jobs that run have the one that is there.
            Some(limit) => {
                let mut rates = self.lock();
                rates
                    .entry(prefix.to_owned())
                    .or_insert_with(|| Arc::new(limit));
            }
            None => drop(self.lock().remove(prefix)),
        }
    }

    /// Lifts all limits whose names begin with this, except one.
    pub fn forget(&self, beginning: &str, keep: Option<&str>) {
        let is_kept =
            |prefix: &String| !prefix.starts_with(beginning) || Some(prefix.as_str()) == keep;
        self.lock().retain(|prefix, _| is_kept(prefix));
    }

    /// The limit of the job with this key.
    pub(super) fn of(&self, key: Option<&str>) -> Option<Arc<ReadLimit>> {
        let key = key?;
        let rates = self.lock();
        let found = rates
            .iter()
            .find(|(prefix, _)| key.starts_with(prefix.as_str()));
        found.map(|(_, limit)| Arc::clone(limit))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<ReadLimit>>> {
        // Entries are replaced as a whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_of_one_order_share_a_rate_and_others_have_none() {
        let rates = Rates::default();
        rates.set("fleet:a:1:", 1000);
        rates.set("fleet:a:2:", 1000);
        let of = |key| rates.of(Some(key));
        let (one, two) = (of("fleet:a:1:x"), of("fleet:a:1:y"));
        assert!(Arc::ptr_eq(&one.expect("a limit"), &two.expect("a limit")));
        assert!(of("fleet:a:3:x").is_none() && rates.of(None).is_none());
        rates.forget("fleet:a:", Some("fleet:a:2:"));
        assert!(of("fleet:a:1:x").is_none() && of("fleet:a:2:x").is_some());
        rates.set("fleet:a:2:", 0);
        assert!(of("fleet:a:2:x").is_none());
    }
}
