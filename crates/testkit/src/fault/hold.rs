//! Answers that are held back, so that a test sees which requests a client sends before it knows any of them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::Request;

type Condition = Box<dyn Fn(&Request) -> bool + Send + Sync>;

/// The requests that wait.
#[derive(Default)]
pub(super) struct Hold(Mutex<Held>);

#[derive(Default)]
struct Held {
    condition: Option<Condition>,
    requests: Vec<(Request, oneshot::Sender<()>)>,
}

impl Hold {
    pub(super) fn begin(&self, condition: Condition) {
        self.lock().condition = Some(condition);
    }

    pub(super) fn end(&self) {
        *self.lock() = Held::default();
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        let held = self.lock();
        let waiting = held.requests.iter();
        let waiting = waiting.filter(|(_, go)| !go.is_closed());
        waiting.map(|(request, _)| request.clone()).collect()
    }

    pub(super) fn let_go(&self) {
        self.lock().requests.clear();
    }

    /// Waits for as long as this request is held.
    pub(super) async fn pass(&self, request: &Request) {
        let released = {
            let mut held = self.lock();
            if !held.condition.as_ref().is_some_and(|holds| holds(request)) {
                return;
            }
            let (go, released) = oneshot::channel();
            held.requests.push((request.clone(), go));
            released
        };
        // The sender is dropped when it may go.
        released.await.ok();
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
