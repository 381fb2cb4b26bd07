//! Turns: tests that must not run at the same time take turns, whichever runner started them.
//!
//! A turn is a locked file in the target directory, so threads of one process and processes of
//! several runners wait for each other alike. A holder that dies gives its turn back with its
//! descriptor; each holder has a deadline of its own, which is what ends the wait of the others.

use std::env;
use std::fs::File;
use std::io;
use std::path::PathBuf;

/// A turn, held until it is dropped.
#[derive(Debug)]
pub struct Turn(File);

impl Turn {
    /// Waits for the turn of this name.
    pub fn wait_for(name: &str) -> io::Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(path(name)?)?;
        file.lock()?;
        Ok(Self(file))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Not by closing: a child that another thread has forked, and that has not become its
        // program yet, has a copy of the descriptor. It would hold the turn for that moment.
        self.0.unlock().ok();
    }
}

fn path(name: &str) -> io::Result<PathBuf> {
    // The directory of the profile, `target/debug`: the tests' executables are in its `deps`.
    let executable = env::current_exe()?;
    let directory = executable.ancestors().nth(2);
    let directory = directory.ok_or_else(|| io::Error::other("a test without a directory"))?;
    Ok(directory.join(format!("lvp-test-{name}.lock")))
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::*;
    use crate::require::command;

    #[test]
    fn threads_take_turns_even_while_children_are_being_started() {
        static INSIDE: AtomicU32 = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..25 {
                        let turn = Turn::wait_for("of-this-test").unwrap();
                        assert_eq!(INSIDE.fetch_add(1, Ordering::SeqCst), 0);
                        thread::yield_now();
                        assert_eq!(INSIDE.fetch_sub(1, Ordering::SeqCst), 1);
                        drop(turn);
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..50 {
                    assert!(command("true").status().unwrap().success());
                }
            });
        });
    }

    #[test]
    fn another_process_waits_and_a_turn_is_free_once_its_holder_was_killed() {
        let held = Turn::wait_for("of-processes").unwrap();
        let path = path("of-processes").unwrap();
        let flock = |wait: &str, line: &str| {
            let mut flock = command("flock");
            flock.arg(wait).arg(&path).args(["sh", "-c", line]);
            flock.stdin(Stdio::null());
            flock
        };
        let refused = flock("--nonblock", "true").status().unwrap();
        assert!(!refused.success(), "two held it at once");
        drop(held);

        let mut holder = flock("--no-fork", "echo held; exec sleep 600");
        let mut holder = holder.stdout(Stdio::piped()).spawn().unwrap();
        let mut said = [0; 4];
        let stdout = holder.stdout.as_mut().unwrap();
        std::io::Read::read_exact(stdout, &mut said).unwrap();
        assert_eq!(&said, b"held");
        let try_again = File::options().append(true).open(&path).unwrap();
        assert!(try_again.try_lock().is_err(), "two held it at once");
        holder.kill().unwrap();
        holder.wait().unwrap();
        drop(Turn::wait_for("of-processes").unwrap());
    }
}
