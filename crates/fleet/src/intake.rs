//! Whether a host follows an order that has arrived.
//!
//! Orders arrive late, twice, in any sequence, again after the broker was restored, or because somebody who has the
//! broker sends old ones anew. What a host has seen is in its own database; the answer depends on that and not on what
//! the broker says. A host remembers a bounded number of orders; what it has forgotten is older than its `floor`, and is
//! never followed again, whatever the clock says.

use crate::names::{GroupName, HostName};
use crate::order::{Action, Order, OrderKind};

/// What a host is and has seen.
#[derive(Debug, Clone, Copy)]
pub struct Here<'a> {
    /// Its name.
    pub host: &'a HostName,
    /// Its groups.
    pub groups: &'a [GroupName],
    /// The kinds of orders that it follows.
    pub allow: &'a [OrderKind],
    /// The revision of this order that it has seen.
    pub known: Option<u64>,
    /// Whether what it has seen under that revision has ended, and was another order ([`Order::is_same_as`]).
    pub is_another: bool,
    /// No order that was issued until then is new.
    pub floor: u64,
    /// Its clock, in seconds since 1970.
    pub now: u64,
}

/// What a host does with an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It follows the order.
    Follow,
    /// It stops following it.
    Cancel,
    /// It does not follow it, and says why.
    Refuse(String),
    /// It does not follow it, as its time is over.
    Expired,
    /// It has seen this revision.
    Duplicate,
    /// It has seen a later revision.
    Older,
    /// It is not meant.
    NotMeant,
}

/// Decides about an order whose signature is good.
pub fn decide(order: &Order, here: &Here<'_>) -> Verdict {
    if !order.target.is(here.host, here.groups) {
        return Verdict::NotMeant;
    }
    match here.known {
        Some(known) if known == order.revision => {
            return match here.is_another {
                false => Verdict::Duplicate,
                true => Verdict::Refuse(
                    "Another order of this name and revision was followed here: issue this one under another name \
                     (--id), or as a later revision (--revise)"
                        .to_owned(),
                ),
            };
        }
        Some(known) if known > order.revision => return Verdict::Older,
        None if order.issued_at <= here.floor => {
            return Verdict::Refuse(format!(
                "The order was issued at {}, before the last one that this host has forgotten ({}): it may have been \
                 followed before; issue it anew under another name",
                order.issued_at, here.floor
            ));
        }
        _ => {}
    }
    if order.action == Action::Cancel {
        return Verdict::Cancel;
    }
    if !here.allow.contains(&order.kind) {
        return Verdict::Refuse(format!(
            "This host does not follow orders to {}: fleet.allow does not name it",
            order.kind
        ));
    }
    if here.now >= order.deadline {
        return Verdict::Expired;
    }
    Verdict::Follow
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::order::tests::order;

    fn here<'a>(host: &'a HostName, known: Option<u64>) -> Here<'a> {
        Here {
            host,
            groups: &[],
            allow: &[OrderKind::Prewarm],
            known,
            is_another: false,
            floor: 0,
            now: 1500,
        }
    }

    #[test]
    fn each_answer_has_its_case() {
        let host: HostName = "a".parse().unwrap();
        let order = order();
        let at = |here: Here<'_>| decide(&order, &here);
        assert_eq!(at(here(&host, None)), Verdict::Follow);
        assert_eq!(at(here(&host, Some(1))), Verdict::Duplicate);
        assert_eq!(at(here(&host, Some(2))), Verdict::Older);
        let another = Here {
            is_another: true,
            ..here(&host, Some(1))
        };
        assert!(matches!(at(another), Verdict::Refuse(_)));
        let late = Here {
            now: 2000,
            ..here(&host, None)
        };
        assert_eq!(at(late), Verdict::Expired);
        let forgotten = Here {
            floor: 1000,
            ..here(&host, None)
        };
        assert!(matches!(at(forgotten), Verdict::Refuse(_)));
        let nothing = Here {
            allow: &[],
            ..here(&host, None)
        };
        assert!(matches!(at(nothing), Verdict::Refuse(_)));
        let mut other = order.clone();
        other.target = "host:b".parse().unwrap();
        assert_eq!(decide(&other, &here(&host, None)), Verdict::NotMeant);
        // Whoever may not order may not do harm by cancelling: what is not followed has nothing to stop.
        let mut cancel = order.clone();
        cancel.action = Action::Cancel;
        cancel.revision = 2;
        assert_eq!(
            decide(
                &cancel,
                &Here {
                    now: 9000,
                    ..here(&host, Some(1))
                }
            ),
            Verdict::Cancel
        );
    }

    proptest! {
        #[test]
        fn in_whatever_sequence_revisions_arrive_the_highest_stands_and_none_begins_twice(
            arrivals in proptest::collection::vec((1..6_u64, any::<bool>()), 1..40),
        ) {
            let host: HostName = "a".parse().unwrap();
            // A revision is one document: whether it cancels depends on its number only.
            let cancels: Vec<bool> = (0..6).map(|n| arrivals.iter().any(|(r, c)| *r == n && *c)).collect();
            let (mut known, mut begun) = (None, Vec::new());
            for (revision, _) in &arrivals {
                let mut order = order();
                order.revision = *revision;
                if cancels[usize::try_from(*revision).unwrap()] {
                    order.action = Action::Cancel;
                }
                match decide(&order, &here(&host, known)) {
                    Verdict::Follow => {
                        begun.push(*revision);
                        known = Some(*revision);
                    }
                    Verdict::Cancel => known = Some(*revision),
                    Verdict::Duplicate => prop_assert_eq!(known, Some(*revision)),
                    Verdict::Older => prop_assert!(known > Some(*revision)),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            prop_assert_eq!(known, arrivals.iter().map(|(revision, _)| *revision).max());
            prop_assert!(begun.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
