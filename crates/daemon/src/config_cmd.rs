//! `config check` and `config show`, and which faults of a configuration may pass.

use std::io;

use crate::config::{Config, Settings};

/// Prints warnings, and checks whether the files that the keys name can be used: the daemon would
/// not start without them. Must be called within a runtime.
#[expect(clippy::print_stdout, reason = "the answer is the command's output")]
pub fn check(settings: &Settings, config: &Config) -> anyhow::Result<()> {
    for warning in &settings.warnings {
        println!("warning: {warning}");
    }
    match crate::serve::look(config) {
        Err(error) if is_forbidden(&error) => println!(
            "warning: {error:#}: run this as the daemon's user to find out whether the file can be used"
        ),
        looked => looked?,
    }
    println!("The configuration can be used");
    Ok(())
}

/// Prints every key with its value and its origin.
#[expect(clippy::print_stdout, reason = "the answer is the command's output")]
pub fn show(settings: &Settings) {
    for (key, setting) in settings.iter() {
        let shown = match key.kind {
            kind if kind.is_secret() && !setting.text.is_empty() => "<set>",
            _ => &setting.text,
        };
        let formerly = match &key.former {
            Some(_) => format!("; {}", key.formerly()),
            None => String::new(),
        };
        println!(
            "{:<34} {:<40} # {}{formerly}",
            key.path, shown, setting.origin
        );
    }
}

/// Whether the same configuration may work later without a change of the files' content: a file or
/// its file system may be missing now. A token that could be guessed, or a key of another
/// certificate, does not become right by trying again.
pub fn may_work_later(error: &anyhow::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, InvalidData, InvalidInput};
    io_errors(error).any(|kind| !matches!(kind, FileTooLarge | InvalidData | InvalidInput))
}

/// Whether this user may not read a file that the daemon's user may be able to read.
fn is_forbidden(error: &anyhow::Error) -> bool {
    io_errors(error).any(|kind| kind == io::ErrorKind::PermissionDenied)
}

fn io_errors(error: &anyhow::Error) -> impl Iterator<Item = io::ErrorKind> {
    let errors = error.chain().filter_map(|cause| cause.downcast_ref());
    errors.map(|error: &io::Error| error.kind())
}
