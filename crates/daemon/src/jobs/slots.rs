//! Slots: which jobs run now, and which begins next.
//!
//! - Within a priority, jobs begin in the order of their acceptance.
//! - A free slot goes to the most urgent job. After [`MAX_PASSED_OVER`] slots that passed over the one that has waited
//!   longest, that one gets the next: of nine jobs that begin, at least one is the oldest, so that every job begins.
//! - While no slot is free, a job of high priority takes that of a job of low priority whose transfer may be paused
//!   ([`Pause`]): the one that began last, as it has done least. It gets a slot again before any other job of low
//!   priority begins; so at most as many jobs are paused as there are slots. It then runs for at least
//!   [`MIN_RUN`] before it may be paused again.
//! - A paused job that another one waits for goes on without a slot: the one that waits has one, and does nothing with it.
//!
//! A place in the queue is a [`Ticket`]. It is given up when it is dropped, wherever the job is by then.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lvp_api::Priority;
use tokio::sync::oneshot;

use crate::job::pause::Pause;

/// How many slots may pass over the job that has waited longest.
const MAX_PASSED_OVER: u32 = 8;

/// How long a job runs after a pause before it may be paused again: otherwise jobs that come again and again would leave
/// it no time to get on.
const MIN_RUN: Duration = Duration::from_secs(60);

/// How many priorities there are.
const CLASSES: usize = Priority::ALL.len();

/// The daemon is stopping: no further job begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Closed;

/// All slots.
#[derive(Debug)]
pub(super) struct Slots(Mutex<State>);

/// A job's place: in the queue, with a slot, or paused.
#[derive(Debug)]
pub(super) struct Ticket {
    slots: Arc<Slots>,
    number: u64,
    granted: Option<oneshot::Receiver<()>>,
}

#[derive(Debug)]
struct State {
    count: usize,
    is_closed: bool,
    next: u64,
    /// By priority.
    waiting: [VecDeque<Waiting>; CLASSES],
    running: HashMap<u64, Running>,
    /// In the order in which they were paused.
    paused: VecDeque<Paused>,
    passed_over: u32,
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    pause: Arc<Pause>,
    grant: oneshot::Sender<()>,
}

#[derive(Debug)]
struct Running {
    priority: Priority,
    pause: Arc<Pause>,
    /// In which order it began.
    order: u64,
    /// When its last pause ended.
    resumed: Option<Instant>,
}

#[derive(Debug)]
struct Paused {
    ticket: u64,
    pause: Arc<Pause>,
    /// Compared with the numbers of tickets: since when it waits.
    order: u64,
}

/// What may get a slot next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Waiting(Priority),
    Paused,
}

