//! How an order stands, by what the hosts have said.

use std::collections::BTreeMap;
use std::fmt;

use lvp_api::named;
use serde::{Deserialize, Serialize, Serializer};

use crate::names::{HostName, Target};
use crate::order::{Action, Order};
use crate::report::{HostReport, Report, ReportState, SILENT_SECONDS};

/// How a host stands with an order, as far as anybody can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostState {
    /// It is there and has not said anything about this revision.
    Unseen,
    /// Nothing was heard of it for a minute, and its last word was not a final one.
    Silent,
    /// As it says itself.
    Said(ReportState),
}

impl HostState {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unseen => "unseen",
            Self::Silent => "silent",
            Self::Said(state) => state.as_str(),
        }
    }
}

impl fmt::Display for HostState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for HostState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// What became of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Hosts are still to end.
    Unfinished,
    /// All hosts have done what was ordered; of an order that was cancelled, all have ended.
    Done,
    /// All hosts have ended, and not all have done it.
    Failed,
    /// The deadline has passed, and hosts have not said that they have ended.
    Overdue,
}

named!(Outcome, "outcome", {
    Unfinished => "unfinished",
    Done => "done",
    Failed => "failed",
    Overdue => "overdue",
});

/// One host's line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// The host.
    pub host: HostName,
    /// How it stands.
    pub state: HostState,
    /// Seconds since anything was heard of it.
    pub silent_seconds: Option<u64>,
    /// Its last report about this revision.
    pub report: Option<Report>,
}

/// How an order stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Standing {
    /// What became of it.
    pub outcome: Outcome,
    /// One line for each host that it is for.
    pub hosts: Vec<Line>,
}

/// A host's own record, and how old it is by the reader's clock.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    /// What it says.
    pub report: HostReport,
    /// Seconds since.
    pub age_seconds: u64,
}

/// Everything that is known about an order.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The order's documents, one for each target; not empty.
    pub orders: &'a [Order],
    /// The hosts that have ever said that they are there.
    pub hosts: &'a BTreeMap<HostName, Heard>,
    /// What hosts say about this order.
    pub reports: &'a BTreeMap<HostName, Report>,
    /// The reader's clock, in seconds since 1970.
    pub now: u64,
}

