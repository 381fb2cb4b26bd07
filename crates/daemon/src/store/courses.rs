//! The courses of jobs: their time lines and logs, which go with their jobs.

use lvp_api::JobId;
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::jobs::json;
use super::rows::from_json;
use super::{Store, StoreError};
use crate::job::record::Course;

impl Store {
    /// Writes the course of a job that goes on. Nothing happens if there is no such job.
    pub async fn keep_course(&self, id: JobId, course: Course) -> Result<(), StoreError> {
        self.write("keep_course", move |transaction| {
            write(transaction, id, &course)
        })
        .await
    }

    /// The course of a job; nothing has happened yet in that of a job of an earlier release.
    pub async fn course(&self, id: JobId) -> Result<Course, StoreError> {
        self.read("get_course", move |connection| {
            let course = connection
                .query_row(
                    "SELECT trail, log FROM courses WHERE job_id = ?1",
                    [id.to_string()],
                    |row| {
                        Ok(Course {
                            trail: from_json(row, "trail")?.unwrap_or_default(),
                            log: from_json(row, "log")?.unwrap_or_default(),
                        })
                    },
                )
                .optional()?;
            Ok(course.unwrap_or_default())
        })
        .await
    }
}

pub(super) fn write(
    transaction: &Transaction<'_>,
    id: JobId,
    course: &Course,
) -> rusqlite::Result<()> {
    transaction.execute(
        "INSERT INTO courses (job_id, trail, log) SELECT id, ?2, ?3 FROM jobs WHERE id = ?1 \
         ON CONFLICT (job_id) DO UPDATE SET trail = excluded.trail, log = excluded.log",
        params![id.to_string(), json(&course.trail)?, json(&course.log)?],
    )?;
    Ok(())
}
