//! A clone takes the place of a volume.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use lvp_api::Method;
use lvp_testkit::daemon::wait_for;
use lvp_testkit::fault::{Fault, Rule};
use lvp_testkit::require::require;

use super::{DISK, Sharing};
use crate::support::{completed, ended, holds, image};

#[tokio::test]
async fn a_volume_is_replaced_at_once_and_keeps_its_content_until_then() {
    if !require("xfs") {
        return;
    }
    let (world, proxy) = Sharing::with_faults().await;
    let (first, second) = (image(DISK, 100, 5), image(DISK, 300, 6));
    let (old, new) = (
        world.put("old.qcow2", &first.build()),
        world.put("new.qcow2", &second.build()),
    );
    let daemon = world.start();
    completed(&daemon, &old, "vm", DISK).await;
    let volume = world.home.volume("vm");
    let before = fs::metadata(&volume).expect("it is there");

    // While the new image is fetched, and when that is cancelled.
    proxy.inject(Rule::new(Fault::Slow(100_000)).method("GET"));
    let job = daemon.provision(&new, "vm", DISK).await.expect("accepted");
    wait_for("the golden volume in the making", async || {
        (world.golden_files().len() == 2).then_some(())
    })
    .await;
    assert!(holds(&volume, &first.disk()));
    let answer = daemon
        .call("POST", &format!("/api/v1/jobs/{job}/cancel"), None)
        .await;
    assert_eq!(answer.expect("it answers").status, 200);
    assert!(holds(&volume, &first.disk()));
    assert_eq!(world.golden_files().len(), 1, "nothing half made is left");
    proxy.clear();

    // While a guest has it.
    let guest = fs::File::open(&volume).expect("it opens");
    let refused = ended(&daemon, &new, "vm", DISK).await;
    assert_eq!(refused.error_type.as_deref(), Some("volume_refused"));
    assert!(holds(&volume, &first.disk()));
    drop(guest);

    let status = completed(&daemon, &new, "vm", DISK).await;
    assert_eq!(status.method, Some(Method::Clone));
    assert!(holds(&volume, &second.disk()));
    let after = fs::metadata(&volume).expect("it is there");
    assert_ne!(before.ino(), after.ino());
    assert_eq!(before.len(), after.len());
    assert_eq!(world.golden_files().len(), 2, "no clone waits");

    // A larger image does not fit, and the volume stays.
    let large = world.put("large.qcow2", &image(2 * DISK, 10, 7).build());
    let refused = ended(&daemon, &large, "vm", DISK).await;
    assert_eq!(refused.error_type.as_deref(), Some("volume_too_small"));
    assert!(holds(&volume, &second.disk()));
    assert_eq!(world.golden_files().len(), 2);
}
