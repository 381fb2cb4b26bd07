//! The directory and the configuration of a daemon.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use super::{DEADLINE, Daemon, POLL};
use crate::require::command;
use crate::s3::{ACCESS_KEY, SECRET_KEY};

/// A daemon's directory and configuration. It outlives the process, so that the next one finds what
/// this one left.
#[derive(Debug)]
pub struct Home {
    binary: PathBuf,
    dir: PathBuf,
    environment: BTreeMap<String, String>,
    // Removes the directory when dropped, unless it is to be kept.
    _temporary: Option<tempfile::TempDir>,
}

impl Home {
    /// A home with volumes in a directory, for a daemon that reads from this S3 server.
    pub fn new(binary: &str, endpoint: &str) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("lvp-daemon-").tempdir()?;
        let home = Self::kept_in(dir.path(), binary, endpoint)?;
        Ok(Self {
            _temporary: Some(dir),
            ..home
        })
    }

    /// The same in a directory that is kept, where a later home finds everything again.
    pub fn kept_in(dir: &Path, binary: &str, endpoint: &str) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir.join("volumes"))?;
        let mut home = Self {
            binary: binary.into(),
            dir: dir.to_owned(),
            environment: BTreeMap::new(),
            _temporary: None,
        };
        let path = |name: &str| home.dir.join(name).display().to_string();
        for (name, value) in [
            ("HOST", "127.0.0.1".to_owned()),
            ("PORT", "0".to_owned()),
            ("DB_PATH", path("jobs.db")),
            ("CACHE_DIR", path("cache")),
            ("CACHE_MIN_FREE_BYTES", "0".to_owned()),
            ("VOLUME_BACKEND", "dir".to_owned()),
            ("VOLUME_DIR", path("volumes")),
            // Other tests on the same disk are no guests.
            ("VOLUME_YIELD", "off".to_owned()),
            ("LIBVIRT_ENABLED", "false".to_owned()),
            ("MINIO_ENDPOINT", endpoint.to_owned()),
            ("MINIO_ACCESS_KEY", ACCESS_KEY.to_owned()),
            ("MINIO_SECRET_KEY", SECRET_KEY.to_owned()),
            ("MINIO_RETRY_BACKOFF_MS", "10,20,50".to_owned()),
            ("LOG_LEVEL", "debug".to_owned()),
        ] {
            home.environment.insert(name.to_owned(), value);
        }
        Ok(home)
    }

    /// Sets an environment variable of the daemon.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.insert(name.to_owned(), value.into());
        self
    }

    /// The environment of its daemons.
    pub fn environment(&self) -> &BTreeMap<String, String> {
        &self.environment
    }

    /// The home's directory.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The file of a volume.
    pub fn volume(&self, name: &str) -> PathBuf {
        self.path().join("volumes").join(name)
    }

    /// Names of the files in the cache, its lock left out.
    pub fn cache_files(&self) -> Vec<String> {
        list(&self.path().join("cache"))
            .into_iter()
            .filter(|name| name != ".lvp-lock")
            .collect()
    }

    /// Names of the files among the volumes, their state files left out.
    pub fn volume_files(&self) -> Vec<String> {
        list(&self.path().join("volumes"))
            .into_iter()
            .filter(|name| name != ".lvp")
            .collect()
    }

    /// Runs the binary with other arguments than `serve`, to its end, in the same environment.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        command(&self.binary)
            .args(arguments)
            .env_clear()
            .envs(&self.environment)
            .current_dir(self.path())
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("Cannot start {}", self.binary.display()))
    }

    /// The command that starts the daemon, for tests that redirect its streams.
    pub fn command(&self) -> Command {
        let mut command = command(&self.binary);
        command
            .args(["serve", "--config", "/dev/null"])
            .env_clear()
            .envs(&self.environment)
            .current_dir(self.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    /// Starts the daemon and waits until it listens.
    pub fn start(&self) -> anyhow::Result<Daemon> {
        let mut child = self
            .command()
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("Cannot start {}", self.binary.display()))?;
        let stderr = child
            .stderr
            .take()
            .context("The daemon has no standard error")?;
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(line);
            }
        });
        let mut daemon = Daemon {
            child,
            log,
            base: String::new(),
            http: reqwest::Client::new(),
            token: None,
        };
        let deadline = Instant::now() + DEADLINE;
        let listening = |line: &Value| match line {
            // The log as text.
            Value::String(text) => {
                let (_, address) = text.split_once("Listening (address=")?;
                address.split([',', ')']).next().map(str::to_owned)
            }
            line if line["message"] == "Listening" => line["address"].as_str().map(str::to_owned),
            _ => None,
        };
        while daemon.base.is_empty() {
            if let Some(address) = daemon.log().iter().find_map(listening) {
                daemon.base = format!("http://{address}");
            } else if let Some(status) = daemon.child.try_wait()? {
                // Its last lines may not have been read yet.
                reader.join().ok();
                bail!("The daemon ended with {status}: {:#?}", daemon.log_text());
            }
            ensure!(Instant::now() < deadline, "The daemon does not listen");
            std::thread::sleep(POLL);
        }
        Ok(daemon)
    }
}

fn list(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
