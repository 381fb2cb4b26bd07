//! One log line, as JSON or text, with values that cannot forge fields and have a maximum length.
//!
//! Values come from requests, images, servers and tools. Whatever they hold, a line stays one line, its fields stay
//! distinguishable, and it has no effect on a terminal that shows it: characters that are not printable (control
//! characters, ANSI's escape, Unicode's line separators and direction marks) are written as escapes. In text, a value
//! that is not a plain word is quoted. A value longer than [`VALUE_MAX_BYTES`] is cut, and so is everything after
//! [`LINE_MAX_BYTES`] of values; the cut says how much is missing.

use std::fmt::{self, Write};

use serde_json::{Map, Value};
use tracing::Level;

/// Longest value of one field. The longest that is expected is an error with a tool's output, about 2 KiB.
const VALUE_MAX_BYTES: usize = 4 << 10; // 4 KiB

/// Longest sum of all values: journald splits lines at 48 KiB, and an escape takes at most six characters for a
/// byte.
const LINE_MAX_BYTES: usize = 7 << 10; // 7 KiB

/// The ids of a line, written before its other fields so that people find them.
const IDS: [&str; 4] = ["trace_id", "span_id", "job_id", "correlation_id"];

/// A line that is being built.
pub(super) struct Line {
    pub(super) timestamp: String,
    pub(super) level: Level,
    pub(super) component: String,
    pub(super) message: String,
    pub(super) fields: Map<String, Value>,
}

impl Line {
    /// `{"timestamp":..,"level":..,"component":..,IDS,"message":..,FIELDS}`
    pub(super) fn json(mut self, writer: &mut dyn Write) -> fmt::Result {
        let mut room = Room(LINE_MAX_BYTES);
        let level = self.level.as_str().to_ascii_lowercase();
        let mut pairs = vec![
            ("timestamp".to_owned(), self.timestamp.into()),
            ("level".to_owned(), level.into()),
            ("component".to_owned(), self.component.into()),
        ];
        pairs.extend(take_ids(&mut self.fields));
        pairs.push(("message".to_owned(), self.message.into()));
        pairs.extend(self.fields);
        for (index, (name, value)) in pairs.into_iter().enumerate() {
            writer.write_char(if index == 0 { '{' } else { ',' })?;
            quoted(writer, &name, json_escape)?;
            writer.write_char(':')?;
            match value {
                Value::String(text) => quoted(writer, &room.take(text), json_escape)?,
                value => write!(writer, "{value}")?,
            }
        }
        writer.write_str("}\n")
    }

    /// `TIMESTAMP [LEVEL] component: message (key=value, ...)`
    pub(super) fn text(self, writer: &mut dyn Write) -> fmt::Result {
        let (timestamp, level, component) = (&self.timestamp, self.level, &self.component);
        write!(writer, "{timestamp} [{level}] {component}: ")?;
        self.rest(writer)?;
        writer.write_char('\n')
    }

    /// `message (key=value, ...)`
    pub(super) fn rest(mut self, writer: &mut dyn Write) -> fmt::Result {
        let mut room = Room(LINE_MAX_BYTES);
        for character in room.take(self.message).chars() {
            plain(writer, character, text_escape)?;
        }
        let ids = take_ids(&mut self.fields);
        let mut before = " (";
        for (name, value) in ids.into_iter().chain(self.fields) {
            write!(writer, "{before}{name}=")?;
            match value {
                Value::String(text) if is_word(&text) => writer.write_str(&room.take(text))?,
                Value::String(text) => quoted(writer, &room.take(text), text_escape)?,
                value => write!(writer, "{value}")?,
            }
            before = ", ";
        }
        writer.write_str(if before == ", " { ")" } else { "" })
    }
}

/// A text of others as one that is printable, on one line and of limited length.
pub fn printable(text: &str) -> String {
    let mut printable = String::new();
    let text = Room(LINE_MAX_BYTES).take(text.to_owned());
    for character in text.chars() {
        // Writing to a string cannot fail.
        plain(&mut printable, character, text_escape).ok();
    }
    printable
}

/// The room that is left for values.
struct Room(usize);

impl Room {
    /// As much of a value as there is room for.
    fn take(&mut self, mut text: String) -> String {
        let limit = VALUE_MAX_BYTES.min(self.0);
        if text.len() > limit {
            let end = text.floor_char_boundary(limit);
            let missing = text.len() - end;
            text.truncate(end);
            self.0 -= end;
            text.push_str(&format!("\u{2026} ({missing} bytes more)"));
        } else {
            self.0 -= text.len();
        }
        text
    }
}

/// The ids of a line, taken out of its fields.
fn take_ids(fields: &mut Map<String, Value>) -> Vec<(String, Value)> {
    let take = |name: &str| fields.remove_entry(name);
    IDS.into_iter().filter_map(take).collect()
}

/// Whether a value needs no quotes in text: nothing in it ends the value or looks like the next
/// field.
fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/@+%~?&#*[]{}".contains(&byte))
}

