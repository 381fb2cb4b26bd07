//! How a decoding process came to its end, and what the operator is told.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
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
