//! One line of a checksum file.

use std::borrow::Cow;

use lvp_api::Checksum;

/// A digest, and the name of its file if the line has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub(super) checksum: Checksum,
    pub(super) name: Option<Cow<'a, str>>,
}

impl Line<'_> {
    /// Whether the line is about a file with this name, in any directory.
    pub(super) fn names(&self, base_name: &str) -> bool {
        let last = |separators: &[char]| {
            let name = self.name.as_deref()?;
            Some(name.rsplit(separators).next() == Some(base_name))
        };
        last(&['/']) == Some(true) || last(&['/', '\\']) == Some(true)
    }
}

/// Parses a line; `None` if it has no digest of a known kind, or several.
pub(super) fn parse(line: &str) -> Option<Line<'_>> {
    if let Some((label, name, digest)) = tagged(line) {
        // `SHA3-256 (x) = ..` has the length of a SHA-256 digest, and is not one.
        return Some(Line {
            checksum: with_label(label, digest)?,
            name: Some(Cow::Borrowed(name)),
        });
    }
    gnu(line).or_else(|| free(line))
}

/// `SHA256 (NAME) = HEX` as BSD writes it, `SHA2-256(NAME)= HEX` as openssl does.
fn tagged(line: &str) -> Option<(&str, &str, &str)> {
    let (before, digest) = line.rsplit_once('=')?;
    let (label, name) = before.trim_end().strip_suffix(')')?.split_once('(')?;
    Some((label.trim(), name, digest.trim()))
}

/// `HEX  NAME`, `HEX *NAME`, `\HEX  ESCAPED`, or the bare digest.
fn gnu(line: &str) -> Option<Line<'_>> {
    let (line, is_escaped) = match line.strip_prefix('\\') {
        Some(line) => (line, true),
        None => (line, false),
    };
    let (digest, name) = line
        .split_once(|c: char| c.is_ascii_whitespace())
        .unwrap_or((line, ""));
    let name = name.trim_start();
    let name = name.strip_prefix('*').unwrap_or(name);
    Some(Line {
        checksum: by_length(digest)?,
        name: match name {
            "" => None,
            name if is_escaped => Some(Cow::Owned(unescaped(name))),
            name => Some(Cow::Borrowed(name)),
        },
    })
}

/// Anything else with one digest: `sha256:HEX  NAME`, a row of a table, a line of certutil.
fn free(line: &str) -> Option<Line<'_>> {
    if let Some(checksum) = spaced_pairs(line) {
        return Some(Line {
            checksum,
            name: None,
        });
    }
    let is_hex = |word: &&str| {
        matches!(word.len(), 64 | 128) && word.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let mut words = line
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(is_hex);
    let digest = words.next()?;
    if words.next().is_some() {
        return None;
    }
    let at = digest.as_ptr().addr() - line.as_ptr().addr();
    let (before, after) = (&line[..at], &line[at + digest.len()..]);
    let label = before.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    let label = label
        .rsplit(|c: char| !(c.is_ascii_alphanumeric() || "-/".contains(c)))
        .next()
        .unwrap_or_default();
    let checksum = match algorithm(label) {
        Label::Other => return None,
        Label::Known(_) => with_label(label, digest)?,
        Label::None => by_length(digest)?,
    };
    let name = after.trim_matches(|c: char| c.is_whitespace() || "*\"',:;}]".contains(c));
    Some(Line {
        checksum,
        name: (!name.is_empty()).then_some(Cow::Borrowed(name)),
    })
}

/// `e3 b0 c4 42 ..`, as older versions of certutil print a digest.
fn spaced_pairs(line: &str) -> Option<Checksum> {
    let pairs: Vec<&str> = line.split(' ').collect();
    let are_pairs = pairs.iter().all(|pair| pair.len() == 2) && pairs.len() > 1;
    are_pairs.then(|| by_length(&pairs.concat())).flatten()
}

/// What a word before a digest says about it.
enum Label {
    /// The algorithm's name in a checksum.
    Known(&'static str),
    /// An algorithm whose digests only look like known ones.
    Other,
    /// Nothing.
    None,
}

fn algorithm(label: &str) -> Label {
    match label.to_ascii_lowercase().as_str() {
        "sha256" | "sha-256" | "sha2-256" => Label::Known("sha256"),
        "sha512" | "sha-512" | "sha2-512" => Label::Known("sha512"),
        other
            if [
                "sha",
                "blake",
                "md",
                "shake",
                "sm3",
                "ripemd",
                "rmd",
                "whirlpool",
                "b2",
                "b3",
            ]
            .iter()
            .any(|family| other.starts_with(family))
                && other.ends_with(|c: char| c.is_ascii_alphanumeric())
                && other.contains(|c: char| c.is_ascii_digit()) =>
        {
            Label::Other
        }
        _ => Label::None,
    }
}

fn with_label(label: &str, digest: &str) -> Option<Checksum> {
    match algorithm(label) {
        Label::Known(name) => format!("{name}:{digest}").parse().ok(),
        // `(stdin)= HEX` has no label at all.
        Label::None if label.is_empty() => by_length(digest),
        Label::Other | Label::None => None,
    }
}

fn by_length(digest: &str) -> Option<Checksum> {
    let sha256 = || digest.parse().ok().map(Checksum::Sha256);
    sha256().or_else(|| digest.parse().ok().map(Checksum::Sha512))
}

/// Reverses sha256sum's escaping of names with a newline or a backslash.
fn unescaped(name: &str) -> String {
    let mut plain = String::new();
    let mut chars = name.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => plain.push('\n'),
                Some('r') => plain.push('\r'),
                Some(other) => plain.push(other),
                None => plain.push('\\'),
            },
            c => plain.push(c),
        }
    }
    plain
}
