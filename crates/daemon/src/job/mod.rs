//! What a job is: what was asked for, whether it is accepted, how it is stopped, how far it is, and
//! why it failed. What jobs do is in [`jobs`](crate::jobs).
//!
//! # The states of a job
//!
//! ```text
//!   request                                     cancel
//!      |                        .------------------------------------------.
//!      v                        |                                          v
//!  admission --accepted--> PENDING --a slot is free--> RUNNING --cancel--> CANCELLED
//!      |                    ^   |                       ^ |  |
//!      |                    '---'                       '-'  |--the volume is ready--> COMPLETED
//!      v                    stop of the daemon: it stays     |
//!   refused                 what it is, and runs again       '--an error, or too long--> FAILED
//!   (no job)                at the next start
//! ```
//!
//! A job is **pending** from the moment at which it is durable: it waits for one of `jobs.max_concurrent` slots, in
//! the order of acceptance. It is **running** while it has a slot, also while it waits for a database or a cache
//! that is not there. **Completed**, **failed** and **cancelled** are ends: nothing leads out of them, and a job that
//! is to be tried again is another job.
//!
//! - `PENDING -> RUNNING` counts an attempt. A job that was started five times without reaching an end fails
//!   instead: something about it brings the daemon down.
//! - `RUNNING -> COMPLETED` comes after the volume says `ready` (or, for a job that only fetches, after the image is in
//!   the cache's index). If the daemon crashes between the two, the next start finds the volume's word and completes
//!   the job without writing a byte.
//! - `RUNNING -> FAILED` and `-> CANCELLED` come after what the job did to its volume is undone
//!   ([`jobs`](crate::jobs), `undo`). If meanwhile the volume turns out to be ready, the job has completed,
//!   whatever was to end it.
//! - `PENDING -> CANCELLED` touches no byte; the volume may get the word that this job has ended on it.
//! - A crash changes no state: what the database calls running is run again from the top, and every step can be
//!   redone. That is why a database that is older than the volumes is not believed on its own
//!   ([`jobs`](crate::jobs), `standing`).
//!
//! # The commands
//!
//! | command | from | what it does |
//! |---|---|---|
//! | submit | HTTP | [`admission::decide`] inside the transaction that inserts the job; a repeat under the same `Idempotency-Key` gets the first job |
//! | retry | HTTP | submits what a failed or cancelled job was to do, as a new job |
//! | cancel | HTTP | [`stop::Stop::stop`] with [`Cancelled`](stop::StopReason::Cancelled); answers when the job has ended and is undone |
//! | time limit | the job's own task | the same switch, with [`TimedOut`](stop::StopReason::TimedOut): the job fails |
//! | shutdown | the daemon, after its grace | the same switch, with [`Shutdown`](stop::StopReason::Shutdown): the job keeps its state |
//! | resume | the start of the daemon | every job that has not ended, the running ones first |
//!
//! Nobody but a job's own task changes its state: all others turn the switch and wait. The first reason stays, so a job
//! that is both cancelled and out of time is cancelled. A state is in the database before anybody is told of it, and
//! an end is in the same transaction as the webhooks that tell of it.
//!
//! # What a job is to do
//!
//! [`work::Work`] has a variant for each kind. It is made once, from a request, and never changes; the row in the database
//! is read by its `kind`. The image's URL is looked at once as well: what is kept of it is a
//! [`RequestedUrl`](crate::source::url::RequestedUrl) with the identity by which repeats are told, and where it leads
//! ([`ImageUrl`](crate::source::ImageUrl)) goes along with the job as long as the process lives. After a restart
//! the configuration decides anew where it leads.

pub mod admission;
pub mod advice;
pub mod error;
pub mod flight;
pub mod kind;
pub mod meter;
pub mod record;
pub mod stop;
pub mod work;
