//! The package's files under a real systemd, with real LVM and AppArmor enforced.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lvp_api::{JobState, JobStatus};
use lvp_testkit::daemon::{answer, wait_for};
use lvp_testkit::process::signal;
use lvp_testkit::require::{command, require};
use lvp_testkit::s3::{ACCESS_KEY, S3, SECRET_KEY};
use lvp_testkit::uml::{self, Uml};
use serde_json::{Value, json};

use crate::support::{BINARY, MIB, image};

const SERVICE: &str = "libvirt-volume-provisioner.service";
const CONFIG: &str = "/etc/libvirt-volume-provisioner/config.yaml";
const BASE: &str = "http://127.0.0.1:8080";

#[test]
fn the_hardened_service_provisions_logical_volumes() {
    if uml::is_inside() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(lives_under_systemd());
    } else if require_all() {
        Uml::new()
            .systemd()
            .timeout(Duration::from_secs(300))
            .run_this_test("systemd::uml::the_hardened_service_provisions_logical_volumes");
    }
}

fn require_all() -> bool {
    ["lvm", "systemd", "apparmor_parser", "logrotate"]
        .into_iter()
        .all(require)
}

async fn lives_under_systemd() {
    let s3 = S3::start().await.expect("the S3 server starts");
    let builder = image(24 * MIB, 60, 7);
    s3.objects()
        .put("images", "a.qcow2", &builder.build())
        .expect("it is put");
    install();
    configure(&format!(
        "server: {{shutdown_grace: 5s}}\n\
         minio: {{endpoint: '{}', access_key: {ACCESS_KEY}, secret_key: {SECRET_KEY}}}\n\
         lvm: {{volume_group: vg0}}\nlibvirt: {{enabled: false}}\n\
         cache: {{dir: /var/lib/libvirt/images/cache, min_free_bytes: 0}}\n\
         logging: {{file: /var/log/libvirt-volume-provisioner/daemon.log}}\n",
        s3.endpoint()
    ));

    // `start` returns when the daemon says that it is ready, not before.
    tool("systemctl start libvirt-volume-provisioner.service");
    assert_eq!(get("/healthz").await, 200, "ready, and no answer");
    restrictions_are_in_force();
    the_sandbox_works_within_them();
    provision("vm-1").await;
    let bytes = fs::read("/dev/vg0/vm-1").expect("the volume is read");
    assert!(bytes[..24 << 20] == builder.disk(), "the disk is wrong");
    let tags = tool("lvs --noheadings --options lv_tags vg0/vm-1");
    assert!(tags.contains("lvp.state=ready"), "{tags}");
    // Rewritten, and once more with what a smaller image would leave.
    provision("vm-1").await;
    assert_eq!(denials(), "", "AppArmor denied something that was needed");
    the_journal_knows_what_is_an_error().await;

    // The log is rotated: only the daemon itself creates the new file.
    let log = Path::new("/var/log/libvirt-volume-provisioner/daemon.log");
    tool("logrotate --force /etc/logrotate.d/libvirt-volume-provisioner");
    wait_for("the new log", async || log.exists().then_some(())).await;
    assert!(log.with_extension("log.1").exists());
    tool("systemctl reload libvirt-volume-provisioner.service");
    assert_eq!(property("ActiveState"), "active");

    // A daemon that hangs is replaced.
    let hung = property("MainPID");
    signal(hung.parse().expect("a number"), "STOP").expect("it is sent");
    wait_for("another daemon", async || {
        let now = property("MainPID");
        (now != hung && now != "0" && get("/healthz").await == 200).then_some(())
    })
    .await;
    assert_eq!(property("NRestarts"), "1");
    tool("systemctl stop libvirt-volume-provisioner.service");
    assert_eq!(property("Result"), "success", "it did not stop in order");

    // A configuration that cannot be used is not tried again and again.
    let good = fs::read_to_string(CONFIG).expect("it is read");
    configure("minio: {endpiont: x}\n");
    assert!(!succeeds(
        "systemctl start libvirt-volume-provisioner.service"
    ));
    assert_eq!(property("NRestarts"), "0");
    configure(&good);
    tool("systemctl reset-failed libvirt-volume-provisioner.service");

    // The socket unit starts the service at the first connection.
    tool("systemctl start libvirt-volume-provisioner.socket");
    assert_eq!(property("ActiveState"), "inactive");
    assert_eq!(get("/healthz").await, 200);
    assert_eq!(property("ActiveState"), "active");
    tool("systemctl stop libvirt-volume-provisioner.socket");
    tool("systemctl stop libvirt-volume-provisioner.service");

    // The backup, with its own restrictions.
    tool("systemctl start libvirt-volume-provisioner-backup.service");
    let backups = fs::read_dir("/var/lib/libvirt-volume-provisioner/backups").expect("read");
    assert_eq!(backups.count(), 1);

    without_root(&good).await;
}

