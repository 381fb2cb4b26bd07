//! The error of a tool that failed.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::time::Duration;

use super::STDOUT_LIMIT;

/// How much of the tool's standard error is shown in the error text.
pub(super) const STDERR_SHOWN: usize = 2 << 10; // 2 KiB

/// What went wrong with a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CmdErrorKind {
    /// The tool is not installed. Holds the Debian package that has it, if known.
    NotInstalled(Option<&'static str>),
    /// It could not be started, or its output could not be read.
    Io,
    /// It ended with this exit status, which is not 0.
    Failed(i32),
    /// This signal ended it.
    Signalled(i32),
    /// It did not end in time and was killed.
    TimedOut(Duration),
    /// It printed more than 8 MiB.
    TooMuchOutput,
}

/// A tool failed. Holds the whole command.
#[derive(Debug)]
pub struct CmdError {
    pub(super) kind: CmdErrorKind,
    pub(super) tool: String,
    pub(super) args: Vec<OsString>,
    pub(super) stderr: String,
    pub(super) source: Option<io::Error>,
}

impl CmdError {
    /// What went wrong.
    pub fn kind(&self) -> CmdErrorKind {
        self.kind
    }

    /// The name of the tool.
    pub fn tool(&self) -> &str {
        &self.tool
    }

    /// What the tool wrote to standard error.
    pub fn stderr(&self) -> &str {
        &self.stderr
    }
}

impl fmt::Display for CmdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let command = CommandLine(&self.tool, &self.args);
        match self.kind {
            CmdErrorKind::NotInstalled(Some(package)) => {
                let tool = &self.tool;
                return write!(f, "{tool} is not installed: run 'apt install {package}'");
            }
            CmdErrorKind::NotInstalled(None) => {
                return write!(f, "{} is not installed", self.tool);
            }
            CmdErrorKind::Io => write!(f, "Running '{command}' failed")?,
            CmdErrorKind::Failed(code) => write!(f, "'{command}' ended with status {code}")?,
            CmdErrorKind::Signalled(signal) => write!(f, "Signal {signal} ended '{command}'")?,
            CmdErrorKind::TimedOut(limit) => {
                write!(f, "'{command}' was killed: it did not end within {limit:?}")?;
            }
            CmdErrorKind::TooMuchOutput => {
                let limit = STDOUT_LIMIT >> 20;
                write!(
                    f,
                    "'{command}' was killed: it printed more than {limit} MiB"
                )?;
            }
        }
        if self.stderr.is_empty() {
            return Ok(());
        }
        f.write_str(": ")?;
        let lines = self.stderr.lines().map(str::trim);
        let said = lines
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join("; ");
        f.write_str(shortened(&said, STDERR_SHOWN))
    }
}

impl std::error::Error for CmdError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

/// At most `limit` bytes of a text, cut between characters.
pub(super) fn shortened(text: &str, limit: usize) -> &str {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A command as a person would type it. It is shown only, never parsed.
pub(super) struct CommandLine<'a>(pub(super) &'a str, pub(super) &'a [OsString]);

impl fmt::Display for CommandLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)?;
        for (index, arg) in self.1.iter().enumerate() {
            let separator = if index == 0 && self.0.is_empty() {
                ""
            } else {
                " "
            };
            let arg = arg.to_string_lossy();
            if arg.is_empty() || arg.contains([' ', '"', '\'']) {
                write!(f, "{separator}{arg:?}")?;
            } else {
                write!(f, "{separator}{arg}")?;
            }
        }
        Ok(())
    }
}
