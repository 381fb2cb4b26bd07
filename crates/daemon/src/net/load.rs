//! Who is connected, and what each connection costs: connections, requests in flight, and bytes of answers that the
//! peer has not taken yet.
//!
//! There is one table for all connections of the daemon. Each kind of cost has a limit in total and a share for
//! one address ([`network`]), so that no caller can take everything:
//!
//! | what is full | what happens |
//! |---|---|
//! | an address's share of connections, or all | the connection that has been idle longest is closed |
//! | and no connection is idle | the new connection gets a place in the reserve: one short request to health or
//! metrics |
//! | the reserve | its oldest connection is closed |
//! | requests in flight | the request is answered 429 (the address's share) or 503 (all) |
//! | bytes of answers not yet taken | the answer is replaced by 429 or 503; changes are always answered |
//!
//! Each connection may always have one request to health or metrics in flight, whatever is full.
//!
//! A connection is closed when it has been idle (no request in flight) for [`QUIET_MAX`], or when an answer was
//! not taken in time. Pings, settings and window updates affect neither deadline.

mod place;
mod table;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(super) use place::{InFlight, Lease, Place, Purpose};
use table::{Connection, Costs, Ends, Table};

/// Connections at the same time. Far below the usual limit of 1024 open files, which the cache, the database and
/// the devices need as well.
const CONNECTIONS_MAX: usize = 512;

/// Connections in the reserve, for health and metrics while all others are in use.
const RESERVE: usize = 32;

/// Connections of both kinds, to compare with the limit of open files.
pub(crate) const MAX_CONNECTIONS: usize = CONNECTIONS_MAX + RESERVE;

/// How long a connection in the reserve may last.
const VISIT_MAX: Duration = Duration::from_secs(10);

/// Requests in flight at the same time, from the end of the header until the answer's last byte is
/// taken.
const REQUESTS_MAX: usize = 1024;

/// The same for one address.
const REQUESTS_SHARE: usize = 256;

/// Bytes of answers that are ready and not yet taken.
const ANSWERS_MAX_BYTES: usize = 64 << 20; // 64 MiB

/// The same for one address.
const ANSWERS_SHARE_BYTES: usize = 16 << 20; // 16 MiB

/// The same for one connection: eight of the longest lists.
const ANSWERS_CONNECTION_BYTES: usize = 8 << 20; // 8 MiB

/// How long a connection may have no request in flight.
pub(super) const QUIET_MAX: Duration = Duration::from_secs(30);

/// How long a connection may take to close after it was told to.
const LEAVE_MAX: Duration = Duration::from_secs(5);

/// At most once in this time the log says that callers were refused.
const SAY_INTERVAL: Duration = Duration::from_secs(60);

/// Which limit was reached when a caller was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// Places for connections.
    Connections,
    /// Requests in flight.
    Requests,
    /// Bytes of answers not yet taken.
    Answers,
    /// Event streams.
    Streams,
}

impl Full {
    /// All limits.
    pub const ALL: [Self; 4] = [
        Self::Connections,
        Self::Requests,
        Self::Answers,
        Self::Streams,
    ];

    /// The label value in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Requests => "requests",
            Self::Answers => "answers",
            Self::Streams => "streams",
        }
    }
}

/// Whose limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// The caller's own share.
    Callers,
    /// The limit for all callers together.
    All,
}

/// There is no room for a request or an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) full: Full,
    pub(crate) whose: Whose,
}

/// What all connections cost.
#[derive(Debug)]
pub struct Load {
    connections_share: usize,
    refused: [AtomicU64; Full::ALL.len()],
    table: Mutex<Table>,
}

impl Load {
    /// Limits with which one address may have this many connections.
    pub fn new(connections_share: usize) -> Self {
        Self {
            connections_share: connections_share.min(CONNECTIONS_MAX),
            refused: Default::default(),
            table: Mutex::default(),
        }
    }

    /// How often callers were refused, by limit.
    pub fn refused(&self) -> impl Iterator<Item = (Full, u64)> {
        let counts = self
            .refused
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        Full::ALL.into_iter().zip(counts)
    }

    /// Counts a refused caller, and logs that from time to time.
    pub(crate) fn count_refused(&self, full: Full) {
        for (known, count) in Full::ALL.iter().zip(&self.refused) {
            if *known == full {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        let now = Instant::now();
        let mut table = self.table();
        if table.said.is_some_and(|said| now < said + SAY_INTERVAL) {
            return;
        }
        table.said = Some(now);
        let Costs {
            connections,
            requests,
            bytes,
        } = table.all;
        drop(table);
        tracing::warn!(
            component = "http",
            full = full.as_str(),
            connections,
            requests,
            answer_bytes = bytes,
            "Callers are being refused: see 'Bounds' in docs/security.md"
        );
    }

    /// A place for a new connection.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr, now: Instant) -> Place {
        let network = network(address);
        let mut table = self.table();
        let taken = table
            .networks
            .get(&network)
            .map_or(0, |costs| costs.connections);
        let full = match (
            taken >= self.connections_share,
            table.all.connections >= CONNECTIONS_MAX,
        ) {
            (true, _) => Some(Some(network)),
            (_, true) => Some(None),
            _ => None,
        };
        let is_visit = full.is_some_and(|of| !table.end_the_quietest(of));
        if is_visit {
            table.end_the_oldest_visit();
        }
        let id = table.next;
        table.next += 1;
        let ends = Ends::default();
        table.connections.insert(
            id,
            Connection {
                network,
                is_visit,
                since: now,
                quiet_since: now,
                requests: 0,
                probes: 0,
                bytes: 0,
                deadlines: BTreeMap::new(),
                ends: ends.clone(),
            },
        );
        if !is_visit {
            table.all.connections += 1;
            table.networks.entry(network).or_default().connections += 1;
        }
        drop(table);
        if is_visit {
            self.count_refused(Full::Connections);
        }
        Place {
            load: Arc::clone(self),
            id,
            network,
            is_visit,
            ends,
        }
    }

    /// Closes connections that have been idle for too long, and those that do not take their
    /// answers.
    pub(super) fn sweep(&self, now: Instant) {
        for connection in self.table().connections.values() {
            let is_late = connection
                .deadlines
                .values()
                .any(|deadline| *deadline <= now);
            let quiet = match connection.requests {
                0 => now.saturating_duration_since(connection.quiet_since),
                _ => Duration::ZERO,
            };
            let visited = now.saturating_duration_since(connection.since);
            if is_late
                || quiet >= QUIET_MAX + LEAVE_MAX
                || (connection.is_visit && visited >= VISIT_MAX)
            {
                connection.ends.now.cancel();
            } else if quiet >= QUIET_MAX {
                connection.ends.leave.cancel();
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Sums and a map, each changed in one step.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part of an address that one caller cannot choose: for IPv6, the upper half.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let network = address.to_bits() >> 64 << 64;
            Ipv6Addr::from_bits(network).into()
        }
    }
}

#[cfg(test)]
mod tests;