/// With volumes as files, root is not needed: the drop-in in docs/install.md.
async fn without_root(config: &str) {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/install.md");
    let guide = fs::read_to_string(guide).expect("the guide is there");
    let (_, part) = guide
        .split_once("```ini\n")
        .expect("the guide has a drop-in");
    let (part, _) = part.split_once("```").expect("it has an end");
    drop_in("unprivileged", part);
    tool("systemctl daemon-reload");
    let (_, part) = guide
        .split_once("```apparmor\n")
        .expect("the guide has rules");
    let (part, _) = part.split_once("```").expect("they have an end");
    fs::create_dir_all("/etc/apparmor.d/local").expect("it is made");
    fs::write("/etc/apparmor.d/local/libvirt-volume-provisioner", part).expect("written");
    load_profile();
    let owner = "libvirt-volume-provisioner";
    tool(&format!(
        "install -d -o {owner} -g {owner} /srv/lvp/volumes /srv/lvp/cache"
    ));
    configure(
        &config
            .replace("/var/lib/libvirt/images/cache", "/srv/lvp/cache")
            .replace(
                "lvm: {volume_group: vg0}",
                "volumes: {backend: dir, dir: /srv/lvp/volumes}",
            )
            .replace(
                "logging: {file: /var/log/libvirt-volume-provisioner/daemon.log}",
                "",
            ),
    );
    tool("systemctl start libvirt-volume-provisioner.service");
    provision("vm-2").await;
    assert!(Path::new("/srv/lvp/volumes/vm-2").exists());
    let status = fs::read_to_string(format!("/proc/{}/status", property("MainPID")));
    let status = status.expect("the daemon runs");
    assert!(!status.contains("Uid:\t0"), "{status}");
    assert!(status.contains("CapBnd:\t0000000000000000"), "{status}");
    tool("systemctl stop libvirt-volume-provisioner.service");
}

/// What the package does: its files, user and directories.
fn install() {
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging");
    let put = |from: &str, to: &str| {
        fs::copy(packaging.join(from), to).unwrap_or_else(|error| panic!("{to}: {error}"));
    };
    fs::write("/usr/bin/libvirt-volume-provisioner", "").expect("it is made");
    tool(&format!(
        "mount --bind {BINARY} /usr/bin/libvirt-volume-provisioner"
    ));
    for unit in [".service", ".socket", "-backup.service", "-backup.timer"] {
        let name = format!("libvirt-volume-provisioner{unit}");
        put(
            &format!("systemd/{name}"),
            &format!("/usr/lib/systemd/system/{name}"),
        );
    }
    let slice = "provisioner.slice";
    put(
        &format!("systemd/{slice}"),
        &format!("/usr/lib/systemd/system/{slice}"),
    );
    let conf = "libvirt-volume-provisioner.conf";
    put(
        &format!("sysusers/{conf}"),
        &format!("/usr/lib/sysusers.d/{conf}"),
    );
    put(
        &format!("tmpfiles/{conf}"),
        &format!("/usr/lib/tmpfiles.d/{conf}"),
    );
    tool(&format!("systemd-sysusers {conf}"));
    tool(&format!("systemd-tmpfiles --create {conf}"));
    put(
        "apparmor/libvirt-volume-provisioner",
        "/etc/apparmor.d/libvirt-volume-provisioner",
    );
    put(
        "logrotate/libvirt-volume-provisioner",
        "/etc/logrotate.d/libvirt-volume-provisioner",
    );
    // Which systemd mounts is up to how it was built, and to what is installed beside it.
    if !succeeds("mountpoint --quiet /sys/kernel/security") {
        tool("mount -t securityfs securityfs /sys/kernel/security");
    }
    load_profile();
    // The kernel's modules are not where modprobe of the machine looks; they are loaded.
    symlink("/dev/null", "/etc/systemd/system/modprobe@dm_mod.service").expect("it is masked");
    fs::create_dir_all("/var/lib/libvirt/images").expect("it is made");
    // So that the test need not wait for two minutes.
    drop_in("watchdog", "[Service]\nWatchdogSec=6s\nRestartSec=100ms\n");
}

