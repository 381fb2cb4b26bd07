//! A job's progress on standard error: a bar on a terminal, lines in a pipe.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lvp_api::units::{ByteSize, duration_text};
use lvp_api::{JobState, JobStatus, Progress, Stage};

use crate::output::{clean, say};

/// Where progress goes.
pub(crate) enum Reporter {
    /// One line that is redrawn.
    Bar(ProgressBar),
    /// A line for each stage and each ten percent.
    Lines(Lines),
}

/// What the last line showed.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    last: Option<(JobState, Option<Stage>, u8, bool)>,
}

impl Reporter {
    /// A bar if standard error is a terminal that can draw one.
    pub(crate) fn new() -> Self {
        if !can_draw(&std::io::stderr()) {
            return Self::Lines(Lines::default());
        }
        let bar = ProgressBar::with_draw_target(Some(BAR_STEPS), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{prefix:12} [{wide_bar}] {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        Self::Bar(bar)
    }

    /// Shows a status.
    pub(crate) fn show(&mut self, status: &JobStatus) {
        match self {
            Self::Lines(lines) => {
                if let Some(line) = lines.line(status) {
                    say(&line);
                }
            }
            Self::Bar(bar) => {
                let Some(progress) = &status.progress else {
                    bar.set_prefix(status.status.as_str());
                    bar.set_message(before_progress(status.status));
                    return;
                };
                bar.set_prefix(progress.stage.as_str());
                bar.set_position(bar_position(progress.overall_percent));
                let text = describe(progress, status.status);
                bar.set_message(text + &waits(status));
                if status.status.is_terminal() {
                    bar.finish_and_clear();
                }
            }
        }
    }

    /// Prints a message without disturbing the bar.
    pub(crate) fn say(&self, text: &str) {
        match self {
            Self::Bar(bar) => bar.suspend(|| say(text)),
            Self::Lines(_) => say(text),
        }
    }

    /// Removes the bar before the final output.
    pub(crate) fn finish(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// Whether this is a terminal that can redraw a line.
pub(crate) fn can_draw(stream: &impl IsTerminal) -> bool {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    stream.is_terminal() && !is_dumb
}

/// Steps of the bar: tenths of a percent.
const BAR_STEPS: u64 = 1000;

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0..=1000 before"
)]
fn bar_position(percent: f64) -> u64 {
    (percent * 10.0).clamp(0.0, 1000.0) as u64
}

impl Lines {
    /// The line for a status that differs enough from the last.
    fn line(&mut self, status: &JobStatus) -> Option<String> {
        let stage = status.progress.as_ref().map(|progress| progress.stage);
        let percent = status.progress.as_ref().map_or(0.0, |p| p.overall_percent);
        let tenth = u8::try_from(bar_position(percent) / 100).unwrap_or(10);
        let now = (status.status, stage, tenth, status.waiting.is_some());
        if self.last == Some(now) {
            return None;
        }
        self.last = Some(now);
        let state = status.status;
        Some(match &status.progress {
            _ if state.is_terminal() => state.to_string(),
            None => format!("{state}: {}{}", before_progress(state), waits(status)),
            Some(progress) => format!(
                "{}: {}{}",
                progress.stage.as_str(),
                describe(progress, status.status),
                waits(status)
            ),
        })
    }
}

/// `; waits for the object store: it refused the connection`, or nothing.
pub(crate) fn waits(status: &JobStatus) -> String {
    match &status.waiting {
        Some(waiting) => format!(
            "; waits for {}: {}",
            waiting.on.text(),
            clean(&waiting.reason)
        ),
        None => String::new(),
    }
}

/// What a job without progress is doing.
fn before_progress(state: JobState) -> &'static str {
    match state {
        JobState::Pending => "waiting for a free job slot",
        _ => "starting",
    }
}

/// `41.5 %, 1.6 GiB of 4 GiB, 12s left`; a job that is not running has no time left.
pub(crate) fn describe(progress: &Progress, state: JobState) -> String {
    let mut text = format!("{:.1} %", progress.overall_percent);
    if progress.bytes_total > 0 {
        let done = ByteSize(progress.bytes_processed);
        let total = ByteSize(progress.bytes_total);
        text.push_str(&format!(", {done} of {total}"));
    }
    let left = progress.overall_eta_sec.and_then(seconds);
    if let Some(left) = left.filter(|_| state == JobState::Running) {
        text.push_str(&format!(", {} left", duration_text(left)));
    }
    text
}

/// A server's number of seconds may be negative, infinite or not a number.
fn seconds(number: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(number.ceil()).ok()
}

/// `2h3m4s`.
#[cfg(test)]
mod tests {
    use lvp_api::{Waiting, WaitsFor};

