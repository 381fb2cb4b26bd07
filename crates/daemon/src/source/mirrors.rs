//! Caches near this host, which are asked for the bytes of the endpoint's objects before the endpoint is.
//!
//! A mirror is a reverse proxy that keeps what it passes on (docs/mirrors.md). It gets the request that the endpoint
//! would get, `Host` and signature included, over another connection, so it needs no credentials of its own.
//!
//! What an object is (its size and version, its checksum files) is always asked of the endpoint. A mirror is asked only for
//! ranges of a version with a strong entity tag, and its answers are checked as the endpoint's are (`fetch`).
//! Whatever is wrong with an answer, the rest of the range comes from the next mirror, or else from the endpoint, at
//! once and without an attempt being counted. Bytes that are wrong although the answer looks right are noticed by
//! the image's digest: the job then starts over without mirrors, and if that ends well, it was the mirror's fault.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use url::Url;

use super::ObjectMeta;
use super::error::{Result, SourceError, SourceErrorKind};
use crate::config::endpoints;
use crate::error::chain;

/// How long a mirror is not asked after it could not be reached, was overloaded, or cut an answer off.
const REST: Duration = Duration::from_secs(30);

/// How long it is not asked after it has sent wrong bytes: until somebody has read the log.
const REST_AFTER_WRONG_BYTES: Duration = Duration::from_secs(60 * 60);

/// A mirror that is slower than this, over so long a wait for it, would be slower than no mirror.
const MIN_BYTES_PER_SEC: f64 = 131_072.0; // 128 KiB/s
/// See [`MIN_BYTES_PER_SEC`].
const SLOW_AFTER: Duration = Duration::from_secs(10);

/// What was asked of one mirror.
#[derive(Debug, Default)]
pub struct MirrorCounters {
    /// Requests that were sent to it.
    pub requests: AtomicU64,
    /// Requests whose answers could not be used, or not to their end.
    pub failures: AtomicU64,
    /// Body bytes that arrived from it.
    pub received_bytes: AtomicU64,
}

/// One cache.
pub(super) struct Mirror {
    url: Url,
    counters: MirrorCounters,
    /// Until when it is not asked. Stays set until it has answered again.
    resting: Mutex<Option<Instant>>,
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Mirror").field(&self.shown()).finish()
    }
}

impl Mirror {
    /// Where a request for this URL of the endpoint goes instead.
    pub(super) fn instead_of(&self, origin: &Url) -> Url {
        let mut url = self.url.clone();
        url.set_path(origin.path());
        url.set_query(origin.query());
        url
    }

    /// Its URL without the slash at the end, as it is configured.
    pub(super) fn shown(&self) -> &str {
        self.url.as_str().trim_end_matches('/')
    }

    /// A request is sent to it.
    pub(super) fn asked(&self) {
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
    }

    fn is_resting(&self, now: Instant) -> bool {
        self.resting().is_some_and(|until| now < until)
    }

    /// It is not asked for a while, which is told once.
    fn rest(&self, now: Instant, time: Duration, why: &str) {
        let mut resting = self.resting();
        let is_new = resting.is_none_or(|until| until < now + time / 2);
        *resting = Some(resting.map_or(now + time, |until| until.max(now + time)));
        drop(resting);
        if is_new {
            tracing::warn!(
                mirror = self.shown(),
                rest_seconds = time.as_secs(),
                error = why,
                "A mirror is not asked for a while"
            );
        }
    }

    /// Bytes have arrived. What was asked of it before it had to rest does not end its rest.
    fn answered(&self, now: Instant) {
        let rested = self.resting().take_if(|until| *until <= now);
        if rested.is_some() {
            tracing::info!(mirror = self.shown(), "A mirror answers again");
        }
    }

    fn resting(&self) -> MutexGuard<'_, Option<Instant>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All of them, in the order in which they are asked.
#[derive(Debug, Default)]
pub(super) struct Mirrors(Vec<Mirror>);

impl Mirrors {
    pub(super) fn new(configured: &[String]) -> Result<Self> {
        let mirrors = configured.iter().map(|text| {
            let url = endpoints::mirror(text).map_err(|why| {
                SourceError::new(
                    SourceErrorKind::Settings,
                    format!("The mirror {text} (minio.mirrors) {why}"),
                )
            })?;
            Ok(Mirror {
                url,
                counters: MirrorCounters::default(),
                resting: Mutex::default(),
            })
        });
        Ok(Self(mirrors.collect::<Result<_>>()?))
    }

    /// Each mirror's URL and counts.
    pub(super) fn counters(&self) -> impl Iterator<Item = (&str, &MirrorCounters)> {
        self.0
            .iter()
            .map(|mirror| (mirror.shown(), &mirror.counters))
    }

    pub(super) fn all(&self) -> &[Mirror] {
        &self.0
    }

    /// The mirrors of these bits.
    fn of(&self, bits: u8) -> impl Iterator<Item = &Mirror> {
        let is_in = move |(index, _): &(usize, &Mirror)| bits & bit(*index) != 0;
        self.0
            .iter()
            .enumerate()
            .filter(is_in)
            .map(|(_, mirror)| mirror)
    }
}

/// The bit of a mirror; there are at most [`endpoints::MAX_MIRRORS`].
fn bit(index: usize) -> u8 {
    1 << (index % endpoints::MAX_MIRRORS)
}

/// What one job has seen of the mirrors.
#[derive(Debug, Default)]
pub(super) struct Detours {
    /// Those that cannot serve its object.
    unfit: AtomicU8,
    /// Those that have sent bytes.
    sent: AtomicU8,
    /// Whether the job does without them.
    is_avoiding: AtomicBool,
}

impl Detours {
    /// Whether any bytes came from a mirror.
    pub(super) fn were_used(&self) -> bool {
        self.sent.load(Ordering::Relaxed) != 0
    }

