//! `db backup` and `db check`: copy and check the database, even while a daemon runs. `db
//! cancel-unfinished`: prepares a restored database before its first start. `db adopt-go-volumes`: takes
//! over volumes that the Go program of the same name made.
//!
//! Exit codes: 0 done, or sound; 1 failed, or the database is damaged.

use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use crate::clock;
use crate::error::chain;
use crate::store::{self, Health};
use crate::volume::{Unmarked, VolumeState, Volumes};

/// Arguments of `db backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The copy, which must not exist yet; or a directory, in which the copy is named by the time
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
        "--keep needs a directory of backups, and {} is not a directory",
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

/// Ends the unfinished jobs of a database that no daemon is using.
pub fn cancel_unfinished(database: &Path) -> anyhow::Result<()> {
    let ended = store::cancel_unfinished(database, &clock::now_text())?;
    let jobs = if ended == 1 { "job" } else { "jobs" };
    say(&format!("Cancelled {ended} unfinished {jobs}"))
}

/// Arguments of `db adopt-go-volumes`.
#[derive(Debug, Args)]
pub struct AdoptArgs {
    /// The Go program's database
    go_database: PathBuf,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

/// Hands over the volumes that the Go program's jobs made. Returns false if one of them is refused.
pub async fn adopt_go_volumes(args: &AdoptArgs, volumes: &dyn Volumes) -> anyhow::Result<bool> {
    let names = store::volumes_of_go_program(&args.go_database)?;
    let mut all_are_ours = true;
    for name in names {
        let Some(volume) = volumes.lookup(&name).await? else {
            say(&format!("{name}: is gone"))?;
            continue;
        };
        let adopted = match (volume.state, args.dry_run) {
            (VolumeState::Untagged, false) => volumes.adopt(&name).await.map(|_| "handed over"),
            (VolumeState::Untagged, true) => volumes
                .check_writable(&volume, Unmarked::Adopt)
                .await
                .map(|()| "would be handed over"),
            _ => Ok("already belongs to this program"),
        };
        match adopted {
            Ok(what) => say(&format!("{name}: {what}"))?,
            Err(error) => {
                all_are_ours = false;
                say(&format!("{name}: refused. {}", chain(&error)))?;
            }
        }
    }
    Ok(all_are_ours)
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
