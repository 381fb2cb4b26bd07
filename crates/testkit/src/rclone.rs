//! `rclone serve s3`: an S3 server that shares no code with ours.

use std::io;

use crate::require::command;
use crate::s3::{ACCESS_KEY, Objects, SECRET_KEY};
use crate::stores::ServerProcess;

/// A running rclone over a temporary directory; a test asks `require("rclone")` first.
#[derive(Debug)]
pub struct Rclone {
    // Stops before its directory goes.
    _process: ServerProcess,
    endpoint: String,
    objects: Objects,
}

impl Rclone {
    /// Starts a server on a free port.
    pub fn start() -> io::Result<Self> {
        let objects = Objects::new()?;
        let mut rclone = command("rclone");
        rclone
            .args(["serve", "s3", "--addr", "127.0.0.1:0"])
            // Files change without its knowledge: it must check each time.
            .args(["--dir-cache-time", "0s", "--poll-interval", "0"])
            .args(["--use-json-log", "--log-level", "NOTICE"])
            .arg(objects.root())
            .env("RCLONE_CONFIG", "/dev/null")
            .env("RCLONE_AUTH_KEY", format!("\"{ACCESS_KEY},{SECRET_KEY}\""));
        let (process, endpoint) = ServerProcess::announced(&mut rclone, announced_endpoint)?;
        Ok(Self {
            _process: process,
            endpoint,
            objects,
        })
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

/// The address in the line in which rclone reports that it listens (the only way to find it).
fn announced_endpoint(line: &str) -> Option<String> {
    let entry: serde_json::Value = serde_json::from_str(line).ok()?;
    let message = entry.get("msg")?.as_str()?;
    let (_, rest) = message.split_once("[http://")?;
    let (address, _) = rest.split_once(']')?;
    Some(format!("http://{}", address.trim_end_matches('/')))
}
