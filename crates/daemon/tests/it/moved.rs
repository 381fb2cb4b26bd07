//! A start with volumes in another place reports what is left in the former place.

use std::fs;

use lvp_testkit::daemon::wait_for;
use lvp_testkit::fault::{Fault, Rule};

use crate::support::{MIB, World, accepted, image};

const MESSAGE: &str = "Volumes were kept elsewhere before, and some there are unfinished: the \
    daemon does not finish or remove them. Configure the former place again to have that done, or \
    remove them there by hand";

#[tokio::test]
async fn a_start_with_another_volumes_directory_reports_unfinished_volumes_in_the_old_one() {
    let (world, proxy) = World::with_faults().await;
    let url = world.put("a.qcow2", &image(64 * MIB, 300, 1).build());
    proxy.inject(Rule::new(Fault::Slow(1_000_000)).method("GET"));
    let daemon = world.start();
    accepted(&daemon, &url, "vm", 64 * MIB).await;
    wait_for("the volume", async || {
        world.home.volume("vm").exists().then_some(())
    })
    .await;
    daemon.kill().expect("it is killed");

    let old = world.home.path().join("volumes");
    let new = world.home.path().join("elsewhere");
    fs::create_dir(&new).expect("it is made");
    let world = world.with("VOLUME_DIR", &new.display().to_string());
    // At every start, not at the first alone.
    for _ in 0..2 {
        let daemon = world.start();
        let said = daemon.until_said(MESSAGE).await;
        assert_eq!(said["level"], "warn", "{said}");
        assert_eq!(said["location"], old.display().to_string(), "{said}");
        assert_eq!(said["volumes"], "vm", "{said}");
        assert!(old.join("vm").exists(), "it was removed");
        daemon.kill().expect("it is killed");
    }

    // A place that cannot be read does not count as an empty one.
    let away = world.home.path().join("away");
    fs::rename(&old, &away).expect("it is moved");
    let daemon = world.start();
    daemon
        .until_said(
            "Volumes were kept elsewhere before, and it is unknown whether some there are \
             unfinished",
        )
        .await;
    daemon.kill().expect("it is killed");
    fs::rename(&away, &old).expect("it is moved back");

    // Once nothing is left there, the place is forgotten.
    fs::remove_file(old.join("vm")).expect("it is removed");
    let daemon = world.start();
    daemon.until_said("Ready").await;
    wait_for("the place to be forgotten", async || {
        let database = world.home.path().join("jobs.db");
        let connection = rusqlite::Connection::open(database).ok()?;
        let count = "SELECT count(*) FROM volume_places";
        let places: u32 = connection.query_row(count, [], |row| row.get(0)).ok()?;
        (places == 1).then_some(())
    })
    .await;
    let repeated = daemon.log().iter().any(|line| line["message"] == MESSAGE);
    assert!(!repeated, "it is said of an empty place");
}
