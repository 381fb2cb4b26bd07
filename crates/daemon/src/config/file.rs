//! The configuration's file: every value as the text that was written.
//!
//! YAML gives unquoted text a type that depends on what it looks like, and a program that asks for that type may get
//! something other than what is in the file: `00123456`, `1e10` and `0x1F` become different numbers, and so may a long
//! one. The file is therefore read twice: once for its structure, and then every value as text.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::ignored::IGNORED;
use super::keys::{KEYS, Key, Kind};
use super::load::ConfigError;

/// How similar an unknown key and a known one must be for a hint, from 0 to 1.
const HINT_SIMILARITY: f64 = 0.6;

/// The value of a key, by its form.
enum Shape {
    Null,
    One,
    Several(Vec<Shape>),
    Map,
}

type Shapes = BTreeMap<String, Option<BTreeMap<String, Shape>>>;

/// The value of a key.
enum Value {
    Absent,
    One(String),
    Several(Vec<Option<String>>),
    Map,
}

/// What happens with unknown keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strangers {
    /// They are an error.
    Refused,
    /// They are ignored with a warning.
    LeftOut,
}

/// The file's sections and keys as `section.key`, each value as text; list items are joined with commas. A key without
/// a value is left out.
pub(super) fn read(
    path: &Path,
    text: &str,
    strangers: Strangers,
    warnings: &mut Vec<String>,
) -> Result<BTreeMap<String, String>, ConfigError> {
    let syntax = |reason: String| ConfigError::Syntax {
        path: path.to_owned(),
        reason,
    };
    let text = text.trim_start_matches('\u{feff}');
    if text.trim().is_empty() {
        return Ok(BTreeMap::new());
    }
    // The parser refuses a file in which more than 96 comment lines follow each other, and a file whose keys
    // are all commented out has that many.
    let options = || {
        serde_saphyr::options! {
            emit_comments: false,
            // The lines around a syntax error may hold secrets, and errors end up in logs.
            with_snippet: false,
            non_finite_float_policy: serde_saphyr::NonFiniteFloatPolicy::PassThrough,
        }
    };
    let shapes: Option<Shapes> = serde_saphyr::from_str_with_options(text, options())
        .map_err(|error| syntax(error.to_string()))?;
    let Some(shapes) = shapes else {
        return Ok(BTreeMap::new());
    };
    let sections = serde_saphyr::with_deserializer_from_str_with_options(text, options(), |yaml| {
        Sections(&shapes).deserialize(yaml)
    })
    .map_err(|error| syntax(error.to_string()))?;
    let mut flat = BTreeMap::new();
    for (section, keys) in sections {
        if !KEYS.iter().any(|key| section_of(key) == section) {
            stranger(&section, strangers, warnings)?;
            continue;
        }
        for (name, value) in keys {
            let full = format!("{section}.{name}");
            if let Some((_, why)) = IGNORED.iter().find(|(ignored, _)| *ignored == full) {
                warnings.push(format!("{full} is ignored: {why}"));
                continue;
            }
            let key = KEYS.iter().find(|key| key.is_called(&full));
            let Some(key) = key else {
                stranger(&full, strangers, warnings)?;
                continue;
            };
            let text = match value {
                Value::Absent => continue,
                Value::One(text) => numeral(key, text),
                Value::Several(items) if key.kind.takes_several() => several(key, items),
                Value::Several(_) => Err("must be a single value, not a list".to_owned()),
                Value::Map => Err("must be a value, not a section with keys".to_owned()),
            };
            let text = text.map_err(|reason| syntax(format!("{full} {reason}")))?;
            flat.insert(full, text);
        }
    }
    Ok(flat)
}

fn stranger(
    written: &str,
    strangers: Strangers,
    warnings: &mut Vec<String>,
) -> Result<(), ConfigError> {
    let error = unknown(written);
    if strangers == Strangers::Refused {
        return Err(error);
    }
    warnings.push(format!("{written} is ignored: {error}"));
    Ok(())
}

/// A list as one text.
fn several(key: &Key, items: Vec<Option<String>>) -> Result<String, String> {
    let mut texts = Vec::with_capacity(items.len());
    for item in items {
        let text = item.ok_or("has an empty item")?;
        if text.contains(',') {
            return Err(
                "has an item with a comma in it, but commas separate items: in a URL, write %2C"
                    .to_owned(),
            );
        }
        texts.push(numeral(key, text)?);
    }
    Ok(texts.join(","))
}

