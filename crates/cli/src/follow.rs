//! Following a job to its end.
//!
//! ```text
//!           +-- events: each status --+
//!           v                         |
//!   open the event stream ------------+      ended: done
//!           | closed, broken, or not offered
//!           v
//!   ask for the status once ended: done; 401, 404, ...: that is the result
//!           | no connection: report it once, and retry until `reconnect_for` has passed
//!           v
//!   pause, then from the top (only polling, if the daemon offers no stream)
//! ```
//!
//! The daemon keeps jobs across a restart, so a lost connection does not mean that the job failed.

use std::time::{Duration, Instant};

use lvp_api::{JobId, JobStatus};

use crate::client::Client;
use crate::exit::{Exit, Failure};

/// Pause between two attempts: short enough to feel immediate, long enough that a restarting
/// daemon is not flooded.
const PAUSE: Duration = Duration::from_secs(1);

/// What the follower reports.
pub(crate) enum News<'a> {
    /// The job's status, perhaps the same as before.
    Status(&'a JobStatus),
    /// Something that the user should know.
    Notice(&'a str),
}

/// Follows `id` until it has ended. `has_answered` says that the daemon has just answered, so that a refused
/// connection is retried; otherwise it is a failure at once.
pub(crate) async fn follow(
    client: &Client,
    id: JobId,
    reconnect_for: Duration,
    has_answered: bool,
    report: &mut dyn FnMut(News<'_>) -> Result<(), Failure>,
) -> Result<JobStatus, Failure> {
    let mut last_contact = has_answered.then(Instant::now);
    let mut is_lost = false;
    let mut has_stream = true;
    loop {
        if has_stream {
            match client.events(id).await {
                Ok(mut events) => {
                    while let Ok(status) = events.next().await {
                        is_lost = false;
                        report(News::Status(&status))?;
                        if status.status.is_terminal() {
                            return Ok(status);
                        }
                        last_contact = Some(Instant::now());
                    }
                }
                Err(failure) if failure.is_temporary() => {}
                // The status request shows whether the job or the stream is missing.
                Err(_) => has_stream = false,
            }
        }
        match client.job(id).await {
            Ok(status) => {
                is_lost = false;
                report(News::Status(&status))?;
                if status.status.is_terminal() {
                    return Ok(status);
                }
                last_contact = Some(Instant::now());
            }
            Err(failure) if failure.is_temporary() => {
                let Some(contact) = last_contact else {
                    return Err(failure);
                };
                if contact.elapsed() >= reconnect_for {
                    return Err(given_up(id, reconnect_for, &failure));
                }
                if !is_lost {
                    is_lost = true;
                    report(News::Notice(&format!("{failure}; trying again")))?;
                }
            }
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn given_up(id: JobId, reconnect_for: Duration, failure: &Failure) -> Failure {
    Failure::new(
        Exit::Unavailable,
        format!(
            "No contact for {reconnect_for:?}: {failure}; the daemon resumes the job when it is \
             back: follow it with lvpctl watch {id}"
        ),
    )
}
