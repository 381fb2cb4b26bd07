//! Jobs in the database.

use std::sync::Arc;

use lvp_api::{Cloning, ImageType, JobId, JobState, Method, Priority, Verified, VolumeName};
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::NewEvent;
use super::rows::{job_row, parsed, whole_url};
use super::{Measurement, Store, StoreError, courses, events, measurements};
use crate::job::admission::Surroundings;
use crate::job::record::{Course, Job};
use crate::source::url::RequestedUrl;

/// Which jobs a listing includes.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Only jobs in one of these states; in any state if the list is empty.
    pub states: Vec<JobState>,
    /// Only jobs of one of these priorities; of any if the list is empty.
    pub priorities: Vec<Priority>,
    /// Only jobs of this volume.
    pub volume: Option<String>,
    /// Only jobs whose image URL contains this text, in any case.
    pub image: Option<String>,
    /// Only jobs that contain this text, in any case, in id, volume, URL, correlation id or error.
    pub text: Option<String>,
    /// Only jobs accepted at this time or later, as [`clock`](crate::clock) writes it.
    pub since: Option<String>,
    /// Only jobs accepted before this time.
    pub until: Option<String>,
    /// The maximum number of jobs.
    pub limit: u32,
    /// How many of the first jobs are skipped.
    pub offset: u32,
    /// Fewer jobs if their texts exceed this many bytes in total; at least one.
    pub max_bytes: usize,
}

/// The condition of a [`JobFilter`]. Its parameters come first.
macro_rules! matching {
    () => {
        "(?1 IS NULL OR state IN (SELECT value FROM json_each(?1))) \
         AND (?2 IS NULL OR volume_name = ?2) \
         AND (?3 IS NULL OR instr(lower(image_url), ?3) > 0) \
         AND (?4 IS NULL OR instr(lower(id || char(10) || ifnull(volume_name, '') || char(10) || image_url \
              || char(10) || ifnull(correlation_id, '') || char(10) || ifnull(error, '')), ?4) > 0) \
         AND (?5 IS NULL OR created_at >= ?5) \
         AND (?6 IS NULL OR created_at < ?6) \
         AND (?7 IS NULL OR priority IN (SELECT value FROM json_each(?7)))"
    };
}

