//! Encryption of the queries of image URLs.
//!
//! A job that is resumed after a restart needs its whole URL, and the query of a pre-signed URL is a
//! credential. So the database stores the query encrypted (AES-256-GCM, bound to the job), and only until the
//! job has ended. The key is in a separate file beside the database that no backup includes: `DATABASE.key`,
//! readable by the daemon's user only, created when it is first needed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::error::Unspecified;
use lvp_api::JobId;
use rustix::fs::OFlags;

const KEY_BYTES: usize = 32;

type Key = [u8; KEY_BYTES];

/// Encrypts and decrypts with the key beside a database.
#[derive(Debug)]
pub(super) struct Seal {
    path: PathBuf,
    known: Mutex<Option<RandomizedNonceKey>>,
}

impl Seal {
    /// Reads nothing yet.
    pub(super) fn beside(database: &Path) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push(".key");
        Self {
            path: path.into(),
            known: Mutex::default(),
        }
    }

    /// Encrypts a text for a job. Makes the key if there is none.
    pub(super) fn close(&self, job: JobId, text: &str) -> io::Result<Vec<u8>> {
        self.with_key(Absent::Make, |key| {
            let mut sealed = text.as_bytes().to_vec();
            let nonce = key.seal_in_place_append_tag(context(job), &mut sealed)?;
            sealed.splice(0..0, *nonce.as_ref());
            Ok(sealed)
        })
    }

    /// Decrypts what was encrypted for this job by this key.
    pub(super) fn open(&self, job: JobId, sealed: &[u8]) -> io::Result<String> {
        let text = self.with_key(Absent::Fail, |key| {
            let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(Unspecified)?;
            let mut text = text.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let length = key.open_in_place(nonce, context(job), &mut text)?.len();
            text.truncate(length);
            Ok(text)
        })?;
        String::from_utf8(text).map_err(io::Error::other)
    }

    fn with_key<T>(
        &self,
        absent: Absent,
        work: impl FnOnce(&RandomizedNonceKey) -> Result<T, Unspecified>,
    ) -> io::Result<T> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let key = match known.take() {
            Some(key) => key,
            None => {
                let key = match (read(&self.path), absent) {
                    (Err(error), Absent::Make) if error.kind() == io::ErrorKind::NotFound => {
                        make(&self.path)?
                    }
                    (read, _) => read?,
                };
                RandomizedNonceKey::new(&AES_256_GCM, &key).map_err(unusable)?
            }
        };
        work(known.insert(key)).map_err(unusable)
    }
}

/// What to do if there is no key.
#[derive(Clone, Copy)]
enum Absent {
    Make,
    Fail,
}

fn context(job: JobId) -> Aad<String> {
    Aad::from(job.to_string())
}

fn unusable(_: Unspecified) -> io::Error {
    io::Error::other("it was encrypted with a different key, or is damaged")
}

fn read(path: &Path) -> io::Result<Key> {
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(path)?;
    let mut key = [0; KEY_BYTES];
    file.read_exact(&mut key)?;
    Ok(key)
}

/// Makes the key durable before anything is encrypted with it.
fn make(path: &Path) -> io::Result<Key> {
    let key: Key = rand::random();
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Complete or not at all; readable by its owner only.
    let mut file = tempfile::Builder::new()
        .prefix(".lvp-key-")
        .tempfile_in(directory)?;
    file.write_all(&key)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    File::open(directory)?.sync_all()?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_text_opens_for_its_job_by_its_key_and_for_nobody_else() {
        let home = tempfile::tempdir().expect("there is room");
        let database = home.path().join("jobs.db");
        let (job, other) = (JobId::random(), JobId::random());
        let text = "X-Amz-Signature=0123456789abcdef";
        let seal = Seal::beside(&database);
        assert_eq!(
            seal.open(job, b"before there is a key")
                .map_err(|error| error.kind()),
            Err(io::ErrorKind::NotFound)
        );
        let sealed = seal.close(job, text).expect("it is encrypted");
        let again = seal.close(job, text).expect("it is encrypted");
        assert_ne!(sealed, again, "no nonce is used twice");
        let key = home.path().join("jobs.db.key");
        let mode = key.metadata().expect("it is made").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // As after a restart.
        let seal = Seal::beside(&database);
        assert_eq!(seal.open(job, &sealed).expect("it opens"), text);
        seal.open(other, &sealed).expect_err("another job's");
        seal.open(job, &sealed[..11]).expect_err("cut");
        let mut changed = sealed.clone();
        changed[20] ^= 1;
        seal.open(job, &changed).expect_err("changed");
        std::fs::remove_file(key).expect("it is removed");
        let seal = Seal::beside(&database);
        seal.close(job, text).expect("a new key");
        seal.open(job, &sealed).expect_err("another key's");
    }
}
