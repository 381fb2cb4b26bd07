//! `db backup` and `db check`: the database, beside a daemon that may be running.
//!
//! Exit codes: 0 done, or sound; 1 it failed, or the database is damaged.

use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use crate::clock;
use crate::store::{self, Health};

/// Arguments of `db backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The copy, which must not exist yet; or a directory, in which it is named by the time
    path: PathBuf,
    /// In a directory: remove all but the newest N backups afterwards
    #[arg(long, value_name = "N")]
    keep: Option<NonZeroUsize>,
}

/// Copies the database as it is now.
pub fn backup(args: &BackupArgs, database: &Path) -> anyhow::Result<()> {
    let is_directory = args.path.is_dir();
    anyhow::ensure!(
        args.keep.is_none() || is_directory,
        "--keep needs a directory of backups, and {} is none",
        args.path.display()
    );
    let to = if is_directory {
        args.path.join(store::backup_name(&clock::now_text()))
    } else {
        args.path.clone()
    };
    let health = store::backup(database, &to)?;
    say(&format!("Backed up to {}: {}", to.display(), words(health)))?;
    if let Some(keep) = args.keep {
        let pruned = store::prune_backups(&args.path, keep.get())
            .with_context(|| format!("Cannot remove old backups in {}", args.path.display()))?;
        for path in pruned {
            say(&format!("Removed {}", path.display()))?;
        }
    }
    Ok(())
}

/// Reads the whole database and says whether it is sound.
pub fn check(database: &Path) -> anyhow::Result<()> {
    let health = store::check(database)?;
    say(&format!(
        "The database {} is sound: {}",
        database.display(),
        words(health)
    ))
}

fn words(health: Health) -> String {
    let Health {
        version,
        jobs,
        images,
    } = health;
    format!("version {version}, {jobs} jobs, {images} cached images")
}

fn say(text: &str) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{text}").context("Cannot write to standard output")
}
