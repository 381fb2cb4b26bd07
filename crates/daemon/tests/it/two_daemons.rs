//! One daemon per database and cache: a second one gets an error that names the first, and does nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use lvp_testkit::daemon::{Daemon, Home};
use lvp_testkit::require::{command, require};

use crate::support::{BINARY, World};

/// A second home in which nothing is the first one's but what is set here.
fn other(world: &World, variables: &[(&str, &Path)]) -> (tempfile::TempDir, Home) {
    let dir = tempfile::tempdir().expect("there is room");
    let home = Home::kept_in(dir.path(), BINARY, world.s3.endpoint()).expect("there is room");
    let home = variables.iter().fold(home, |home, (name, path)| {
        home.with(name, path.display().to_string())
    });
    (dir, home)
}

/// It must not start, because of what this process holds.
fn assert_refused(home: &Home, by: &Daemon, what: &str) {
    let error = format!("{:#}", home.start().expect_err("it starts"));
    let process = format!("process {} (", by.pid());
    for told in [what, &process, "serve"] {
        assert!(error.contains(told), "{told}: {error}");
    }
}

#[tokio::test]
async fn a_second_daemon_on_the_same_database_is_refused_by_every_path_to_it() {
    let world = World::new().await;
    let daemon = world.start();
    let at = |name: &str| world.home.path().join(name);
    symlink(at("jobs.db"), at("linked.db")).expect("it is made");
    symlink(world.home.path(), at("linked")).expect("it is made");
    for path in [
        at("jobs.db"),
        at("linked.db"),
        at("linked/jobs.db"),
        at("volumes/../jobs.db"),
    ] {
        let (_dir, second) = other(&world, &[("DB_PATH", &path)]);
        assert_refused(&second, &daemon, "The database");
    }
    // The same file under another path, where the lock file is a different one.
    fs::create_dir(at("elsewhere")).expect("it is made");
    fs::hard_link(at("jobs.db"), at("elsewhere/jobs.db")).expect("it is made");
    let (_dir, second) = other(&world, &[("DB_PATH", &at("elsewhere/jobs.db"))]);
    let error = format!("{:#}", second.start().expect_err("it starts"));
    assert!(error.contains("under another path"), "{error}");
    // A lock file that was removed no longer protects.
    fs::remove_file(at("jobs.db.lock")).expect("it is removed");
    let (_dir, second) = other(&world, &[("DB_PATH", &at("jobs.db"))]);
    let error = format!("{:#}", second.start().expect_err("it starts"));
    assert!(error.contains("used by another process"), "{error}");
    // Commands that only read are allowed.
    for arguments in [
        &["db", "check"][..],
        &["db", "backup", "copy.db"],
        &["doctor"],
        &["config", "check"],
    ] {
        let looked = world.home.run(arguments).expect("it starts");
        let text = String::from_utf8_lossy(&looked.stderr);
        assert!(!text.contains("another process"), "{arguments:?}: {text}");
    }
    // The kernel releases the locks of a killed daemon.
    daemon.kill().expect("it is killed");
    drop(world.start());
}

#[tokio::test]
async fn a_second_daemon_on_a_database_that_is_mounted_elsewhere_is_refused() {
    if !require("mount") {
        return;
    }
    let world = World::new().await;
    let daemon = world.start();
    let at = |name: &str| world.home.path().join(name);
    fs::create_dir(at("elsewhere")).expect("it is made");
    let mount = |what: &Path, to: &Path| {
        let mounted = command("mount").arg("--bind").args([what, to]).status();
        assert!(mounted.expect("it starts").success());
    };
    mount(world.home.path(), &at("elsewhere"));
    let (_dir, second) = other(&world, &[("DB_PATH", &at("elsewhere/jobs.db"))]);
    let refused = second.start();
    let unmount = |path: &Path| {
        let unmounted = command("umount").arg("--lazy").arg(path).status();
        assert!(unmounted.expect("it starts").success());
    };
    unmount(&at("elsewhere"));
    let error = format!("{:#}", refused.expect_err("it starts"));
    assert!(
        error.contains(&format!("process {}", daemon.pid())),
        "{error}"
    );
    // The file alone.
    fs::write(at("elsewhere/jobs.db"), "").expect("it is written");
    mount(&at("jobs.db"), &at("elsewhere/jobs.db"));
    let refused = second.start();
    unmount(&at("elsewhere/jobs.db"));
    let error = format!("{:#}", refused.expect_err("it starts"));
    assert!(error.contains("under another path"), "{error}");
}

#[tokio::test]
async fn a_second_daemon_on_the_same_cache_is_refused_and_leaves_the_cache_alone() {
    let world = World::new().await;
    let daemon = world.start();
    let cache = world.home.path().join("cache");
    let partial = cache.join(".lvp-0123456789abcdef0123456789abcdef.partial");
    fs::write(&partial, "of a download that is under way").expect("it is written");
    symlink(&cache, world.home.path().join("linked")).expect("it is made");
    for path in [&cache, &world.home.path().join("linked")] {
        let (_dir, second) = other(&world, &[("CACHE_DIR", path)]);
        assert_refused(&second, &daemon, "The cache");
    }
    assert!(partial.exists(), "it was swept by the second daemon");
    // The database that it created stays unlocked.
    let (_dir, third) = other(&world, &[]);
    drop(third.start().expect("it starts"));
    daemon.kill().expect("it is killed");
    let (_dir, second) = other(&world, &[("CACHE_DIR", &cache)]);
    drop(second.start().expect("nobody has the cache"));
}

#[tokio::test]
async fn paths_inside_each_other_are_refused_by_config_check_and_at_start() {
    let world = World::new().await;
    let inside = world.home.path().join("cache/volumes");
    fs::create_dir_all(&inside).expect("it is made");
    let world = world.with("VOLUME_DIR", &inside.display().to_string());
    let checked = world
        .home
        .run(&["config", "check", "--config", "/dev/null"])
        .expect("it starts");
    assert_eq!(checked.status.code(), Some(64), "{checked:?}");
    let text = String::from_utf8_lossy(&checked.stderr);
    assert!(
        text.contains("volumes.dir") && text.contains("cache.dir"),
        "{text}"
    );
    let error = format!("{:#}", world.home.start().expect_err("it starts"));
    assert!(
        error.contains("64") && error.contains("cache.dir"),
        "{error}"
    );
    assert!(!world.home.path().join("jobs.db").exists());
}
