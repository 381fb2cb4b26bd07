//! The jobs of one order on one host, one for each of its targets: how far they are, and what they come to.

use std::collections::HashMap;

use lvp_api::{JobId, JobState};
use lvp_fleet::{Order, OrderKind, Report, ReportState};

use super::Inner;
use super::teller::{Figures, Teller};
use crate::error::chain;
use crate::job::advice;
use crate::job::record::Job;

/// One of an order's jobs.
#[derive(Debug)]
pub(super) enum Part {
    /// It is not made yet.
    Absent,
    /// It exists.
    Made(JobId),
    /// It has ended.
    Ended(Box<Job>),
}

/// The jobs that were made before the daemon was started.
pub(super) async fn found(fleet: &Inner, order: &Order, targets: &[String]) -> Vec<Part> {
    let store = &fleet.services.store;
    let made = loop {
        match store.jobs_by_key(order.job_prefix()).await {
            Ok(made) => break made,
            Err(error) => fleet.store_failed(&error).await,
        }
    };
    let by_key: HashMap<_, _> = made.into_iter().map(|(job, key)| (key, job)).collect();
    let part = |target: &String| match by_key.get(&order.job_key(target)) {
        Some(job) => Part::Made(*job),
        None => Part::Absent,
    };
    targets.iter().map(part).collect()
}

/// Whether nothing is left to be done. What was cancelled when the order was late was cancelled by its deadline.
pub(super) fn have_ended(parts: &[Part], is_late: bool) -> bool {
    let has_ended = |part: &Part| match part {
        Part::Ended(job) => !is_late || job.state != JobState::Cancelled,
        Part::Absent | Part::Made(_) => false,
    };
    !parts.is_empty() && parts.iter().all(has_ended)
}

/// How far they are now.
pub(super) async fn look(fleet: &Inner, parts: &mut [Part]) -> Figures {
    let mut figures = Figures {
        jobs: parts.len() as u64,
        ..Figures::default()
    };
    for part in parts {
        if let Part::Made(id) = part {
            match fleet.jobs.get(*id).await {
                Ok(Some(job)) if job.state.is_terminal() => *part = Part::Ended(Box::new(job)),
                Ok(Some(job)) => {
                    figures.job = Some(job.id);
                    figures.add(&job);
                }
                // It was made long ago, and forgotten since.
                Ok(None) => *part = Part::Absent,
                Err(error) => {
                    let error = chain(&error);
                    tracing::debug!(component = "fleet", error, "A job cannot be read");
                    figures.made += 1;
                }
            }
        }
        if let Part::Ended(job) = part {
            figures.ended += 1;
            if job.state != JobState::Completed {
                figures.failed += 1;
            }
            figures.add(job);
        }
    }
    figures
}

/// What jobs that have all ended come to.
pub(super) fn outcome(
    teller: &mut Teller<'_>,
    order: &Order,
    parts: &[Part],
    figures: Figures,
) -> Report {
    let jobs = parts.iter().filter_map(|part| match part {
        Part::Ended(job) => Some(job),
        Part::Absent | Part::Made(_) => None,
    });
    let jobs: Vec<_> = jobs.collect();
    if let Some(failed) = jobs.iter().find(|job| job.state == JobState::Failed) {
        let failure = failed.failure.as_ref();
        let figures = Figures {
            job: Some(failed.id),
            ..figures
        };
        let reason = failure.map(|failure| failure.message.clone());
        let mut report = teller.last(ReportState::Failed, reason, figures);
        report.error_type = failure.map(|failure| failure.error_type.clone());
        let remedy = failure.and_then(|failure| advice::remedy(&failure.error_type));
        report.remedy = remedy.map(str::to_owned);
        return report;
    }
    if let Some(cancelled) = jobs.iter().find(|job| job.state == JobState::Cancelled) {
        let figures = Figures {
            job: Some(cancelled.id),
            ..figures
        };
        let reason = Some("Its job was cancelled on the host".to_owned());
        return teller.last(ReportState::Cancelled, reason, figures);
    }
    let was_there = jobs.iter().all(|job| job.cache_hit == Some(true));
    let state = match order.kind {
        OrderKind::Prewarm if was_there => ReportState::Existing,
        OrderKind::Prewarm => ReportState::Cached,
        OrderKind::Provision | OrderKind::Evict => ReportState::Done,
    };
    teller.last(state, None, figures)
}
