//! The database: backups while the daemon works, damaged files, files of another release.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use lvp_api::JobState;
use lvp_testkit::require::command;
use rusqlite::Connection;

use crate::support::{BINARY, MIB, World, accepted, image};

fn database(world: &World) -> PathBuf {
    world.home.path().join("jobs.db")
}

/// Runs `db ARGUMENTS` for this world's database.
fn db(world: &World, arguments: &[&str]) -> Output {
    command(BINARY)
        .arg("db")
        .args(arguments)
        .args(["--config", "/dev/null"])
        .env_clear()
        .env("DB_PATH", database(world))
        .output()
        .expect("it starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("it is there").flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_backup_of_a_running_daemon_can_be_started_from_and_overwrites_nothing() {
    let world = World::new().await;
    let url = world.put("a.qcow2", &image(32 * MIB, 4, 1).build());
    let daemon = world.start();
    let job = accepted(&daemon, &url, "vm", 32 * MIB).await;
    let before = daemon.ended(&job).await.expect("it ends");
    let backup = world.home.path().join("backup.db");
    let path = backup.to_str().expect("it is text");
    let made = db(&world, &["backup", path]);
    assert!(made.status.success(), "{made:?}");
    assert!(text(&made.stdout).contains("1 jobs"), "{made:?}");
    let copied = fs::read(&backup).expect("it is there");

    let again = db(&world, &["backup", path]);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    assert!(text(&again.stderr).contains("backup.db"), "{again:?}");
    assert_eq!(fs::read(&backup).expect("it is there"), copied);
    let left = names(world.home.path());
    assert!(
        left.iter().all(|name| !name.starts_with(".lvp-backup-")),
        "{left:?}"
    );

    let checked = db(&world, &["check"]);
    assert!(checked.status.success(), "{checked:?}");

    // The database is lost, and restored from the backup.
    daemon.kill().expect("it is killed");
    for file in ["jobs.db", "jobs.db-wal", "jobs.db-shm"] {
        fs::remove_file(world.home.path().join(file)).ok();
    }
    fs::copy(&backup, database(&world)).expect("it is restored");
    let daemon = world.start();
    assert_eq!(daemon.status(&job).await.expect("it is there"), before);
    assert_eq!(before.status, JobState::Completed);
}

#[tokio::test]
async fn backups_in_a_directory_are_named_by_time_and_the_newest_are_kept() {
    let world = World::new().await;
    world.start().kill().expect("it is killed");
    let directory = world.home.path().join("backups");
    fs::create_dir(&directory).expect("it is made");
    for old in [
        "jobs-20200101T000000000Z.db",
        "jobs-20210101T000000000Z.db",
        "notes.txt",
    ] {
        fs::write(directory.join(old), "").expect("it is written");
    }
    let path = directory.to_str().expect("it is text");
    let made = db(&world, &["backup", path, "--keep", "2"]);
    assert!(made.status.success(), "{made:?}");
    let left = names(&directory);
    assert_eq!(left.len(), 3, "{left:?}");
    assert_eq!(left[0], "jobs-20210101T000000000Z.db");
    assert!(left[1].starts_with("jobs-2"), "{left:?}");
    assert_eq!(left[2], "notes.txt");
}

#[tokio::test]
async fn a_damaged_database_is_found_at_start_and_by_db_check_with_a_remedy() {
    // No database at all, and one with a damaged page in the middle.
    let garbage = |path: &Path| fs::write(path, vec![b'x'; 8192]).expect("it is written");
    let page = |path: &Path| {
        let file = fs::File::options()
            .write(true)
            .open(path)
            .expect("it is there");
        file.write_all_at(&[0xa5; 4096], 4096)
            .expect("it is written");
    };
    for damage in [&garbage as &dyn Fn(&Path), &page] {
        let world = World::new().await;
        world.start().kill().expect("it is killed");
        // All of it into the file itself.
        Connection::open(database(&world))
            .and_then(|connection| connection.pragma_update(None, "journal_mode", "DELETE"))
            .expect("it is written");
        damage(&database(&world));
        let error = format!("{:#}", world.home.start().expect_err("it does not start"));
        for told in [
            "jobs.db is damaged",
            "move the file away",
            "restore a backup",
        ] {
            assert!(error.contains(told), "{told}: {error}");
        }
        for arguments in [&["check"][..], &["backup", "/tmp/never-made.db"]] {
            let refused = db(&world, arguments);
            assert_eq!(refused.status.code(), Some(1), "{refused:?}");
            let told = text(&refused.stderr);
            assert!(told.contains("is damaged"), "{arguments:?}: {told}");
        }
        assert!(!Path::new("/tmp/never-made.db").exists());
        // The remedy works.
        fs::rename(database(&world), world.home.path().join("damaged.db")).expect("it is moved");
        drop(world.start());
    }
}

#[tokio::test]
async fn a_database_of_a_newer_release_is_left_alone() {
    let world = World::new().await;
    world.start().kill().expect("it is killed");
    let connection = Connection::open(database(&world)).expect("it opens");
    connection
        .pragma_update(None, "user_version", 99)
        .expect("it is set");
    drop(connection);
    let error = format!("{:#}", world.home.start().expect_err("it does not start"));
    assert!(
        error.contains("version 99") && error.contains("use the release that wrote it"),
        "{error}"
    );
    let refused = db(&world, &["check"]);
    assert!(text(&refused.stderr).contains("version 99"), "{refused:?}");
}

#[tokio::test]
async fn db_commands_do_not_create_a_missing_database() {
    let world = World::new().await;
    let refused = db(&world, &["check"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(!database(&world).exists());
}