    /// From now on everything comes from the endpoint. False if that changes nothing.
    pub(super) fn avoid(&self) -> bool {
        self.were_used() && !self.is_avoiding.swap(true, Ordering::Relaxed)
    }

    /// Everything comes from the endpoint.
    pub(super) fn close(&self) {
        self.is_avoiding.store(true, Ordering::Relaxed);
    }

    /// What mirrors had sent was wrong, as it was right without them.
    pub(super) fn blame(&self, mirrors: &Mirrors) {
        if !self.is_avoiding.load(Ordering::Relaxed) {
            return;
        }
        let now = Instant::now();
        for mirror in mirrors.of(self.sent.load(Ordering::Relaxed)) {
            let why = "An image with bytes from this mirror did not match its digest, and with the \
                       endpoint's bytes it does: remove the object from the mirror";
            mirror.rest(now, REST_AFTER_WRONG_BYTES, why);
        }
    }
}

/// Which place the next request of one range goes to.
#[derive(Debug)]
pub(super) struct Route<'a> {
    mirrors: &'a Mirrors,
    detours: &'a Detours,
    /// Whether mirrors can serve the object at all.
    is_open: bool,
    /// The mirror that was asked last; none for the endpoint.
    current: Option<usize>,
    /// How long its answer was waited for, and how much of it has come.
    waited: Duration,
    came_bytes: u64,
}

impl<'a> Route<'a> {
    /// For a range of this object.
    pub(super) fn new(mirrors: &'a Mirrors, detours: &'a Detours, object: &ObjectMeta) -> Self {
        Self {
            mirrors,
            detours,
            // Without a strong tag, another version would not be noticed; and a URL that the caller has signed, or
            // of another host, is not the endpoint's.
            is_open: object.location.signed && object.strong_validator().is_some(),
            current: None,
            waited: Duration::ZERO,
            came_bytes: 0,
        }
    }

    /// For a range that only the endpoint is asked for.
    pub(super) fn close(&mut self) {
        self.is_open = false;
    }

    /// The mirror to ask now; none for the endpoint.
    pub(super) fn choose(&mut self) -> Option<&'a Mirror> {
        self.current = None;
        self.waited = Duration::ZERO;
        self.came_bytes = 0;
        if !self.is_open || self.detours.is_avoiding.load(Ordering::Relaxed) {
            return None;
        }
        let now = Instant::now();
        let unfit = self.detours.unfit.load(Ordering::Relaxed);
        let mirrors = self.mirrors.all().iter().enumerate();
        let mut usable =
            mirrors.filter(|(index, mirror)| unfit & bit(*index) == 0 && !mirror.is_resting(now));
        let (index, mirror) = usable.next()?;
        self.current = Some(index);
        Some(mirror)
    }

    /// Bytes have arrived, after this wait, from the place that was asked last. Fails if that is a mirror which is of
    /// no use.
    pub(super) fn received(&mut self, bytes: u64, waited: Duration) -> Result<()> {
        let Some((index, mirror)) = self.asked() else {
            return Ok(());
        };
        self.waited += waited;
        self.came_bytes += bytes;
        #[expect(
            clippy::cast_precision_loss,
            reason = "a range has less than 2^53 bytes"
        )]
        let due = self.came_bytes as f64 / MIN_BYTES_PER_SEC;
        if self.waited > SLOW_AFTER && self.waited.as_secs_f64() > due {
            return Err(SourceError::new(
                SourceErrorKind::Unavailable,
                format!(
                    "The mirror {} has sent {} bytes in {:?}",
                    mirror.shown(),
                    self.came_bytes,
                    self.waited
                ),
            ));
        }
        mirror.answered(Instant::now());
        let counters = &mirror.counters;
        counters.received_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.detours.sent.fetch_or(bit(index), Ordering::Relaxed);
        Ok(())
    }

    /// An attempt has failed. Whether it was at a mirror, so that another place is to be asked at once.
    pub(super) fn failed(&mut self, error: &SourceError) -> bool {
        let Some((index, mirror)) = self.asked() else {
            return false;
        };
        mirror.counters.failures.fetch_add(1, Ordering::Relaxed);
        match error.kind() {
            SourceErrorKind::Cancelled => return false,
            SourceErrorKind::Unavailable => mirror.rest(Instant::now(), REST, &chain(error)),
            // Another version, no ranges, no permission: that need not be so for other objects.
            _ => {
                let before = self.detours.unfit.fetch_or(bit(index), Ordering::Relaxed);
                if before & bit(index) == 0 {
                    tracing::warn!(
                        mirror = mirror.shown(),
                        error = chain(error),
                        "A mirror cannot serve the image, which is read from elsewhere"
                    );
                }
            }
        }
        self.current = None;
        true
    }

    fn asked(&self) -> Option<(usize, &'a Mirror)> {
        let index = self.current?;
        Some((index, self.mirrors.all().get(index)?))
    }
}
