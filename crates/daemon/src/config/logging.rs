//! Section `logging`.

use std::path::PathBuf;

use super::{ConfigError, LogFormat, LogOutput, LogSampling, Origin, Settings};
use crate::secret::SecretUrl;

/// Section `logging`.
#[derive(Debug, Clone)]
pub struct Logging {
    /// Least important level.
    pub level: String,
    /// JSON or text.
    pub format: LogFormat,
    /// Stream that lines are written to.
    pub output: LogOutput,
    /// File that lines are written to as well.
    pub file: Option<PathBuf>,
    /// Which lines are written.
    pub sampling: LogSampling,
    /// Loki that lines are pushed to.
    pub loki_url: Option<SecretUrl>,
    /// Its tenant.
    pub loki_tenant: Option<String>,
    /// Where lines are posted.
    pub webhook_url: Option<SecretUrl>,
}

/// `logging.file` may name a stream, as in the Go program, and `logging.output` a file, as in its older
/// releases.
pub(super) fn logging(settings: &Settings) -> Result<Logging, ConfigError> {
    let of_output = settings.text("logging.output")?;
    let of_file = settings.optional_text("logging.file");
    let stream = |text: &String| text.parse::<LogOutput>().ok();
    let twice = |what: &str| ConfigError::Invalid {
        key: "logging.file",
        reason: format!("and logging.output name two different {what}s: set only one of them"),
    };
    let is_output_set = settings.origin("logging.output") != Some(&Origin::Default);
    let (output, file) = match (stream(&of_output), of_file) {
        (Some(output), None) => (output, None),
        (None, None) => (LogOutput::Stderr, Some(of_output)),
        (output, Some(of_file)) => match (output, stream(&of_file)) {
            (Some(output), None) => (output, Some(of_file)),
            (Some(output), Some(other)) if is_output_set && output != other => {
                return Err(twice("stream"));
            }
            (Some(_), Some(other)) => (other, None),
            (None, Some(output)) => (output, Some(of_output)),
            (None, None) if of_file == of_output => (LogOutput::Stderr, Some(of_file)),
            (None, None) => return Err(twice("file")),
        },
    };
    Ok(Logging {
        level: settings.text("logging.level")?,
        format: settings.named("logging.format")?,
        output,
        file: file.map(PathBuf::from),
        sampling: settings.sampling("logging.sampling_rate")?,
        loki_url: settings.secret_url("logging.loki_url")?,
        loki_tenant: settings.optional_text("logging.loki_tenant"),
        webhook_url: settings.secret_url("logging.webhook_url")?,
    })
}
