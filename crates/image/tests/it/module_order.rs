//! The crate's modules stand in the order that `src/lib.rs` shows, and none use each other.

#[expect(unreachable_pub, reason = "the file is another crate's, too")]
#[path = "../../../testkit/src/module_order.rs"]
mod modules;

use modules::{Module, Rows, Sources, against_the_table, circles};

fn sources() -> Sources {
    modules::sources(env!("CARGO_MANIFEST_DIR"))
}

/// The rows of the table in `lib.rs`, by module.
fn rows(sources: &Sources) -> Rows {
    let table = sources[&Module::new()]
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

#[test]
fn every_module_uses_only_those_above_it_in_the_table() {
    assert_eq!(
        against_the_table(&sources(), &rows(&sources())),
        Vec::<String>::new()
    );
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
        assert_eq!(
            against_the_table(&sources, &rows(&sources)),
            ["map uses plan"],
            "{planted}"
        );
        assert!(circles(&sources).contains(&"map".to_owned()), "{planted}");
    }
}
