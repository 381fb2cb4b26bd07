//! Names of hosts, groups and orders, and the subjects and keys that are made of them.
//!
//! A subject's parts are separated by dots, and names of hosts have dots. In a subject or key, a dot of a name is written
//! as `=`, which no name has: two names never become the same part.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The stream of orders.
pub const ORDERS_STREAM: &str = "LVP_ORDERS";

/// The subjects of orders; the version is that of their form.
pub const ORDERS_PREFIX: &str = "lvp.v1.order";

/// The bucket of reports, by `ORDER.HOST`.
pub const REPORTS_BUCKET: &str = "lvp_reports";

/// The bucket of hosts' own records, by `HOST`.
pub const HOSTS_BUCKET: &str = "lvp_hosts";

/// The bucket of claims on places in waves, by `ORDER.HOST`.
pub const WAVES_BUCKET: &str = "lvp_waves";

/// Longest name: as long as a host name may be (RFC 1123, section 2.1).
pub const NAME_MAX: usize = 255;

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} cannot name {what}: use 1 to {NAME_MAX} of the characters a-z A-Z 0-9 . _ - and begin with none of . _ -"
)]
pub struct ParseNameError {
    what: &'static str,
    text: String,
}

fn check(what: &'static str, text: &str) -> Result<(), ParseNameError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_name = (1..=NAME_MAX).contains(&text.len())
        && text.chars().all(allowed)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric());
    match is_name {
        true => Ok(()),
        false => Err(ParseNameError {
            what,
            text: text.chars().take(80).collect(),
        }),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The name as one part of a subject or key.
            pub fn part(&self) -> String {
                self.0.replace('.', "=")
            }

            /// The name that became this part.
            pub fn of_part(part: &str) -> Result<Self, ParseNameError> {
                match part.contains('.') {
                    true => Err(ParseNameError { what: $what, text: part.chars().take(80).collect() }),
                    false => part.replace('=', ".").parse(),
                }
            }
        }

        impl FromStr for $name {
            type Err = ParseNameError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                check($what, text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseNameError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                check($what, &text)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name!(
    /// The name of a host in the fleet.
    HostName,
    "a host"
);
name!(
    /// The name of a group of hosts.
    GroupName,
    "a group"
);
name!(
    /// The name of an order.
    OrderId,
    "an order"
);

/// Whom an order is for: `all`, `group:NAME` or `host:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Target {
    /// Every host.
    All,
    /// The hosts that say that they are in this group.
    Group(GroupName),
    /// One host.
    Host(HostName),
}

impl Target {
    /// The subject of an order for this target.
    pub fn subject(&self, order: &OrderId) -> String {
        let order = order.part();
        match self {
            Self::All => format!("{ORDERS_PREFIX}.all.{order}"),
            Self::Group(name) => format!("{ORDERS_PREFIX}.group.{}.{order}", name.part()),
            Self::Host(name) => format!("{ORDERS_PREFIX}.host.{}.{order}", name.part()),
        }
    }

    /// Whether this host is meant.
    pub fn is(&self, host: &HostName, groups: &[GroupName]) -> bool {
        match self {
            Self::All => true,
            Self::Group(name) => groups.contains(name),
            Self::Host(name) => name == host,
        }
    }
}

/// The order that a subject is about.
pub fn order_of_subject(subject: &str) -> Option<OrderId> {
    let rest = subject.strip_prefix(ORDERS_PREFIX)?.strip_prefix('.')?;
    OrderId::of_part(rest.rsplit('.').next()?).ok()
}

/// The subjects that a host follows.
pub fn subjects_of(host: &HostName, groups: &[GroupName]) -> Vec<String> {
    let mut subjects = vec![
        format!("{ORDERS_PREFIX}.all.*"),
        format!("{ORDERS_PREFIX}.host.{}.*", host.part()),
    ];
    let groups = groups.iter();
    subjects.extend(groups.map(|group| format!("{ORDERS_PREFIX}.group.{}.*", group.part())));
    subjects
}

/// The key of a host's report about an order, and of its claim on a place.
pub fn key_of(order: &OrderId, host: &HostName) -> String {
    format!("{}.{}", order.part(), host.part())
}

/// What a key names.
pub fn parsed_key(key: &str) -> Option<(OrderId, HostName)> {
    let (order, host) = key.split_once('.')?;
    Some((OrderId::of_part(order).ok()?, HostName::of_part(host).ok()?))
}

impl FromStr for Target {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "all" => Ok(Self::All),
            Some(("group", name)) => Ok(Self::Group(name.parse()?)),
            Some(("host", name)) => Ok(Self::Host(name.parse()?)),
            _ => Err(ParseNameError {
                what: "a target (all, group:NAME or host:NAME)",
                text: text.chars().take(80).collect(),
            }),
        }
    }
}

impl TryFrom<String> for Target {
    type Error = ParseNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Group(name) => write!(f, "group:{name}"),
            Self::Host(name) => write!(f, "host:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn names_become_parts_and_come_back(a in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,20}", b in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,20}") {
            let (one, two): (HostName, HostName) = (a.parse().unwrap(), b.parse().unwrap());
            let part = one.part();
            prop_assert!(!part.contains(['.', '*', '>', ' ']));
            prop_assert_eq!(HostName::of_part(&part).unwrap(), one.clone());
            prop_assert_eq!(one.part() == two.part(), one == two);
            let order: OrderId = b.parse().unwrap();
            prop_assert_eq!(parsed_key(&key_of(&order, &one)), Some((order.clone(), one.clone())));
            let target = Target::Host(one);
            prop_assert_eq!(order_of_subject(&target.subject(&order)), Some(order));
            prop_assert_eq!(target.to_string().parse::<Target>().unwrap(), target);
        }
    }

    #[test]
    fn what_would_be_a_wildcard_or_another_part_is_no_name() {
        for text in [
            "",
            "*",
            ">",
            "a b",
            "a=b",
            ".a",
            "a/b",
            "-a",
            "ä",
            &"a".repeat(256),
        ] {
            assert!(text.parse::<HostName>().is_err(), "{text:?}");
        }
        assert!(HostName::of_part("a.b").is_err());
        assert!("group:".parse::<Target>().is_err());
        assert!("hosts:a".parse::<Target>().is_err());
    }

    #[test]
    fn a_host_follows_its_own_subjects_only() {
        let host: HostName = "kvm1.example.com".parse().unwrap();
        let groups = ["rack-1".parse().unwrap()];
        assert_eq!(
            subjects_of(&host, &groups),
            [
                "lvp.v1.order.all.*",
                "lvp.v1.order.host.kvm1=example=com.*",
                "lvp.v1.order.group.rack-1.*",
            ]
        );
        assert!(Target::All.is(&host, &groups));
        assert!("group:rack-1".parse::<Target>().unwrap().is(&host, &groups));
        assert!(!"group:rack-2".parse::<Target>().unwrap().is(&host, &groups));
        assert!(!"host:kvm2".parse::<Target>().unwrap().is(&host, &groups));
    }
}
