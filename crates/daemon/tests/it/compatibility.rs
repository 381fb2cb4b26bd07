//! docs/compatibility.md: what it says of each thing has to be held by tests, and those tests have to exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const VERDICTS: [&str; 4] = ["same", "mapped", "refused", "absent"];

struct Row {
    what: String,
    verdict: String,
    why: String,
    tests: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The rows of all tables, without heads and rules.
fn rows(page: &str) -> Vec<Row> {
    let cells = page.lines().filter_map(|line| {
        let line = line.strip_prefix('|')?.strip_suffix('|')?;
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        (cells[0] != "there" && !cells[0].starts_with("--")).then_some(cells)
    });
    cells
        .map(|cells| {
            let [what, verdict, why, tests] = cells[..] else {
                panic!("four columns are wanted: {cells:?}");
            };
            Row {
                what: what.to_owned(),
                verdict: verdict.to_owned(),
                why: why.to_owned(),
                tests: tests
                    .split(", ")
                    .map(|test| test.trim_matches('`').to_owned())
                    .collect(),
            }
        })
        .collect()
}

/// The names of all functions that are marked as tests.
fn tests_in(directory: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).expect("it is read") {
        let path = entry.expect("it is read").path();
        if path.is_dir() {
            tests_in(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("it is read");
            let mut is_test = false;
            for line in text.lines().map(str::trim) {
                let function = line.trim_start_matches("async ").strip_prefix("fn ");
                match function.and_then(|rest| rest.split(['(', '<']).next()) {
                    Some(name) if is_test => {
                        names.insert(name.to_owned());
                        is_test = false;
                    }
                    Some(_) => is_test = false,
                    None => {
                        is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
                    }
                }
            }
        }
    }
}

#[test]
fn every_row_of_the_compatibility_page_is_held_by_tests_that_exist() {
    let page = fs::read_to_string(root().join("docs/compatibility.md")).expect("the page");
    let mut tests = BTreeSet::new();
    tests_in(&root().join("crates"), &mut tests);
    let rows = rows(&page);
    assert!(rows.len() > 40, "{} rows were read", rows.len());
    let mut wrong = Vec::new();
    for row in rows {
        if !VERDICTS.contains(&row.verdict.as_str()) {
            wrong.push(format!(
                "{}: {:?} is none of {VERDICTS:?}",
                row.what, row.verdict
            ));
        }
        if row.verdict != "same" && row.why.is_empty() {
            wrong.push(format!("{}: {} without a reason", row.what, row.verdict));
        }
        let missing = row.tests.iter().filter(|test| !tests.contains(*test));
        wrong.extend(missing.map(|test| format!("{}: there is no test {test:?}", row.what)));
    }
    assert_eq!(wrong, Vec::<String>::new());
}
