//! Exit codes by outcome, and the one error type that carries them to `main`.

use std::fmt;

/// The exit code. Scripts rely on the numbers: they do not change between releases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Success; with `--wait`, the job completed.
    Success = 0,
    /// The job failed, or the daemon refused the request.
    Failed = 1,
    /// The job was cancelled.
    Cancelled = 2,
    /// No answer, or no end of the job, within `--timeout`.
    Timeout = 3,
    /// 404.
    NotFound = 4,
    /// 409.
    Conflict = 5,
    /// 401 or 403.
    Unauthorized = 6,
    /// No connection, or the daemon cannot serve now.
    Unavailable = 7,
    /// Hosts are still to end an order.
    Unfinished = 8,
    /// Nothing was sent: the command line or the configuration is wrong (`EX_USAGE` of sysexits.h).
    Usage = 64,
    /// Ctrl-C while waiting (128 + SIGINT, as shells report it).
    Interrupted = 130,
}

/// The table in `--help` and in the reference page.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
    0  Success; with --wait: the job completed
    1  The job failed, or the request was refused
    2  The job was cancelled
    3  No answer, or no end of the job, within --timeout
    4  There is no such job, image or volume
    5  Conflict: the volume or image is in use, or the job has already ended
    6  The credential is missing, unknown, or may not do this
    7  The daemon cannot be reached, is not ready or is too busy: try again
    8  Hosts are still to end the fleet's order
   64  The command line or the configuration is wrong; nothing was sent
  130  Interrupted while waiting; the job continues";

impl Exit {
    /// The code for an HTTP status that is not a success.
    pub(crate) fn from_http_status(status: u16) -> Self {
        match status {
            401 | 403 => Self::Unauthorized,
            404 => Self::NotFound,
            409 => Self::Conflict,
            // 502 and 504 come from a proxy that cannot reach the daemon.
            429 | 502..=504 => Self::Unavailable,
            _ => Self::Failed,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why the program fails: one line for people, one code for scripts.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: Exit,
    message: String,
}

impl Failure {
    /// A failure with its message.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { exit, message }
    }

    /// The command line or the configuration is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Whether the same call may succeed in a moment, as while the daemon restarts.
    pub(crate) fn is_temporary(&self) -> bool {
        matches!(self.exit, Exit::Unavailable | Exit::Timeout)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_in_the_help() {
        for exit in [
            Exit::Success,
            Exit::Failed,
            Exit::Cancelled,
            Exit::Timeout,
            Exit::NotFound,
            Exit::Conflict,
            Exit::Unauthorized,
            Exit::Unavailable,
            Exit::Unfinished,
            Exit::Usage,
            Exit::Interrupted,
        ] {
            let code = format!("{:>5}  ", exit as u8);
            assert!(
                EXIT_CODES.lines().any(|line| line.starts_with(&code)),
                "{exit:?}"
            );
        }
    }
}
