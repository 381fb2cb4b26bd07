//! How a decoding process came to its end, and what the operator is told.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::{Error, ErrorKind};

/// Why a process is not used any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Its socket was closed. How it ended; `None` if that is not known.
    Ended(Option<ExitStatus>),
    /// It did not answer in time.
    Hung(Duration),
    /// It answered something that is no answer to what it was asked.
    Lied(&'static str),
}

/// How many processes there were, and how many came to which end.
#[derive(Debug, Default)]
pub struct Counts {
    started: AtomicU64,
    failed: [AtomicU64; Failure::ALL.len()],
}

/// What was wrong with a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It ended before it was done.
    Ended,
    /// It did not answer in time.
    Hung,
    /// It answered something that is no answer.
    Lied,
}

impl Failure {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ended, Self::Hung, Self::Lied];

    /// In one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Hung => "hung",
            Self::Lied => "lied",
        }
    }
}

impl Counts {
    /// Processes that were started and became ready.
    pub fn started(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }

    /// Processes that failed like this.
    pub fn failed(&self, failure: Failure) -> u64 {
        self.failed[failure as usize].load(Ordering::Relaxed)
    }

    pub(super) fn start(&self) {
        self.started.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn fail(&self, fate: &Fate) {
        let failure = match fate {
            Fate::Ended(_) => Failure::Ended,
            Fate::Hung(_) => Failure::Hung,
            Fate::Lied(_) => Failure::Lied,
        };
        self.failed[failure as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl Fate {
    pub(crate) fn error(&self) -> Error {
        let advice = "Look at the image as at an attack unless its maker is beyond doubt";
        let text = match self {
            Self::Ended(status) => match status.and_then(|status| status.signal()) {
                Some(libc::SIGSYS) => format!(
                    "The process that decodes the image was killed (SIGSYS): it tried a system call that \
                     decoding does not need. {advice}"
                ),
                Some(libc::SIGKILL) => {
                    "The process that decodes the image ended before it was done: it was \
                     killed (for want of memory, or by hand), or gave up"
                        .to_owned()
                }
                None => format!(
                    "The process that decodes the image ended before it was done{}. {advice}",
                    match status.and_then(|status| status.code()) {
                        Some(code) => format!(" (exit status {code})"),
                        None => String::new(),
                    }
                ),
                Some(signal) => format!(
                    "The process that decodes the image crashed (signal {signal}). {advice}"
                ),
            },
            Self::Hung(limit) => format!(
                "The process that decodes the image did not answer within {} seconds, and was killed. Send \
                 the request again; if it fails again, look at the image as at an attack",
                limit.as_secs_f32()
            ),
            Self::Lied(what) => {
                format!("The process that decodes the image {what}, and was killed. {advice}")
            }
        };
        Error::new(ErrorKind::Decoder, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_is_told_what_happened_and_what_to_think_of_it() {
        let ended = |raw| {
            Fate::Ended(Some(ExitStatus::from_raw(raw)))
                .error()
                .to_string()
        };
        assert!(ended(libc::SIGSYS).contains("a system call that decoding does not need"));
        assert!(ended(libc::SIGSEGV).contains("crashed (signal 11)"));
        assert!(ended(libc::SIGKILL).contains("for want of memory"));
        assert!(ended(3 << 8).contains("before it was done (exit status 3). Look"));
        let hung = Fate::Hung(Duration::from_millis(1500)).error();
        assert!(hung.to_string().contains("within 1.5 seconds"));
        assert_eq!(hung.kind(), ErrorKind::Decoder);
    }
}
