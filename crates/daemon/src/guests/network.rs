//! Jobs leave the network to others: `minio.max_read_bytes_per_sec: auto`.
//!
//! ```text
//!  /sys/class/net --links--> received, speed --headroom--> rate --> the limiter of all downloads
//!                                   ^
//!       what went through the limiter
//! ```
//!
//! Only the host's own links are known. What is narrower behind them is shared by TCP alone.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lvp_image::copy::RateLimiter;
use url::Host;

use super::headroom::{Headroom, Received};
use super::links::Links;
use crate::config::windows::Windows;
use crate::config::{Config, endpoints};
use crate::estimate::to_f64;

/// An address outside (RFC 5737): the way there is the default route.
const SOMEWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// From this part of the rate on, it is what holds downloads back.
const USED_UP: f64 = 0.75;

/// Lets downloads step aside.
#[derive(Debug)]
pub struct Network {
    is_on: bool,
    floor_bytes_per_sec: u64,
    windows: Windows,
    limiter: Arc<RateLimiter>,
    links: Links,
    watch: Mutex<Option<Watch>>,
}

#[derive(Debug)]
struct Watch {
    interfaces: Vec<String>,
    link_bytes_per_sec: u64,
    headroom: Headroom,
    began: Instant,
    last: Option<Look>,
}

#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    own_bytes: u64,
    /// The rate that was set for others. That of a probe is not told.
    rate: Option<u64>,
}

impl Look {
    /// Whether the rate was used up since then.
    fn is_held(self, passed: Duration, own_bytes: u64) -> bool {
        let moved = to_f64(own_bytes.saturating_sub(self.own_bytes));
        let allowed = |rate| to_f64(rate) * passed.as_secs_f64();
        self.rate
            .is_some_and(|rate| moved > 0.0 && moved >= USED_UP * allowed(rate))
    }
}

/// What was measured, and what was decided.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct NetworkShown {
    /// How much the links can receive.
    pub link_bytes_per_sec: u64,
    /// The most that others received in the last seconds.
    pub others_bytes_per_sec: f64,
    /// The rate of all downloads together; None while nothing is limited.
    pub rate: Option<u64>,
    /// Since when what was decided before.
    pub passed: Duration,
    /// Whether downloads used up their rate, and would have been faster without.
    pub is_held: bool,
}

