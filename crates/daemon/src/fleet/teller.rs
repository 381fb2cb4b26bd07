//! What is said about an order while it is followed: every change at once, progress now and then.

use std::time::{Duration, Instant};

use lvp_api::JobId;
use lvp_fleet::{Order, Report, ReportState};

use super::Inner;
use crate::job::record::Job;

/// How often progress is reported.
pub(super) const PROGRESS: Duration = Duration::from_secs(5);

/// How far the jobs are.
#[derive(Debug, Clone, Default)]
pub(super) struct Figures {
    pub(super) jobs: u64,
    pub(super) made: u64,
    pub(super) ended: u64,
    pub(super) failed: u64,
    pub(super) attempt: u32,
    pub(super) bytes: u64,
    pub(super) bytes_total: u64,
    pub(super) job: Option<JobId>,
}

impl Figures {
    /// Adds a job.
    pub(super) fn add(&mut self, job: &Job) {
        self.made += 1;
        self.attempt = self.attempt.max(job.attempts);
        if let Some(progress) = &job.progress {
            self.bytes += progress.bytes_processed;
            self.bytes_total += progress.bytes_total;
        }
    }
}

/// Longest reason that is reported.
const REASON_MAX: usize = 2000;

/// Says every change at once, and progress now and then.
pub(super) struct Teller<'a> {
    fleet: &'a Inner,
    order: &'a Order,
    last: Option<(Instant, Report)>,
}

impl<'a> Teller<'a> {
    pub(super) fn new(fleet: &'a Inner, order: &'a Order) -> Self {
        Self {
            fleet,
            order,
            last: None,
        }
    }

    pub(super) fn tell(&mut self, state: ReportState, reason: Option<String>, figures: Figures) {
        let report = self.report(state, reason, figures);
        let is_due = self.last.as_ref().is_none_or(|(at, last)| {
            let has_changed = last.state != report.state || last.jobs_ended != report.jobs_ended;
            has_changed || at.elapsed() >= PROGRESS
        });
        if is_due {
            self.fleet.reports.tell(report.clone());
            self.last = Some((Instant::now(), report));
        }
    }

    pub(super) fn last(
        &mut self,
        state: ReportState,
        reason: Option<String>,
        figures: Figures,
    ) -> Report {
        self.report(state, reason, figures)
    }

    fn report(&self, state: ReportState, reason: Option<String>, figures: Figures) -> Report {
        let (id, revision) = (self.order.id.clone(), self.order.revision);
        let rate = self.last.as_ref().map_or(0.0, |(at, last)| {
            figures.bytes.saturating_sub(last.bytes) as f64 / at.elapsed().as_secs_f64().max(0.001)
        });
        Report {
            reason: reason.map(|reason| reason.chars().take(REASON_MAX).collect()),
            job_id: figures.job,
            jobs: figures.jobs,
            jobs_ended: figures.ended,
            jobs_failed: figures.failed,
            attempt: figures.attempt,
            bytes: figures.bytes,
            bytes_total: figures.bytes_total,
            bytes_per_second: rate as u64,
            ..self.fleet.report(id, revision, state)
        }
    }
}
