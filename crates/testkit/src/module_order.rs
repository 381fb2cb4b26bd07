//! Finds which module of a crate uses which, from `use` lines and paths, and compares that with a table.
//!
//! This file has no dependencies, so that a crate that must not depend on this one can include it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A file of the crate, as the module that it is; empty for `lib.rs`.
pub type Module = Vec<String>;
/// The text of every file.
pub type Sources = BTreeMap<Module, String>;
/// The row of the table in which a module is.
pub type Rows = BTreeMap<String, usize>;
type Uses = BTreeMap<Module, BTreeSet<Module>>;

/// A crate's files without its tests, by module; `manifest` is the directory of its Cargo.toml.
///
/// # Panics
///
/// When they cannot be read, or there are suspiciously few of them.
pub fn sources(manifest: &str) -> Sources {
    let mut found = BTreeMap::new();
    let root = Path::new(manifest).join("src");
    let mut directories = vec![(Module::new(), root)];
    while let Some((module, directory)) = directories.pop() {
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path
                .file_stem()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            let child = [module.clone(), vec![name.clone()]].concat();
            if path.is_dir() {
                directories.push((child, path));
            } else if name == "main" {
                // A program of its own.
            } else if name == "mod" {
                found.insert(module.clone(), fs::read_to_string(path).expect("a text"));
            } else if name == "lib" {
                found.insert(Module::new(), fs::read_to_string(path).expect("a text"));
            } else if name != "tests" {
                found.insert(child, fs::read_to_string(path).expect("a text"));
            }
        }
    }
    assert!(found.len() > 40, "there are only {} files", found.len());
    found
}

/// A file's text without comments and tests.
fn code(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect();
    let tests = lines.iter().position(|line| *line == "mod tests {");
    lines[..tests.unwrap_or(lines.len())].join("\n")
}

/// Whether this can be the rest of a `use` statement, and not a sentence in a string.
fn is_tree(text: &str) -> bool {
    let count = |wanted: char| text.chars().filter(|letter| *letter == wanted).count();
    count('{') == count('}')
        && text
            .chars()
            .all(|letter| letter.is_alphanumeric() || "_:{},;*# \n".contains(letter))
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
                let inner = rest.trim_end().strip_suffix('}').expect("a closed brace");
                flatten(&format!("{prefix}{start}"), inner, paths);
            }
            None => paths.push(format!("{prefix}{branch}")),
        }
    }
}

/// Every path in a `use` of a file, and every other path that begins with `crate` or `super`.
fn paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let mut rest = String::new();
    let mut statements = code.split_inclusive(';');
    for statement in &mut statements {
        let start = statement
            .rfind("use ")
            .filter(|start| is_tree(&statement[*start + 4..]))
            .filter(|start| {
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
fn uses(sources: &Sources) -> Uses {
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

/// Uses of a module that is not above its user in the table.
///
/// # Panics
///
/// When a module is not in the table.
pub fn against_the_table(sources: &Sources, rows: &Rows) -> Vec<String> {
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
    wrong.dedup();
    wrong
}

/// Files that use each other, directly or indirectly: those that remain when all files that use no
/// other remaining file are removed.
pub fn circles(sources: &Sources) -> Vec<String> {
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
