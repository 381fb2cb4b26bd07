//! Percent-encoding: decoded exactly once, and encoded as signatures need it.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Decodes a path and refuses what a server or a URL library might resolve to something else.
pub(super) fn decode_path(path: &str) -> Result<String, String> {
    let decoded = decode(path)?;
    check_segments(&decoded)?;
    Ok(decoded)
}

/// Refuses segments that name folders in a path.
pub(super) fn check_segments(path: &str) -> Result<(), String> {
    match path.split('/').any(|part| matches!(part, "." | "..")) {
        true => Err("its path has a '.' or '..' segment".to_owned()),
        false => Ok(()),
    }
}

/// Percent-decodes once, and refuses what is not printable UTF-8 afterwards.
pub(super) fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let value = digit()
            .zip(digit())
            .and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
        let Some(value) = value else {
            return Err("a % in it is not followed by two hex digits; write it as %25".to_owned());
        };
        bytes.push(value);
    }
    let decoded = String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    check_characters(&decoded)?;
    Ok(decoded)
}

/// Refuses control characters, and those that servers interpret in different ways.
pub(super) fn check_characters(text: &str) -> Result<(), String> {
    if text.chars().any(char::is_control) {
        return Err("it contains control characters".to_owned());
    }
    if text.contains('\\') {
        return Err(
            "it contains a backslash, which servers interpret in different ways".to_owned(),
        );
    }
    Ok(())
}

/// What is encoded in a canonical URI of SigV4: everything except the unreserved characters of RFC 3986 (section 2.3)
/// and the slash.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// Encodes a key for a canonical URI of SigV4.
pub(super) fn encode(key: &str) -> String {
    utf8_percent_encode(key, ENCODED).to_string()
}