impl Store {
    /// Reads the existing jobs and, if `decide` says so, inserts the new one: both in one transaction, so that
    /// no other request comes in between.
    pub async fn admit<T: Send + 'static>(
        &self,
        job: Job,
        decide: impl FnOnce(&Surroundings, &Job) -> (bool, T) + Send + 'static,
    ) -> Result<T, StoreError> {
        let seal = Arc::clone(&self.seal);
        self.write("create_job", move |transaction| {
            let same_key = match &job.spec.idempotency_key {
                None => None,
                Some(key) => transaction
                    .query_row("SELECT * FROM jobs WHERE idempotency_key = ?1", [key], job_row)
                    .optional()?,
            };
            let work = &job.spec.work;
            let volume_holder = match work.volume_name() {
                None => None,
                Some(volume) => transaction
                    .query_row(
                        "SELECT id FROM jobs WHERE volume_name = ?1 AND state IN ('pending', 'running')",
                        [volume.as_str()],
                        |row| parsed(row, "id"),
                    )
                    .optional()?,
            };
            let pending: i64 = transaction.query_row(
                "SELECT count(*) FROM jobs WHERE state = 'pending'",
                [],
                |row| row.get(0),
            )?;
            let surroundings = Surroundings {
                same_key,
                volume_holder,
                pending: usize::try_from(pending).unwrap_or(usize::MAX),
            };
            let (insert, decision) = decide(&surroundings, &job);
            if insert {
                let (image, volume) = (work.image(), work.volume());
                let url = image.map(|image| &image.url);
                let sealed = match url.and_then(RequestedUrl::query) {
                    Some(query) => Some(seal.close(job.id, query.expose()).map_err(unwritable)?),
                    None => None,
                };
                transaction.execute(
                    "INSERT INTO jobs (id, kind, state, image_url, image_type, volume_name, \
                     volume_size_bytes, correlation_id, idempotency_key, traceparent, created_at, \
                     updated_at, adopt, image_identity, image_url_sealed, checksum, clone, room_wait_seconds, expand, \
                     priority) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?11, ?12, ?13, ?14, ?15, ?16, \
                     ?17, ?18, ?19)",
                    params![
                        job.id.to_string(),
                        work.kind().as_str(),
                        job.state.as_str(),
                        url.map_or("", RequestedUrl::base),
                        image.map_or_else(ImageType::default, |image| image.image_type).as_str(),
                        work.volume_name().map(VolumeName::as_str),
                        volume.map(|volume| volume.size_bytes.cast_signed()),
                        job.spec.correlation_id,
                        job.spec.idempotency_key,
                        job.spec.traceparent,
                        job.created_at,
                        volume.is_some_and(|volume| volume.adopt),
                        url.map_or("", RequestedUrl::identity),
                        sealed,
                        image
                            .and_then(|image| image.checksum)
                            .map(|checksum| checksum.to_string()),
                        volume.map_or(Cloning::default(), |volume| volume.clone).as_str(),
                        volume
                            .and_then(|volume| volume.room_wait)
                            .map(|wait| wait.as_secs().cast_signed()),
                        volume.and_then(|volume| volume.expand).map(lvp_api::Expand::as_str),
                        job.spec.priority.as_str(),
                    ],
                )?;
            }
            Ok(decision)
        })
        .await
    }

    /// Writes all parts of a job that can change.
    pub async fn update_job(&self, job: Job) -> Result<(), StoreError> {
        self.write("update_job", move |transaction| update(transaction, &job))
            .await
    }

    /// Writes how a job ended, its course, how long its stages took and the events about it: all or nothing. Returns
    /// how many older events were dropped to make room.
    pub async fn end_job(
        &self,
        job: Job,
        course: Course,
        measured: Vec<Measurement>,
        events: Vec<NewEvent>,
    ) -> Result<u64, StoreError> {
        self.write("end_job", move |transaction| {
            update(transaction, &job)?;
            courses::write(transaction, job.id, &course)?;
            measurements::insert(transaction, &measured)?;
            events::insert(transaction, &events)
        })
        .await
    }

    /// One job.
    pub async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.read("get_job", move |connection| {
            connection
                .query_row(
                    "SELECT * FROM jobs WHERE id = ?1",
                    [id.to_string()],
                    job_row,
                )
                .optional()
        })
        .await
    }

    /// Jobs, newest first, and how many match in all.
    pub async fn jobs(&self, filter: JobFilter) -> Result<(Vec<Job>, u64), StoreError> {
        self.read("list_jobs", move |connection| {
            let listed = |words: Vec<&str>| (!words.is_empty()).then(|| json(&words)).transpose();
            let states = listed(filter.states.iter().map(|state| state.as_str()).collect())?;
            let priorities = filter.priorities.iter().map(|priority| priority.as_str());
            let priorities = listed(priorities.collect())?;
            let lower = |text: &Option<String>| text.as_ref().map(|text| text.to_ascii_lowercase());
            let (image, text) = (lower(&filter.image), lower(&filter.text));
            let matching = params![
                states,
                filter.volume,
                image,
                text,
                filter.since,
                filter.until,
                priorities
            ];
            let total: i64 = connection
                .prepare_cached(concat!("SELECT count(*) FROM jobs WHERE ", matching!()))?
                .query_row(matching, |row| row.get(0))?;
            let mut statement = connection.prepare_cached(concat!(
                "SELECT * FROM jobs WHERE ",
                matching!(),
                " ORDER BY seq DESC LIMIT ?8 OFFSET ?9"
            ))?;
            let rows = statement.query_map(
                params![
                    states,
                    filter.volume,
                    image,
                    text,
                    filter.since,
                    filter.until,
                    priorities,
                    filter.limit,
                    filter.offset
                ],
                job_row,
            )?;
            let (mut jobs, mut bytes) = (Vec::new(), 0);
            for job in rows {
                let job = job?;
                bytes += text_bytes(&job);
                if bytes > filter.max_bytes && !jobs.is_empty() {
                    break;
                }
                jobs.push(job);
            }
            Ok((jobs, total.cast_unsigned()))
        })
        .await
    }

    /// Jobs that have not ended, in the order in which they continue: running ones first. They have their whole
    /// URLs.
    pub async fn unfinished_jobs(&self) -> Result<Vec<Job>, StoreError> {
        let seal = Arc::clone(&self.seal);
        self.read("unfinished_jobs", move |connection| {
            connection
                .prepare(
                    "SELECT * FROM jobs WHERE state IN ('pending', 'running') \
                     ORDER BY state = 'running' DESC, seq",
                )?
                .query_map([], |row| {
                    let mut job = job_row(row)?;
                    if let Some(image) = job.spec.work.image_mut() {
                        image.url = whole_url(row, job.id, &seal)?;
                    }
                    Ok(job)
                })?
                .collect()
        })
        .await
    }

    /// The last completed job of each volume, and the volume's name.
    pub async fn completed_volumes(&self) -> Result<Vec<(JobId, VolumeName)>, StoreError> {
        self.read("completed_volumes", |connection| {
            connection
                .prepare(
                    "SELECT id, volume_name, max(seq) FROM jobs \
                     WHERE state = 'completed' AND volume_name IS NOT NULL AND kind <> 'verify' \
                     GROUP BY volume_name ORDER BY volume_name",
                )?
                .query_map([], |row| {
                    Ok((parsed(row, "id")?, parsed(row, "volume_name")?))
                })?
                .collect()
        })
        .await
    }

    /// A later job that has completed on the same volume.
    pub async fn completed_after(&self, id: JobId) -> Result<Option<JobId>, StoreError> {
        self.read("completed_after", move |connection| {
            connection
                .query_row(
                    "SELECT later.id FROM jobs AS later JOIN jobs AS this \
                     ON later.volume_name = this.volume_name AND later.seq > this.seq \
                     WHERE this.id = ?1 AND later.state = 'completed' AND later.kind <> 'verify' ORDER BY later.seq DESC LIMIT 1",
                    [id.to_string()],
                    |row| parsed(row, "id"),
                )
                .optional()
        })
        .await
    }

    /// The unfinished job that holds this volume, if there is one.
    pub async fn holder(&self, volume: VolumeName) -> Result<Option<JobId>, StoreError> {
        self.read("volume_holder", move |connection| {
            connection
                .query_row(
                    "SELECT id FROM jobs WHERE volume_name = ?1 AND state IN ('pending', 'running')",
                    [volume.as_str()],
                    |row| parsed(row, "id"),
                )
                .optional()
        })
        .await
    }

    /// The job that held the same volume before this one; such jobs follow each other, as one volume
    /// has one unfinished job.
    pub async fn job_before(&self, id: JobId) -> Result<Option<JobId>, StoreError> {
        self.read("job_before", move |connection| {
            connection
                .query_row(
                    "SELECT older.id FROM jobs AS older JOIN jobs AS this \
                     ON older.volume_name = this.volume_name AND older.seq < this.seq \
                     WHERE this.id = ?1 AND older.kind <> 'verify' ORDER BY older.seq DESC LIMIT 1",
                    [id.to_string()],
                    |row| parsed(row, "id"),
                )
                .optional()
        })
        .await
    }

    /// Forgets jobs that ended before a time, except those in `keep`; returns how many.
    pub async fn forget_jobs_before(
        &self,
        time: String,
        keep: Vec<JobId>,
    ) -> Result<usize, StoreError> {
        self.write("forget_jobs", move |transaction| {
            let keep: Vec<_> = keep.iter().map(ToString::to_string).collect();
            transaction.execute(
                "DELETE FROM jobs WHERE finished_at < ?1 \
                 AND id NOT IN (SELECT value FROM json_each(?2))",
                params![time, json(&keep)?],
            )
        })
        .await
    }
}

