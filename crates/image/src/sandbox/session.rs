//! Who gets which process: one for each job, and one that waits for the next.

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::fate::Counts;
use super::lane::{Lane, Stop};
use super::parts::Parts;
use super::process::{Launch, Process};
use crate::error::{Error, ErrorKind, Result};

/// How long a process may take for one request. The longest, a MiB of a stream or two of clusters,
/// takes a tenth of a second; on a host with far more load than processors some seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Starts decoding processes. Clones share it.
#[derive(Clone)]
pub struct Sandbox(Arc<Inner>);

struct Inner {
    launch: Box<dyn Launch>,
    least: Parts,
    answer_timeout: Duration,
    counts: Arc<Counts>,
    /// What restricted the first one.
    parts: Parts,
    /// Started in advance: a small image would take longer to decode than a process to start.
    warm: Mutex<Option<Process>>,
}

impl Sandbox {
    /// Starts the first process. Fails if it cannot be started, or is not restricted by at least these
    /// parts; nor will a later one be used that is not.
    pub fn start(launch: Box<dyn Launch>, least: Parts) -> Result<Self> {
        Self::within(launch, least, ANSWER_TIMEOUT)
    }

    /// [`start`](Self::start) with another limit for the time that an answer takes.
    pub fn within(launch: Box<dyn Launch>, least: Parts, answer: Duration) -> Result<Self> {
        let counts = Arc::default();
        let process = start(&*launch, least, &counts)?;
        Ok(Self(Arc::new(Inner {
            launch,
            counts,
            least,
            answer_timeout: answer,
            parts: process.parts(),
            warm: Mutex::new(Some(process)),
        })))
    }

    /// What restricts the processes.
    pub fn parts(&self) -> Parts {
        self.0.parts
    }

    /// How many processes there were, and how many failed.
    pub fn counts(&self) -> &Counts {
        &self.0.counts
    }

    /// Decoders for one job. The process is started, or taken, when it is first needed, and ends with the
    /// last clone.
    pub fn session(&self) -> Decoders {
        let session = Session {
            sandbox: self.clone(),
            processes: Mutex::default(),
        };
        Decoders {
            session: Some(Arc::new(session)),
            cancel: Arc::default(),
        }
    }

    fn warm(&self) -> MutexGuard<'_, Option<Process>> {
        // A panic cannot leave it half-changed.
        self.0.warm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Result<Process> {
        let waiting = self.warm().take();
        let process = match waiting {
            Some(process) if process.is_alive() => process,
            _ => start(&*self.0.launch, self.0.least, &self.0.counts)?,
        };
        let sandbox = self.clone();
        let refill = move || {
            // The next job starts one itself, and is told why if that fails.
            let Inner {
                launch,
                least,
                counts,
                ..
            } = &*sandbox.0;
            if let Ok(process) = start(&**launch, *least, counts) {
                *sandbox.warm() = Some(process);
            }
        };
        // Without a thread there is none in advance.
        std::thread::Builder::new()
            .name("decoder-start".to_owned())
            .spawn(refill)
            .ok();
        Ok(process)
    }
}

fn start(launch: &dyn Launch, least: Parts, counts: &Arc<Counts>) -> Result<Process> {
    let process = Process::start(launch, counts)?;
    let missing = least.without(process.parts());
    if missing != Parts::NONE {
        return Err(Error::new(
            ErrorKind::Decoder,
            format!(
                "The process that decodes images cannot be restricted by all that is required; missing: {missing}"
            ),
        ));
    }
    Ok(process)
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox")
            .field("parts", &self.0.parts)
            .finish_non_exhaustive()
    }
}

/// Where compressed data is decoded: here, or in a process of its own. Clones share the process.
#[derive(Debug, Clone, Default)]
pub struct Decoders {
    session: Option<Arc<Session>>,
    cancel: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Session {
    sandbox: Sandbox,
    /// One, or more if somebody needs more lanes than it has.
    processes: Mutex<Vec<Arc<Process>>>,
}

impl Decoders {
    /// In this process, for programs that hold nothing worth protecting.
    pub fn here() -> Self {
        Self::default()
    }

    /// The same for somebody who does not want what they decode any more once the flag is set.
    #[must_use]
    pub fn until(self, cancel: Arc<AtomicBool>) -> Self {
        Self { cancel, ..self }
    }

    /// Set once what they decode is not wanted any more.
    pub(crate) fn cancel(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancel)
    }

    /// A lane of the process. `None` if decoding is done here.
    pub(crate) fn lane(&self, is_stopped: Stop) -> Result<Option<Lane>> {
        let Some(session) = &self.session else {
            return Ok(None);
        };
        let timeout = session.sandbox.0.answer_timeout;
        let mut processes = session
            .processes
            .lock()
            // A list that a panic cannot leave half-changed.
            .unwrap_or_else(PoisonError::into_inner);
        // A job that goes on after a failure does so with a new one.
        // One whose lanes are used up is kept for as long as somebody uses them.
        let is_of_use =
            |process: &Arc<Process>| Arc::strong_count(process) > 1 || process.has_free_seat();
        processes.retain(|process| process.is_alive() && is_of_use(process));
        for process in processes.iter() {
            if let Some(seat) = process.seat() {
                let lane = Lane::new(Arc::clone(process), seat, is_stopped, timeout);
                return Ok(Some(lane));
            }
        }
        let process = Arc::new(session.sandbox.take()?);
        processes.push(Arc::clone(&process));
        let seat = process.seat().ok_or_else(|| {
            Error::new(
                ErrorKind::Internal,
                "A new decoding process has no lane, which is a bug in this program",
            )
        })?;
        Ok(Some(Lane::new(process, seat, is_stopped, timeout)))
    }
}
