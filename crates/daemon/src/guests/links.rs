//! The network interfaces by which images come: which physical ones are under the way to the object store, how fast they
//! are, and what they have received.
//!
//! ```text
//!   route to the store --> br0 --lower_eth0--> eth0    end: it has a device
//!                            '----lower_vnet3          a guest's, which is no way to the store
//!                          vlan7 --lower_bond0--> bond0    end: its counters and its speed are the sums of its members'
//! ```
//!
//! Only the main routing table is read. A way by another one (policy routing, a tunnel that ends elsewhere) is taken for
//! what the main table says.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

/// `RTF_UP` and `RTF_REJECT` (`linux/route.h`).
const UP: u32 = 0x1;
const REJECT: u32 = 0x200;

/// More levels of interfaces than anybody stacks: a guard against a cycle.
const MAX_LEVELS: usize = 16;

/// The kernel's unit for the speed of a link: 10^6 bits per second.
const MEGABIT_BYTES: u64 = 125_000;

/// Where the kernel tells of interfaces and routes.
#[derive(Debug, Clone)]
pub struct Links {
    class: PathBuf,
    routes: PathBuf,
    routes_6: PathBuf,
}

/// A way to an address: how specific, and how preferred.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Route {
    interface: String,
    prefix: u32,
    metric: u32,
}

impl Links {
    /// Those of this host.
    pub fn of_host() -> Self {
        Self::under("/".as_ref())
    }

    /// Those below this directory, which is `/` but in tests.
    pub fn under(root: &Path) -> Self {
        Self {
            class: root.join("sys/class/net"),
            routes: root.join("proc/net/route"),
            routes_6: root.join("proc/net/ipv6_route"),
        }
    }

    /// The physical interface, or bond, by which packets to this address go.
    pub fn towards(&self, address: IpAddr) -> io::Result<Vec<String>> {
        if address.is_loopback() {
            return Err(io::Error::other(
                "the object store is on this host, and there is no link to it",
            ));
        }
        let found = match address {
            IpAddr::V4(address) => self.routes(&self.routes, |line| route(line, address))?,
            IpAddr::V6(address) => self.routes(&self.routes_6, |line| route_6(line, address))?,
        };
        // The most specific one, and of equal ones the preferred one.
        let best = found
            .into_iter()
            .min_by_key(|route| (u32::MAX - route.prefix, route.metric));
        let best =
            best.ok_or_else(|| io::Error::other(format!("there is no route to {address}")))?;
        let ends = self.ends(&best.interface)?;
        let name = &best.interface;
        match ends.len() {
            0 => Err(io::Error::other(format!(
                "{name} is a virtual interface without a physical one under it"
            ))),
            1 => Ok(ends),
            // A bridge of several, or a team: what one connection can receive is not known.
            _ => Err(io::Error::other(format!(
                "{name} has several physical interfaces under it ({}) and is no bond: by which of them packets come is not known",
                ends.join(", ")
            ))),
        }
    }

    /// How many bytes these can receive in a second.
    pub fn speed(&self, interfaces: &[String]) -> io::Result<u64> {
        let speed = |name: &String| {
            // Of one that is down, reading it fails.
            let text = fs::read_to_string(self.class.join(name).join("speed"));
            let megabits = text.ok().and_then(|text| text.trim().parse::<u64>().ok());
            let megabits =
                megabits.filter(|megabits| *megabits > 0 && *megabits < u64::from(u32::MAX));
            megabits.ok_or_else(|| {
                io::Error::other(format!(
                    "{name} does not say how fast it is (/sys/class/net/{name}/speed), as virtual interfaces do not"
                ))
            })
        };
        let speeds = interfaces.iter().map(speed);
        let all: u64 = speeds.sum::<io::Result<u64>>()?;
        Ok(all.saturating_mul(MEGABIT_BYTES))
    }

    /// How many bytes these have received.
    pub fn received(&self, interfaces: &[String]) -> io::Result<u64> {
        let received = interfaces.iter().map(|name| {
            let path = self.class.join(name).join("statistics/rx_bytes");
            let text = fs::read_to_string(path)?;
            text.trim().parse::<u64>().map_err(io::Error::other)
        });
        received.sum()
    }

    fn routes(&self, table: &Path, of: impl Fn(&str) -> Option<Route>) -> io::Result<Vec<Route>> {
        let text = fs::read_to_string(table)?;
        Ok(text.lines().filter_map(of).collect())
    }

    /// The physical interfaces under this one.
    fn ends(&self, interface: &str) -> io::Result<Vec<String>> {
        let mut ends = Vec::new();
        let mut level = vec![interface.to_owned()];
        for _ in 0..MAX_LEVELS {
            let mut next = Vec::new();
            for name in level {
                let directory = self.class.join(&name);
                if directory.join("device").exists() || directory.join("bonding").exists() {
                    ends.push(name);
                    continue;
                }
                for entry in fs::read_dir(&directory)? {
                    let entry = entry?.file_name();
                    let lower = entry.to_str().and_then(|name| name.strip_prefix("lower_"));
                    next.extend(lower.map(str::to_owned));
                }
            }
            if next.is_empty() {
                ends.sort();
                ends.dedup();
                return Ok(ends);
            }
            level = next;
        }
        Err(io::Error::other("the interfaces are stacked in a circle"))
    }
}

/// A line of `/proc/net/route`, if it is a way to the address. Numbers are in the byte order of the wire, written as those of
/// this machine.
fn route(line: &str, address: Ipv4Addr) -> Option<Route> {
    let words: Vec<_> = line.split_ascii_whitespace().collect();
    let [interface, target, _, flags, _, _, metric, mask, ..] = *words else {
        return None;
    };
    let hex = |text: &str| u32::from_str_radix(text, 16).ok();
    let bytes = |text: &str| Some(u32::from_be_bytes(hex(text)?.to_ne_bytes()));
    let (target, mask) = (bytes(target)?, bytes(mask)?);
    let is_it = is_usable(hex(flags)?) && u32::from(address) & mask == target;
    is_it.then_some(Route {
        interface: interface.to_owned(),
        prefix: mask.count_ones(),
        metric: metric.parse().ok()?,
    })
}

/// A line of `/proc/net/ipv6_route`, if it is a way to the address.
fn route_6(line: &str, address: Ipv6Addr) -> Option<Route> {
    let words: Vec<_> = line.split_ascii_whitespace().collect();
    let [target, prefix, _, _, _, metric, _, _, flags, interface] = *words else {
        return None;
    };
    let hex = |text: &str| u32::from_str_radix(text, 16).ok();
    let target = u128::from_str_radix(target, 16).ok()?;
    let prefix = hex(prefix).filter(|prefix| *prefix <= u128::BITS)?;
    let differs = target ^ u128::from(address);
    let is_inside = differs.checked_shr(u128::BITS - prefix).unwrap_or(0) == 0;
    (is_usable(hex(flags)?) && is_inside).then_some(Route {
        interface: interface.to_owned(),
        prefix,
        metric: hex(metric)?,
    })
}

fn is_usable(flags: u32) -> bool {
    flags & UP != 0 && flags & REJECT == 0
}

#[cfg(test)]
mod tests;
