//! The reference page `docs/cli.md` is generated from the command line's definition.

use std::path::Path;

use clap::CommandFactory as _;

use crate::args::Cli;

/// Every command with its help, depth first, in the order of the help.
fn commands() -> Vec<clap::Command> {
    fn visit(command: &clap::Command, path: &str, found: &mut Vec<clap::Command>) {
        let path = format!("{path} {}", command.get_name());
        let path = path.trim_start();
        found.push(command.clone().bin_name(path).display_name(path));
        for child in command.get_subcommands() {
            if child.get_name() != "help" {
                visit(child, path, found);
            }
        }
    }
    let mut root = Cli::command().term_width(79);
    root.build();
    let mut found = Vec::new();
    visit(&root, "", &mut found);
    found
}

fn long_help(command: &clap::Command) -> String {
    command
        .clone()
        .term_width(79)
        .render_long_help()
        .to_string()
}

fn page() -> String {
    let mut page = String::from(
        "# lvpctl\n\n<!-- Generated from the command line's definition by `./dev docs`. Do not \
         edit. -->\n\nThe global and connection options below apply to every command.\n",
    );
    for (index, command) in commands().into_iter().enumerate() {
        let name = command.get_bin_name().unwrap_or_default().to_owned();
        // Options of every command are shown once, with the program itself.
        let command = if index == 0 {
            command
        } else {
            command.mut_args(|arg| {
                let hide = arg.is_global_set() || arg.get_id() == "help";
                arg.hide(hide)
            })
        };
        let help = long_help(&command);
        let help: Vec<&str> = help.lines().map(str::trim_end).collect();
        let heading = if index == 0 { "Synopsis" } else { &name };
        page.push_str(&format!(
            "\n## {heading}\n\n```text\n{}\n```\n",
            help.join("\n").trim_end()
        ));
    }
    page
}

#[test]
fn the_docs_page_is_what_the_command_line_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).expect("docs/cli.md can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == page,
        "docs/cli.md is not up to date: run ./dev docs and commit the result"
    );
}

#[test]
fn help_is_under_80_columns() {
    for command in commands() {
        for line in long_help(&command).lines() {
            assert!(
                line.chars().count() < 80,
                "{:?}: {line:?}",
                command.get_bin_name()
            );
        }
    }
}

#[test]
fn the_definition_has_no_contradictions() {
    Cli::command().debug_assert();
}