/// `journalctl -p err` shows the errors and nothing else, without the priority prefixes.
async fn the_journal_knows_what_is_an_error() {
    let body = json!({
        "image_url": "s3://images/none.qcow2", "volume_name": "vm-none", "volume_size_gb": 1,
    });
    let request = reqwest::Client::new().post(format!("{BASE}/api/v1/jobs"));
    let answer = request.json(&body).send().await.expect("an answer");
    assert_eq!(answer.status(), 202);
    let of = |priority: &str| {
        tool(&format!(
            "journalctl --unit {SERVICE} --output cat --priority {priority}"
        ))
    };
    let errors = wait_for("the error", async || {
        let errors = of("err");
        errors.contains("Job failed").then_some(errors)
    })
    .await;
    let of_daemon = errors.lines().filter(|line| line.contains("\"timestamp\""));
    for line in of_daemon {
        let line: Value = serde_json::from_str(line).expect("a line is JSON and nothing else");
        assert_eq!(line["level"], "error", "{line}");
    }
    assert!(of("info").contains("\"level\":\"info\""));
}

fn load_profile() {
    tool("apparmor_parser --replace --skip-cache /etc/apparmor.d/libvirt-volume-provisioner");
}

fn configure(yaml: &str) {
    fs::write(CONFIG, yaml).expect("the configuration is written");
}

fn drop_in(name: &str, text: &str) {
    let directory = PathBuf::from(format!("/etc/systemd/system/{SERVICE}.d"));
    fs::create_dir_all(&directory).expect("it is made");
    fs::write(directory.join(format!("{name}.conf")), text).expect("it is written");
}

fn restrictions_are_in_force() {
    let pid = property("MainPID");
    let read =
        |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).expect("the daemon runs");
    assert_eq!(
        read("attr/current").trim(),
        "libvirt-volume-provisioner (enforce)"
    );
    let status = read("status");
    // CAP_DAC_OVERRIDE, CAP_SYS_ADMIN, CAP_LEASE.
    for line in ["CapBnd:\t0000000010200002", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line} is not in {status}");
    }
    for (limit, value) in [
        ("MemoryHigh", 768 * MIB),
        ("MemoryMax", 1024 * MIB),
        ("TasksMax", 1024),
    ] {
        assert_eq!(property(limit), value.to_string(), "{limit}");
    }
    assert_eq!(property("Slice"), "provisioner.slice");
    assert_eq!(property_of("provisioner.slice", "IOWeight"), "50");
    for path in ["/etc/x", "/usr/x", "/home/x"] {
        let line = format!("nsenter --target {pid} --mount touch {path}");
        assert!(!succeeds(&line), "{path} can be written");
    }
}

/// What restricts the process that decodes images, within what restricts the daemon.
fn the_sandbox_works_within_them() {
    let said = tool(&format!("journalctl --unit {SERVICE} --output cat"));
    // Debian's user-mode Linux has no Landlock.
    let works = [
        "Images are decoded in a sandbox",
        "\"missing\":\"Landlock\"",
    ];
    assert!(works.iter().any(|line| said.contains(line)), "{said}");
}

fn denials() -> String {
    tool("dmesg")
        .lines()
        .filter(|line| line.contains("apparmor=\"DENIED\""))
        .collect()
}

async fn provision(volume: &str) {
    let client = reqwest::Client::new();
    let body = json!({
        "image_url": "s3://images/a.qcow2", "volume_name": volume,
        "volume_size_bytes": 32 * MIB,
    });
    let accepted = client
        .post(format!("{BASE}/api/v1/jobs"))
        .json(&body)
        .send()
        .await;
    let accepted = answer(accepted.expect("an answer"))
        .await
        .expect("it is read");
    assert_eq!(accepted.status, 202, "{accepted:?}");
    let id = accepted.body["job_id"].as_str().expect("an id").to_owned();
    let status = wait_for("the job's end", async || {
        let url = format!("{BASE}/api/v1/jobs/{id}");
        let status: JobStatus = client.get(url).send().await.ok()?.json().await.ok()?;
        status.status.is_terminal().then_some(status)
    })
    .await;
    assert_eq!(
        status.status,
        JobState::Completed,
        "{status:?}\n{}",
        denials()
    );
}

async fn get(route: &str) -> u16 {
    match reqwest::get(format!("{BASE}{route}")).await {
        Ok(answer) => answer.status().as_u16(),
        Err(_) => 0,
    }
}

fn property(name: &str) -> String {
    property_of(SERVICE, name)
}

fn property_of(unit: &str, name: &str) -> String {
    tool(&format!("systemctl show --property={name} --value {unit}"))
}

fn output(line: &str) -> std::process::Output {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a program");
    command(program).args(words).output().expect("it starts")
}

fn succeeds(line: &str) -> bool {
    output(line).status.success()
}

/// Runs a tool that must succeed; what it printed.
fn tool(line: &str) -> String {
    let output = output(line);
    assert!(
        output.status.success(),
        "{line}: {output:?}\n{}",
        String::from_utf8_lossy(&self::output("journalctl --no-pager -n 60").stdout)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
