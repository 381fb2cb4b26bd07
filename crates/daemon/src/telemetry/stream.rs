//! The log's stream: standard error or standard output, with priorities if the journal reads it.
//!
//! systemd's journal takes a line's priority from the prefix `<N>` (sd-daemon(3)), which is what `journalctl
//! -p err` filters by. Other readers do not get these prefixes: systemd says in `JOURNAL_STREAM` which file
//! the journal reads.

use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::fstat;
use tracing::Level;

use super::behind::Destination;
use crate::config::LogOutput;

/// Where lines go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stream {
    output: LogOutput,
    is_journal: bool,
}

impl Stream {
    pub(super) fn new(output: LogOutput) -> Self {
        let announced = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        let is_journal = match output {
            LogOutput::Stderr => is_this(&announced, io::stderr().as_fd()),
            LogOutput::Stdout => is_this(&announced, io::stdout().as_fd()),
        };
        Self { output, is_journal }
    }
}

/// Whether `DEVICE:INODE` is this file.
fn is_this(announced: &str, file: BorrowedFd<'_>) -> bool {
    // A closed stream is not the journal's.
    let Ok(found) = fstat(file) else { return false };
    announced == format!("{}:{}", found.st_dev, found.st_ino)
}

/// syslog(3): errors, warnings, information, debugging.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

impl Destination for Stream {
    fn write(&mut self, level: Level, line: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(line.len() + 3);
        if self.is_journal {
            write!(bytes, "<{}>", priority(level))?;
        }
        bytes.extend_from_slice(line);
        match self.output {
            LogOutput::Stderr => io::stderr().write_all(&bytes),
            LogOutput::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(&bytes)?;
                stdout.flush()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn the_journal_is_known_by_its_files_numbers() {
        let file = tempfile::tempfile().expect("there is room");
        let meta = file.metadata().expect("it is open");
        let announced = format!("{}:{}", meta.dev(), meta.ino());
        assert!(is_this(&announced, file.as_fd()));
        for other in ["", "1:2", &format!("{announced}0")] {
            assert!(!is_this(other, file.as_fd()), "{other}");
        }
    }
}