/// Puts it together. A host that says nothing is never taken for one that has ended.
pub fn standing(facts: &Facts<'_>) -> Standing {
    let revision = facts.orders.iter().map(|order| order.revision).max();
    let latest = || {
        facts
            .orders
            .iter()
            .filter(|order| Some(order.revision) == revision)
    };
    let mut meant: Vec<HostName> = Vec::new();
    for order in latest() {
        if let Target::Host(name) = &order.target {
            meant.push(name.clone());
        }
        let is_meant = |heard: &Heard| order.target.is(&heard.report.host, &heard.report.groups);
        let known = facts.hosts.values().filter(|heard| is_meant(heard));
        meant.extend(known.map(|heard| heard.report.host.clone()));
    }
    let told = facts
        .reports
        .values()
        .filter(|report| Some(report.revision) == revision);
    meant.extend(told.map(|report| report.host.clone()));
    meant.sort();
    meant.dedup();
    let lines = meant.into_iter().map(|host| {
        let heard = facts.hosts.get(&host);
        let report = facts.reports.get(&host);
        let report = report.filter(|report| Some(report.revision) == revision);
        let is_silent = heard.is_none_or(|heard| heard.age_seconds > SILENT_SECONDS);
        let state = match report {
            Some(report) if report.state.is_final() => HostState::Said(report.state),
            _ if is_silent => HostState::Silent,
            Some(report) => HostState::Said(report.state),
            None => HostState::Unseen,
        };
        Line {
            host,
            state,
            silent_seconds: heard.map(|heard| heard.age_seconds),
            report: report.cloned(),
        }
    });
    let lines: Vec<Line> = lines.collect();
    let ended = |line: &Line| {
        let report = line.report.as_ref();
        report.is_some_and(|report| report.state.is_final())
    };
    let good = |line: &Line| {
        let report = line.report.as_ref();
        report.is_some_and(|report| report.state.is_good())
    };
    // A revision that some hosts are not meant by any more is not cancelled.
    let is_cancelled = latest().all(|order| order.action == Action::Cancel);
    let deadline = latest().map(|order| order.deadline).max().unwrap_or(0);
    let outcome = match lines.iter().all(ended) && !lines.is_empty() {
        true if is_cancelled || lines.iter().all(good) => Outcome::Done,
        true => Outcome::Failed,
        // Hosts say that it has expired, or may have a clock that is a little late.
        false if facts.now > deadline.saturating_add(SILENT_SECONDS) => Outcome::Overdue,
        false => Outcome::Unfinished,
    };
    Standing {
        outcome,
        hosts: lines,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::tests::order;

    fn heard(host: &str, groups: &[&str], age_seconds: u64) -> (HostName, Heard) {
        let host: HostName = host.parse().unwrap();
        let report = HostReport {
            host: host.clone(),
            version: String::new(),
            groups: groups.iter().map(|group| group.parse().unwrap()).collect(),
            allow: Vec::new(),
            time: 0,
            slots: 0,
            running: 0,
            cache_bytes: 0,
            free_bytes: 0,
            cached: Vec::new(),
            has_more: false,
        };
        (
            host,
            Heard {
                report,
                age_seconds,
            },
        )
    }

    fn said(host: &str, revision: u64, state: ReportState) -> (HostName, Report) {
        let host: HostName = host.parse().unwrap();
        let report = Report::new(
            "debian-13".parse().unwrap(),
            revision,
            host.clone(),
            state,
            0,
        );
        (host, report)
    }

    fn states(standing: &Standing) -> Vec<(&str, &str)> {
        let lines = standing.hosts.iter();
        lines
            .map(|line| (line.host.as_str(), line.state.as_str()))
            .collect()
    }

    #[test]
    fn a_silent_host_is_silent_and_never_done() {
        let hosts = [heard("a", &[], 5), heard("b", &[], 61), heard("c", &[], 5)].into();
        let reports = [
            said("a", 1, ReportState::Done),
            said("b", 1, ReportState::Running),
        ]
        .into();
        let orders = [order()];
        let mut facts = Facts {
            orders: &orders,
            hosts: &hosts,
            reports: &reports,
            now: 1500,
        };
        let found = standing(&facts);
        assert_eq!(
            states(&found),
            [("a", "done"), ("b", "silent"), ("c", "unseen")]
        );
        assert_eq!(found.outcome, Outcome::Unfinished);
        facts.now = 2061;
        assert_eq!(standing(&facts).outcome, Outcome::Overdue);
        // Its last word counts if it was a final one.
        let reports = [
            said("b", 1, ReportState::Failed),
            said("a", 1, ReportState::Done),
            said("c", 1, ReportState::Done),
        ]
        .into();
        let found = standing(&Facts {
            reports: &reports,
            ..facts
        });
        assert_eq!(
            states(&found),
            [("a", "done"), ("b", "failed"), ("c", "done")]
        );
        assert_eq!(found.outcome, Outcome::Failed);
    }

    #[test]
    fn reports_of_an_older_revision_say_nothing_about_a_later_one() {
        let hosts = [heard("a", &[], 5)].into();
        let reports = [said("a", 1, ReportState::Done)].into();
        let mut orders = [order()];
        orders[0].revision = 2;
        let found = standing(&Facts {
            orders: &orders,
            hosts: &hosts,
            reports: &reports,
            now: 1500,
        });
        assert_eq!(states(&found), [("a", "unseen")]);
    }

    #[test]
    fn the_hosts_of_an_order_are_those_that_it_names_and_those_in_its_groups() {
        let hosts = [
            heard("a", &["x"], 5),
            heard("b", &["y"], 5),
            heard("c", &[], 5),
        ]
        .into();
        let reports = BTreeMap::new();
        let mut orders = [order(), order()];
        orders[0].target = "group:y".parse().unwrap();
        orders[1].target = "host:d".parse().unwrap();
        let found = standing(&Facts {
            orders: &orders,
            hosts: &hosts,
            reports: &reports,
            now: 1500,
        });
        assert_eq!(states(&found), [("b", "unseen"), ("d", "silent")]);
        // Nobody at all is not a success.
        let nobody = BTreeMap::new();
        let orders = [order()];
        let found = standing(&Facts {
            orders: &orders,
            hosts: &nobody,
            reports: &reports,
            now: 1500,
        });
        assert_eq!(found.outcome, Outcome::Unfinished);
    }

    #[test]
    fn a_cancelled_order_is_done_once_all_have_ended() {
        let hosts = [heard("a", &[], 5), heard("b", &[], 5)].into();
        let reports = [
            said("a", 2, ReportState::Cancelled),
            said("b", 2, ReportState::Done),
        ]
        .into();
        let mut orders = [order()];
        orders[0].revision = 2;
        orders[0].action = Action::Cancel;
        let found = standing(&Facts {
            orders: &orders,
            hosts: &hosts,
            reports: &reports,
            now: 1500,
        });
        assert_eq!(found.outcome, Outcome::Done);
    }
}