    use super::*;

    fn progress(stage: Stage, percent: f64) -> Progress {
        Progress {
            stage,
            percent,
            stage_percent: percent,
            overall_percent: percent,
            bytes_processed: 1 << 30,
            bytes_total: 4 << 30,
            eta_sec: None,
            overall_eta_sec: Some(3725.2),
            stage_start_time: None,
            job_start_time: None,
        }
    }

    fn status(state: JobState, progress: Option<Progress>) -> JobStatus {
        let mut value = serde_json::json!({
            "job_id": "6c8a5b4e-0d6f-4a53-9d5b-0f4e1f6b7a01",
            "kind": "provision",
            "status": state,
            "image_url": "s3://images/a.qcow2",
            "attempts": 1,
            "created_at": "2026-01-02T03:04:05Z",
            "updated_at": "2026-01-02T03:04:05Z",
        });
        value["progress"] = serde_json::json!(progress);
        serde_json::from_value(value).expect("it is a status")
    }

    #[test]
    fn a_pipe_gets_a_line_for_each_stage_and_each_tenth() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        seen.extend(lines.line(&status(JobState::Pending, None)));
        seen.extend(lines.line(&status(JobState::Pending, None)));
        seen.extend(lines.line(&status(JobState::Running, None)));
        for thousandth in 0..=400 {
            let now = progress(Stage::Downloading, f64::from(thousandth) / 20.0);
            seen.extend(lines.line(&status(JobState::Running, Some(now))));
        }
        let mut waiting = status(JobState::Running, Some(progress(Stage::Downloading, 20.0)));
        waiting.waiting = Some(Waiting {
            on: WaitsFor::ObjectStore,
            since: String::new(),
            attempt: 2,
            reason: "No\nanswer".to_owned(),
        });
        seen.extend(lines.line(&waiting));
        seen.extend(lines.line(&waiting));
        let last = progress(Stage::Finalizing, 20.0);
        seen.extend(lines.line(&status(JobState::Running, Some(last.clone()))));
        seen.extend(lines.line(&status(JobState::Completed, Some(last))));
        insta::assert_snapshot!(seen.join("\n"), @r"
        pending: waiting for a free job slot
        running: starting
        downloading: 0.0 %, 1 GiB of 4 GiB, 1h2m6s left
        downloading: 10.0 %, 1 GiB of 4 GiB, 1h2m6s left
        downloading: 20.0 %, 1 GiB of 4 GiB, 1h2m6s left
        downloading: 20.0 %, 1 GiB of 4 GiB, 1h2m6s left; waits for the object store: No answer
        finalizing: 20.0 %, 1 GiB of 4 GiB, 1h2m6s left
        completed
        ");
    }

    #[test]
    fn an_estimate_that_is_no_number_of_seconds_is_not_shown() {
        for estimate in [f64::NAN, f64::INFINITY, -5.0] {
            let mut progress = progress(Stage::Downloading, 1.0);
            progress.overall_eta_sec = Some(estimate);
            assert_eq!(
                describe(&progress, JobState::Running),
                "1.0 %, 1 GiB of 4 GiB"
            );
        }
    }
}
