//! Removes what gets around a value by accident: line ends of secret files, spaces, byte order marks.
//!
//! Around a value these characters are ignored: no key's value begins or ends with any of them. Inside a value they are
//! refused, naming the key, because the damage they do there (headers that cannot be made, names that cannot be typed)
//! would be noticed much later.

use super::keys::Kind;

/// A value without the characters around it.
pub(super) fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || is_invisible(c))
}

/// Whether more than a final line end was removed. Most secret files end with one.
pub(super) fn is_odd(text: &str) -> bool {
    text.trim_end_matches(['\r', '\n']) != trimmed(text)
}

/// Refuses characters that cannot have been intended. The error does not show the value, which may
/// be a secret.
pub(super) fn check(kind: Kind, text: &str) -> Result<(), String> {
    if let Some(found) = text.chars().find(|c| c.is_control() || is_invisible(*c)) {
        let code = u32::from(found);
        let what = match found {
            '\n' | '\r' => "a line end",
            '\t' => "a tab",
            found if found.is_control() => "a control character",
            _ => "an invisible character",
        };
        return Err(format!(
            "has {what} (U+{code:04X}) in the middle: remove it"
        ));
    }
    if kind == Kind::Word
        && let Some(found) = text.chars().find(|c| !c.is_ascii_graphic())
    {
        let code = u32::from(found);
        return Err(format!(
            "has a character (U+{code:04X}) that cannot be sent in a header: use ASCII letters, digits and punctuation, \
             and no blanks"
        ));
    }
    Ok(())
}

/// Characters without width that are neither spaces nor controls: byte order marks, joiners, direction marks.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}'
            | '\u{2066}'..='\u{2069}' | '\u{feff}'
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::super::keys::{KEYS, Key};
    use super::super::{Config, Settings};
    use super::*;

    const AROUND: [&str; 8] = [
        "\n", "\r\n", " ", "\t", "\u{feff}", "\u{a0}", "\u{200b}", " \n\n",
    ];

    fn with(variables: &[(&str, &str)]) -> Result<Settings, String> {
        let found = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Settings::load("/no/config.yaml".as_ref(), false, found).map_err(|error| error.to_string())
    }

    fn text(settings: &Settings, path: &str) -> String {
        let mut all = settings.iter();
        let (_, setting) = all.find(|(key, _)| key.path == path).unwrap();
        setting.text.clone()
    }

    /// A value of the key's form.
    fn value(key: &Key) -> &'static str {
        match key.kind {
            Kind::Text if key.path == "tracing.resource_attributes" => "a=b",
            Kind::Integer { .. } | Kind::Size | Kind::SizeOrAuto | Kind::MillisecondList => "12",
            Kind::Fraction | Kind::Sampling => "0.5",
            Kind::Bool => "true",
            Kind::Duration { .. } => "12h",
            Kind::OneOf(words) | Kind::Words(words) => words[0],
            Kind::Address => "127.0.0.1",
            Kind::Stream(_) => "stderr",
            Kind::Text | Kind::Word | Kind::Path | Kind::Secret | Kind::Secrets | Kind::List => {
                "/a"
            }
        }
    }

    #[test]
    fn characters_around_a_value_are_ignored_wherever_the_value_is_from() {
        for key in KEYS {
            let clean = value(key);
            for around in AROUND {
                for dirty in [format!("{clean}{around}"), format!("{around}{clean}")] {
                    let settings = with(&[(key.env[0], &dirty)]).expect("it is taken");
                    assert_eq!(text(&settings, key.path), clean, "{} {dirty:?}", key.path);
                    let mut settings = with(&[]).unwrap();
                    settings.set(key.path, &dirty).expect("it is taken");
                    assert_eq!(text(&settings, key.path), clean, "{} {dirty:?}", key.path);
                }
            }
            let (section, name) = key.path.split_once('.').unwrap();
            let mut file = tempfile::NamedTempFile::new().unwrap();
            write!(file, "{section}:\n  {name}: |\n    {clean}\n\n").unwrap();
            let settings = Settings::load(file.path(), true, |_| None).expect("it is taken");
            assert_eq!(text(&settings, key.path), clean, "{}", key.path);
        }
    }

    #[test]
    fn ignored_spaces_are_warned_of_and_a_final_line_end_is_not() {
        for (dirty, told) in [
            ("AKID\n", 0),
            ("AKID\r\n", 0),
            (" AKID", 1),
            ("\u{feff}AKID", 1),
        ] {
            let settings = with(&[("MINIO_ACCESS_KEY", dirty)]).unwrap();
            assert_eq!(settings.warnings.len(), told, "{:?}", settings.warnings);
        }
    }

    #[test]
    fn characters_inside_a_value_are_refused_by_key_and_a_secret_is_not_shown() {
        for key in KEYS {
            for within in ["\n", "\0", "\t", "\u{feff}", "\u{202e}"] {
                let dirty = format!("{}{within}x", value(key));
                let mut settings = with(&[]).unwrap();
                let error = settings.set(key.path, &dirty).expect_err("it is refused");
                assert!(error.to_string().starts_with(key.path), "{error}");
            }
        }
        for (name, key) in [
            ("MINIO_ACCESS_KEY", "minio.access_key"),
            ("MINIO_REGION", "minio.region"),
        ] {
            for dirty in ["two words", "schlüssel", "\u{1f511}"] {
                let error = with(&[(name, dirty)]).expect_err("it is refused");
                assert!(error.starts_with(key), "{error}");
            }
        }
        let error = with(&[("MINIO_SECRET_KEY", "hunter\n2")]).expect_err("it is refused");
        assert!(!error.contains("hunter"), "{error}");
    }

    #[test]
    fn credentials_from_secret_files_make_a_configuration() {
        let settings = with(&[
            ("MINIO_ENDPOINT", "http://s3:9000\n"),
            ("MINIO_ACCESS_KEY", "AKID\n"),
            ("MINIO_SECRET_KEY", "SECRET\r\n"),
            ("MINIO_REGION", "\u{feff}eu-west-1\n"),
        ]);
        let minio = Config::from_settings(&settings.unwrap()).unwrap().minio;
        assert_eq!(minio.access_key.as_deref(), Some("AKID"));
        assert_eq!(minio.secret_key.unwrap().expose(), "SECRET");
        assert_eq!(minio.region, "eu-west-1");
    }
}
