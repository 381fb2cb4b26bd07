//! Lines about jobs, added to the jobs' own logs: those with a `job_id`, their own or that of a span around them.
//!
//! Whatever `logging.level` and `logging.sampling_rate` are, a job has its lines of level info and above.

use lvp_api::{JobId, LogLine};
use serde_json::Value;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::logs::{Fields, OURS};
use super::traces;
use crate::job::log::Logs;

/// Fields that every line of a job would have.
const OF_ALL_LINES: [&str; 4] = ["correlation_id", "image_url", "volume", "request_id"];

/// The component of lines that say who did something from where, which is not for everybody who may see a job.
const AUDIT: &str = "audit";

/// Adds lines to the logs of jobs.
pub(super) struct JobLines(pub(super) Logs);

/// Whether a line may be about a job, or a span have its id.
pub(super) fn is_wanted(metadata: &Metadata<'_>) -> bool {
    let crate_name = metadata.target().split("::").next().unwrap_or_default();
    traces::is_ours(metadata)
        || metadata.is_event() && *metadata.level() <= Level::INFO && OURS.contains(&crate_name)
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for JobLines {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::of(event, context.event_scope(event));
        let Some(Value::String(id)) = fields.0.remove("job_id") else {
            return;
        };
        let log = id.parse::<JobId>().ok().and_then(|id| self.0.find(id));
        let Some(log) = log else {
            return;
        };
        fields
            .0
            .retain(|name, _| !OF_ALL_LINES.contains(&name.as_str()));
        let line = fields.into_line(*event.metadata().level());
        if line.component == AUDIT {
            return;
        }
        let (time, level) = (line.timestamp.clone(), line.level);
        let component = line.component.clone();
        let mut text = String::new();
        // Writing to a string cannot fail.
        line.rest(&mut text).ok();
        log.push(LogLine {
            number: 0,
            time,
            level: level.as_str().to_ascii_lowercase(),
            component,
            text,
        });
    }
}
