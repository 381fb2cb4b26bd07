//! Starts other programs. Nothing else in this crate does; clippy enforces that.
//!
//! Every call gets the following, so that no caller has to remember it:
//!
//! - **A tool name, not a path.** The name is looked up in fixed system directories, never in the
//!   `PATH` that the daemon was started with. No prefix such as `sudo` is used: the daemon's unit
//!   gives it the rights it needs, and a password prompt would hang a job.
//! - **A clean environment**: `LC_ALL=C` and a fixed `PATH`, nothing inherited. The output does not
//!   depend on the operator's language, and the daemon's credentials are not passed on.
//! - **A deadline.** The tool runs in its own process group. At the deadline, or when the caller
//!   stops waiting, the whole group gets SIGTERM, and SIGKILL three seconds later: an LVM command
//!   defers SIGTERM while it changes metadata, and SIGKILL could interrupt that.
//! - **Bounded output**, and an error that names the command, its exit status and what it printed.

mod decoder;
mod error;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tracing::Instrument;

pub use decoder::Launcher;
pub use error::{CmdError, CmdErrorKind};
use error::{CommandLine, STDERR_SHOWN, shortened};

/// Directories that are searched for tools, in this order. `sbin` comes first because LVM is there;
/// a build in `/usr/local` is used only if the system has none.
const TOOL_DIRS: [&str; 6] = [
    "/usr/sbin",
    "/sbin",
    "/usr/bin",
    "/bin",
    "/usr/local/sbin",
    "/usr/local/bin",
];

/// The tools' own `PATH`: LVM starts `thin_check`, `modprobe` and others by name.
const TOOL_PATH: &str = "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin";

/// How much a tool may print. A report on 10,000 logical volumes takes about 5 MB.
const STDOUT_LIMIT: usize = 8 << 20; // 8 MiB

/// How much of a tool's standard error is kept; the rest is read and dropped.
const STDERR_LIMIT: usize = 64 << 10; // 64 KiB

/// Time between SIGTERM and SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(3);

/// Debian's packages with the tools that the daemon uses.
const PACKAGES: [(&str, &str); 14] = [
    ("dmsetup", "dmsetup"),
    ("lvchange", "lvm2"),
    ("lvcreate", "lvm2"),
    ("lvextend", "lvm2"),
    ("lvremove", "lvm2"),
    ("lvrename", "lvm2"),
    ("lvm", "lvm2"),
    ("lvmconfig", "lvm2"),
    ("lvs", "lvm2"),
    ("pvs", "lvm2"),
    ("qemu-img", "qemu-utils"),
    ("thin_check", "thin-provisioning-tools"),
    ("vgs", "lvm2"),
    ("virsh", "libvirt-clients"),
];

/// What a tool printed when it succeeded.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error: warnings.
    pub stderr: String,
}

/// Runs a tool until it ends.
///
/// The arguments must not hold secrets: they are logged, and are part of errors.
pub async fn run<I>(tool: &str, args: I, timeout: Duration) -> Result<Output, CmdError>
where
    I: IntoIterator<Item: AsRef<OsStr>>,
{
    let args: Vec<OsString> = args.into_iter().map(|arg| arg.as_ref().into()).collect();
    let span = tracing::debug_span!("command", tool, args = %CommandLine("", &args));
    run_in_span(tool, args, timeout).instrument(span).await
}

/// Looks a tool up in the fixed directories.
pub fn find_tool(tool: &str) -> Option<PathBuf> {
    TOOL_DIRS
        .iter()
        .map(|dir| Path::new(dir).join(tool))
        .find(|path| path.is_file())
}

async fn run_in_span(
    tool: &str,
    args: Vec<OsString>,
    timeout: Duration,
) -> Result<Output, CmdError> {
    let started = Instant::now();
    let outcome = match spawn(tool, &args) {
        Err(ending) => ending,
        Ok(child) => {
            // The tool has a task of its own, so that it is ended in order and reaped even if the
            // caller is dropped. `abandoned` resolves then.
            let (waiting, abandoned) = oneshot::channel::<()>();
            let task = tokio::spawn(supervise(child, timeout, abandoned).in_current_span());
            let ending = task.await;
            drop(waiting);
            ending.unwrap_or_else(|error| Ending::io(io::Error::other(error)))
        }
    };
    tracing::debug!(
        elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        failed = outcome.failure.map(tracing::field::debug),
        stderr = shortened(outcome.stderr.trim(), STDERR_SHOWN),
        "command ended"
    );
    match outcome.failure {
        None => Ok(Output {
            stdout: outcome.stdout,
            stderr: outcome.stderr,
        }),
        Some(kind) => Err(CmdError {
            kind,
            tool: tool.to_owned(),
            args,
            stderr: outcome.stderr,
            source: outcome.source,
        }),
    }
}

/// How a run ended, before it is turned into a result.
#[derive(Default)]
struct Ending {
    failure: Option<CmdErrorKind>,
    stdout: Vec<u8>,
    stderr: String,
    source: Option<io::Error>,
}

impl Ending {
    fn failed(kind: CmdErrorKind) -> Self {
        Self {
            failure: Some(kind),
            ..Self::default()
        }
    }

