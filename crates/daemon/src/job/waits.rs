//! What a job waits for while it repeats something that failed, or is paused, for whoever asks why nothing moves.
//!
//! Several requests of a job can be in trouble at the same time. The job waits from the first failure until none of
//! them is in trouble any more. The one that has failed most often is shown. The log gets one line when it begins and
//! one when it is over. A single failure whose first repeat is due within [`MENTIONED`] is not worth a line: it is told
//! once that repeat has failed too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lvp_api::{JobId, Lane, Waiting, WaitsFor};

use super::meter::Meter;
use crate::clock;
use crate::error::chain;
use crate::source::{self, RequestId, SourceError, WaitReason};

/// A first failure is logged if the job waits at least this long for its repeat.
const MENTIONED: Duration = Duration::from_secs(1);

/// Longest reason that is shown, in characters.
const REASON_MAX: usize = 1000;

/// What is said of a job that is paused.
const PAUSED: &str = "The job is of low priority, and all slots are taken: its transfer is paused, and goes on from \
    where it is when a slot is free";

/// The waits of one job.
#[derive(Debug)]
pub struct Waits {
    job: JobId,
    meter: Arc<Meter>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    troubled: HashMap<RequestId, Trouble>,
    began: Option<Began>,
    /// Since when the job is paused.
    paused: Option<String>,
}

#[derive(Debug, Clone)]
struct Trouble {
    on: WaitsFor,
    attempt: u32,
    reason: String,
}

#[derive(Debug)]
struct Began {
    at: Instant,
    since: String,
    is_logged: bool,
}

impl Waits {
    /// Of a job with this meter.
    pub fn new(job: JobId, meter: Arc<Meter>) -> Self {
        Self {
            job,
            meter,
            state: Mutex::default(),
        }
    }

    /// What the job waits for now.
    pub fn now(&self) -> Option<Waiting> {
        let state = self.lock();
        if let Some(since) = &state.paused {
            return Some(Waiting {
                on: WaitsFor::Slot,
                since: since.clone(),
                attempt: 0,
                reason: PAUSED.to_owned(),
            });
        }
        let worst = state.troubled.values().max_by_key(|found| found.attempt)?;
        Some(Waiting {
            on: worst.on,
            since: state.began.as_ref()?.since.clone(),
            attempt: worst.attempt,
            reason: worst.reason.clone(),
        })
    }

    /// The job is paused, or goes on. Returns whether that is new.
    pub fn pause(&self, is_on: bool) -> bool {
        let mut state = self.lock();
        if state.paused.is_some() == is_on {
            return false;
        }
        state.paused = is_on.then(clock::now_text);
        true
    }

    /// Something has failed this often, and is repeated after `wait`.
    pub fn failing(
        &self,
        what: RequestId,
        on: WaitsFor,
        attempt: u32,
        reason: String,
        wait: Duration,
    ) {
        let reason = match reason.char_indices().nth(REASON_MAX) {
            Some((end, _)) => format!("{}…", &reason[..end]),
            None => reason,
        };
        let mut state = self.lock();
        let trouble = Trouble {
            on,
            attempt,
            reason: reason.clone(),
        };
        state.troubled.insert(what, trouble);
        let began = state.began.get_or_insert_with(|| Began {
            at: Instant::now(),
            since: clock::now_text(),
            is_logged: false,
        });
        self.meter.trail.begin(Lane::Waiting);
        if began.is_logged || attempt == 1 && wait < MENTIONED {
            return;
        }
        began.is_logged = true;
        tracing::warn!(
            component = "provisioner", job_id = %self.job, since = began.since, attempt, reason,
            "Job waits for {}", on.text()
        );
    }

    /// It is not in trouble any more: it has succeeded, or nobody waits for it.
    pub fn over(&self, what: RequestId, has_succeeded: bool) {
        let mut state = self.lock();
        let Some(trouble) = state.troubled.remove(&what) else {
            return;
        };
        if !state.troubled.is_empty() {
            return;
        }
        self.meter.trail.end(Lane::Waiting);
        if let Some(Began {
            at,
            is_logged: true,
            ..
        }) = state.began.take()
            && has_succeeded
        {
            tracing::info!(
                component = "provisioner", job_id = %self.job,
                waited_secs = at.elapsed().as_secs(),
                "Job continues: {} is back", trouble.on.text()
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock leaves at worst a wait that is shown for too long.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl source::Observer for Waits {
    fn asked(&self) {
        self.meter.requests.send();
    }

    fn failing(&self, request: RequestId, attempt: u32, error: &SourceError, wait: Duration) {
        self.meter.requests.repeat();
        let store = WaitsFor::ObjectStore;
        Self::failing(self, request, store, attempt, chain(error), wait);
    }

    fn recovered(&self, request: RequestId) {
        self.over(request, true);
    }

    fn gave_up(&self, request: RequestId) {
        self.over(request, false);
    }

    fn waited(&self, reason: WaitReason, time: Duration) {
        if let Some(pass) = self.meter.pass() {
            pass.fetch_waited(reason, time);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits() -> Waits {
        Waits::new(JobId::random(), Arc::default())
    }

    fn fail(waits: &Waits, what: RequestId, attempt: u32) {
        let store = WaitsFor::ObjectStore;
        waits.failing(
            what,
            store,
            attempt,
            format!("No {attempt}"),
            Duration::ZERO,
        );
    }

    #[test]
    fn a_job_waits_from_the_first_failure_until_nothing_is_in_trouble() {
        let waits = waits();
        assert_eq!(waits.now(), None);
        let (one, other) = (RequestId::next(), RequestId::next());
        fail(&waits, one, 1);
        let first = waits.now().expect("it waits");
        assert_eq!((first.attempt, first.reason.as_str()), (1, "No 1"));
        fail(&waits, other, 1);
        fail(&waits, one, 2);
        let later = waits.now().expect("it waits");
        assert_eq!((later.attempt, &later.since), (2, &first.since));
        waits.over(one, true);
        assert_eq!(waits.now().map(|now| now.attempt), Some(1));
        waits.over(other, false);
        assert_eq!(waits.now(), None);
        // Nothing that was never in trouble is over.
        waits.over(one, true);
        assert_eq!(waits.now(), None);
    }

    #[test]
    fn a_paused_job_says_so_whatever_else_is_in_trouble() {
        let waits = waits();
        let request = RequestId::next();
        fail(&waits, request, 3);
        assert!(waits.pause(true) && !waits.pause(true));
        let now = waits.now().expect("it waits");
        assert_eq!((now.on, now.attempt), (WaitsFor::Slot, 0));
        assert!(waits.pause(false) && !waits.pause(false));
        assert_eq!(waits.now().map(|now| now.on), Some(WaitsFor::ObjectStore));
    }

    #[test]
    fn a_reason_of_any_length_is_cut_between_characters() {
        let waits = waits();
        let reason = "é".repeat(5000);
        let store = WaitsFor::ObjectStore;
        waits.failing(RequestId::next(), store, 1, reason, Duration::ZERO);
        let shown = waits.now().expect("it waits").reason;
        assert_eq!(shown.chars().count(), REASON_MAX + 1);
    }
}
