//! Power cuts: the kernel is gone between two instructions, and with it every write that had not
//! reached its disks. The next one boots on the same disks and looks.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lvp_testkit::lvm;
use lvp_testkit::require::{command, require};
use lvp_testkit::uml::{self, CUT, Uml};

use super::super::look::{Place, look};
use super::super::rig::{Random, Rig, number};

/// How many cuts there are at least; more while `LVP_TORTURE_SECS` lasts.
const DEFAULT_CUTS: u32 = 1;

/// The file system of the daemon's database and cache.
const DISK_BYTES: u64 = 400 << 20;

/// The longest time between the first requests and the cut: enough for a job or two.
const LONGEST_MS: u64 = 9000;

#[test]
fn torture_power_cuts_leave_no_volume_half_true() {
    cut(
        Place::Lvm,
        "torture::uml::power::torture_power_cuts_leave_no_volume_half_true",
    );
}

#[test]
fn torture_power_cuts_leave_no_thin_volume_and_no_clone_half_true() {
    cut(
        Place::Thin,
        "torture::uml::power::torture_power_cuts_leave_no_thin_volume_and_no_clone_half_true",
    );
}

fn cut(place: Place, test: &str) {
    if uml::is_inside() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(live_until_the_cut(place));
    } else if require("lvm") && require("mkfs.ext4") {
        cut_again_and_again(test);
    }
}

fn cut_again_and_again(test: &str) {
    let mut random = Random::from_environment();
    let until = Instant::now() + Duration::from_secs(number("LVP_TORTURE_SECS", 0));
    let directory = tempfile::tempdir().expect("there is room");
    let path = |name: &str| directory.path().join(name);
    let second = path("second");
    let file = File::create(&second).expect("it is made");
    file.set_len(DISK_BYTES).expect("it has a size");
    let made = command("mkfs.ext4")
        .args(["-q", "-F"])
        .arg(&second)
        .status();
    assert!(made.expect("mkfs starts").success());
    fs::create_dir(path("shared")).expect("it is made");
    let begun = path("shared/begun");
    let kernel = |round: u32| {
        Uml::new()
            .timeout(Duration::from_secs(300))
            .kept_disk(&path("disk"))
            .second_disk(&second)
            .writable(&path("shared"))
            .env("LVP_SHARED", &path("shared").display().to_string())
            .env("LVP_ROUND", &round.to_string())
    };
    let mut cuts = 0;
    while cuts < DEFAULT_CUTS || Instant::now() < until {
        let delay = Duration::from_millis(random.below(LONGEST_MS));
        let seed = random.below(1 << 30).to_string();
        let outcome = kernel(cuts)
            .env("LVP_TORTURE_SEED", &seed)
            .cut_after(&begun, delay)
            .try_this_test(test);
        assert_eq!(outcome.status, CUT, "{}\n{}", outcome.output, outcome.log);
        fs::remove_file(&begun).expect("it had begun");
        cuts += 1;
    }
    kernel(cuts).env("LVP_LAST", "1").run_this_test(test);
    println!("Power cuts: {cuts}");
}

async fn live_until_the_cut(place: Place) {
    let shared = PathBuf::from(std::env::var_os("LVP_SHARED").expect("it is passed"));
    let round = number("LVP_ROUND", 0);
    lvm::tool("mount /dev/ubdc /run/mnt");
    let mut rig = Rig::kept_in(place, Path::new("/run/mnt")).await;
    let accepted = shared.join("accepted");
    if round == 0 {
        place.prepare();
        // The images are no part of what is tested.
        File::create(&accepted).expect("it is made");
        rustix::fs::sync();
    } else {
        let known = fs::read_to_string(&accepted).expect("it was written");
        rig.accepted = known.lines().map(str::to_owned).collect();
        look(&mut rig);
        println!("After cut {round}: {:?}", rig.tally);
    }
    if std::env::var_os("LVP_LAST").is_some() {
        rig.finish().await;
        println!("In the end: {:?}", rig.tally);
        assert!(rig.tally.completed > 0, "nothing happened");
        lvm::tool("umount /run/mnt");
        return;
    }
    let mut random = Random::from_environment();
    let mut accepted = OpenOptions::new()
        .append(true)
        .open(accepted)
        .expect("it opens");
    let daemon = rig.world.start();
    let mut known = rig.accepted.len();
    let mut begun = false;
    let deadline = Instant::now() + Duration::from_secs(120);
    // Ended by the cut.
    while Instant::now() < deadline {
        rig.ask(&daemon, &mut random).await;
        // On the host's disk, where no cut is: who was told 202 keeps his job.
        for job in &rig.accepted[known..] {
            writeln!(accepted, "{job}").expect("it is written");
        }
        known = rig.accepted.len();
        if !begun {
            begun = true;
            File::create(shared.join("begun")).expect("it is made");
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    panic!("the power was not cut");
}
