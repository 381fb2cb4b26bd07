//! Names of things that are written: in reports, metrics, files and on command lines.

use std::fmt;

/// A text that is not a name of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownName {
    what: &'static str,
    found: String,
    known: Vec<&'static str>,
}

impl UnknownName {
    pub(crate) fn new(what: &'static str, found: &str, known: Vec<&'static str>) -> Self {
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
            "`{found}` is not a known {what}: use one of {}",
            known.join(", ")
        )
    }
}

impl std::error::Error for UnknownName {}

/// Gives an enum its list of variants, and each variant a name that can be read back.
macro_rules! named {
    ($type:ty, $what:literal, { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl $type {
            /// All of them, in their order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// A stable name for programs, logs and reports.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::names::UnknownName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let found = Self::ALL.iter().find(|known| known.as_str() == text);
                found.copied().ok_or_else(|| {
                    let known = Self::ALL.iter().map(|known| known.as_str()).collect();
                    $crate::names::UnknownName::new($what, text, known)
                })
            }
        }
    };
}

pub(crate) use named;

#[cfg(test)]
mod tests {
    use std::fmt::{Debug, Display};
    use std::str::FromStr;

    use super::UnknownName;
    use crate::device::ZeroMethod;
    use crate::error::ErrorKind;
    use crate::format::{Compression, ImageType, StreamCodec, Subformat};

    fn check<T>(all: &[T], what: &str)
    where
        T: Copy + Debug + Display + PartialEq + FromStr<Err = UnknownName>,
    {
        for one in all {
            assert_eq!(one.to_string().parse::<T>().as_ref(), Ok(one));
        }
        for unknown in ["", "Qcow2", "qcow2 ", "other"] {
            let error = unknown.parse::<T>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{unknown}` is not a known {what}: use one of ")));
            assert!(error.contains(&all[0].to_string()), "{error}");
        }
    }

    #[test]
    fn every_name_is_read_back_and_an_unknown_one_is_an_error_that_lists_them() {
        check(ImageType::ALL, "image type");
        check(Compression::ALL, "cluster compression");
        check(StreamCodec::ALL, "stream codec");
        check(Subformat::ALL, "subformat");
        check(ZeroMethod::ALL, "zeroing method");
        check(ErrorKind::ALL, "kind of error");
    }
}
