//! Who is connected, and what each of them costs: connections, requests in flight, bytes of answers that nobody has
//! taken yet.
//!
//! One table for all connections of the daemon. Each kind of cost has a limit for all and a share for one address
//! ([`network`]), so that no caller can have everything:
//!
//! | what is full | who makes room |
//! |---|---|
//! | an address's share of connections, or all | the connection that has been quiet longest is ended |
//! | and no connection is quiet | the new one gets a place of the reserve: one short visit to health or metrics |
//! | the reserve | its oldest visitor is ended |
//! | requests in flight | the request is answered 429 (the address's share) or 503 (all) |
//! | bytes of answers not yet taken | the answer is replaced by 429 or 503; changes are always answered |
//!
//! Each connection may have one request to health or metrics in flight whatever else is full.
//!
//! A connection ends when it has been quiet (no request in flight) for [`QUIET_MAX`], or when an answer has not
//! been taken in time. Pings, settings and window updates move neither clock.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// Connections at once. Far below the usual limit of 1024 open files, which the cache, the database and the devices
/// share.
const CONNECTIONS_MAX: usize = 512;

/// Connections of the reserve, for health and metrics while all others are taken.
const RESERVE: usize = 32;

/// Connections of both kinds, for those who count files.
pub(crate) const MAX_CONNECTIONS: usize = CONNECTIONS_MAX + RESERVE;

/// How long a visit in the reserve may take.
const VISIT_MAX: Duration = Duration::from_secs(10);

/// Requests in flight at once: from the end of the header until the answer's last byte is taken.
const REQUESTS_MAX: usize = 1024;

/// Those of one address.
const REQUESTS_SHARE: usize = 256;

/// Bytes of answers that are made and not yet taken.
const ANSWERS_MAX_BYTES: usize = 64 << 20; // 64 MiB

/// Those of one address.
const ANSWERS_SHARE_BYTES: usize = 16 << 20; // 16 MiB

/// Those of one connection: eight of the longest lists.
const ANSWERS_CONNECTION_BYTES: usize = 8 << 20; // 8 MiB

/// How long a connection may be without a request in flight.
pub(super) const QUIET_MAX: Duration = Duration::from_secs(30);

/// How long a connection that was told of its end may take to leave.
const LEAVE_MAX: Duration = Duration::from_secs(5);

/// How often it is told in the log that somebody was turned away.
const SAY_INTERVAL: Duration = Duration::from_secs(60);

/// What was full when somebody was turned away.
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
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Connections,
        Self::Requests,
        Self::Answers,
        Self::Streams,
    ];

    /// The word for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Requests => "requests",
            Self::Answers => "answers",
            Self::Streams => "streams",
        }
    }
}

/// Whose limit it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// The caller's own share.
    Callers,
    /// That of all together.
    All,
}

/// A request or an answer that there is no room for.
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

#[derive(Debug, Default)]
struct Table {
    next: u64,
    connections: HashMap<u64, Connection>,
    networks: HashMap<IpAddr, Costs>,
    all: Costs,
    said: Option<Instant>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Costs {
    connections: usize,
    requests: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Connection {
    network: IpAddr,
    is_visit: bool,
    since: Instant,
    /// Since when no request is in flight; of use only then.
    quiet_since: Instant,
    requests: usize,
    /// Those for health and metrics.
    probes: usize,
    bytes: usize,
    /// When each answer must have been taken.
    deadlines: BTreeMap<u64, Instant>,
    ends: Ends,
}

/// How a connection is told to end.
#[derive(Debug, Clone, Default)]
pub(super) struct Ends {
    /// In order, with what is under way.
    pub(super) leave: CancellationToken,
    /// At once.
    pub(super) now: CancellationToken,
}

/// What a request asks for, as far as limits go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Health or metrics.
    Probe,
    /// Anything else.
    Work,
}

/// A connection's place; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    load: Arc<Load>,
    id: u64,
    network: IpAddr,
    pub(super) is_visit: bool,
    pub(super) ends: Ends,
}

/// A request in flight, until it is dropped.
#[derive(Debug)]
pub(super) struct InFlight {
    place: Arc<Place>,
    purpose: Purpose,
}

/// An answer, or a part of one, that is not yet taken, until it is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    place: Arc<Place>,
    id: u64,
    bytes: usize,
}

impl Load {
    /// Limits of which one address may have so many connections.
    pub fn new(connections_share: usize) -> Self {
        Self {
            connections_share: connections_share.min(CONNECTIONS_MAX),
            refused: Default::default(),
            table: Mutex::default(),
        }
    }

    /// How often somebody was turned away, by what was full.
    pub fn refused(&self) -> impl Iterator<Item = (Full, u64)> {
        let counts = self
            .refused
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        Full::ALL.into_iter().zip(counts)
    }

    /// Counts somebody who was turned away, and tells of it now and then.
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
            "Callers are turned away: see 'Bounds' in docs/security.md"
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

    /// Ends what has been quiet for too long, and what does not take its answers.
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

impl Table {
    /// Makes room among the connections, or those of one network; false when all of them are busy.
    fn end_the_quietest(&mut self, of: Option<IpAddr>) -> bool {
        let quiet = self.connections.iter().filter(|(_, connection)| {
            !connection.is_visit
                && connection.requests == 0
                && of.is_none_or(|network| network == connection.network)
        });
        let quietest = quiet.min_by_key(|(_, connection)| connection.quiet_since);
        let Some(id) = quietest.map(|(id, _)| *id) else {
            return false;
        };
        self.end(id);
        true
    }

