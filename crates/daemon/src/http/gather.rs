//! Runs an expensive read once at a time, for any number of callers.
//!
//! Callers that arrive before a read begins share its answer. A caller that arrives during a read does not get
//! its answer, which may be older than what the caller has just changed: it waits, with all others that arrive
//! meanwhile, for the next read. So there is at most one read in progress and one group that waits, whatever
//! the number of callers. The read runs in a task of its own, so that a caller that disconnects does not affect
//! the others. There is no read for a group whose callers have all gone.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// One kind of read.
#[derive(Debug)]
pub struct Gather<T>(Arc<Inner<T>>);

#[derive(Debug)]
struct Inner<T> {
    /// Held during a read.
    turn: tokio::sync::Mutex<()>,
    /// The group whose read has not begun.
    waiting: Mutex<Option<watch::Receiver<Option<T>>>>,
}

/// The read crashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadCrashed;

impl<T> Default for Gather<T> {
    fn default() -> Self {
        Self(Arc::new(Inner {
            turn: tokio::sync::Mutex::default(),
            waiting: Mutex::default(),
        }))
    }
}

impl<T: Clone + Send + Sync + 'static> Gather<T> {
    /// The answer of a read that begins after this call. All callers' `read` must do the same.
    pub async fn get<F>(&self, read: impl FnOnce() -> F + Send + 'static) -> Result<T, ReadCrashed>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut answer = self.join(read);
        let answer = answer
            .wait_for(Option::is_some)
            .await
            .map_err(|_| ReadCrashed)?;
        answer.clone().ok_or(ReadCrashed)
    }

    fn join<F>(&self, read: impl FnOnce() -> F + Send + 'static) -> watch::Receiver<Option<T>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut waiting = self
            .0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = &*waiting {
            return answer.clone();
        }
        let (sender, answer) = watch::channel(None);
        *waiting = Some(answer.clone());
        let inner = Arc::clone(&self.0);
        tokio::spawn(async move {
            let _turn = inner.turn.lock().await;
            // Callers that arrive from here on are in the next group.
            let group = inner
                .waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            drop(group);
            if sender.receiver_count() > 0 {
                let answer = read().await;
                // All callers may have gone by now.
                sender.send(Some(answer)).ok();
            }
        });
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::sync::Semaphore;

    use super::*;

    /// A read that ends when it is let go on; how often it was begun, and how many were under way at once.
    #[derive(Default)]
    struct Reads {
        begun: AtomicUsize,
        now: AtomicUsize,
        most: AtomicUsize,
    }

    struct World {
        gather: Arc<Gather<usize>>,
        reads: Arc<Reads>,
        go_on: Arc<Semaphore>,
    }

    impl World {
        fn new() -> Self {
            Self {
                gather: Arc::default(),
                reads: Arc::default(),
                go_on: Arc::new(Semaphore::new(0)),
            }
        }

        fn ask(&self) -> tokio::task::JoinHandle<Result<usize, ReadCrashed>> {
            let (gather, reads) = (Arc::clone(&self.gather), Arc::clone(&self.reads));
            let go_on = Arc::clone(&self.go_on);
            tokio::spawn(async move {
                let read = move || async move {
                    let number = reads.begun.fetch_add(1, Ordering::SeqCst);
                    let now = reads.now.fetch_add(1, Ordering::SeqCst) + 1;
                    reads.most.fetch_max(now, Ordering::SeqCst);
                    go_on.acquire().await.expect("it is never closed").forget();
                    reads.now.fetch_sub(1, Ordering::SeqCst);
                    number
                };
                gather.get(read).await
            })
        }

        /// Until every task has come as far as it can.
        async fn settle(&self) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }

        fn begun(&self) -> usize {
            self.reads.begun.load(Ordering::SeqCst)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn any_number_of_callers_cost_one_read_at_a_time_and_none_gets_one_that_began_before_it_came()
     {
        let world = World::new();
        let first = world.ask();
        world.settle().await;
        assert_eq!(world.begun(), 1);
        let later: Vec<_> = (0..400).map(|_| world.ask()).collect();
        world.settle().await;
        assert_eq!(world.begun(), 1, "they wait");
        world.go_on.add_permits(2);
        assert_eq!(first.await.expect("no panic"), Ok(0));
        for caller in later {
            assert_eq!(caller.await.expect("no panic"), Ok(1));
        }
        assert_eq!(world.begun(), 2);
        assert_eq!(world.reads.most.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_goes_away_takes_nothing_from_the_others() {
        let world = World::new();
        let (gone, stays) = (world.ask(), world.ask());
        world.settle().await;
        gone.abort();
        let (gone, waits) = (world.ask(), world.ask());
        world.settle().await;
        gone.abort();
        world.settle().await;
        world.go_on.add_permits(2);
        assert_eq!(stays.await.expect("no panic"), Ok(0));
        assert_eq!(waits.await.expect("no panic"), Ok(1));
        // Nobody is left of this group, so that there is nothing to read.
        let busy = world.ask();
        world.settle().await;
        let gone = world.ask();
        world.settle().await;
        gone.abort();
        world.settle().await;
        world.go_on.add_permits(1);
        assert_eq!(busy.await.expect("no panic"), Ok(2));
        world.settle().await;
        assert_eq!(world.begun(), 3);
    }

    #[tokio::test]
    async fn a_read_that_panics_is_an_error_and_the_next_one_is_made() {
        let gather = Gather::<usize>::default();
        let crashed = gather.get(|| async { panic!("on purpose") }).await;
        assert_eq!(crashed, Err(ReadCrashed));
        assert_eq!(gather.get(|| async { 7 }).await, Ok(7));
    }
}