/// Refuses a number that other readers of YAML take for a different one.
fn numeral(key: &Key, text: String) -> Result<String, String> {
    let is_number = matches!(
        key.kind,
        Kind::Integer { .. } | Kind::Size | Kind::SizeOrAuto | Kind::MillisecondList
    );
    let has_leading_zero = |word: &str| {
        let mut bytes = word.trim().bytes();
        bytes.next() == Some(b'0') && bytes.next().is_some_and(|next| next.is_ascii_digit())
    };
    if is_number && text.split(',').any(has_leading_zero) {
        return Err(format!(
            "is {text}, which some programs read as octal and others as decimal: write it without leading zeros"
        ));
    }
    Ok(text)
}

fn section_of(key: &Key) -> &'static str {
    key.path.split('.').next().unwrap_or_default()
}

/// The error of a key or section that is not known.
pub(super) fn unknown(written: &str) -> ConfigError {
    let candidates: Vec<&'static str> = if written.contains('.') {
        KEYS.iter().map(|key| key.path).collect()
    } else {
        KEYS.iter().map(section_of).collect()
    };
    let hint = candidates
        .into_iter()
        .map(|known| {
            (
                strsim::normalized_damerau_levenshtein(known, written),
                known,
            )
        })
        .filter(|(similarity, _)| *similarity >= HINT_SIMILARITY)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known);
    ConfigError::UnknownKey {
        key: written.to_owned(),
        hint,
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyShape;

        impl<'de> Visitor<'de> for AnyShape {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Shape, E> {
                Ok(Shape::Null)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Shape, E> {
                Ok(Shape::One)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Shape, E> {
                Ok(Shape::One)
            }

            fn visit_i128<E>(self, _: i128) -> Result<Shape, E> {
                Ok(Shape::One)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Shape, E> {
                Ok(Shape::One)
            }

            fn visit_u128<E>(self, _: u128) -> Result<Shape, E> {
                Ok(Shape::One)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Shape, E> {
                Ok(Shape::One)
            }

            fn visit_str<E>(self, _: &str) -> Result<Shape, E> {
                Ok(Shape::One)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
                let mut shapes = Vec::new();
                while let Some(shape) = items.next_element()? {
                    shapes.push(shape);
                }
                Ok(Shape::Several(shapes))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Shape::Map)
            }
        }

        deserializer.deserialize_any(AnyShape)
    }
}

/// Reads the file's structure.
struct Sections<'a>(&'a Shapes);

/// Reads one section.
struct Section<'a>(Option<&'a BTreeMap<String, Shape>>);

/// Reads one value.
struct Text<'a>(&'a Shape);

impl<'de> DeserializeSeed<'de> for Sections<'_> {
    type Value = BTreeMap<String, BTreeMap<String, Value>>;

    fn deserialize<D: Deserializer<'de>>(self, yaml: D) -> Result<Self::Value, D::Error> {
        yaml.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Sections<'_> {
    type Value = BTreeMap<String, BTreeMap<String, Value>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sections")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut sections = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            let shape = self.0.get(&name).and_then(Option::as_ref);
            sections.insert(name, map.next_value_seed(Section(shape))?);
        }
        Ok(sections)
    }
}

impl<'de> DeserializeSeed<'de> for Section<'_> {
    type Value = BTreeMap<String, Value>;

    fn deserialize<D: Deserializer<'de>>(self, yaml: D) -> Result<Self::Value, D::Error> {
        match self.0 {
            Some(_) => yaml.deserialize_map(self),
            None => Option::<IgnoredAny>::deserialize(yaml).map(|_| BTreeMap::new()),
        }
    }
}

impl<'de> Visitor<'de> for Section<'_> {
    type Value = BTreeMap<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("keys")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            let shape = self.0.and_then(|shapes| shapes.get(&name));
            let value = map.next_value_seed(Text(shape.unwrap_or(&Shape::Null)))?;
            values.insert(name, value);
        }
        Ok(values)
    }
}

impl<'de> DeserializeSeed<'de> for Text<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, yaml: D) -> Result<Value, D::Error> {
        match self.0 {
            Shape::Null => Option::<IgnoredAny>::deserialize(yaml).map(|_| Value::Absent),
            Shape::One => String::deserialize(yaml).map(Value::One),
            Shape::Several(items)
                if items
                    .iter()
                    .all(|item| matches!(item, Shape::One | Shape::Null)) =>
            {
                Vec::deserialize(yaml).map(Value::Several)
            }
            Shape::Several(_) | Shape::Map => IgnoredAny::deserialize(yaml).map(|_| Value::Map),
        }
    }
}

#[cfg(test)]
mod tests;
