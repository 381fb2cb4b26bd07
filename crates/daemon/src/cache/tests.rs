mod limits;

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::sync::Arc;

use file_times::{restore_times, times};
use lvp_testkit::s3::{ACCESS_KEY, S3, SECRET_KEY};

use super::*;
use crate::secret::Secret;
use crate::source::{Source, SourceSettings, Trust};
use crate::stamp::FileStamp;
use crate::store::Observer;

const MIB: usize = 1 << 20;

struct Nobody;

impl Observer for Nobody {
    fn operation(&self, _: &'static str, _: Option<&'static str>) {}
}

/// A cache, and a server whose objects it keeps.
struct Bench {
    s3: S3,
    source: Source,
    home: tempfile::TempDir,
    cache: Cache,
}

impl Bench {
    async fn new(max_size_bytes: Option<u64>) -> Self {
        let s3 = S3::start().await.expect("the server starts");
        let source = Source::new(&SourceSettings {
            endpoint: Some(s3.endpoint().to_owned()),
            access_key: Some(ACCESS_KEY.to_owned()),
            secret_key: Some(Secret::new(SECRET_KEY)),
            region: "us-east-1".to_owned(),
            ca_cert: None,
            allowed_hosts: Vec::new(),
            retry_backoff: Vec::new(),
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(10),
            session_token: None,
            lender: None,
            endpoint_path: crate::config::EndpointPath::Keep,
            proxy: None,
            no_proxy: Vec::new(),
            mirrors: Vec::new(),
            parallel_ranges: 4,
            addressing: crate::config::Addressing::Path,
            max_read_bytes_per_sec: None,
            trust: Trust::default(),
        })
        .expect("the settings are good");
        let home = tempfile::tempdir().expect("there is room");
        let store = Store::open(&home.path().join("jobs.db"), Arc::new(Nobody)).expect("it opens");
        let settings = CacheSettings {
            dir: home.path().join("cache"),
            max_age: Duration::from_secs(3600),
            max_size_bytes,
            min_free_bytes: 0,
            unpacked: UnpackedUse::Auto,
        };
        Self {
            s3,
            source,
            cache: Cache::open(settings, store).expect("it opens"),
            home,
        }
    }

    /// An object that is there now, in its version.
    async fn object(&self, key: &str, bytes: &[u8]) -> ObjectMeta {
        let objects = self.s3.objects();
        objects.put("images", key, bytes).expect("it is written");
        let url = self.source.parse_url(&format!("s3://images/{key}"));
        let url = url.expect("it is a URL");
        self.source.resolve(&url).await.expect("it is there")
    }

    async fn lead(&self, object: &ObjectMeta) -> Result<Lead, CacheError> {
        match self.cache.lookup(object, ImageType::Raw, None).await? {
            Lookup::Lead(lead) => Ok(*lead),
            other => panic!("nobody has it: {other:?}"),
        }
    }

    async fn publish(&self, key: &str, bytes: &[u8]) -> (ObjectMeta, Sha256Digest) {
        let object = self.object(key, bytes).await;
        let mut lead = self.lead(&object).await.expect("it fits");
        let mut file = lead.open().await.expect("it opens");
        file.write_all(bytes).expect("it is written");
        lead.durable(bytes.len() as u64).await.expect("it is noted");
        let digest = hash_file(&file).expect("it can be read");
        let published = lead.publish(file, digest).await.expect("it is published");
        published.record().await.expect("it is recorded");
        (object, digest)
    }

    async fn hit(&self, object: &ObjectMeta) -> Option<Pin> {
        match self.cache.lookup(object, ImageType::Raw, None).await {
            Ok(Lookup::Hit(pin)) => Some(pin),
            Ok(_) => None,
            Err(error) => panic!("{error:?}"),
        }
    }

    /// The same directory after a restart with other settings.
    fn restarted(self, change: impl FnOnce(&mut CacheSettings)) -> Self {
        let mut settings = self.cache.0.settings.clone();
        change(&mut settings);
        let store = self.cache.0.store.clone();
        // One cache at a time has the directory.
        drop(self.cache);
        Self {
            cache: Cache::open(settings, store).expect("it opens"),
            ..self
        }
    }

    async fn listed(&self) -> Vec<CachedImage> {
        self.cache.list(100, 0).await.expect("a list")
    }

    /// Names of the files in the cache, its lock left out.
    async fn files(&self) -> Vec<String> {
        let names = self.cache.0.disk.run(Files::names).await;
        let mut names = names.expect("it is there");
        names.retain(|name| name != ".lvp-lock");
        names.sort();
        names
    }
}

