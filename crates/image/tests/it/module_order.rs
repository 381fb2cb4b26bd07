//! The crate's modules stand in the order that `src/lib.rs` shows, and none use each other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A file of the crate, as the module that it is; empty for `lib.rs`.
type Module = Vec<String>;
type Uses = BTreeMap<Module, BTreeSet<Module>>;

/// The crate's files but its tests, by module.
fn sources() -> BTreeMap<Module, String> {
    let mut found = BTreeMap::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut directories = vec![(Module::new(), root)];
    while let Some((module, directory)) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let child = [module.clone(), vec![name.clone()]].concat();
            if path.is_dir() {
                directories.push((child, path));
            } else if name == "lib" {
                found.insert(Module::new(), std::fs::read_to_string(path).unwrap());
            } else if name != "tests" {
                found.insert(child, std::fs::read_to_string(path).unwrap());
            }
        }
    }
    assert!(found.len() > 40, "there are only {} files", found.len());
    found
}

/// A file without its comments and its tests.
fn code(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect();
    let tests = lines.iter().position(|line| *line == "mod tests {");
    lines[..tests.unwrap_or(lines.len())].join("\n")
}

/// The paths of a `use` tree: `a::{b, c::d}` names `a::b` and `a::c::d`.
fn flatten(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let mut depth = 0;
    let branches = tree.split(|letter| {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        letter == ',' && depth == 0
    });
    for branch in branches.map(str::trim).filter(|branch| !branch.is_empty()) {
        match branch.split_once('{') {
            Some((start, rest)) => {
                let inner = rest.trim_end().strip_suffix('}').unwrap();
                flatten(&format!("{prefix}{start}"), inner, paths);
            }
            None => paths.push(format!("{prefix}{branch}")),
        }
    }
}

/// Every path that a file names in a `use`, and every other that begins with `crate` or `super`.
fn paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let mut rest = String::new();
    let mut statements = code.split_inclusive(';');
    for statement in &mut statements {
        let start = statement.rfind("use ").filter(|start| {
            let before = statement[..*start].trim_end();
            let words = ["pub", "pub(crate)", "pub(super)"];
            before.is_empty()
                || before.ends_with([';', '{', '}', ']'])
                || words.iter().any(|word| before.ends_with(word))
        });
        match start {
            Some(start) => {
                let tree = statement[start + 4..].trim_end_matches(';');
                flatten("", tree, &mut paths);
                rest.push_str(&statement[..start]);
            }
            None => rest.push_str(statement),
        }
    }
    for word in rest.split(|letter: char| !letter.is_alphanumeric() && !"_:".contains(letter)) {
        if word.starts_with("crate::") || word.starts_with("super::") {
            paths.push(word.to_owned());
        }
    }
    paths
}

/// Which files use which.
fn uses(sources: &BTreeMap<Module, String>) -> Uses {
    let resolve = |module: &Module, path: &str| -> Option<Module> {
        let mut base = module.clone();
        let mut segments: Vec<&str> = path.split("::").map(str::trim).collect();
        match segments[0] {
            "crate" => {
                base.clear();
                segments.remove(0);
            }
            "super" => {
                while segments.first() == Some(&"super") {
                    base.pop();
                    segments.remove(0);
                }
            }
            child => {
                base.push(child.to_owned());
                sources.get(&base)?;
                segments.remove(0);
            }
        }
        base.extend(segments.iter().map(|segment| (*segment).to_owned()));
        while !sources.contains_key(&base) {
            base.pop();
        }
        (base != *module).then_some(base)
    };
    sources
        .iter()
        .map(|(module, text)| {
            let paths = paths(&code(text));
            let used = paths.iter().filter_map(|path| resolve(module, path));
            (module.clone(), used.collect())
        })
        .collect()
}

/// The rows of the table in `lib.rs`, by module.
fn rows(lib: &str) -> BTreeMap<String, usize> {
    let table = lib
        .split("//! # Order of the modules")
        .nth(1)
        .and_then(|rest| rest.split("//! ```").nth(1))
        .unwrap();
    table
        .lines()
        .skip(1)
        .enumerate()
        .flat_map(|(row, line)| {
            let names = line.trim_start_matches("//!").split_whitespace();
            names.map(move |name| (name.to_owned(), row))
        })
        .collect()
}

/// Uses of a module that does not stand above the user in the table.
fn against_the_table(sources: &BTreeMap<Module, String>) -> Vec<String> {
    let rows = rows(&sources[&Module::new()]);
    let mut wrong = Vec::new();
    for (module, used) in uses(sources) {
        let Some(user) = module.first() else {
            continue;
        };
        for used in used.iter().filter_map(|used| used.first()) {
            let row = |name: &String| {
                *(rows.get(name)).unwrap_or_else(|| panic!("{name} is not in the table"))
            };
            if user != used && row(user) <= row(used) {
                wrong.push(format!("{} uses {used}", module.join("::")));
            }
        }
    }
    wrong
}

/// Files that use each other by some way: what is left when all that use nothing else are taken away.
fn circles(sources: &BTreeMap<Module, String>) -> Vec<String> {
    let mut uses = uses(sources);
    loop {
        let ends: Vec<Module> = uses
            .iter()
            .filter(|(_, used)| used.iter().all(|used| !uses.contains_key(used)))
            .map(|(module, _)| module.clone())
            .collect();
        if ends.is_empty() {
            return uses.keys().map(|module| module.join("::")).collect();
        }
        uses.retain(|module, _| !ends.contains(module));
    }
}

#[test]
fn every_module_uses_only_those_above_it_in_the_table() {
    assert_eq!(against_the_table(&sources()), Vec::<String>::new());
}

#[test]
fn no_two_files_use_each_other() {
    assert_eq!(circles(&sources()), Vec::<String>::new());
}

#[test]
fn a_planted_import_is_found_however_it_is_written() {
    for planted in [
        "use crate::plan::Planner;\n",
        "pub(crate) use crate::{\n    error::Error,\n    plan::{Batch, Planner},\n};\n",
        "fn f() -> super::plan::Planner<()> {}\n",
    ] {
        let mut sources = sources();
        let module = vec!["map".to_owned()];
        sources.get_mut(&module).unwrap().insert_str(0, planted);
        assert_eq!(against_the_table(&sources), ["map uses plan"], "{planted}");
        assert!(circles(&sources).contains(&"map".to_owned()), "{planted}");
    }
}
