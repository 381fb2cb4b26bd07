//! The spans of a job: their names and what is said on them, in one place. Operators search for these.

use lvp_api::VolumeName;
use tracing::{Instrument as _, Span};

use super::live::Live;
use crate::cache::Lead;
use crate::error::chain;
use crate::job::error::JobError;
use crate::job::record::Job;
use crate::job::work::Work;
use crate::telemetry::traces::{self, attribute, number};
use crate::volume::Volume;

/// The span of a job's run, below the request that made the job.
pub(super) fn job(live: &Live) -> Span {
    let spec = live.spec();
    let work = &spec.work;
    let name = match work {
        Work::Provision { .. } => "runJob",
        Work::Fetch { .. } => "runCacheJob",
        Work::Golden { .. } => "runGoldenJob",
        Work::Verify { .. } => "runVerifyJob",
    };
    let span = tracing::error_span!(
        target: traces::TARGET, "job", otel.name = name, job_id = %live.id,
        correlation_id = spec.correlation_id.as_deref(), image_url = work.image().map(|image| tracing::field::display(&image.url)),
        volume = work.volume_name().map(VolumeName::as_str),
    );
    traces::continue_from(&span, spec.traceparent.as_deref());
    span
}

/// Records on a job's span how it ended.
pub(super) fn ended(span: &Span, job: &Job, live: &Live) {
    let moved = live.meter.moved();
    let requests = &live.meter.requests;
    attribute(span, "retries", Some(number(requests.repeated())));
    attribute(span, "requests", Some(number(requests.sent())));
    attribute(span, "job.status", Some(job.state.as_str()));
    attribute(span, "job.attempts", Some(i64::from(job.attempts)));
    attribute(span, "cache.hit", job.cache_hit);
    attribute(span, "volume.path", job.volume_path.clone());
    for (name, bytes) in [
        ("bytes.read", moved.fetched_bytes),
        ("bytes.written", moved.written_bytes),
        ("bytes.zeroed", moved.zeroed_bytes),
    ] {
        attribute(span, name, Some(number(bytes)));
    }
    if let Some(failure) = &job.failure {
        traces::failed(span, failure.error_type.clone(), failure.message.clone());
    }
}

/// The pass over an image that is not cached.
pub(super) fn download(job: &Span, url: String, lead: &Lead) -> Span {
    let span = tracing::error_span!(target: traces::TARGET, parent: job, "DownloadImageToPath");
    attribute(&span, "image.url", Some(url));
    attribute(&span, "path", Some(lead.path().display().to_string()));
    for (name, bytes) in [
        ("image.size", lead.object().size),
        ("bytes.resumed", lead.durable_bytes()),
    ] {
        attribute(&span, name, Some(number(bytes)));
    }
    span
}

/// Records on a download's span how many of its requests were repeated.
pub(super) fn repeated(download: &Span, retries: u64) {
    attribute(download, "retries", Some(number(retries)));
}

/// A volume is made.
pub(super) fn create_volume(job: &Span, name: &VolumeName, size_bytes: u64) -> Span {
    let span = tracing::error_span!(
        target: traces::TARGET, parent: job, "volume", otel.name = "CreateVolume"
    );
    named(&span, name);
    attribute(&span, "volume.size", Some(number(size_bytes)));
    span
}

/// A volume is written.
pub(super) fn populate_volume(job: &Span, volume: &Volume) -> Span {
    let span = tracing::error_span!(
        target: traces::TARGET, parent: job, "volume", otel.name = "PopulateVolume"
    );
    named(&span, &volume.name);
    attribute(&span, "volume.size", Some(number(volume.size_bytes)));
    span
}

/// A volume is cloned.
pub(super) fn clone_volume(job: &Span, name: &VolumeName, size_bytes: u64) -> Span {
    let span = tracing::error_span!(
        target: traces::TARGET, parent: job, "volume", otel.name = "CloneVolume"
    );
    named(&span, name);
    attribute(&span, "volume.size", Some(number(size_bytes)));
    span
}

/// What a job did to a volume is undone.
pub(super) fn delete_volume(name: &VolumeName) -> Span {
    let span = tracing::error_span!(target: traces::TARGET, "volume", otel.name = "DeleteVolume");
    named(&span, name);
    span
}

fn named(span: &Span, volume: &VolumeName) {
    attribute(span, "volume.name", Some(volume.to_string()));
}

/// Runs a step within its span, and records there why it failed.
pub(super) async fn traced<T>(
    span: Span,
    step: impl Future<Output = Result<T, JobError>>,
) -> Result<T, JobError> {
    let result = step.instrument(span.clone()).await;
    if let Err(error) = &result {
        traces::failed(&span, error.kind().word(), chain(error));
    }
    result
}
