//! Names of enum variants as text: in requests, answers, configuration, databases.
//!
//! [`named!`](crate::named) gives an enum one table of names, for both writing and reading. A text that is not
//! in the table is an error, and never the first or a default variant.

use std::fmt;

/// A text that is not a known name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownName {
    what: &'static str,
    found: String,
    known: &'static [&'static str],
}

impl UnknownName {
    /// `found` is none of the `known` names of `what`.
    pub fn new(what: &'static str, found: &str, known: &'static [&'static str]) -> Self {
        Self {
            what,
            found: found.to_owned(),
            known,
        }
    }
}

impl fmt::Display for UnknownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, found, known } = self;
        write!(
            f,
            "{found:?} is not a known {what}: use one of {}",
            known.join(", ")
        )
    }
}

impl std::error::Error for UnknownName {}

/// Gives an enum its list of variants, and each variant its name in both directions.
///
/// ```
/// #[derive(Debug, Clone, Copy, PartialEq)]
/// enum Fruit {
///     Apple,
///     Pear,
/// }
/// lvp_api::named!(Fruit, "fruit", { Apple => "apple", Pear => "pear" });
///
/// assert_eq!(Fruit::ALL.map(Fruit::as_str), ["apple", "pear"]);
/// assert_eq!("pear".parse(), Ok(Fruit::Pear));
/// assert!("plum".parse::<Fruit>().is_err());
/// ```
#[macro_export]
macro_rules! named {
    ($type:ty, $what:literal, { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl $type {
            /// All variants, in order.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

            /// Their names, in the same order.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// The variant's name.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }
        }

        impl ::std::fmt::Display for $type {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl ::std::str::FromStr for $type {
            type Err = $crate::names::UnknownName;

            fn from_str(text: &str) -> ::std::result::Result<Self, Self::Err> {
                let found = Self::ALL.into_iter().find(|known| known.as_str() == text);
                found.ok_or_else(|| $crate::names::UnknownName::new($what, text, Self::NAMES))
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use std::fmt::{Debug, Display};
    use std::str::FromStr;

    use serde::Serialize;
    use serde::de::DeserializeOwned;

    use super::UnknownName;
    use crate::{
        Cloning, FeedEvent, HealthStatus, ImageType, JobEvent, JobKind, JobState, Method, Priority,
        SignatureFormat, Stage, Verified, VolumeKind, WhenFull,
    };

    fn check<T>(all: &[T], what: &str)
    where
        T: Copy + Debug + Display + PartialEq + FromStr<Err = UnknownName>,
    {
        for one in all {
            assert_eq!(one.to_string().parse::<T>().as_ref(), Ok(one));
        }
        let first = all[0].to_string();
        for unknown in [
            "",
            " ",
            "other",
            &first.to_uppercase(),
            &format!("{first} "),
        ] {
            let error = unknown.parse::<T>().unwrap_err().to_string();
            let expected = format!("{unknown:?} is not a known {what}: use one of {first}");
            assert!(error.starts_with(&expected), "{error}");
        }
    }

    /// JSON uses the same names.
    fn check_json<T>(all: &[T])
    where
        T: Copy + Debug + Display + PartialEq + Serialize + DeserializeOwned,
    {
        for one in all {
            let json = serde_json::to_string(one).unwrap();
            assert_eq!(json, format!("\"{one}\""));
            assert_eq!(&serde_json::from_str::<T>(&json).unwrap(), one);
        }
        assert!(serde_json::from_str::<T>("\"other\"").is_err());
    }

    #[test]
    fn every_name_is_read_back_and_an_unknown_one_is_an_error_that_lists_them() {
        check(&ImageType::ALL, "image type");
        check(&Verified::ALL, "verification");
        check(&SignatureFormat::ALL, "form of signatures");
        check(&JobState::ALL, "job state");
        check(&JobKind::ALL, "kind of job");
        check(&Stage::ALL, "stage");
        check(&JobEvent::ALL, "event of a job");
        check(&FeedEvent::ALL, "event of all jobs");
        check(&HealthStatus::ALL, "health");
        check(&VolumeKind::ALL, "kind of volume");
        check(&Cloning::ALL, "way to clone");
        check(&Method::ALL, "way of making a volume");
        check(&WhenFull::ALL, "answer to a full pool");
        check(&Priority::ALL, "priority");
    }

    #[test]
    fn json_has_the_same_names() {
        check_json(&ImageType::ALL);
        check_json(&Verified::ALL);
        check_json(&SignatureFormat::ALL);
        check_json(&JobState::ALL);
        check_json(&JobKind::ALL);
        check_json(&Stage::ALL);
        check_json(&HealthStatus::ALL);
        check_json(&VolumeKind::ALL);
        check_json(&Cloning::ALL);
        check_json(&Method::ALL);
        check_json(&WhenFull::ALL);
        check_json(&Priority::ALL);
    }

    #[test]
    fn names_take_the_width_that_is_asked_for() {
        assert_eq!(format!("{:<9}|", JobState::Failed), "failed   |");
    }
}