impl Slots {
    pub(super) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            count,
            is_closed: false,
            next: 0,
            waiting: Default::default(),
            running: HashMap::new(),
            paused: VecDeque::new(),
            passed_over: 0,
        })))
    }

    /// Takes a place at the end of the queue.
    pub(super) fn ask(self: &Arc<Self>, priority: Priority, pause: Arc<Pause>) -> Ticket {
        let mut state = self.lock();
        let number = state.number();
        let (grant, granted) = oneshot::channel();
        // Without its sender, the ticket tells that no further job begins.
        if !state.is_closed {
            state.waiting[priority as usize].push_back(Waiting {
                ticket: number,
                pause,
                grant,
            });
            state.dispatch(Instant::now());
        }
        drop(state);
        Ticket {
            slots: Arc::clone(self),
            number,
            granted: Some(granted),
        }
    }

    /// Looks whether a job may be paused now, or has to go on. Cheap when there is nothing to do.
    pub(super) fn reconsider(&self) {
        self.lock().dispatch(Instant::now());
    }

    /// No further job begins. Paused ones still go on when a slot is free.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.waiting.iter_mut().for_each(VecDeque::clear);
    }

    /// How many jobs would begin before a new one of this priority.
    pub(super) fn ahead(&self, priority: Priority) -> usize {
        let state = self.lock();
        let waiting = state.waiting[priority as usize..].iter();
        let waiting: usize = waiting.map(VecDeque::len).sum();
        match priority {
            Priority::Low => waiting + state.paused.len(),
            Priority::Normal | Priority::High => waiting,
        }
    }

    fn leave(&self, ticket: u64) {
        let mut state = self.lock();
        for waiting in &mut state.waiting {
            waiting.retain(|waiting| waiting.ticket != ticket);
        }
        state.paused.retain(|paused| {
            let stays = paused.ticket != ticket;
            if !stays {
                // Whatever the job does next, it does without this place.
                paused.pause.end();
            }
            stays
        });
        if state.running.remove(&ticket).is_some() {
            state.dispatch(Instant::now());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Consistent between any two statements of its users.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Gives out what is free, and takes slots for jobs of high priority.
    fn dispatch(&mut self, now: Instant) {
        while let Some(index) = (self.paused.iter()).position(|paused| paused.pause.is_needed()) {
            self.go_on(index, now);
        }
        loop {
            if self.running.len() < self.count {
                match self.pick() {
                    Some(next) => self.start(next, now),
                    None => return,
                }
            } else if !self.take_slot(now) {
                return;
            }
        }
    }

    /// Decides who gets a free slot.
    fn pick(&mut self) -> Option<Next> {
        let urgent = self.candidates().next()?;
        let oldest = self.candidates().min_by_key(|(order, _)| *order)?;
        let is_due = urgent == oldest || self.passed_over >= MAX_PASSED_OVER;
        let (_, next) = match is_due {
            true => oldest,
            false => urgent,
        };
        self.passed_over = match is_due {
            true => 0,
            false => self.passed_over + 1,
        };
        Some(next)
    }

    /// The first of each kind and since when it waits, the most urgent first.
    fn candidates(&self) -> impl Iterator<Item = (u64, Next)> {
        let first = |priority: Priority| {
            let first = self.waiting[priority as usize].front()?;
            Some((first.ticket, Next::Waiting(priority)))
        };
        let paused = self.paused.front();
        [
            first(Priority::High),
            first(Priority::Normal),
            paused.map(|paused| (paused.order, Next::Paused)),
            // Not while one is paused, which is of the same priority and began before.
            first(Priority::Low).filter(|_| paused.is_none()),
        ]
        .into_iter()
        .flatten()
    }

    fn start(&mut self, next: Next, now: Instant) {
        let priority = match next {
            Next::Waiting(priority) => priority,
            Next::Paused => return self.go_on(0, now),
        };
        let Some(first) = self.waiting[priority as usize].pop_front() else {
            return;
        };
        // If nobody takes it, its ticket is about to be dropped, and gives the slot back.
        first.grant.send(()).ok();
        let order = self.number();
        let running = Running {
            priority,
            pause: first.pause,
            order,
            resumed: None,
        };
        self.running.insert(first.ticket, running);
    }

    fn go_on(&mut self, index: usize, now: Instant) {
        let Some(Paused { ticket, pause, .. }) = self.paused.remove(index) else {
            return;
        };
        pause.end();
        let order = self.number();
        let running = Running {
            priority: Priority::Low,
            pause,
            order,
            resumed: Some(now),
        };
        self.running.insert(ticket, running);
    }

    /// Pauses a job of low priority if one of high priority waits. Returns whether it did.
    fn take_slot(&mut self, now: Instant) -> bool {
        let is_wanted = !self.waiting[Priority::High as usize].is_empty()
            && self.running.len() == self.count
            && self.passed_over < MAX_PASSED_OVER;
        if !is_wanted {
            return false;
        }
        let may_be_paused = |running: &Running| {
            let rests = running.resumed.is_some_and(|at| now < at + MIN_RUN);
            running.priority == Priority::Low && running.pause.is_offered() && !rests
        };
        let running = self.running.iter();
        let mut candidates: Vec<_> = running
            .filter(|(_, running)| may_be_paused(running))
            .map(|(ticket, running)| (running.order, *ticket))
            .collect();
        candidates.sort_unstable();
        // The offer of one may have ended since.
        let begun = |(_, ticket): &&(u64, u64)| self.running[ticket].pause.begin();
        let last = candidates.iter().rev().find(begun);
        let Some((ticket, Running { pause, .. })) =
            last.and_then(|(_, ticket)| self.running.remove_entry(ticket))
        else {
            return false;
        };
        let order = self.number();
        self.paused.push_back(Paused {
            ticket,
            pause,
            order,
        });
        // It waits from now on, so that the slot goes to the other one.
        true
    }
}

impl Ticket {
    /// Waits until the job has a slot.
    pub(super) async fn granted(&mut self) -> Result<(), Closed> {
        match &mut self.granted {
            None => Ok(()),
            Some(granted) => {
                granted.await.map_err(|_| Closed)?;
                self.granted = None;
                Ok(())
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.slots.leave(self.number);
    }
}

#[cfg(test)]
mod tests;
