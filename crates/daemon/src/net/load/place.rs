//! What a connection holds: its place, its requests in flight, and its answers that are not yet taken. Each is
//! returned when it is dropped.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::table::{Ends, Table};
use super::{
    ANSWERS_CONNECTION_BYTES, ANSWERS_MAX_BYTES, ANSWERS_SHARE_BYTES, Full, Load, REQUESTS_MAX,
    REQUESTS_SHARE, Refusal, Whose,
};

/// The kind of a request, as far as limits distinguish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::net) enum Purpose {
    /// Health or metrics.
    Probe,
    /// Anything else.
    Work,
}

/// A connection's place, returned when dropped.
#[derive(Debug)]
pub(in crate::net) struct Place {
    pub(super) load: Arc<Load>,
    pub(super) id: u64,
    pub(super) network: IpAddr,
    pub(in crate::net) is_visit: bool,
    pub(in crate::net) ends: Ends,
}

/// A request in flight, until it is dropped.
#[derive(Debug)]
pub(in crate::net) struct InFlight {
    place: Arc<Place>,
    purpose: Purpose,
}

/// An answer, or a part of one, that is not yet taken, until it is dropped.
#[derive(Debug)]
pub(in crate::net) struct Lease {
    place: Arc<Place>,
    id: u64,
    bytes: usize,
}

impl Place {
    pub(in crate::net) fn count_refused(&self, full: Full) {
        self.load.count_refused(full);
    }

    /// Accepts a request if there is room for it.
    pub(in crate::net) fn begin(self: &Arc<Self>, purpose: Purpose) -> Result<InFlight, Refusal> {
        let mut table = self.load.table();
        let costs = table
            .networks
            .get(&self.network)
            .copied()
            .unwrap_or_default();
        let all = table.all.requests;
        let Some(connection) = table.connections.get_mut(&self.id) else {
            // The connection was closed a moment ago.
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

    /// An answer that has no room of its own, such as a refusal. It has to be taken in time all the same.
    pub(in crate::net) fn lease(self: &Arc<Self>, bytes: usize, now: Instant) -> Lease {
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
    pub(in crate::net) fn answer(&self, bytes: usize, now: Instant) -> Result<Lease, Refusal> {
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

    pub(in crate::net) fn place(&self) -> &Arc<Place> {
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

/// How long a peer may take for this many bytes: 30 s, and a second for every 16 KiB.
fn time_to_take(bytes: usize) -> Duration {
    let seconds = u64::try_from(bytes >> 14).unwrap_or(u64::MAX);
    Duration::from_secs(30).saturating_add(Duration::from_secs(seconds))
}
