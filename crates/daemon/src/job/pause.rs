//! A job's transfer stands still while a job of high priority has its slot.
//!
//! ```text
//!  transfer --offer()--> may be paused --set(true)--> paused --set(false)--> goes on
//!  follower --need()---> must not be paused, and goes on if it is
//! ```
//!
//! - Only what moves bytes is paused, and only while it offers to be ([`Pause::offer`]): never a step that marks, opens,
//!   finishes or removes a volume. What has begun stays as it is: the volume is `populating`, its head is cleared, what was
//!   reserved is kept.
//! - A job on which others wait is not paused ([`Pause::need`]): the one with the slot would wait for the one without.
//! - Neither the time limit of the job nor the account of its time counts the pause as work.
//!
//! Who is paused and when is decided in [`jobs`](crate::jobs), `slots`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lvp_image::copy::Brake;
use tokio::sync::watch;

/// Whether a job's transfer is paused, and whether it may be.
#[derive(Debug)]
pub struct Pause {
    is_on: watch::Sender<bool>,
    /// Holds the threads of a copy.
    brake: Arc<Brake>,
    time: Mutex<Time>,
    offers: AtomicUsize,
    followers: AtomicUsize,
}

#[derive(Debug, Default)]
struct Time {
    before: Duration,
    since: Option<Instant>,
}

/// As long as this lives, the transfer may be paused.
#[derive(Debug)]
#[must_use = "the offer ends when this is dropped"]
pub struct Offer(Arc<Pause>);

/// As long as this lives, somebody waits for the job.
#[derive(Debug)]
#[must_use = "the need ends when this is dropped"]
pub struct Need(Arc<Pause>);

impl Default for Pause {
    fn default() -> Self {
        Self {
            is_on: watch::Sender::new(false),
            brake: Arc::default(),
            time: Mutex::default(),
            offers: AtomicUsize::new(0),
            followers: AtomicUsize::new(0),
        }
    }
}

impl Pause {
    /// A transfer is under way that can stand still.
    pub fn offer(self: &Arc<Self>) -> Offer {
        self.offers.fetch_add(1, Ordering::AcqRel);
        Offer(Arc::clone(self))
    }

    /// Another job waits for this one.
    pub fn need(self: &Arc<Self>) -> Need {
        self.followers.fetch_add(1, Ordering::AcqRel);
        Need(Arc::clone(self))
    }

    /// Whether it may be paused now.
    pub fn is_offered(&self) -> bool {
        self.offers.load(Ordering::Acquire) > 0 && !self.is_needed()
    }

    /// Whether another job waits for this one.
    pub fn is_needed(&self) -> bool {
        self.followers.load(Ordering::Acquire) > 0
    }

    /// Pauses the transfer, or lets it go on.
    pub fn set(&self, is_on: bool) {
        let mut time = self.lock();
        match (is_on, time.since) {
            (true, None) => time.since = Some(Instant::now()),
            (false, Some(since)) => {
                time.before += since.elapsed();
                time.since = None;
            }
            _ => return,
        }
        drop(time);
        self.brake.set(is_on);
        self.is_on.send_replace(is_on);
    }

    /// Whether it is paused.
    pub fn is_on(&self) -> bool {
        *self.is_on.borrow()
    }

    /// Returns when the transfer is paused.
    pub async fn begun(&self) {
        self.until(true).await;
    }

    /// Returns when the transfer is not paused.
    pub async fn over(&self) {
        self.until(false).await;
    }

    /// How long the transfer has been paused, in all.
    pub fn total(&self) -> Duration {
        let time = self.lock();
        time.before + time.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Holds a copy while the transfer is paused.
    pub fn brake(&self) -> Arc<Brake> {
        Arc::clone(&self.brake)
    }

    async fn until(&self, is_on: bool) {
        let mut seen = self.is_on.subscribe();
        // The sender is in self: it is there for as long as this waits.
        seen.wait_for(|now| *now == is_on).await.ok();
    }

    fn lock(&self) -> MutexGuard<'_, Time> {
        // A panic cannot leave plain data half-changed.
        self.time.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.0.offers.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Need {
    fn drop(&mut self) {
        self.0.followers.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pause_is_counted_once_and_ends() {
        let pause = Arc::new(Pause::default());
        assert_eq!((pause.is_on(), pause.total()), (false, Duration::ZERO));
        pause.over().await;
        pause.set(true);
        pause.set(true);
        pause.begun().await;
        let waiting = Arc::clone(&pause);
        let waiting = tokio::spawn(async move { waiting.over().await });
        pause.set(false);
        waiting.await.expect("it goes on");
        let total = pause.total();
        pause.set(false);
        assert_eq!(pause.total(), total, "it does not run on");
    }

    #[test]
    fn only_a_transfer_for_which_nobody_waits_may_be_paused() {
        let pause = Arc::new(Pause::default());
        assert!(!pause.is_offered());
        let offer = pause.offer();
        assert!(pause.is_offered());
        let need = pause.need();
        assert!(!pause.is_offered());
        drop(need);
        assert!(pause.is_offered());
        drop(offer);
        assert!(!pause.is_offered());
    }
}