    fn io(source: io::Error) -> Self {
        Self {
            source: Some(source),
            ..Self::failed(CmdErrorKind::Io)
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that may start processes"
)]
fn spawn(tool: &str, args: &[OsString]) -> Result<Child, Ending> {
    let Some(path) = find_tool(tool) else {
        let package = PACKAGES.iter().find(|(name, _)| *name == tool);
        let package = package.map(|(_, package)| *package);
        return Err(Ending::failed(CmdErrorKind::NotInstalled(package)));
    };
    Command::new(path)
        .args(args)
        .env_clear()
        .env("PATH", TOOL_PATH)
        .env("LC_ALL", "C")
        // LVM warns about descriptors that the daemon inherited; those warnings do not belong in a
        // job's log.
        .env("LVM_SUPPRESS_FD_WARNINGS", "1")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        // Only for when the runtime itself is shut down.
        .kill_on_drop(true)
        .spawn()
        .map_err(Ending::io)
}

/// Reads the tool's output until it ends, the deadline passes or the caller is gone.
async fn supervise(
    mut child: Child,
    timeout: Duration,
    abandoned: oneshot::Receiver<()>,
) -> Ending {
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Ending::io(io::Error::other("the tool's pipes are missing"));
    };
    // The group's leader is reaped only after its pipes have reached their end. Until then its
    // process id cannot be reused, so signals reach the right group.
    let group = child.id().and_then(|id| i32::try_from(id).ok());
    let group = group.and_then(Pid::from_raw);
    let mut said = Vec::new();
    let mut ending = {
        let reading = async {
            tokio::try_join!(
                read_up_to(stdout, STDOUT_LIMIT),
                read_and_drop_rest(stderr, STDERR_LIMIT, &mut said)
            )
        };
        tokio::pin!(reading);
        let ended = tokio::select! {
            read = &mut reading => Ok(read),
            () = tokio::time::sleep(timeout) => Err(CmdErrorKind::TimedOut(timeout)),
            _ = abandoned => Err(CmdErrorKind::Signalled(Signal::TERM.as_raw())),
        };
        match ended {
            Ok(Ok((stdout, ()))) => Ending {
                stdout,
                ..Ending::default()
            },
            Ok(Err(ReadError::TooMuch)) => {
                signal(group, Signal::KILL);
                Ending::failed(CmdErrorKind::TooMuchOutput)
            }
            Ok(Err(ReadError::Io(error))) => {
                signal(group, Signal::KILL);
                Ending::io(error)
            }
            Err(kind) => {
                signal(group, Signal::TERM);
                if tokio::time::timeout(TERM_GRACE, &mut reading)
                    .await
                    .is_err()
                {
                    signal(group, Signal::KILL);
                }
                Ending::failed(kind)
            }
        }
    };
    // A process in uninterruptible sleep outlives SIGKILL; the caller must not wait for it.
    match tokio::time::timeout(TERM_GRACE.max(timeout), child.wait()).await {
        Ok(Ok(status)) if ending.failure.is_none() => ending.failure = failure_of(status),
        Ok(Err(error)) if ending.failure.is_none() => ending = Ending::io(error),
        Err(_) if ending.failure.is_none() => {
            signal(group, Signal::KILL);
            ending.failure = Some(CmdErrorKind::TimedOut(timeout));
        }
        _ => {}
    }
    ending.stderr = String::from_utf8_lossy(&said).into_owned();
    ending
}

fn failure_of(status: ExitStatus) -> Option<CmdErrorKind> {
    match (status.code(), status.signal()) {
        (Some(0), _) => None,
        (Some(code), _) => Some(CmdErrorKind::Failed(code)),
        (None, signal) => Some(CmdErrorKind::Signalled(signal.unwrap_or(0))),
    }
}

fn signal(group: Option<Pid>, signal: Signal) {
    let Some(group) = group else { return };
    if let Err(error) = kill_process_group(group, signal)
        && error != rustix::io::Errno::SRCH
    {
        tracing::warn!(%error, ?group, ?signal, "cannot signal a command's process group");
    }
}

/// Why a tool's output could not be read.
enum ReadError {
    Io(io::Error),
    TooMuch,
}

/// Everything that a pipe delivers.
async fn read_up_to(pipe: impl AsyncRead + Unpin, limit: usize) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    let mut pipe = pipe.take(limit as u64 + 1);
    pipe.read_to_end(&mut bytes).await.map_err(ReadError::Io)?;
    if bytes.len() > limit {
        return Err(ReadError::TooMuch);
    }
    Ok(bytes)
}

/// Reads a pipe to its end and keeps the first `limit` bytes.
async fn read_and_drop_rest(
    mut pipe: impl AsyncRead + Unpin,
    limit: usize,
    kept: &mut Vec<u8>,
) -> Result<(), ReadError> {
    let mut chunk = [0; 4096];
    loop {
        let read = pipe.read(&mut chunk).await.map_err(ReadError::Io)?;
        if read == 0 {
            return Ok(());
        }
        let room = limit.saturating_sub(kept.len());
        kept.extend_from_slice(&chunk[..read.min(room)]);
    }
}

#[cfg(test)]
mod tests;
