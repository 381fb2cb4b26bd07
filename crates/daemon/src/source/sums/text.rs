//! Decodes a checksum file into the lines that count.

use std::borrow::Cow;

/// How a clearsigned text begins (RFC 9580, section 7), and how its signature does.
const SIGNED_BEGIN: &str = "-----BEGIN PGP SIGNED MESSAGE-----";
const SIGNATURE_BEGIN: &str = "-----BEGIN PGP SIGNATURE-----";

/// Decodes UTF-8 and UTF-16, the latter with a byte order mark (as PowerShell's `>` writes it) or without.
pub(super) fn decode(bytes: &[u8]) -> Cow<'_, str> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = bytes.as_chunks::<2>().0.iter().map(|pair| unit(*pair));
        let text = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER));
        Cow::Owned(text.collect())
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [first, 0, ..] if *first != 0 => utf16(bytes, u16::from_le_bytes),
        [0, first, ..] if *first != 0 => utf16(bytes, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest),
        _ => String::from_utf8_lossy(bytes),
    }
}

/// The lines that are neither empty nor comments; of a clearsigned text, only the signed ones.
pub(super) fn covered(text: &str) -> Vec<&str> {
    let lines = || {
        text.lines()
            .flat_map(|line| line.split('\r'))
            .map(str::trim)
    };
    let counts = |line: &&str| {
        !line.is_empty() && !["#", ";", "//"].iter().any(|mark| line.starts_with(mark))
    };
    if !lines().any(|line| line == SIGNED_BEGIN) {
        return lines().filter(counts).collect();
    }
    lines()
        .skip_while(|line| *line != SIGNED_BEGIN)
        // The armor's headers, up to an empty line.
        .skip_while(|line| !line.is_empty())
        .take_while(|line| *line != SIGNATURE_BEGIN)
        // Dash-escaping.
        .map(|line| line.strip_prefix("- ").unwrap_or(line))
        .filter(counts)
        .collect()
}
