//! What a job is: what was requested, whether it is accepted, how it is stopped, its progress, and
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
//! A job is **pending** from the moment it is durable: it waits for one of `jobs.max_concurrent` slots, in the order
//! of priority, and within a priority of acceptance. It is **running** while it has a slot, even while it waits for a database or cache that is
//! unavailable. **Completed**, **failed** and **cancelled** are final states: a retry is a new job.
//!
//! - A running job whose request says so waits for room in the pool that volumes share. Meanwhile it has no slot, and
//!   the attempt does not count ([`jobs`](crate::jobs), `room`).
//! - The transfer of a running job of low priority is paused while a job of high priority has its slot ([`pause`]). The
//!   job stays running, and the attempt does not count meanwhile.
//! - `PENDING -> RUNNING` counts an attempt. A job that was started five times without reaching a final
//!   state fails instead: something about it crashes the daemon.
//! - `RUNNING -> COMPLETED` happens after the volume is marked `ready` (or, for a job that only fetches, after the
//!   image is in the cache's index). If the daemon crashes between the two, the next start finds the mark and completes
//!   the job without writing a byte.
//! - `RUNNING -> FAILED` and `-> CANCELLED` happen after the job's changes to its volume were undone
//!   ([`jobs`](crate::jobs), `undo`). If the volume turns out to be ready by then, the job has completed,
//!   whatever was going to end it.
//! - `PENDING -> CANCELLED` changes no data; the volume may be marked with this job as the last that ended on
//!   it.
//! - A crash changes no state: a job that is running according to the database is run again from the start, and
//!   every step can be repeated. For the same reason a database that is older than the volumes is not trusted on
//!   its own ([`jobs`](crate::jobs), `standing`).
//!
//! # The commands
//!
//! | command | from | what it does |
//! |---|---|---|
//! | submit | HTTP | [`admission::decide`] inside the transaction that inserts the job; a repeat under the same `Idempotency-Key` gets the first job |
//! | retry | HTTP | submits what a failed or cancelled job was to do, as a new job |
//! | cancel | HTTP | [`stop::Stop::stop`] with [`Cancelled`](stop::StopReason::Cancelled); answers when the job has
//! ended and its changes are undone |
//! | time limit | the job's own task | the same, with [`TimedOut`](stop::StopReason::TimedOut): the job fails |
//! | shutdown | the daemon, after its grace period | the same, with [`Shutdown`](stop::StopReason::Shutdown): the job
//! keeps its state |
//! | resume | the start of the daemon | every job that has not ended, the running ones first |
//!
//! Only a job's own task changes its state. Everything else requests a stop and waits. The first reason counts, so a
//! job that is cancelled and then exceeds its time limit is cancelled. A state is written to the database before
//! anybody is told about it, and a final state is in the same transaction as its webhook events.
//!
//! # What a job is to do
//!
//! [`work::Work`] has a variant for each kind of job. It is made once from a request and never changes; the row in the
//! database is read according to its `kind`. The image's URL is also parsed once: what is stored is a
//! [`RequestedUrl`](crate::source::url::RequestedUrl), which has the identity by which repeated requests are
//! recognised, and where the URL leads ([`ImageUrl`](crate::source::ImageUrl)) is kept with the job while the process
//! lives. After a restart, the configuration decides again where it leads.

pub mod account;
pub mod admission;
pub mod advice;
pub mod error;
pub mod flight;
pub mod kind;
pub mod log;
pub mod meter;
pub mod pause;
pub mod record;
pub mod stop;
pub mod trail;
pub mod waits;
pub mod work;
