//! Log lines that the daemon sends away itself: pushed to Loki, posted to a webhook.
//!
//! Both get the JSON format, whatever `logging.format` says, from an [`Outbox`] each: a line is put
//! into memory and nothing waits for it. While a receiver is down, the oldest lines are dropped and
//! counted. When the daemon ends, what is left is sent for at most [`CLOSE_TIMEOUT`].
//!
//! Crates that push to Loki were considered: `tracing-loki` drops the newest lines instead of the
//! oldest, does not count them, and its last flush has no time limit.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use serde::Serialize;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;
use url::Url;

use crate::config::Logging;
use crate::delivery::outbox::{self, Counts, Limits, Outbox, Outcome, Receiver, Running};
use crate::web;

/// How long the end of the daemon waits for the last lines.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// The path of Loki's push API.
const LOKI_PATH: &str = "/loki/api/v1/push";

/// Names of the sinks, for metrics.
pub const NAMES: [&str; 2] = ["loki", "webhook"];

const LIMITS: Limits = Limits {
    queue_items: 10_000,
    queue_bytes: 8 << 20, // 8 MiB: of lines of usual length, more than 10,000
    batch_items: 500,
    batch_bytes: 512 << 10, // 512 KiB: Loki takes 4 MiB by default, webhooks often 1 MiB
    linger: Duration::from_secs(1),
    backoff_min: Duration::from_millis(500),
    backoff_max: Duration::from_secs(30),
    attempt_timeout: Duration::from_secs(10),
};

/// One line, in JSON.
#[derive(Debug, Clone)]
struct Line {
    at: SystemTime,
    level: Level,
    text: Arc<str>,
}

/// The configured sinks.
#[derive(Debug, Default)]
pub struct Sinks(Vec<(&'static str, Running<Line>)>);

impl Sinks {
    /// Starts the configured sinks; does not connect yet. Must be called within a runtime.
    pub fn start(logging: &Logging) -> anyhow::Result<Self> {
        let mut running = Vec::new();
        let [loki, webhook] = NAMES;
        if let Some(url) = &logging.loki_url {
            let mut url = url.expose().clone();
            if url.path() == "/" {
                url.set_path(LOKI_PATH);
            }
            let tenant = logging.loki_tenant.as_deref().map(HeaderValue::from_str);
            let tenant = tenant
                .transpose()
                .context("logging.loki_tenant cannot be sent")?;
            running.push((loki, start(loki, url, tenant, loki_body)?));
        }
        if let Some(url) = &logging.webhook_url {
            running.push((
                webhook,
                start(webhook, url.expose().clone(), None, webhook_body)?,
            ));
        }
        Ok(Self(running))
    }

    /// Where lines for the sinks are written; None if there are no sinks.
    pub fn writer(&self) -> Option<SinkWriter> {
        let outboxes = self.0.iter().map(|(_, sink)| Arc::clone(sink.outbox()));
        (!self.0.is_empty()).then(|| SinkWriter(outboxes.collect()))
    }

    /// The counts of each sink.
    pub fn counts(&self) -> Vec<(&'static str, Arc<Counts>)> {
        let counts =
            |(name, sink): &(_, Running<Line>)| (*name, Arc::clone(sink.outbox().counts()));
        self.0.iter().map(counts).collect()
    }

    /// Sends what is left, until a timeout.
    pub async fn close(self) {
        let closing = self.0.into_iter().map(|(name, sink)| async move {
            let left = sink.close(CLOSE_TIMEOUT).await;
            if left > 0 {
                tracing::warn!(
                    component = "delivery",
                    receiver = name,
                    lines = left,
                    "The last lines could not be delivered"
                );
            }
        });
        futures::future::join_all(closing).await;
    }
}

fn start(
    name: &'static str,
    url: Url,
    tenant: Option<HeaderValue>,
    body: fn(&str, &[Line]) -> serde_json::Result<Vec<u8>>,
) -> anyhow::Result<Running<Line>> {
    let http = Http {
        client: web::client()
            .build()
            .context("Cannot create the HTTP client for log lines")?,
        url,
        tenant,
        instance: rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
        body,
    };
    Ok(Arc::new(Outbox::new(name, LIMITS)).start(http))
}

struct Http {
    client: reqwest::Client,
    url: Url,
    /// Of a Loki that has several.
    tenant: Option<HeaderValue>,
    instance: String,
    body: fn(&str, &[Line]) -> serde_json::Result<Vec<u8>>,
}

impl Receiver<Line> for Http {
    async fn deliver(&self, batch: &[Line]) -> Outcome {
        let body = match (self.body)(&self.instance, batch) {
            Ok(body) => body,
            Err(error) => return Outcome::Refused(error.to_string()),
        };
        let json = HeaderValue::from_static("application/json");
        let mut request = self.client.post(self.url.clone()).body(body);
        if let Some(tenant) = &self.tenant {
            request = request.header("X-Scope-OrgID", tenant);
        }
        outbox::send(request.header(CONTENT_TYPE, json)).await
    }
}

#[derive(Serialize)]
struct LokiPush<'a> {
    streams: Vec<LokiStream<'a>>,
}

#[derive(Serialize)]
struct LokiStream<'a> {
    stream: LokiLabels<'a>,
    /// Nanoseconds since 1970 as text, and the line.
    values: Vec<(String, &'a str)>,
}

/// Few labels with few values: a job's id would make a stream for every job. It is in the line.
#[derive(Serialize)]
struct LokiLabels<'a> {
    job: &'static str,
    instance: &'a str,
    level: String,
}

