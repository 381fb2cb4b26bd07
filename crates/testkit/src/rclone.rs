//! `rclone serve s3`: an S3 server that shares no code with ours.

use std::io::{self, BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::require::command;
use crate::s3::{ACCESS_KEY, Objects, SECRET_KEY};

/// Time to start, on a machine that is busy with other tests.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A running rclone over a temporary directory; a test asks `require("rclone")` first.
#[derive(Debug)]
pub struct Rclone {
    process: Child,
    /// Reads rclone's output to its end, so that it never blocks on its own log.
    log: Option<JoinHandle<()>>,
    endpoint: String,
    objects: Objects,
}

impl Rclone {
    /// Starts a server on a free port.
    pub fn start() -> io::Result<Self> {
        let objects = Objects::new()?;
        let mut process = command("rclone")
            .args(["serve", "s3", "--addr", "127.0.0.1:0"])
            // Files change without its knowledge: it must check each time.
            .args(["--dir-cache-time", "0s", "--poll-interval", "0"])
            .args(["--use-json-log", "--log-level", "NOTICE"])
            .arg(objects.root())
            .env("RCLONE_CONFIG", "/dev/null")
            .env("RCLONE_AUTH_KEY", format!("\"{ACCESS_KEY},{SECRET_KEY}\""))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = process.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let (sender, endpoints) = mpsc::channel();
        let log = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some(endpoint) = announced_endpoint(&line) {
                    // Only the first is waited for.
                    sender.send(endpoint).ok();
                }
            }
        });
        let mut rclone = Self {
            process,
            log: Some(log),
            endpoint: String::new(),
            objects,
        };
        rclone.endpoint = endpoints
            .recv_timeout(START_TIMEOUT)
            .map_err(|error| io::Error::other(format!("rclone did not come up: {error}")))?;
        Ok(rclone)
    }

    /// The server's URL.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What it serves.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }
}

impl Drop for Rclone {
    fn drop(&mut self) {
        // An error means that it has ended already; the wait reaps it in both cases.
        self.process.kill().ok();
        self.process.wait().ok();
        if let Some(log) = self.log.take() {
            log.join().ok();
        }
    }
}

/// The address in the line in which rclone reports that it listens (the only way to find it).
fn announced_endpoint(line: &str) -> Option<String> {
    let entry: serde_json::Value = serde_json::from_str(line).ok()?;
    let message = entry.get("msg")?.as_str()?;
    let (_, rest) = message.split_once("[http://")?;
    let (address, _) = rest.split_once(']')?;
    Some(format!("http://{}", address.trim_end_matches('/')))
}
