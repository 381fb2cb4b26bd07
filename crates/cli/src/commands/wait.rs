//! Waiting for a job: progress, Ctrl-C, `--timeout`, and the exit code by outcome.

use std::future;
use std::time::Duration;

use lvp_api::{JobAccepted, JobId, JobState, JobStatus};

use super::{Context, jobs};
use crate::args::{ReconnectArgs, WaitArgs};
use crate::exit::{Exit, Failure};
use crate::follow::{News, follow};
use crate::output::{self, Format, say};
use crate::progress::Reporter;

/// Which command waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// `--wait`: the daemon has just answered; the result is the final status.
    Wait,
    /// `watch`: with `-o json`, every change is a result.
    Watch,
}

/// Shows the id of a new job, or waits for its end.
pub(super) async fn accepted(
    context: &Context,
    accepted: &JobAccepted,
    args: &WaitArgs,
) -> Result<Exit, Failure> {
    for warning in &accepted.warnings {
        say(&format!("warning: {}", output::clean(warning)));
    }
    if args.wait {
        say(&format!("Job {}", accepted.job_id));
        return until_end(context, accepted.job_id, &args.reconnect, Entry::Wait).await;
    }
    match context.format {
        Format::Json => output::print_json(accepted)?,
        Format::Table | Format::Name => output::print_line(&accepted.job_id.to_string())?,
    }
    Ok(Exit::Success)
}

/// Waits for the end of a job and shows its last known status.
pub(super) async fn until_end(
    context: &Context,
    id: JobId,
    reconnect: &ReconnectArgs,
    entry: Entry,
) -> Result<Exit, Failure> {
    let is_stream = entry == Entry::Watch && context.format == Format::Json;
    let (last, ended) = followed(context, id, reconnect, entry).await;
    if let Some(status) = &last
        && !is_stream
    {
        jobs::show(context.format, status)?;
    }
    outcome(&ended?)
}

/// Waits for the end of a job that has completed if this succeeds, and shows nothing but its progress.
pub(super) async fn completed(
    context: &Context,
    id: JobId,
    reconnect: &ReconnectArgs,
) -> Result<JobStatus, Failure> {
    let (_, ended) = followed(context, id, reconnect, Entry::Wait).await;
    let status = ended?;
    outcome(&status).map(|_| status)
}

/// The last known status of a job, and how it ended.
async fn followed(
    context: &Context,
    id: JobId,
    reconnect: &ReconnectArgs,
    entry: Entry,
) -> (Option<JobStatus>, Result<JobStatus, Failure>) {
    let mut reporter = Reporter::new();
    let mut last: Option<JobStatus> = None;
    let is_stream = entry == Entry::Watch && context.format == Format::Json;
    let mut report = |news: News<'_>| -> Result<(), Failure> {
        match news {
            News::Notice(text) => reporter.say(text),
            News::Status(status) if last.as_ref() == Some(status) => {}
            News::Status(status) => {
                reporter.show(status);
                last = Some(status.clone());
                if is_stream {
                    output::print_json_line(status)?;
                }
            }
        }
        Ok(())
    };
    let followed = follow(
        &context.client,
        id,
        reconnect.reconnect_for,
        entry == Entry::Wait,
        &mut report,
    );
    let result = tokio::select! {
        result = followed => result,
        failure = interrupted(id) => Err(failure),
        failure = timed_out(id, context.timeout) => Err(failure),
    };
    reporter.finish();
    (last, result)
}

async fn interrupted(id: JobId) -> Failure {
    if tokio::signal::ctrl_c().await.is_err() {
        // Without a handler, Ctrl-C ends the program anyway.
        future::pending::<()>().await;
    }
    Failure::new(
        Exit::Interrupted,
        format!(
            "Interrupted; the job continues: follow it with 'lvpctl watch {id}' or stop it \
            with 'lvpctl cancel {id}'"
        ),
    )
}

async fn timed_out(id: JobId, timeout: Option<Duration>) -> Failure {
    let Some(timeout) = timeout else {
        return future::pending().await;
    };
    tokio::time::sleep(timeout).await;
    Failure::new(
        Exit::Timeout,
        format!(
            "The job did not end within {timeout:?} and continues: follow it with 'lvpctl watch \
             {id}' or stop it with 'lvpctl cancel {id}'"
        ),
    )
}

fn outcome(status: &JobStatus) -> Result<Exit, Failure> {
    match status.status {
        JobState::Completed => Ok(Exit::Success),
        JobState::Cancelled => Err(Failure::new(Exit::Cancelled, "The job was cancelled")),
        JobState::Failed | JobState::Pending | JobState::Running => {
            let reason = status
                .error
                .as_deref()
                .unwrap_or("the daemon did not give a reason");
            Err(Failure::new(
                Exit::Failed,
                output::clean(&format!("The job failed: {reason}")),
            ))
        }
    }
}