fn loki_body(instance: &str, batch: &[Line]) -> serde_json::Result<Vec<u8>> {
    let mut streams: Vec<LokiStream<'_>> = Vec::new();
    for line in batch {
        let level = line.level.as_str().to_ascii_lowercase();
        let found = streams
            .iter()
            .position(|stream| stream.stream.level == level);
        let index = found.unwrap_or_else(|| {
            let job = env!("CARGO_PKG_NAME");
            streams.push(LokiStream {
                stream: LokiLabels {
                    job,
                    instance,
                    level,
                },
                values: Vec::new(),
            });
            streams.len() - 1
        });
        let since = line.at.duration_since(SystemTime::UNIX_EPOCH);
        let nanoseconds = since.unwrap_or_default().as_nanos();
        if let Some(stream) = streams.get_mut(index) {
            stream.values.push((nanoseconds.to_string(), &line.text));
        }
    }
    serde_json::to_vec(&LokiPush { streams })
}

fn webhook_body(_: &str, batch: &[Line]) -> serde_json::Result<Vec<u8>> {
    // Each is a JSON object already.
    let lines: Vec<&str> = batch.iter().map(|line| &*line.text).collect();
    Ok(format!("[{}]", lines.join(",")).into_bytes())
}

/// Accepts lines for all sinks.
#[derive(Debug, Clone)]
pub struct SinkWriter(Arc<[Arc<Outbox<Line>>]>);

impl SinkWriter {
    /// Accepts one line.
    fn line(&self, level: Level, text: &str) {
        let line = Line {
            at: SystemTime::now(),
            level,
            text: text.into(),
        };
        for outbox in &*self.0 {
            outbox.push(line.clone(), text.len());
        }
    }
}

impl<'a> MakeWriter<'a> for SinkWriter {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LineWriter {
            sinks: self,
            level: Level::INFO,
        }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Self::Writer {
        LineWriter {
            sinks: self,
            level: *metadata.level(),
        }
    }
}

/// Takes one line, which the log writes as a whole.
#[derive(Debug)]
pub struct LineWriter<'a> {
    sinks: &'a SinkWriter,
    level: Level,
}

impl Write for LineWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        self.sinks.line(self.level, text.trim_end());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
