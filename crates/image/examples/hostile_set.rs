//! Writes the hostile set of the tests into a directory, to see what other programs make of it.
//!
//! `cargo run -p lvp-image --example hostile_set -- DIR` makes `DIR/NNN.qcow2` and `DIR/NNN.raw`,
//! and `DIR/index.tsv`: file, declared type, the kind of refusal, and what was done to the image.

#![expect(clippy::unwrap_used, reason = "the set is the tests' own")]

use std::fmt::Write;
use std::path::PathBuf;

#[path = "../tests/it/hostile/mod.rs"]
#[expect(unused_imports, reason = "the tests use all of it")]
mod hostile;

fn main() -> std::io::Result<()> {
    let dir = std::env::args_os()
        .nth(1)
        .map_or_else(|| "hostile-set".into(), PathBuf::from);
    std::fs::create_dir_all(&dir)?;
    let mut index = String::new();
    for (number, case) in hostile::cases().into_iter().enumerate() {
        let declared = case.declared;
        let file = format!("{number:03}.{declared}");
        std::fs::write(dir.join(&file), &case.bytes)?;
        writeln!(
            index,
            "{file}\t{declared}\t{}\t{}",
            case.kind.as_str(),
            case.name
        )
        .unwrap();
    }
    std::fs::write(dir.join("index.tsv"), index)
}
