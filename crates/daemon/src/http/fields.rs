//! The fields of a request: of its JSON body, or of its query.
//!
//! They are read one by one, so that an error names the field, what was expected and what was found. `null`
//! always counts as absent. Names are matched in any case, as the Go program does. An unknown field is ignored,
//! with a warning in the answer (`warnings`) and in the log; one that is nearly a known name is refused, as
//! ignoring it would do something other than what was requested.

use std::fmt;

use axum::http::Uri;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::error::ApiError;

/// How similar an unknown name must be to a known one to count as misspelt, 0 to 1.
const MISSPELT_SIMILARITY: f64 = 0.75;

/// How many unknown fields are named; the others are only counted.
const WARNINGS_MAX: usize = 10;

/// How many characters of an unexpected name or value are shown.
const SHOWN_CHARS: usize = 64;

/// The fields of a request.
#[derive(Debug)]
pub(super) struct Fields {
    found: Vec<(&'static str, Value)>,
    warnings: Vec<String>,
}

impl Fields {
    /// The fields of a JSON object.
    pub(super) fn of_json(body: &[u8], known: &[&'static str]) -> Result<Self, ApiError> {
        let value: Object = serde_json::from_slice(body)
            .map_err(|error| ApiError::bad_request(format!("The body is not JSON: {error}")))?;
        match value {
            Object::Fields(fields) => Self::new(fields, known),
            Object::Other(value) => Err(ApiError::bad_request(format!(
                "The body must be a JSON object, not {}",
                described(&value)
            ))),
        }
    }

    /// The fields of a query.
    pub(super) fn of_query(uri: &Uri, known: &[&'static str]) -> Result<Self, ApiError> {
        let pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        let fields = pairs.map(|(name, value)| (name.into_owned(), value.into_owned().into()));
        Self::new(fields.collect(), known)
    }

    fn new(fields: Vec<(String, Value)>, known: &[&'static str]) -> Result<Self, ApiError> {
        let mut found: Vec<(&'static str, Value)> = Vec::new();
        let mut strangers = Vec::new();
        for (name, value) in fields {
            let Some(known) = known.iter().find(|known| known.eq_ignore_ascii_case(&name)) else {
                if let Some(meant) = meant(&name, known) {
                    return Err(ApiError::bad_request(format!(
                        "{}: unknown field: use {meant} if that is what was meant",
                        shown(&name)
                    )));
                }
                strangers.push(shown(&name));
                continue;
            };
            if found.iter().any(|(other, _)| other == known) {
                return Err(ApiError::bad_request(format!("{known}: is given twice")));
            }
            found.push((known, value));
        }
        let more = strangers.len().saturating_sub(WARNINGS_MAX);
        let mut warnings: Vec<_> = strangers
            .iter()
            .take(WARNINGS_MAX)
            .map(|name| format!("{name}: unknown field, ignored"))
            .collect();
        if more > 0 {
            warnings.push(format!("{more} more unknown fields were ignored"));
        }
        if !warnings.is_empty() {
            tracing::warn!(
                component = "http",
                warnings = warnings.join("; "),
                "A request has unknown fields"
            );
        }
        found.retain(|(_, value)| !value.is_null());
        Ok(Self { found, warnings })
    }

    /// Warnings for the client, sent with the answer.
    pub(super) fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    /// A string.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(expected(name, "a string", other)),
        }
    }

    /// A whole number that is not negative.
    pub(super) fn whole<T: TryFrom<u64>>(&self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let number = value.as_u64().and_then(|number| T::try_from(number).ok());
        number
            .map(Some)
            .ok_or_else(|| expected(name, "a whole number", value))
    }

    /// The same in a query, where everything is a string.
    pub(super) fn whole_text<T: TryFrom<u64>>(&self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let number = text.parse::<u64>().ok();
        number
            .and_then(|number| T::try_from(number).ok())
            .map(Some)
            .ok_or_else(|| expected(name, "a whole number", &text.into()))
    }

    /// `true` or `false`.
    pub(super) fn truth(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(truth)) => Ok(Some(*truth)),
            Some(other) => Err(expected(name, "true or false", other)),
        }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        let found = self.found.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value)
    }
}

fn expected(name: &str, what: &str, found: &Value) -> ApiError {
    ApiError::bad_request(format!("{name}: must be {what}, not {}", described(found)))
}

/// A value as it is shown to the client that sent it.
fn described(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(truth) => truth.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the string {:?}", cut(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

fn shown(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_graphic() && c != '"';
    match name.chars().all(is_plain) && !name.is_empty() {
        true => cut(name),
        false => format!("{:?}", cut(name)),
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
    }
}

/// The known name that a misspelt one most likely means.
fn meant(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let squeezed = |name: &str| -> String {
        let kept = name.chars().filter(char::is_ascii_alphanumeric);
        kept.map(|c| c.to_ascii_lowercase()).collect()
    };
    let lower = name.to_ascii_lowercase();
    let likeness = |known: &str| match squeezed(known) == squeezed(name) {
        true => 1.0,
        false => strsim::normalized_damerau_levenshtein(known, &lower),
    };
    known
        .iter()
        .map(|known| (likeness(known), *known))
        .filter(|(likeness, _)| *likeness >= MISSPELT_SIMILARITY)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

/// A JSON object with its fields in order, including duplicates.
enum Object {
    Fields(Vec<(String, Value)>),
    Other(Value),
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyObject;

        impl<'de> Visitor<'de> for AnyObject {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Object::Fields(fields))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut items: A,
            ) -> Result<Object, A::Error> {
                while items.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                Ok(Object::Other(Value::Array(Vec::new())))
            }

            fn visit_unit<E>(self) -> Result<Object, E> {
                Ok(Object::Other(Value::Null))
            }

            fn visit_bool<E>(self, truth: bool) -> Result<Object, E> {
                Ok(Object::Other(truth.into()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Object, E> {
                Ok(Object::Other(number.into()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Object, E> {
                Ok(Object::Other(number.into()))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Object, E> {
                Ok(Object::Other(number.into()))
            }

            fn visit_str<E>(self, text: &str) -> Result<Object, E> {
                Ok(Object::Other(text.into()))
            }
        }

        deserializer.deserialize_any(AnyObject)
    }
}

#[cfg(test)]
mod tests;
