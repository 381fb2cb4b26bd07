//! Commands for jobs: provision, list, show, follow, cancel, retry.

use lvp_api::{
    Bound, JobId, JobState, JobStatus, Method, Priority, ProvisionRequest, Verified, Waiting,
};

use super::{Context, say_if_more, wait};
use crate::args::{JobsArgs, ProvisionArgs, ReconnectArgs, WaitArgs};
use crate::client::Page;
use crate::exit::{Exit, Failure};
use crate::output::{self, Format, say};
use crate::progress;

pub(super) async fn provision(context: &Context, args: ProvisionArgs) -> Result<Exit, Failure> {
    let request = ProvisionRequest {
        correlation_id: args.correlation_id,
        ..args.what.request()
    };
    let key = args
        .idempotency_key
        .unwrap_or_else(|| JobId::random().to_string());
    let accepted = context.client.provision(&request, &key).await?;
    wait::accepted(context, &accepted, &args.wait).await
}

pub(super) async fn list(context: &Context, args: JobsArgs) -> Result<Exit, Failure> {
    let page = Page {
        limit: args.limit,
        offset: args.offset,
    };
    let states: Vec<_> = args.status.iter().map(ToString::to_string).collect();
    let states = (!states.is_empty()).then(|| states.join(","));
    let priorities: Vec<_> = args.priority.iter().map(ToString::to_string).collect();
    let priorities = (!priorities.is_empty()).then(|| priorities.join(","));
    let filter = [
        ("status", states),
        ("volume", args.volume),
        ("priority", priorities),
        ("image", args.image),
        ("q", args.search),
        ("since", args.since),
        ("until", args.until),
    ];
    let list = context.client.jobs(filter, page).await?;
    match context.format {
        Format::Json => output::print_json(&list)?,
        Format::Name => {
            for job in &list.jobs {
                output::print_line(&job.job_id.to_string())?;
            }
        }
        Format::Table if list.jobs.is_empty() => say("No jobs"),
        Format::Table => {
            let rows: Vec<_> = list.jobs.iter().map(row).collect();
            let header = ["JOB", "STATUS", "DONE", "VOLUME", "IMAGE", "CREATED"];
            output::print(&output::table(header, &rows))?;
        }
    }
    if context.format != Format::Json {
        say_if_more(list.jobs.len(), list.offset, list.total);
    }
    Ok(Exit::Success)
}

pub(super) async fn status(context: &Context, id: JobId) -> Result<Exit, Failure> {
    let status = context.client.job(id).await?;
    show(context.format, &status)?;
    Ok(Exit::Success)
}

pub(super) async fn watch(
    context: &Context,
    id: JobId,
    reconnect: &ReconnectArgs,
) -> Result<Exit, Failure> {
    wait::until_end(context, id, reconnect, wait::Entry::Watch).await
}

pub(super) async fn cancel(context: &Context, id: JobId) -> Result<Exit, Failure> {
    let cancelled = context.client.cancel(id).await?;
    match context.format {
        Format::Json => output::print_json(&cancelled)?,
        Format::Name => output::print_line(&cancelled.job_id.to_string())?,
        Format::Table => output::print_line(&format!("{} cancelled", cancelled.job_id))?,
    }
    Ok(Exit::Success)
}

pub(super) async fn retry(context: &Context, id: JobId, wait: &WaitArgs) -> Result<Exit, Failure> {
    let accepted = context.client.retry(id).await?;
    wait::accepted(context, &accepted, wait).await
}

/// Prints one status.
pub(super) fn show(format: Format, status: &JobStatus) -> Result<(), Failure> {
    match format {
        Format::Json => output::print_json(status),
        Format::Name => output::print_line(&status.job_id.to_string()),
        Format::Table => output::print(&describe(status)),
    }
}

fn row(job: &JobStatus) -> [String; 6] {
    let done = job
        .progress
        .as_ref()
        .map(|progress| format!("{:.0} %", progress.overall_percent.floor()));
    [
        job.job_id.to_string(),
        job.status.to_string(),
        done.unwrap_or_else(|| "-".to_owned()),
        // A job that fills the cache has no volume.
        job.volume_name.clone().unwrap_or_else(|| "-".to_owned()),
        job.image_url.clone(),
        job.created_at.clone(),
    ]
}

fn verified(verified: Verified) -> String {
    match verified {
        Verified::Signature => "a signature".to_owned(),
        Verified::Request => "the request's checksum".to_owned(),
        Verified::Sidecar => "the image's checksum file".to_owned(),
        Verified::Sums => "its directory's checksum file".to_owned(),
        Verified::None => "nothing: there was no checksum and no signature".to_owned(),
    }
}

fn made_by(method: Method) -> &'static str {
    match method {
        Method::Clone => "cloning the image's golden volume",
        Method::Copy => "copying the image from the cache",
        Method::Stream => "writing the image as it was fetched",
    }
}

/// The object store since TIME (3 attempts failed): REASON
fn waits_for(waiting: &Waiting) -> String {
    let Waiting {
        on,
        since,
        attempt,
        reason,
    } = waiting;
    let failed = match attempt {
        0 => return format!("{} since {since}: {reason}", on.text()),
        1 => "1 attempt failed".to_owned(),
        more => format!("{more} attempts failed"),
    };
    format!("{} since {since} ({failed}): {reason}", on.text())
}

fn bounded_by(bound: Bound) -> String {
    format!(
        "{} ({:.0} % of its time; see 'lvpctl explain')",
        bound.by,
        bound.share(bound.by)
    )
}

fn describe(job: &JobStatus) -> String {
    // Only for a job that has not completed: how far it got.
    let is_completed = job.status == JobState::Completed;
    let progress = job.progress.as_ref().filter(|_| !is_completed);
    let cache = job.cache_hit.map(|hit| if hit { "hit" } else { "miss" });
    let restarts = (job.attempts > 1).then(|| job.attempts.to_string());
    let requests = (job.requests > 0).then(|| job.requests.to_string());
    let priority = (job.priority != Priority::Normal).then(|| job.priority.to_string());
    let mut fields = vec![
        ("Job", Some(job.job_id.to_string())),
        ("Kind", Some(job.kind.as_str().to_owned())),
        ("Status", Some(job.status.to_string())),
        ("Stage", progress.map(|p| p.stage.as_str().to_owned())),
        (
            "Progress",
            progress.map(|p| progress::describe(p, job.status)),
        ),
        ("Priority", priority),
        ("Waits for", job.waiting.as_ref().map(waits_for)),
        ("Bounded by", job.bound.map(bounded_by)),
        ("Error", job.error.clone()),
        ("Error type", job.error_type.clone()),
        ("What to do", job.remedy.clone()),
        ("Image", Some(job.image_url.clone())),
        ("Digest", job.image_digest.clone()),
        ("Verified by", job.verified.map(verified)),
        ("Signed by", job.signer.as_ref().map(ToString::to_string)),
        ("Cache", cache.map(str::to_owned)),
        ("Requests", requests),
        ("Cached at", job.image_path.clone()),
        (
            "Made by",
            job.method.map(|method| made_by(method).to_owned()),
        ),
        ("Volume", job.volume_name.clone()),
        ("Path", job.volume_path.clone()),
        ("Correlation id", job.correlation_id.clone()),
        ("Attempts", restarts),
        ("Created", Some(job.created_at.clone())),
        ("Updated", Some(job.updated_at.clone())),
    ];
    fields.extend(job.notes.iter().map(|note| ("Note", Some(note.clone()))));
    output::details(&fields)
}
