//! ARCHITECTURE.md is right about the daemon's layers: there are no upward imports.

use lvp_testkit::module_order::{self, Rows, Sources, against_the_table};

fn sources() -> Sources {
    module_order::sources(env!("CARGO_MANIFEST_DIR"))
}

/// The rows of the table in ARCHITECTURE.md: names of modules in backquotes, in the second column.
fn rows() -> Rows {
    let page = include_str!("../../../../ARCHITECTURE.md");
    let section = page.split("### Layers of the daemon").nth(1);
    let lines = section.expect("the section is there").lines();
    let table = lines
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'));
    table
        .enumerate()
        .flat_map(|(row, line)| {
            let names = line.split('|').nth(2).unwrap_or_default().split('`');
            names
                .skip(1)
                .step_by(2)
                .map(move |name| (name.to_owned(), row))
        })
        .collect()
}

#[test]
fn every_module_of_the_daemon_uses_only_those_in_lower_layers() {
    assert_eq!(against_the_table(&sources(), &rows()), Vec::<String>::new());
}

#[test]
fn the_page_names_every_module_and_no_other() {
    let sources = sources();
    let tops = sources.keys().filter_map(|module| module.first());
    let mut tops: Vec<&String> = tops.collect();
    tops.dedup();
    let rows = rows();
    let named: Vec<&String> = rows.keys().collect();
    assert_eq!(tops, named);
}

#[test]
fn an_upward_import_is_found_however_it_is_written() {
    for planted in [
        "use crate::jobs::Jobs;\n",
        "use crate::{\n    clock,\n    jobs::{Jobs, live},\n};\n",
        "fn f() -> crate::jobs::Jobs {}\n",
    ] {
        let mut sources = sources();
        let module = vec!["store".to_owned(), "images".to_owned()];
        let text = sources.get_mut(&module).expect("the file is there");
        text.insert_str(0, planted);
        let wrong = against_the_table(&sources, &rows());
        assert_eq!(wrong, ["store::images uses jobs"], "{planted}");
    }
}
