//! Generated parts of the pages under `docs/`.
//!
//! Tests named `the_docs_...` compare them with the code; with `UPDATE_DOCS` set, they write them.

use std::path::Path;

/// Compares the section of a page between `<!-- NAME begin -->` and `<!-- NAME end -->` with what it
/// should be. The page's path is relative to the repository.
///
/// # Panics
///
/// When it is not up to date, or has no such section.
pub fn check_section(page: &str, name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(page);
    let (begin, end) = (
        format!("<!-- {name} begin -->\n"),
        format!("<!-- {name} end -->\n"),
    );
    let Ok(committed) = std::fs::read_to_string(&path) else {
        panic!("{page} is not there");
    };
    let parts = committed.split_once(&begin).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(&end)?;
        Some((before, after))
    });
    let Some((before, after)) = parts else {
        panic!("{page} has no section {begin}...{end}");
    };
    let expected = format!("{before}{begin}\n{}\n\n{end}{after}", text.trim_end());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        if let Err(error) = std::fs::write(&path, &expected) {
            panic!("{page} cannot be written: {error}");
        }
    } else {
        assert!(
            committed == expected,
            "{page} is out of date: run ./dev docs"
        );
    }
}