type Escape = fn(&mut dyn Write, char) -> fmt::Result;

fn quoted(writer: &mut dyn Write, text: &str, escape: Escape) -> fmt::Result {
    writer.write_char('"')?;
    for character in text.chars() {
        match character {
            '"' => writer.write_str("\\\"")?,
            '\\' => writer.write_str("\\\\")?,
            character => plain(writer, character, escape)?,
        }
    }
    writer.write_char('"')
}

/// A character that is no syntax: itself, or an escape if it is not printable.
fn plain(writer: &mut dyn Write, character: char, escape: Escape) -> fmt::Result {
    match character {
        '\n' => writer.write_str("\\n"),
        '\r' => writer.write_str("\\r"),
        '\t' => writer.write_str("\\t"),
        character if is_printable(character) => writer.write_char(character),
        character => escape(writer, character),
    }
}

/// Whether a character is printable, by the standard library's table, as for `Debug`.
fn is_printable(character: char) -> bool {
    // `Debug` escapes quotes and backslashes for another reason.
    matches!(character, '\'' | '"' | '\\') || character.escape_debug().count() == 1
}

/// RFC 8259, section 7: in units of UTF-16.
fn json_escape(writer: &mut dyn Write, character: char) -> fmt::Result {
    let mut units = [0; 2];
    for unit in character.encode_utf16(&mut units) {
        write!(writer, "\\u{unit:04x}")?;
    }
    Ok(())
}

fn text_escape(writer: &mut dyn Write, character: char) -> fmt::Result {
    write!(writer, "{}", character.escape_unicode())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value of somebody who tries to forge another line.
    const EVIL: &str = "x\"\r\n2026-01-01T00:00:00.000Z [ERROR] audit: Forged (status=200)\u{1b}[2K\u{7f}\u{85}\
                        \u{9b}31m\u{2028}\u{2029}\u{202e}\u{200b}\u{feff}, principal=root) \\ é \u{e0001}";

    fn line(message: &str, fields: &[(&str, &str)]) -> Line {
        Line {
            timestamp: "2026-01-27T10:30:45.123Z".to_owned(),
            level: Level::INFO,
            component: "audit".to_owned(),
            message: message.to_owned(),
            fields: fields
                .iter()
                .map(|(name, value)| ((*name).to_owned(), Value::from(*value)))
                .collect(),
        }
    }

    fn text(line: Line) -> String {
        let mut text = String::new();
        line.text(&mut text).expect("a string takes all");
        text
    }

    fn json(line: Line) -> String {
        let mut text = String::new();
        line.json(&mut text).expect("a string takes all");
        text
    }

    #[test]
    fn plain_words_have_no_quotes_and_everything_else_has() {
        let fields = [
            ("path", "/api/v1/jobs"),
            ("error", "No such file"),
            ("id", "a"),
            ("job_id", "7"),
            ("z", ""),
        ];
        assert_eq!(
            text(line("Request", &fields)),
            "2026-01-27T10:30:45.123Z [INFO] audit: Request (job_id=7, error=\"No such file\", id=a, \
             path=/api/v1/jobs, z=\"\")\n"
        );
        assert_eq!(
            text(line("Ready", &[])),
            "2026-01-27T10:30:45.123Z [INFO] audit: Ready\n"
        );
    }

    #[test]
    fn no_value_ends_its_line_or_its_field_or_moves_a_cursor() {
        for found in [
            text(line(EVIL, &[("subject", EVIL)])),
            json(line(EVIL, &[("subject", EVIL)])),
        ] {
            let body = found.strip_suffix('\n').expect("it is a line");
            for character in body.chars() {
                assert!(is_printable(character), "{character:?} in {found:?}");
            }
            // The quotes of the last field are never closed by the value.
            let (_, value) = body.rsplit_once("subject").expect("it is there");
            let bare = value.replace("\\\\", "").replace("\\\"", "");
            assert_eq!(
                bare.matches('"').count(),
                if found.starts_with('{') { 3 } else { 2 },
                "{value}"
            );
        }
        let parsed: Value =
            serde_json::from_str(&json(line(EVIL, &[("subject", EVIL)]))).expect("it is JSON");
        assert_eq!(parsed["subject"], EVIL);
        assert_eq!(parsed["message"], EVIL);
    }

    #[test]
    fn a_line_has_an_end_however_much_it_is_given() {
        let long = "\u{1b}é".repeat(300_000);
        let fields = ["a", "b", "c", "d"].map(|name| (name, long.as_str()));
        for found in [text(line(&long, &fields)), json(line(&long, &fields))] {
            // journald's LineMax.
            assert!(found.len() < 48 << 10, "{} bytes", found.len());
            assert!(found.contains("bytes more)"), "{found}");
        }
        assert!(serde_json::from_str::<Value>(&json(line(&long, &fields))).is_ok());
    }
}
