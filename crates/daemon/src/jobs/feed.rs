//! Changes of all jobs, in order, for clients that follow them.
//!
//! Each change has a number. Only the last change of each job is kept, so that a slow reader gets fewer, newer
//! changes and needs no buffer. A follower that reconnects with the last number that it saw continues from
//! there; if what it missed is no longer kept, or its number comes from an earlier run of the daemon, it is
//! told to start over.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use lvp_api::{JobId, JobStatus};
use tokio::sync::watch;
use uuid::Uuid;

use crate::job::record::Job;

/// Jobs whose last change is kept.
const KEPT: usize = 2048;

/// A position in the order of changes. Its text is the id of a server-sent event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The run of the daemon that counted.
    run: Uuid,
    number: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.run.simple(), self.number)
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (run, number) = text.split_once('-').ok_or(())?;
        Ok(Self {
            run: Uuid::try_parse(run).map_err(|_| ())?,
            number: number.parse().map_err(|_| ())?,
        })
    }
}

/// The last change of one job.
#[derive(Debug)]
pub struct Change {
    // Not the job itself, whose URL may contain a secret.
    status: JobStatus,
    json: OnceLock<Bytes>,
}

impl Change {
    /// The job's status as JSON, serialised once for all followers.
    pub fn json(&self) -> Bytes {
        // A status is plain data, which always serialises.
        let json = || Bytes::from(serde_json::to_vec(&self.status).unwrap_or_default());
        self.json.get_or_init(json).clone()
    }
}

/// The changes, and notification of new ones.
#[derive(Debug)]
pub struct Feed {
    run: Uuid,
    changes: Mutex<Changes>,
    /// The last change's number; `u64::MAX` when there will be no more.
    newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Changes {
    newest: u64,
    /// Changes up to this number may be missing.
    forgotten: u64,
    by_number: BTreeMap<u64, Arc<Change>>,
    by_job: HashMap<JobId, u64>,
}

impl Default for Feed {
    fn default() -> Self {
        Self {
            run: Uuid::new_v4(),
            changes: Mutex::default(),
            newest: watch::Sender::new(0),
        }
    }
}

impl Feed {
    /// Records that a job has changed.
    pub fn changed(&self, job: &Job) {
        let mut changes = self.lock();
        changes.newest += 1;
        let number = changes.newest;
        if let Some(older) = changes.by_job.insert(job.id, number) {
            changes.by_number.remove(&older);
        }
        let change = Change {
            status: job.status(),
            json: OnceLock::new(),
        };
        changes.by_number.insert(number, Arc::new(change));
        if changes.by_number.len() > KEPT
            && let Some((number, change)) = changes.by_number.pop_first()
        {
            changes.forgotten = number;
            changes.by_job.remove(&change.status.job_id);
        }
        drop(changes);
        self.newest.send_if_modified(|newest| {
            let goes_on = *newest < number;
            if goes_on {
                *newest = number;
            }
            goes_on
        });
    }

    /// Ends the feed: there will be no more changes, and nobody waits for one any longer.
    pub fn close(&self) {
        self.newest.send_replace(u64::MAX);
    }

    /// A value that rises with each change, and is `u64::MAX` at the end.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// The position after the last change.
    pub fn now(&self) -> Cursor {
        Cursor {
            run: self.run,
            number: self.lock().newest,
        }
    }

    /// The changes after `cursor`, in order. None if they are no longer known.
    pub fn since(&self, cursor: Cursor) -> Option<Vec<(Cursor, Arc<Change>)>> {
        let changes = self.lock();
        if cursor.run != self.run
            || cursor.number < changes.forgotten
            || cursor.number > changes.newest
        {
            return None;
        }
        let later = changes.by_number.range(cursor.number + 1..);
        let numbered = |(number, change): (&u64, &Arc<Change>)| {
            let at = Cursor {
                number: *number,
                ..cursor
            };
            (at, Arc::clone(change))
        };
        Some(later.map(numbered).collect())
    }

    fn lock(&self) -> MutexGuard<'_, Changes> {
        // A panic under the lock loses at worst one change.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use lvp_api::ImageType;

    use super::*;
    use crate::job::record::JobSpec;
    use crate::job::work::{ImageRequest, Work};

    fn job() -> Job {
        let image = ImageRequest {
            url: "s3://images/a.qcow2".to_owned().into(),
            image_type: ImageType::Qcow2,
            checksum: None,
        };
        let spec = JobSpec {
            work: Work::Fetch { image },
            correlation_id: None,
            idempotency_key: None,
            traceparent: None,
            priority: lvp_api::Priority::Normal,
        };
        Job::new(JobId::random(), spec, String::new())
    }

    fn told(feed: &Feed, cursor: Cursor) -> Option<Vec<(JobId, u32)>> {
        let changes = feed.since(cursor)?;
        let ends = changes.last().map(|(at, _)| *at);
        assert_eq!(ends, (!changes.is_empty()).then(|| feed.now()));
        let told = |(_, change): (Cursor, Arc<Change>)| {
            let status = &change.status;
            (status.job_id, status.attempts)
        };
        Some(changes.into_iter().map(told).collect())
    }

    #[test]
    fn a_follower_gets_each_jobs_last_change_after_what_it_has() {
        let feed = Feed::default();
        let start = feed.now();
        let (mut first, second) = (job(), job());
        feed.changed(&first);
        feed.changed(&second);
        let middle = feed.now();
        first.attempts = 1;
        feed.changed(&first);
        assert_eq!(
            told(&feed, start),
            Some(vec![(second.id, 0), (first.id, 1)])
        );
        assert_eq!(told(&feed, middle), Some(vec![(first.id, 1)]));
        assert_eq!(told(&feed, feed.now()), Some(vec![]));
        // By the text that clients send back.
        assert_eq!(middle.to_string().parse(), Ok(middle));
    }

    #[test]
    fn what_is_no_longer_kept_and_what_another_run_counted_is_begun_anew() {
        let feed = Feed::default();
        let start = feed.now();
        for _ in 0..KEPT {
            feed.changed(&job());
        }
        assert_eq!(told(&feed, start).map(|told| told.len()), Some(KEPT));
        feed.changed(&job());
        assert_eq!(told(&feed, start), None);
        assert_eq!(told(&feed, Feed::default().now()), None);
        let ahead = Cursor {
            number: feed.now().number + 1,
            ..start
        };
        assert_eq!(told(&feed, ahead), None);
        assert!("".parse::<Cursor>().is_err() && "7".parse::<Cursor>().is_err());
    }

    #[test]
    fn news_end_when_the_feed_is_closed() {
        let feed = Feed::default();
        let news = feed.news();
        feed.changed(&job());
        assert_eq!(*news.borrow(), 1);
        feed.close();
        feed.changed(&job());
        assert_eq!(*news.borrow(), u64::MAX);
    }
}
