//! Standard output (results) and standard error (everything else).

use std::fmt::Write as _;
use std::io::{self, Write as _};

use clap::ValueEnum;
use serde::Serialize;

use crate::exit::{Exit, Failure};

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// The API's JSON
    Json,
    /// Only ids, names or keys, one per line
    Name,
}

/// Prints a result. A reader that has gone away (`lvpctl jobs | head -1`) is not an error.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(
            Exit::Failed,
            format!("Cannot write the result: {error}"),
        )),
        _ => Ok(()),
    }
}

/// Prints one line of a result.
pub(crate) fn print_line(text: &str) -> Result<(), Failure> {
    print(&format!("{text}\n"))
}

/// Prints a value as indented JSON.
pub(crate) fn print_json<T: Serialize>(value: &T) -> Result<(), Failure> {
    print_line(&serde_json::to_string_pretty(value).map_err(not_json)?)
}

/// Prints a value as JSON on one line, for streams.
pub(crate) fn print_json_line<T: Serialize>(value: &T) -> Result<(), Failure> {
    print_line(&serde_json::to_string(value).map_err(not_json)?)
}

fn not_json(error: serde_json::Error) -> Failure {
    Failure::new(
        Exit::Failed,
        format!("Cannot write the result as JSON: {error}"),
    )
}

/// Prints a message for the user. A failure is ignored, as there is nowhere to report it.
pub(crate) fn say(text: &str) {
    writeln!(io::stderr().lock(), "{text}").ok();
}

/// Columns as kubectl prints them: a header in capitals, three spaces between columns.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = header.map(|title| title.chars().count());
    let rows: Vec<[String; N]> = rows
        .iter()
        .map(|row| row.each_ref().map(|cell| clean(cell)))
        .collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in std::iter::once(&header.map(str::to_owned)).chain(&rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            // Writing to a string cannot fail.
            write!(line, "{cell:width$}   ").ok();
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Names and values as `virsh dominfo` prints them. Absent values are left out.
pub(crate) fn details(fields: &[(&str, Option<String>)]) -> String {
    let width = fields
        .iter()
        .filter(|(_, value)| value.is_some())
        .map(|(name, _)| name.len() + 1)
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for (name, value) in fields {
        if let Some(value) = value {
            writeln!(text, "{:width$}  {}", format!("{name}:"), clean(value)).ok();
        }
    }
    text
}

/// Puts a text on one line and removes control characters: a server's text must not be able to move the cursor
/// or change the terminal's title.
pub(crate) fn clean(text: &str) -> String {
    text.trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_end_without_blanks() {
        let rows = [
            ["vm-01".to_owned(), "50 GiB".to_owned(), String::new()],
            [
                "größer".to_owned(),
                "1 GiB".to_owned(),
                "x\u{1b}[2J".to_owned(),
            ],
        ];
        insta::assert_snapshot!(table(["NAME", "SIZE", "NOTE"], &rows), @r"
        NAME     SIZE     NOTE
        vm-01    50 GiB
        größer   1 GiB    x [2J
        ");
    }

    #[test]
    fn absent_details_leave_no_line() {
        let text = details(&[
            ("Job", Some("1".to_owned())),
            ("Correlation id", None),
            ("Status", Some("completed\n".to_owned())),
        ]);
        insta::assert_snapshot!(text, @r"
        Job:     1
        Status:  completed
        ");
    }
}