/// Changes a byte in place; the file's size, inode and modification time stay.
fn damage(path: &Path) {
    let times = times(path);
    let mut bytes = fs::read(path).expect("it can be read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let mut file = OpenOptions::new().write(true).open(path).expect("it opens");
    file.write_all(&bytes).expect("it is written");
    drop(file);
    restore_times(path, times);
}

/// Modification times as `touch -r` restores them.
mod file_times {
    use std::fs::{File, FileTimes};
    use std::path::Path;
    use std::time::SystemTime;

    pub(super) fn times(path: &Path) -> SystemTime {
        let meta = path.metadata().expect("it is there");
        meta.modified().expect("it has a time")
    }

    pub(super) fn restore_times(path: &Path, time: SystemTime) {
        let file = File::options().write(true).open(path).expect("it opens");
        file.set_times(FileTimes::new().set_modified(time))
            .expect("it is set");
    }
}

#[tokio::test]
async fn a_file_that_was_changed_in_place_with_its_time_restored_is_not_served() {
    let bench = Bench::new(None).await;
    let (object, digest) = bench.publish("a", &vec![1; MIB]).await;
    let pin = bench.hit(&object).await.expect("it is there");
    assert_eq!(pin.digest(), digest);
    assert!(pin.is_unchanged().expect("it can be read"));
    let path = pin.path().to_owned();
    damage(&path);
    assert!(!pin.is_unchanged().expect("it can be read"));
    drop(pin);
    assert!(bench.hit(&object).await.is_none());
    assert!(!path.exists(), "it is dropped");
    assert!(bench.listed().await.is_empty());
}

#[tokio::test]
async fn a_file_of_which_only_the_times_changed_is_hashed_again_and_served() {
    let bench = Bench::new(None).await;
    let (object, digest) = bench.publish("a", &vec![1; MIB]).await;
    let path = bench
        .hit(&object)
        .await
        .expect("it is there")
        .path()
        .to_owned();
    let before = bench.cache.0.store.image(digest).await.expect("a row");
    restore_times(&path, times(&path));
    fs::hard_link(&path, bench.home.path().join("second-name")).expect("it is linked");
    let pin = bench.hit(&object).await.expect("it is right");
    assert!(pin.is_unchanged().expect("it can be read"));
    let after = bench.cache.0.store.image(digest).await.expect("a row");
    assert_ne!(before.expect("a row").stamp, after.expect("a row").stamp);
}

#[tokio::test]
async fn a_link_in_the_place_of_an_image_is_not_followed() {
    let bench = Bench::new(None).await;
    let (object, digest) = bench.publish("a", &vec![1; MIB]).await;
    let path = bench.cache.image_path(&digest);
    let elsewhere = bench.home.path().join("elsewhere");
    fs::rename(&path, &elsewhere).expect("it is moved");
    symlink(&elsewhere, &path).expect("it is linked");
    assert!(bench.hit(&object).await.is_none());
    assert!(path.symlink_metadata().is_err(), "the link is gone");
    assert!(elsewhere.exists(), "what it led to is not");
}

#[tokio::test]
async fn a_refused_removal_changes_nothing() {
    let bench = Bench::new(None).await;
    let (object, digest) = bench.publish("a", &vec![1; MIB]).await;
    let pin = bench.hit(&object).await.expect("it is there");
    let before = bench.listed().await;
    assert_eq!(before[0].image_url, "s3://images/a");
    assert!(before[0].in_use);
    let refused = bench.cache.delete(digest).await;
    assert!(matches!(refused, Err(CacheError::InUse(found)) if found == digest));
    assert_eq!(bench.listed().await, before);
    drop(pin);
    let pin = bench.hit(&object).await.expect("its object is known still");
    drop(pin);
    assert!(bench.cache.delete(digest).await.expect("it is removed"));
    assert!(!bench.cache.delete(digest).await.expect("it is gone"));
    assert_eq!(bench.files().await, Vec::<String>::new());
    assert!(bench.hit(&object).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_is_removed_while_it_is_published_is_there_whole_or_not_at_all() {
    let bench = Bench::new(None).await;
    let bytes = vec![7; MIB];
    let (_, digest) = bench.publish("a", &bytes).await;
    for round in 0..40 {
        let object = bench.object(&format!("b{round}"), &bytes).await;
        let lead = bench.lead(&object).await.expect("it fits");
        let mut file = lead.open().await.expect("it opens");
        file.write_all(&bytes).expect("it is written");
        let cache = bench.cache.clone();
        let removing = tokio::spawn(async move { cache.delete(digest).await });
        let published = lead.publish(file, digest).await.expect("it is published");
        published.record().await.expect("it is recorded");
        let pin = published.into_pin();
        // Refused or done before: what was published is pinned and stays.
        match removing.await.expect("it ends") {
            Ok(_) | Err(CacheError::InUse(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
        assert_eq!(fs::read(pin.path()).expect("it is there"), bytes);
        drop(pin);
        assert!(bench.hit(&object).await.is_some(), "round {round}");
        assert_eq!(bench.files().await, [file_name(&digest)]);
    }
}

#[tokio::test]
async fn a_download_is_not_written_through_a_link_nor_into_anybodys_file() {
    let bench = Bench::new(None).await;
    let victim = bench.home.path().join("victim");
    fs::write(&victim, b"precious").expect("it is written");
    let object = bench.object("a", &vec![1; MIB]).await;
    // A new download.
    let lead = bench.lead(&object).await.expect("it fits");
    symlink(&victim, lead.path()).expect("it is linked");
    let mut file = lead.open().await.expect("it is made anew");
    file.write_all(b"image").expect("it is written");
    drop((file, lead));
    // One to go on with.
    for link in [true, false] {
        let mut lead = bench.lead(&object).await.expect("it fits");
        let mut file = lead.open().await.expect("it opens");
        file.write_all(&vec![1; MIB / 2]).expect("it is written");
        lead.durable(5).await.expect("it is noted");
        let path = lead.path();
        drop((file, lead));
        let lead = bench.lead(&object).await.expect("it fits");
        assert_eq!(lead.durable_bytes(), 5);
        fs::remove_file(&path).expect("it is there");
        match link {
            true => symlink(&victim, &path).expect("it is linked"),
            false => fs::hard_link(&victim, &path).expect("it is linked"),
        }
        let error = lead.open().await.expect_err("it is not followed");
        assert!(error.to_string().contains("partial"), "{error}");
        drop(lead);
        if !link {
            // Nor read: too short to be gone on with, it only loses its second name.
            fs::remove_file(&path).expect("it is there");
        }
    }
    assert_eq!(fs::read(&victim).expect("it is there"), b"precious");
}

#[tokio::test]
async fn a_lost_directory_is_told_from_an_empty_cache() {
    let bench = Bench::new(None).await;
    let (object, digest) = bench.publish("a", &vec![1; MIB]).await;
    let dir = bench.home.path().join("cache");
    let away = bench.home.path().join("away");
    let pending = bench.object("b", &vec![2; MIB]).await;
    let lead = bench.lead(&pending).await.expect("it fits");
    let file = lead.open().await.expect("it opens");
    fs::rename(&dir, &away).expect("it is moved");
    let lost = |error: CacheError, words: &str| {
        assert!(matches!(error, CacheError::Lost { .. }), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
    };
    let look = async || bench.cache.lookup(&object, ImageType::Raw, None).await;
    lost(look().await.expect_err("it is gone"), "is missing");
    lost(
        bench.cache.delete(digest).await.expect_err("gone"),
        "is missing",
    );
    lost(
        bench.cache.reconcile().await.expect_err("gone"),
        "is missing",
    );
    lost(bench.cache.usage().await.expect_err("gone"), "is missing");
    lost(lead.open().await.expect_err("gone"), "is missing");
    let published = lead.publish(file, Sha256Digest::new([2; 32])).await;
    lost(published.expect_err("gone"), "is missing");
    assert!(!dir.exists(), "a look makes nothing");
    fs::write(&dir, b"").expect("a file");
    lost(look().await.expect_err("a file"), "is not the one");
    fs::remove_file(&dir).expect("it is removed");
    // It comes back, and nothing was forgotten.
    fs::rename(&away, &dir).expect("it is moved");
    assert!(bench.hit(&object).await.is_some());
}

#[tokio::test]
async fn a_row_without_a_change_time_is_in_doubt() {
    let bench = Bench::new(None).await;
    let (object, digest) = bench.publish("a", &vec![1; MIB]).await;
    let path = bench.cache.image_path(&digest);
    let store = &bench.cache.0.store;
    let row = store.image(digest).await.expect("a row").expect("a row");
    let of_old = |stamp| ImageRow {
        stamp: FileStamp {
            ctime_ns: None,
            ..stamp
        },
        ..row.clone()
    };
    let old = of_old(row.stamp);
    store.refresh_image(old.clone()).await.expect("written");
    assert!(bench.hit(&object).await.is_some());
    damage(&path);
    store.refresh_image(old).await.expect("written");
    assert!(bench.hit(&object).await.is_none());
}
