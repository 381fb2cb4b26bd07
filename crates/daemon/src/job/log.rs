//! What is logged about a job, kept with the job: the first lines and the last, within bounds.
//!
//! The logs of jobs that have not ended are found by their id ([`Logs`]), so that the layer that writes log lines can
//! add to them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lvp_api::{JobId, JobLog, LogLine};
use serde::{Deserialize, Serialize};

/// How many of the first lines are kept, whatever follows: how the job began.
const FIRST_LINES: usize = 50;

/// Most lines of a job.
pub const MAX_LINES: usize = 400;

/// Most bytes of a job's lines. The longest line has about 7 KiB (`telemetry::line`).
pub const MAX_BYTES: usize = 64 << 10; // 64 KiB

/// Bytes that a line takes besides its texts, roughly.
const LINE_BYTES: usize = 64;

/// A job's log, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Kept {
    /// Lines of the beginning.
    first: Vec<LogLine>,
    /// The last lines.
    last: VecDeque<LogLine>,
    /// Lines in between that were cut.
    cut: u64,
    /// The number of the next line.
    next: u64,
}

impl Kept {
    /// The log as the API shows it: lines after a number.
    pub fn after(&self, job_id: JobId, number: Option<u64>) -> JobLog {
        let all = self.first.iter().chain(&self.last);
        let wanted = all.filter(|line| number.is_none_or(|number| line.number > number));
        JobLog {
            job_id,
            lines: wanted.cloned().collect(),
            cut: self.cut,
        }
    }

    fn push(&mut self, mut line: LogLine) {
        line.number = self.next;
        self.next += 1;
        let first_bytes: usize = self.first.iter().map(size).sum();
        let has_room = first_bytes + size(&line) <= MAX_BYTES / 4;
        if self.last.is_empty() && self.first.len() < FIRST_LINES && has_room {
            self.first.push(line);
            return;
        }
        self.last.push_back(line);
        let mut bytes: usize = first_bytes + self.last.iter().map(size).sum::<usize>();
        // The newest line stays in any case.
        while self.last.len() > 1
            && (bytes > MAX_BYTES || self.first.len() + self.last.len() > MAX_LINES)
        {
            if let Some(oldest) = self.last.pop_front() {
                bytes -= size(&oldest);
                self.cut += 1;
            }
        }
    }
}

fn size(line: &LogLine) -> usize {
    LINE_BYTES + line.text.len() + line.component.len()
}

/// The log of one job.
#[derive(Debug, Default)]
pub struct Log(Mutex<Kept>);

impl Log {
    /// Continues what is known.
    pub fn continued(kept: Kept) -> Self {
        Self(Mutex::new(kept))
    }

    /// Adds a line; its number is given here.
    pub fn push(&self, line: LogLine) {
        self.lock().push(line);
    }

    /// The log as it is now.
    pub fn kept(&self) -> Kept {
        self.lock().clone()
    }

    /// The number of the next line, which grows with each.
    pub fn next(&self) -> u64 {
        self.lock().next
    }

    /// Lines after a number.
    pub fn after(&self, job_id: JobId, number: Option<u64>) -> JobLog {
        self.lock().after(job_id, number)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // A panic under the lock loses at worst one line.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The logs of all jobs that have not ended. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Logs(Arc<Mutex<HashMap<JobId, Arc<Log>>>>);

impl Logs {
    /// The log of a job that begins, or continues, in this process.
    pub fn open(&self, id: JobId, kept: Kept) -> Arc<Log> {
        let log = Arc::new(Log::continued(kept));
        self.lock().insert(id, Arc::clone(&log));
        log
    }

    /// The log of a job that has not ended.
    pub fn find(&self, id: JobId) -> Option<Arc<Log>> {
        self.lock().get(&id).cloned()
    }

    /// Nothing is added to a job's log any more.
    pub fn close(&self, id: JobId) {
        self.lock().remove(&id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Arc<Log>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> LogLine {
        LogLine {
            number: 0,
            time: String::new(),
            level: "info".to_owned(),
            component: "test".to_owned(),
            text: text.to_owned(),
        }
    }

    fn check(kept: &Kept, written: u64) {
        let lines = kept.after(JobId::random(), None).lines;
        assert!(lines.len() <= MAX_LINES, "{}", lines.len());
        let bytes: usize = lines.iter().map(size).sum();
        assert!(bytes <= MAX_BYTES, "{bytes}");
        let count = u64::try_from(lines.len()).expect("few");
        assert_eq!(count + kept.cut, written);
        assert_eq!(lines[0].number, 0);
        assert_eq!(lines.last().map(|line| line.number), Some(written - 1));
        let gaps = lines
            .windows(2)
            .filter(|pair| pair[1].number != pair[0].number + 1)
            .count();
        assert_eq!(gaps, usize::from(kept.cut > 0));
    }

    #[test]
    fn a_job_that_logs_for_ever_keeps_its_first_and_its_last_lines() {
        for text in ["short".to_owned(), "x".repeat(7 << 10)] {
            let log = Log::default();
            for written in 1..=2000 {
                log.push(line(&text));
                if written % 97 == 0 || written == 2000 {
                    check(&log.kept(), written);
                }
            }
            assert!(log.kept().cut > 0);
        }
    }

    #[test]
    fn a_follower_gets_the_lines_after_the_one_that_it_has() {
        let log = Log::default();
        for text in ["a", "b", "c"] {
            log.push(line(text));
        }
        let numbers = |after| {
            let lines = log.after(JobId::random(), after).lines;
            lines.iter().map(|line| line.number).collect::<Vec<_>>()
        };
        assert_eq!(numbers(None), [0, 1, 2]);
        assert_eq!(numbers(Some(0)), [1, 2]);
        assert!(numbers(Some(2)).is_empty());
        // Numbers go on after a restart.
        let again = Log::continued(log.kept());
        again.push(line("d"));
        assert_eq!(again.after(JobId::random(), Some(2)).lines[0].number, 3);
    }
}
