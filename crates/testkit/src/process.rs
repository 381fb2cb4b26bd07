//! Other processes.

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Sends a process a signal by its name, such as `TERM`. This needs no program: `kill` is a
/// shell built-in, or in a package that small systems do not have.
pub fn signal(pid: u32, name: &str) -> anyhow::Result<()> {
    let signal = match name {
        "HUP" => Signal::HUP,
        "TERM" => Signal::TERM,
        "KILL" => Signal::KILL,
        "STOP" => Signal::STOP,
        "CONT" => Signal::CONT,
        _ => bail!("{name} is no signal that tests send"),
    };
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.with_context(|| format!("{pid:?} is no process"))?;
    kill_process(pid, signal).with_context(|| format!("Cannot send {name} to {pid:?}"))
}
