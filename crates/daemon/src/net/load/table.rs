//! The table of connections, and their total cost.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::RESERVE;

#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) next: u64,
    pub(super) connections: HashMap<u64, Connection>,
    pub(super) networks: HashMap<IpAddr, Costs>,
    pub(super) all: Costs,
    pub(super) said: Option<Instant>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Costs {
    pub(super) connections: usize,
    pub(super) requests: usize,
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) network: IpAddr,
    pub(super) is_visit: bool,
    pub(super) since: Instant,
    /// Since when no request is in flight; only meaningful while none is.
    pub(super) quiet_since: Instant,
    pub(super) requests: usize,
    /// Requests to health and metrics.
    pub(super) probes: usize,
    pub(super) bytes: usize,
    /// The deadline of each answer.
    pub(super) deadlines: BTreeMap<u64, Instant>,
    pub(super) ends: Ends,
}

/// How a connection is told to close.
#[derive(Debug, Clone, Default)]
pub(in crate::net) struct Ends {
    /// Gracefully, after what is in progress.
    pub(in crate::net) leave: CancellationToken,
    /// At once.
    pub(in crate::net) now: CancellationToken,
}

impl Table {
    /// Makes room among all connections, or those of one network. False if all of them are busy.
    pub(super) fn end_the_quietest(&mut self, of: Option<IpAddr>) -> bool {
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

    pub(super) fn end_the_oldest_visit(&mut self) {
        let visits = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.is_visit);
        if visits.clone().count() < RESERVE {
            return;
        }
        // A connection that has sent its request is answered in a moment.
        let oldest =
            visits.min_by_key(|(_, connection)| (connection.requests > 0, connection.since));
        if let Some(id) = oldest.map(|(id, _)| *id) {
            self.end(id);
        }
    }

    /// Closes a connection, whose place is free at once.
    pub(super) fn end(&mut self, id: u64) {
        if let Some(connection) = self.connections.get(&id) {
            connection.ends.now.cancel();
        }
        self.forget(id);
    }

    /// Returns a connection's place. Does nothing the second time.
    pub(super) fn forget(&mut self, id: u64) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        if !connection.is_visit {
            self.change(connection.network, |costs| costs.connections -= 1);
        }
    }

    /// Changes the cost of a network, and with it the total.
    pub(super) fn change(&mut self, network: IpAddr, change: impl Fn(&mut Costs)) {
        change(&mut self.all);
        let costs = self.networks.entry(network).or_default();
        change(costs);
        if *costs == Costs::default() {
            self.networks.remove(&network);
        }
    }
}
