//! The real daemon as a process, and a client for it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use lvp_api::{JobAccepted, JobStatus};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::process::signal;
use crate::require::command;
use crate::s3::{ACCESS_KEY, SECRET_KEY};

/// How long anything may take that should take moments.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Waits until `condition` yields a value.
///
/// # Panics
///
/// After [`DEADLINE`], naming what was waited for.
pub async fn wait_for<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// Where a daemon keeps its things, and how it is configured: outlives the process, so that the
/// next one finds what this one left.
#[derive(Debug)]
pub struct Home {
    binary: PathBuf,
    dir: PathBuf,
    environment: BTreeMap<String, String>,
    // Removes the directory when dropped, unless somebody wants it kept.
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

    /// The same in a directory that stays, where a later home finds everything again.
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

    /// What starts the daemon, for tests that want its streams elsewhere.
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
                // Its last words may be on the way still.
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

/// A running daemon; killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    base: String,
    http: reqwest::Client,
    token: Option<String>,
}

/// An HTTP answer: its status and its JSON (or its text as a JSON string).
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Value,
    /// The headers, by lower-case name.
    pub headers: BTreeMap<String, String>,
}

impl Daemon {
    /// The daemon's URL.
    pub fn url(&self) -> &str {
        &self.base
    }

    /// The same daemon, talked to over TLS by this client.
    #[must_use]
    pub fn over_tls(mut self, client: reqwest::Client) -> Self {
        self.base = self.base.replacen("http://", "https://", 1);
        self.http = client;
        self
    }

    /// The same daemon, talked to with this token.
    #[must_use]
    pub fn with_token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    /// The daemon's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its log so far, line by line; a line that is no JSON is a string.
    pub fn log(&self) -> Vec<Value> {
        let parse = |line: &String| {
            serde_json::from_str(line).unwrap_or_else(|_| Value::String(line.clone()))
        };
        self.log_text().iter().map(parse).collect()
    }

    /// Its log so far as it was written.
    pub fn log_text(&self) -> Vec<String> {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until it has logged this message; the last such line.
    pub async fn until_said(&self, message: &str) -> Value {
        wait_for(message, async || {
            let mut lines = self.log().into_iter().rev();
            lines.find(|line| line["message"] == message)
        })
        .await
    }

    /// SIGKILL, and nothing of the process is left when this returns.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        signal(self.pid(), name)
    }

    /// Waits until the process has ended by itself.
    pub fn wait(mut self) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "The daemon does not end");
            std::thread::sleep(POLL);
        }
    }

    /// One request.
    pub async fn call(
        &self,
        method: &str,
        route: &str,
        body: Option<Value>,
    ) -> anyhow::Result<Answer> {
        let mut request = self
            .http
            .request(method.parse()?, format!("{}{route}", self.base));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        answer(request.send().await?).await
    }

    /// A request that should succeed, with its answer as `T`.
    pub async fn get<T: DeserializeOwned>(&self, route: &str) -> anyhow::Result<T> {
        let answer = self.call("GET", route, None).await?;
        ensure!(answer.status == 200, "GET {route}: {answer:?}");
        Ok(serde_json::from_value(answer.body)?)
    }

    /// Asks for an image on a volume of so many bytes; the job that does it.
    pub async fn provision(&self, image: &str, volume: &str, bytes: u64) -> anyhow::Result<String> {
        let body = json!({
            "image_url": image, "volume_name": volume, "volume_size_bytes": bytes,
        });
        self.submit("/api/v1/jobs", body).await
    }

    /// Posts a request that becomes a job; its id.
    pub async fn submit(&self, route: &str, body: Value) -> anyhow::Result<String> {
        let answer = self.call("POST", route, Some(body)).await?;
        ensure!(answer.status == 202, "POST {route}: {answer:?}");
        let JobAccepted { job_id, .. } = serde_json::from_value(answer.body)?;
        Ok(job_id.to_string())
    }

    /// A job's status.
    pub async fn status(&self, job: &str) -> anyhow::Result<JobStatus> {
        self.get(&format!("/api/v1/jobs/{job}")).await
    }

    /// Waits until a job has ended.
    pub async fn ended(&self, job: &str) -> anyhow::Result<JobStatus> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let status = self.status(job).await?;
            if status.status.is_terminal() {
                return Ok(status);
            }
            ensure!(
                Instant::now() < deadline,
                "The job does not end: {status:?}"
            );
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            let log = self.log_text().join("\n");
            #[expect(
                clippy::print_stderr,
                reason = "a failed test shows what the daemon said"
            )]
            {
                eprintln!("--- the daemon's log:\n{log}");
            }
        }
    }
}

/// An answer in full.
pub async fn answer(response: reqwest::Response) -> anyhow::Result<Answer> {
    let status = response.status().as_u16();
    let headers = response
        .headers()
        .iter()
        .map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect();
    let text = response.text().await?;
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Ok(Answer {
        status,
        body,
        headers,
    })
}
