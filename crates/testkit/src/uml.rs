//! Real LVM without affecting the host's: user-mode Linux, a kernel that runs as a program.
//!
//! A test runs a program in it, usually itself:
//!
//! ```no_run
//! # use lvp_testkit::{require::require, uml::{self, Uml}};
//! #[test]
//! fn volumes_are_made_on_real_lvm() {
//!     if uml::is_inside() {
//!         // The work: root, /dev/ubdb, the volume group vg0.
//!     } else if require("lvm") {
//!         Uml::new().run_this_test("volumes_are_made_on_real_lvm");
//!     }
//! }
//! ```
//!
//! The kernel takes 5 to 10 s to come up and its system calls are slow, so tests of one subject
//! share one. What it is made of is in `uml/run.sh`, which also works by hand. Kernels run one after
//! the other ([`Turn`]): side by side they only slow each other down until their deadlines pass.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::require::command;
use crate::turn::Turn;

/// Where Debian's package has the kernel's modules.
const MODULES: &str = "/usr/lib/uml/modules";

/// Set for every program that runs inside.
const INSIDE: &str = "LVP_UML";

/// A kernel to run a program in; its disk is fresh every time, unless it is kept.
#[derive(Debug, Clone)]
pub struct Uml {
    timeout: Duration,
    disk_mib: u32,
    kept_disk: Option<PathBuf>,
    second_disk: Option<PathBuf>,
    cut: Option<(PathBuf, Duration)>,
    env: Vec<(String, String)>,
    writable: Vec<PathBuf>,
    systemd: bool,
}

/// The status of a program whose kernel's power was cut ([`Uml::cut_after`]).
pub const CUT: i32 = 137;

/// How a program ended that ran inside.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status; 124 when the kernel was killed at the deadline, 125 when it did not come
    /// up, [`CUT`] when its power was cut.
    pub status: i32,
    /// What the program printed, on both streams.
    pub output: String,
    /// Messages of the harness, such as the kernel's output if it did not come up.
    pub log: String,
}

impl Default for Uml {
    fn default() -> Self {
        Self::new()
    }
}

impl Uml {
    /// A kernel with a 1 GiB disk for two minutes.
    pub fn new() -> Self {
        Self {
            timeout: Duration::from_secs(120),
            disk_mib: 1024,
            kept_disk: None,
            second_disk: None,
            cut: None,
            env: Vec::new(),
            writable: Vec::new(),
            systemd: false,
        }
    }

    /// Sets when the kernel is killed.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the size of the volume group's disk (sparse).
    #[must_use]
    pub fn disk_mib(mut self, size: u32) -> Self {
        self.disk_mib = size;
        self
    }

    /// Takes this file for the volume group's disk, and leaves it behind. It is made when there is
    /// none; otherwise the next kernel finds what the last one left.
    #[must_use]
    pub fn kept_disk(mut self, file: &Path) -> Self {
        self.kept_disk = Some(file.to_owned());
        self
    }

    /// Adds this file, which exists, as `/dev/ubdc`.
    #[must_use]
    pub fn second_disk(mut self, file: &Path) -> Self {
        self.second_disk = Some(file.to_owned());
        self
    }

    /// Cuts the power: kills the kernel this long after the program has created this file (in a
    /// [`Uml::writable`] directory). What the kernel had not written to its disks is lost.
    #[must_use]
    pub fn cut_after(mut self, file: &Path, delay: Duration) -> Self {
        self.cut = Some((file.to_owned(), delay));
        self
    }

    /// Sets a variable for the program; nothing else of the environment is seen inside.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Passes a variable of this process on, if it is set.
    #[must_use]
    pub fn pass(self, name: &str) -> Self {
        match env::var(name) {
            Ok(value) => self.env(name, &value),
            Err(_) => self,
        }
    }

    /// Lets the program write to a directory of the host; all others are read-only inside.
    #[must_use]
    pub fn writable(mut self, directory: &Path) -> Self {
        self.writable.push(directory.to_owned());
        self
    }

    /// Boots the machine's systemd, of which the program is then a service. All of the file system
    /// can be written; what is written stays in memory. Needs `require("systemd")` as well.
    #[must_use]
    pub fn systemd(mut self) -> Self {
        self.systemd = true;
        self
    }

    /// Runs a program to its end, when the kernels of others have ended. Needs `require("lvm")`.
    pub fn run<A: Into<OsString>>(
        &self,
        program: &Path,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Outcome> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("uml/run.sh");
        let mut run = command(&script);
        run.args(["--timeout", &self.timeout.as_secs().to_string()]);
        run.args(["--disk", &self.disk_mib.to_string()]);
        for (option, file) in [("--keep", &self.kept_disk), ("--second", &self.second_disk)] {
            if let Some(file) = file {
                run.arg(option).arg(file);
            }
        }
        if let Some((file, delay)) = &self.cut {
            let delay = format!("{:.3}", delay.as_secs_f64());
            run.arg("--cut").arg(file).arg(delay);
        }
        for (name, value) in &self.env {
            run.arg("--env").arg(format!("{name}={value}"));
        }
        for directory in &self.writable {
            run.arg("--rw").arg(directory);
        }
        if self.systemd {
            run.arg("--systemd");
        }
        run.arg("--")
            .arg(program)
            .args(args.into_iter().map(Into::into));
        let turn = Turn::wait_for("uml").context("waiting for another kernel to end")?;
        let output = run
            .output()
            .with_context(|| format!("running {}", script.display()))?;
        drop(turn);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Outcome {
            status: output.status.code().context("a signal ended run.sh")?,
            output: text(&output.stdout),
            log: text(&output.stderr),
        })
    }

    /// Runs one test of the binary that calls, inside, and shows its output.
    ///
    /// # Panics
    ///
    /// Unless exactly that test ran and passed.
    pub fn run_this_test(&self, name: &str) {
        let Outcome {
            status,
            output,
            log,
        } = self.try_this_test(name);
        let passed = output.contains("test result: ok. 1 passed; 0 failed;");
        assert!(
            status == 0 && passed,
            "inside: status {status}\n{output}\n{log}"
        );
    }

    /// Runs one test of the binary that calls, inside, and shows its output; how it ended is for
    /// the caller to judge.
    ///
    /// # Panics
    ///
    /// When it cannot be run at all.
    pub fn try_this_test(&self, name: &str) -> Outcome {
        let binary = env::current_exe().unwrap_or_else(|error| panic!("no current_exe: {error}"));
        let args = ["--exact", name, "--nocapture", "--test-threads=1"];
        let outcome = self
            .run(&binary, args)
            .unwrap_or_else(|error| panic!("{error:#}"));
        // Shown if the output of a test that passed is requested.
        std::io::Write::write_all(&mut std::io::stdout(), outcome.output.as_bytes())
            .unwrap_or_else(|error| panic!("cannot show the output: {error}"));
        outcome
    }
}

/// Whether this process runs inside user-mode Linux.
pub fn is_inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Whether the kernel's modules are here; its programs are checked by name.
pub(crate) fn check() -> Result<(), String> {
    match Path::new(MODULES).is_dir() {
        true => Ok(()),
        false => Err(format!("{MODULES} does not exist")),
    }
}
