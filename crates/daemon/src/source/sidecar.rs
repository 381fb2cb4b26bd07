//! The text of a `.sha256` object.
//!
//! Understood are a bare digest, the lines that `sha256sum` prints (text `HEX  NAME`, binary
//! `HEX *NAME`, with the leading backslash of an escaped name), and BSD's `SHA256 (NAME) = HEX`.
//! A single line counts whatever name it has, as images get renamed when they are published; of
//! several lines, the one with the object's name counts.

use lvp_api::Sha256Digest;

/// How much of a text that is no sidecar an error shows.
const SHOWN_CHARS: usize = 80;

/// Finds the digest for the object called `base_name`; the error says what was found instead.
pub(super) fn parse(bytes: &[u8], base_name: &str) -> Result<Sha256Digest, String> {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text
        .trim_start_matches('\u{feff}')
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    match lines[..] {
        [] => Err("it is empty".to_owned()),
        [line] => match parse_line(line) {
            Some((digest, _)) => Ok(digest),
            None => Err(format!("it reads {}", shown(line))),
        },
        [first, ..] => {
            let mut digests = lines
                .iter()
                .filter_map(|line| parse_line(line))
                .filter(|(_, name)| name.rsplit('/').next() == Some(base_name))
                .map(|(digest, _)| digest);
            let Some(digest) = digests.next() else {
                return Err(format!(
                    "none of its {} lines names {base_name:?}; the first reads {}",
                    lines.len(),
                    shown(first)
                ));
            };
            if digests.any(|other| other != digest) {
                return Err(format!("it names {base_name:?} with different digests"));
            }
            Ok(digest)
        }
    }
}

/// One line's digest and file name; the name is empty where the line has none.
fn parse_line(line: &str) -> Option<(Sha256Digest, &str)> {
    if let Some(bsd) = line.strip_prefix("SHA256 (") {
        let (name, digest) = bsd.rsplit_once(") = ")?;
        return Some((digest.trim().parse().ok()?, name));
    }
    let line = line.strip_prefix('\\').unwrap_or(line);
    let (digest, name) = line
        .split_once(|c: char| c.is_ascii_whitespace())
        .unwrap_or((line, ""));
    let name = name.trim_start();
    Some((digest.parse().ok()?, name.strip_prefix('*').unwrap_or(name)))
}

/// The beginning of a text in quotes, printable characters only.
fn shown(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .take(SHOWN_CHARS)
        .collect();
    if text.chars().count() > SHOWN_CHARS {
        shown.push('…');
    }
    format!("{shown:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const B: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    fn check_accepted(text: &str) {
        let digest = parse(text.as_bytes(), "disk.qcow2").unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(digest.to_string(), A, "{text}");
    }

    fn check_refused(text: impl AsRef<[u8]>, words: &str) {
        let text = text.as_ref();
        let found = parse(text, "disk.qcow2").expect_err("it is no sidecar for disk.qcow2");
        assert!(found.contains(words), "{found}");
    }

    #[test]
    fn a_single_line_counts_in_every_form_and_with_any_name() {
        check_accepted(A);
        check_accepted(&format!("{A}\n"));
        check_accepted(&format!("  {A}  \r\n\r\n"));
        check_accepted(&format!("\u{feff}{A}\n"));
        check_accepted(&A.to_uppercase());
        check_accepted(&format!("{A}  disk.qcow2\n"));
        check_accepted(&format!("{A} *disk.qcow2\n"));
        check_accepted(&format!("{A}  build/another name.img\n"));
        check_accepted(&format!("{A}\tdisk.qcow2\n"));
        check_accepted(&format!("\\{A}  a\\\\b.img\n"));
        check_accepted(&format!("SHA256 (disk.qcow2) = {A}\n"));
        check_accepted(&format!("SHA256 (a) = b (1).img) = {A}\n"));
    }

    #[test]
    fn of_several_lines_the_one_with_the_objects_name_counts() {
        check_accepted(&format!("{B}  other.qcow2\n{A}  disk.qcow2\n"));
        check_accepted(&format!("{B} *other.qcow2\r\n{A} *./out/disk.qcow2\r\n"));
        check_accepted(&format!("SHA256 (o) = {B}\nSHA256 (disk.qcow2) = {A}\n"));
        check_accepted(&format!("{A}  disk.qcow2\n{A}  disk.qcow2\n"));
        check_accepted(&format!("made by hand\n{A}  disk.qcow2\n"));
    }

    #[test]
    fn what_holds_no_digest_is_refused_and_shown() {
        check_refused("", "it is empty");
        check_refused("\n \r\n", "it is empty");
        check_refused("<html>Not found</html>", "\"<html>Not found</html>\"");
        check_refused(&A[..63], &A[..63]);
        check_refused(format!("{A}0"), "it reads");
        check_refused(format!("{A}disk.qcow2"), "it reads");
        check_refused(format!("g{}", &A[1..]), "it reads");
        check_refused(format!("MD5 (disk.qcow2) = {A}"), "it reads");
        check_refused(b"\x00\x01\x1b[31m\xff", "it reads \"\u{fffd}\u{fffd}");
        check_refused("x".repeat(1000), &format!("\"{}…\"", "x".repeat(80)));
    }

    #[test]
    fn several_lines_without_the_name_or_with_two_answers_are_refused() {
        check_refused(format!("{A}\n{B}\n"), "none of its 2 lines");
        check_refused(format!("{A}  a\n{B}  b\n"), "none of its 2 lines");
        check_refused(format!("{A}  xdisk.qcow2\n{B}  b\n"), "none of its 2 lines");
        check_refused(
            format!("{A}  disk.qcow2\n{B}  disk.qcow2\n"),
            "different digests",
        );
    }
}
