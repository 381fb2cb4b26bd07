//! Starts this program again, as the process that decodes images.
//!
//! It has no deadline here and no output: `lvp_image::sandbox` talks with it, and kills it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use lvp_image::sandbox::Launch;
use lvp_image::worker;

/// This program, whichever file it was started from, even if that has been replaced since.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// The name in lists of processes.
const NAME: &str = "lvp-decoder";

/// Starts decoding processes. Only a program whose `main` calls [`worker::run`] may have one: any other
/// would start itself, and do what it does.
#[derive(Debug, Clone, Copy)]
pub struct Launcher(());

impl Launcher {
    /// For the program that is running.
    pub fn of_this_program() -> Self {
        Self(())
    }
}

impl Launch for Launcher {
    #[expect(
        clippy::disallowed_methods,
        reason = "this module is a part of the one place that may start processes"
    )]
    fn launch(&self, socket: OwnedFd, memory: OwnedFd) -> io::Result<Child> {
        // All other descriptors are closed by the kernel when the program is executed (O_CLOEXEC), and
        // by the process itself.
        Command::new(THIS_PROGRAM)
            .arg0(NAME)
            .arg(worker::ARGUMENT)
            .env_clear()
            .current_dir("/")
            // A Ctrl-C is for the daemon, which lets its jobs end.
            .process_group(0)
            .stdin(Stdio::from(socket))
            .stdout(Stdio::from(memory))
            .stderr(Stdio::null())
            .spawn()
    }
}
