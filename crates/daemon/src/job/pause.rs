//! A job's transfer stands still while a job of high priority has its slot.
//!
//! ```text
//!  transfer --offer()--> may be paused --begin()--> paused --end()--> goes on
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
    state: Mutex<State>,
}

/// Changed as a whole, so that no pause begins after the end of the last offer.
#[derive(Debug, Default)]
struct State {
    /// How long earlier pauses were.
    before: Duration,
    since: Option<Instant>,
    offers: usize,
    followers: usize,
}

impl State {
    fn is_offered(&self) -> bool {
        self.offers > 0 && self.followers == 0
    }
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
            state: Mutex::default(),
        }
    }
}

impl Pause {
    /// A transfer is under way that can stand still.
    pub fn offer(self: &Arc<Self>) -> Offer {
        self.lock().offers += 1;
        Offer(Arc::clone(self))
    }

    /// Another job waits for this one.
    pub fn need(self: &Arc<Self>) -> Need {
        self.lock().followers += 1;
        Need(Arc::clone(self))
    }

    /// Whether it may be paused now.
    pub fn is_offered(&self) -> bool {
        self.lock().is_offered()
    }

    /// Whether another job waits for this one.
    pub fn is_needed(&self) -> bool {
        self.lock().followers > 0
    }

    /// Pauses the transfer, if it may be paused now. Returns whether it is. One whose last offer has ended before sees no
    /// pause, and one whose offer ends later sees this one.
    pub fn begin(&self) -> bool {
        let mut state = self.lock();
        if !state.is_offered() {
            return false;
        }
        state.since.get_or_insert_with(Instant::now);
        self.brake.set(true);
        self.is_on.send_replace(true);
        true
    }

    /// Lets the transfer go on.
    pub fn end(&self) {
        let mut state = self.lock();
        if let Some(since) = state.since.take() {
            state.before += since.elapsed();
            self.brake.set(false);
            self.is_on.send_replace(false);
        }
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
        let state = self.lock();
        let now = state.since.map_or(Duration::ZERO, |since| since.elapsed());
        state.before + now
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

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic cannot leave plain data half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.0.lock().offers -= 1;
    }
}

impl Drop for Need {
    fn drop(&mut self) {
        self.0.lock().followers -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[tokio::test]
    async fn a_pause_is_counted_once_and_ends() {
        let pause = Arc::new(Pause::default());
        assert_eq!((pause.is_on(), pause.total()), (false, Duration::ZERO));
        pause.over().await;
        let offer = pause.offer();
        assert!(pause.begin() && pause.begin());
        pause.begun().await;
        let waiting = Arc::clone(&pause);
        let waiting = tokio::spawn(async move { waiting.over().await });
        pause.end();
        waiting.await.expect("it goes on");
        let total = pause.total();
        pause.end();
        drop(offer);
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

    /// The transfer that has ended looks once, and goes on to what must not be paused.
    #[test]
    fn no_pause_begins_after_the_end_of_the_last_offer_was_followed_by_a_look() {
        for _ in 0..5_000 {
            let pause = Arc::new(Pause::default());
            let offer = pause.offer();
            let gate = Barrier::new(2);
            std::thread::scope(|scope| {
                let begun = scope.spawn(|| {
                    gate.wait();
                    pause.begin()
                });
                gate.wait();
                drop(offer);
                let seen = pause.is_on();
                assert_eq!(begun.join().expect("it ends"), seen);
            });
        }
    }
}
