//! The real daemon as a process, and a client for it.

mod home;

use std::collections::BTreeMap;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::ensure;
use lvp_api::{JobAccepted, JobStatus};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::process::signal;

pub use home::Home;

/// Deadline for anything that should take a moment.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How often a condition is checked.
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

    /// The same daemon, used over TLS by this client.
    #[must_use]
    pub fn over_tls(mut self, client: reqwest::Client) -> Self {
        self.base = self.base.replacen("http://", "https://", 1);
        self.http = client;
        self
    }

    /// The same daemon, used with this token.
    #[must_use]
    pub fn with_token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    /// The daemon's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its log so far, line by line; a line that is not JSON is a string.
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

    /// Waits until it has logged this message. Returns the last such line.
    pub async fn until_said(&self, message: &str) -> Value {
        wait_for(message, async || {
            let mut lines = self.log().into_iter().rev();
            lines.find(|line| line["message"] == message)
        })
        .await
    }

    /// Sends SIGKILL, and waits until the process is gone.
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

    /// Requests a volume of this many bytes with an image. Returns the job.
    pub async fn provision(&self, image: &str, volume: &str, bytes: u64) -> anyhow::Result<String> {
        let body = json!({
            "image_url": image, "volume_name": volume, "volume_size_bytes": bytes,
        });
        self.submit("/api/v1/jobs", body).await
    }

    /// Posts a request that becomes a job. Returns its id.
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
        // It may have ended by itself; in both cases it is gone afterwards.
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

/// Reads an answer completely.
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