/// Bytes of the texts of a job whose length is not decided by this program.
fn text_bytes(job: &Job) -> usize {
    let lengths = [
        job.spec.work.image().map(|image| image.url.base()),
        job.spec.correlation_id.as_deref(),
        job.spec.idempotency_key.as_deref(),
        job.failure.as_ref().map(|failure| failure.message.as_str()),
        job.image_path.as_deref(),
        job.volume_path.as_deref(),
    ];
    let notes = job.notes.iter().map(String::len).sum::<usize>();
    lengths.into_iter().flatten().map(str::len).sum::<usize>() + notes
}

fn update(transaction: &Transaction<'_>, job: &Job) -> rusqlite::Result<()> {
    let failure = job.failure.as_ref();
    transaction.execute(
        "UPDATE jobs SET state = ?2, error = ?3, error_code = ?4, error_type = ?5, \
         cache_hit = ?6, image_path = ?7, volume_path = ?8, image_digest = ?9, notes = ?10, \
         progress = ?11, attempts = ?12, started_at = ?13, updated_at = ?14, \
         finished_at = ?15, \
         image_url = iif(?16, image_url, substr(image_url, 1, instr(image_url || '?', '?') - 1)), \
         image_url_sealed = iif(?16 OR image_url_sealed IS NULL, image_url_sealed, x''), \
         verified = ?17, method = ?18, signer = ?19, bound = ?20, fetched_bytes = ?21, written_bytes = ?22, \
         verification = ?23, requests = ?24 \
         WHERE id = ?1",
        params![
            job.id.to_string(),
            job.state.as_str(),
            failure.map(|failure| &failure.message),
            failure.map(|failure| failure.code),
            failure.map(|failure| &failure.error_type),
            job.cache_hit,
            job.image_path,
            job.volume_path,
            job.image_digest.map(|digest| digest.to_string()),
            json(&job.notes)?,
            job.progress.as_ref().map(json).transpose()?,
            job.attempts,
            job.started_at,
            job.updated_at,
            job.finished_at,
            // A URL's signature is kept no longer than it is needed.
            !job.state.is_terminal(),
            job.verified.map(Verified::as_str),
            job.method.map(Method::as_str),
            job.signer.as_ref().map(json).transpose()?,
            job.bound.as_ref().map(json).transpose()?,
            job.fetched_bytes.cast_signed(),
            job.written_bytes.cast_signed(),
            job.verification.as_ref().map(json).transpose()?,
            job.requests.cast_signed(),
        ],
    )?;
    Ok(())
}

pub(super) fn json<T: serde::Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

/// An error of a file beside the database, as an error of the statement that needed it.
fn unwritable(error: std::io::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}