    fn end_the_oldest_visit(&mut self) {
        let visits = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.is_visit);
        if visits.clone().count() < RESERVE {
            return;
        }
        // One that has asked is answered in a moment.
        let oldest =
            visits.min_by_key(|(_, connection)| (connection.requests > 0, connection.since));
        if let Some(id) = oldest.map(|(id, _)| *id) {
            self.end(id);
        }
    }

    /// Ends a connection, whose place is free at once.
    fn end(&mut self, id: u64) {
        if let Some(connection) = self.connections.get(&id) {
            connection.ends.now.cancel();
        }
        self.forget(id);
    }

    /// Gives a connection's place back; once.
    fn forget(&mut self, id: u64) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        if !connection.is_visit {
            self.change(connection.network, |costs| costs.connections -= 1);
        }
    }

    /// Changes what a network costs, and with it what all cost.
    fn change(&mut self, network: IpAddr, change: impl Fn(&mut Costs)) {
        change(&mut self.all);
        let costs = self.networks.entry(network).or_default();
        change(costs);
        if *costs == Costs::default() {
            self.networks.remove(&network);
        }
    }
}

impl Place {
    pub(super) fn count_refused(&self, full: Full) {
        self.load.count_refused(full);
    }

    /// Takes a request, if there is room for it.
    pub(super) fn begin(self: &Arc<Self>, purpose: Purpose) -> Result<InFlight, Refusal> {
        let mut table = self.load.table();
        let costs = table
            .networks
            .get(&self.network)
            .copied()
            .unwrap_or_default();
        let all = table.all.requests;
        let Some(connection) = table.connections.get_mut(&self.id) else {
            // It was ended a moment ago.
            return Err(Refusal {
                full: Full::Connections,
                whose: Whose::All,
            });
        };
        let is_free = purpose == Purpose::Probe && connection.probes == 0;
        let whose = match (costs.requests >= REQUESTS_SHARE, all >= REQUESTS_MAX) {
            _ if is_free => None,
            (true, _) => Some(Whose::Callers),
            (_, true) => Some(Whose::All),
            _ => None,
        };
        if let Some(whose) = whose {
            return Err(Refusal {
                full: Full::Requests,
                whose,
            });
        }
        connection.requests += 1;
        if purpose == Purpose::Probe {
            connection.probes += 1;
        }
        table.change(self.network, |costs| costs.requests += 1);
        drop(table);
        Ok(InFlight {
            place: Arc::clone(self),
            purpose,
        })
    }

    /// An answer that has no room of its own, such as a refusal; it has to be taken in time all the same.
    pub(super) fn lease(self: &Arc<Self>, bytes: usize, now: Instant) -> Lease {
        let mut table = self.load.table();
        self.enter(&mut table, bytes, now)
    }

    fn enter(self: &Arc<Self>, table: &mut Table, bytes: usize, now: Instant) -> Lease {
        let id = table.next;
        table.next += 1;
        table.change(self.network, |costs| costs.bytes += bytes);
        if let Some(connection) = table.connections.get_mut(&self.id) {
            connection.bytes += bytes;
            connection.deadlines.insert(id, now + time_to_take(bytes));
        }
        Lease {
            place: Arc::clone(self),
            id,
            bytes,
        }
    }
}

impl InFlight {
    /// Room for the request's answer.
    pub(super) fn answer(&self, bytes: usize, now: Instant) -> Result<Lease, Refusal> {
        let place = &self.place;
        let mut table = place.load.table();
        let mine = table
            .networks
            .get(&place.network)
            .map_or(0, |costs| costs.bytes);
        let all = table.all.bytes;
        let (here, probes) = table
            .connections
            .get(&place.id)
            .map_or((0, 0), |connection| (connection.bytes, connection.probes));
        let is_free = self.purpose == Purpose::Probe && probes <= 1;
        let beyond = |sum: usize, limit| sum.saturating_add(bytes) > limit;
        let whose = if is_free {
            None
        } else if beyond(here, ANSWERS_CONNECTION_BYTES) || beyond(mine, ANSWERS_SHARE_BYTES) {
            Some(Whose::Callers)
        } else if beyond(all, ANSWERS_MAX_BYTES) {
            Some(Whose::All)
        } else {
            None
        };
        match whose {
            None => Ok(place.enter(&mut table, bytes, now)),
            Some(whose) => Err(Refusal {
                full: Full::Answers,
                whose,
            }),
        }
    }

    pub(super) fn place(&self) -> &Arc<Place> {
        &self.place
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.load.table().forget(self.id);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut table = self.place.load.table();
        table.change(self.place.network, |costs| costs.requests -= 1);
        if let Some(connection) = table.connections.get_mut(&self.place.id) {
            connection.requests -= 1;
            if self.purpose == Purpose::Probe {
                connection.probes -= 1;
            }
            if connection.requests == 0 {
                connection.quiet_since = Instant::now();
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut table = self.place.load.table();
        table.change(self.place.network, |costs| costs.bytes -= self.bytes);
        if let Some(connection) = table.connections.get_mut(&self.place.id) {
            connection.bytes -= self.bytes;
            connection.deadlines.remove(&self.id);
        }
    }
}

/// How long a peer may take for so many bytes: 30 s, and a second for every 16 KiB.
fn time_to_take(bytes: usize) -> Duration {
    let seconds = u64::try_from(bytes >> 14).unwrap_or(u64::MAX);
    Duration::from_secs(30).saturating_add(Duration::from_secs(seconds))
}

/// What one caller can choose its addresses from: all of IPv6's lower half.
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