/// The address that images are fetched from, or by way of: the proxy's, the object store's, or any other if images are only
/// fetched from elsewhere.
pub async fn store_address(config: &Config) -> io::Result<IpAddr> {
    let minio = &config.minio;
    let endpoint = minio.endpoint.as_deref().map(endpoints::s3).transpose();
    let endpoint = endpoint.map_err(io::Error::other)?;
    let proxy = minio.proxy.as_ref().map(|proxy| proxy.expose().clone());
    let Some(url) = proxy.or(endpoint) else {
        return Ok(IpAddr::V4(SOMEWHERE));
    };
    let host = match url.host() {
        Some(Host::Ipv4(address)) => return Ok(address.into()),
        Some(Host::Ipv6(address)) => return Ok(address.into()),
        Some(Host::Domain(name)) => name.to_owned(),
        None => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let port = url.port_or_known_default().unwrap_or(443);
    let found = tokio::net::lookup_host((host.as_str(), port)).await;
    let failed = |error| io::Error::other(format!("{host} has no address: {error}"));
    let first = found.map_err(failed)?.next();
    first
        .map(|address| address.ip())
        .ok_or_else(|| io::Error::other(format!("{host} has no address")))
}

impl Network {
    /// Nothing is limited before [`Network::find`].
    pub fn new(is_on: bool, floor_bytes_per_sec: u64, windows: Windows) -> Self {
        Self::over(Links::of_host(), is_on, floor_bytes_per_sec, windows)
    }

    fn over(links: Links, is_on: bool, floor_bytes_per_sec: u64, windows: Windows) -> Self {
        Self {
            is_on,
            floor_bytes_per_sec,
            windows,
            limiter: Arc::new(RateLimiter::open()),
            links,
            watch: Mutex::default(),
        }
    }

    /// Whether downloads are to step aside.
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// The limiter of all downloads, and None if they do not step aside.
    pub fn limiter(&self) -> Option<Arc<RateLimiter>> {
        self.is_on.then(|| Arc::clone(&self.limiter))
    }

    /// Finds the links to this address, and watches them from now on. Returns their names.
    pub fn find(&self, store: IpAddr) -> io::Result<Vec<String>> {
        let interfaces = self.links.towards(store)?;
        let link_bytes_per_sec = self.links.speed(&interfaces)?;
        self.links.received(&interfaces)?;
        let mut watch = self.lock();
        let is_same = watch.as_ref().is_some_and(|watch| {
            watch.interfaces == interfaces && watch.link_bytes_per_sec == link_bytes_per_sec
        });
        if !is_same {
            *watch = Some(Watch {
                interfaces: interfaces.clone(),
                link_bytes_per_sec,
                headroom: Headroom::new(link_bytes_per_sec, self.floor_bytes_per_sec),
                began: Instant::now(),
                last: None,
            });
        }
        Ok(interfaces)
    }

    /// Measures, decides and sets the rate. None if nothing is watched, or before the second look.
    pub fn step(&self) -> io::Result<Option<NetworkShown>> {
        self.step_at(Instant::now(), self.windows.is_open())
    }

    fn step_at(&self, now: Instant, is_window_open: bool) -> io::Result<Option<NetworkShown>> {
        let mut watch = self.lock();
        let Some(watch) = watch.as_mut() else {
            return Ok(None);
        };
        let received = Received {
            all_bytes: self.links.received(&watch.interfaces)?,
            own_bytes: self.limiter.passed_bytes(),
        };
        let since_begin = now.saturating_duration_since(watch.began);
        let decided = watch.headroom.step(since_begin, received);
        let rate = decided.filter(|_| !is_window_open);
        self.limiter.set_rate(rate.and_then(NonZeroU64::new));
        let look = Look {
            at: now,
            own_bytes: received.own_bytes,
            rate: rate.filter(|_| !watch.headroom.is_probing()),
        };
        let Some(last) = watch.last.replace(look) else {
            return Ok(None);
        };
        let passed = now.saturating_duration_since(last.at);
        Ok(Some(NetworkShown {
            link_bytes_per_sec: watch.link_bytes_per_sec,
            others_bytes_per_sec: watch.headroom.others(),
            rate,
            passed,
            is_held: last.is_held(passed, received.own_bytes),
        }))
    }

    /// Nothing can be measured now: nothing is limited until the links are found again.
    pub fn let_go(&self) {
        self.limiter.set_rate(None);
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Watch>> {
        // At worst one interval is not measured.
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const STEP: Duration = Duration::from_millis(500);

    #[test]
    fn downloads_leave_the_link_to_others_except_in_a_window_and_when_it_cannot_be_read() {
        let root = tempfile::tempdir().unwrap();
        let eth0 = root.path().join("sys/class/net/eth0");
        for directory in ["device", "statistics"] {
            fs::create_dir_all(eth0.join(directory)).unwrap();
        }
        fs::create_dir_all(root.path().join("proc/net")).unwrap();
        fs::write(eth0.join("speed"), "1000\n").unwrap();
        let route = "eth0 00000000 00000000 0003 0 0 0 00000000 0 0 0\n";
        fs::write(root.path().join("proc/net/route"), route).unwrap();
        let counter = eth0.join("statistics/rx_bytes");
        let receive = |bytes: u64| fs::write(&counter, format!("{bytes}\n")).unwrap();
        receive(0);
        let links = Links::under(root.path());
        let network = Network::over(links, true, 1 << 20, Windows::default());
        let store = "192.0.2.1".parse().unwrap();
        assert_eq!(network.find(store).unwrap(), ["eth0"]);
        let begin = Instant::now();
        let mut shown = None;
        for number in 0..10 {
            // Others receive half of what the link can.
            receive(u64::from(number) * 125_000_000 / 4);
            shown = network.step_at(begin + STEP * number, false).unwrap();
        }
        let shown = shown.expect("it was measured");
        assert_eq!(shown.link_bytes_per_sec, 125_000_000);
        let rate = network.limiter.rate().expect("it is limited").get();
        assert_eq!(shown.rate, Some(rate));
        // With headers it is four tenths.
        assert!((45_000_000..46_000_000).contains(&rate), "{rate}");
        assert!(!shown.is_held && shown.passed == STEP, "{shown:?}");
        // What was found again is not forgotten.
        network.find(store).unwrap();
        let open = network.step_at(begin + STEP * 10, true).unwrap();
        assert_eq!(open.expect("it was measured").rate, None);
        assert_eq!(network.limiter.rate(), None);
        network.step_at(begin + STEP * 11, false).unwrap();
        assert!(network.limiter.rate().is_some());
        fs::remove_file(&counter).unwrap();
        network.step_at(begin + STEP * 12, false).unwrap_err();
        network.let_go();
        assert_eq!(network.limiter.rate(), None);
        assert_eq!(network.step_at(begin + STEP * 13, false).unwrap(), None);
    }

    #[test]
    fn downloads_are_held_back_by_a_rate_that_they_use_up() {
        let look = |rate| Look {
            at: Instant::now(),
            own_bytes: 500,
            rate,
        };
        let is_held = |rate, own_bytes| look(rate).is_held(STEP, own_bytes);
        assert!(is_held(Some(2000), 1500) && is_held(Some(2000), 1250));
        assert!(!is_held(Some(2000), 1200), "the server is what is slow");
        assert!(!is_held(Some(2000), 500) && !is_held(Some(0), 500));
        assert!(!is_held(None, 5000));
    }

    #[test]
    fn without_auto_there_is_no_limiter() {
        let off = Network::new(false, 1, Windows::default());
        assert!(off.limiter().is_none() && !off.is_on());
    }
}
