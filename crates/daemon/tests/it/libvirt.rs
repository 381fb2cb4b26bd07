//! libvirt as the daemon uses it: pools, uploads, and a build without it.

use crate::support::World;

#[cfg(not(feature = "libvirt"))]
#[tokio::test]
async fn a_build_without_libvirt_says_how_to_get_one_with_it() {
    let world = World::new().await.with("LIBVIRT_ENABLED", "true");
    let error = world.home.start().expect_err("it cannot").to_string();
    assert!(error.contains("this build has no libvirt"), "{error}");
    assert!(error.contains("libvirt-dev"), "{error}");
}

#[tokio::test]
async fn uploads_are_checked_before_libvirt_is_asked() {
    let world = World::new().await;
    let daemon = world.start();
    let client = reqwest::Client::new();
    for route in ["/volumes/upload-content", "/api/v1/volumes/upload-content"] {
        let url = format!("{}{route}", daemon.url());
        let put = |name: Option<&str>, body: reqwest::Body| {
            let mut request = client.put(&url).body(body);
            if let Some(name) = name {
                request = request.header("X-Volume-Name", name);
            }
            request.send()
        };
        let stream = || {
            let chunk = Ok::<_, std::io::Error>("seed");
            reqwest::Body::wrap_stream(futures::stream::iter([chunk]))
        };
        for (what, sent, expected) in [
            ("no name", put(None, "seed".into()), 400),
            ("a path", put(Some("../seed.iso"), "seed".into()), 400),
            ("no length", put(Some("seed.iso"), stream()), 411),
            ("no libvirt", put(Some("seed.iso"), "seed".into()), 503),
        ] {
            let status = sent.await.expect("an answer").status();
            assert_eq!(status, expected, "{what} on {route}");
        }
    }
}

#[cfg(feature = "libvirt")]
mod real {
    use std::os::unix::fs::FileExt as _;
    use std::path::{Path, PathBuf};
    use std::process::{Child, Stdio};
    use std::time::{Duration, Instant};

    use lvp_api::{JobState, JobStatus};
    use lvp_testkit::daemon::{Daemon, wait_for};
    use lvp_testkit::process::signal;
    use lvp_testkit::require::{command, find_program, require};
    use serde_json::Value;

    use crate::support::{MIB, World, accepted, holds, image, metric};

    /// A libvirtd with its own socket and pool in its own mount namespace: where libvirtd keeps its
    /// state, which no option can move, it has directories of this test. So it
    /// is independent of those of other tests and of the machine's.
    struct Libvirtd {
        dir: tempfile::TempDir,
        child: Child,
        pool: String,
    }

    /// The directories that a libvirtd of root writes to.
    const STATE: [&str; 5] = [
        "/etc/libvirt",
        "/run/libvirt",
        "/var/cache/libvirt",
        "/var/lib/libvirt",
        "/var/log/libvirt",
    ];

    /// Mounts the directory before each `:` on the one after it, then executes the command.
    const IN_ITS_WORLD: &str = r#"
        set -e
        while [ "$1" != -- ]; do
            mkdir -p "${1%%:*}" "${1#*:}"
            mount --bind "${1%%:*}" "${1#*:}"
            shift
        done
        shift
        exec "$@"
    "#;

    impl Libvirtd {
        async fn start() -> Self {
            let dir = tempfile::Builder::new()
                .prefix("lvp-libvirtd-")
                .tempdir()
                .expect("there is room");
            let child = Self::spawn(dir.path());
            let pool = "lvp-test".to_owned();
            std::fs::create_dir(dir.path().join("pool")).expect("there is room");
            let mut libvirtd = Self { dir, child, pool };
            libvirtd.wait().await;
            let target = libvirtd.path("pool").display().to_string();
            let pool = libvirtd.pool.clone();
            libvirtd.virsh(&["pool-create-as", &pool, "dir", "--target", &target]);
            libvirtd.virsh(&["vol-create-as", &pool, "seed.iso", "1M"]);
            libvirtd
        }

        fn spawn(dir: &Path) -> Child {
            let config = format!(
                "unix_sock_dir = \"{0}\"\nauth_unix_rw = \"none\"\nlog_outputs = \"4:stderr\"\n",
                dir.display()
            );
            let file = dir.join("libvirtd.conf");
            std::fs::write(&file, config).expect("there is room");
            let mounts = STATE.map(|state| format!("{}{state}:{state}", dir.display()));
            command("unshare")
                .args(["--mount", "--propagation", "private"])
                .args(["sh", "-c", IN_ITS_WORLD, "sh"])
                .args(mounts)
                .arg("--")
                .arg(find_program("libvirtd").expect("it was required"))
                .arg("--config")
                .arg(&file)
                .arg("--pid-file")
                .arg(dir.join("pid"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(std::fs::File::create(dir.join("log")).expect("there is room"))
                .spawn()
                .expect("libvirtd starts")
        }

        async fn wait(&mut self) {
            let uri = self.uri();
            wait_for("libvirtd to answer", async || {
                if let Some(ended) = self.child.try_wait().expect("it is ours") {
                    let said = std::fs::read_to_string(self.path("log")).unwrap_or_default();
                    panic!("libvirtd ended with {ended}: {said}");
                }
                let asked = command("virsh")
                    .args(["-c", &uri, "pool-list"])
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status();
                asked.ok()?.success().then_some(())
            })
            .await;
        }

        fn kill(&mut self) {
            self.child.kill().expect("it is killed");
            self.child.wait().expect("it has ended");
        }

        async fn start_again(&mut self) {
            self.child = Self::spawn(self.dir.path());
            self.wait().await;
        }

        fn signal(&self, name: &str) {
            signal(self.child.id(), name).expect("it is sent");
        }

        fn uri(&self) -> String {
            let socket = self.path("libvirt-sock");
            format!("qemu+unix:///system?socket={}", socket.display())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn virsh(&self, arguments: &[&str]) {
            let done = command("virsh")
                .args(["-q", "-c", &self.uri()])
                .args(arguments)
                .output()
                .expect("virsh starts");
            assert!(done.status.success(), "{arguments:?}: {done:?}");
        }
    }

    impl Drop for Libvirtd {
        fn drop(&mut self) {
            // Its mounts and its pool go with it.
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }

    #[tokio::test]
    async fn a_seed_image_is_written_and_a_restarted_libvirtd_is_found_again() {
        if !require("libvirt") {
            return;
        }
        let mut libvirtd = Libvirtd::start().await;
        let world = World::new()
            .await
            .with("LIBVIRT_ENABLED", "true")
            .with("LIBVIRT_URI", &libvirtd.uri())
            .with("LIBVIRT_POOL", &libvirtd.pool)
            // An empty variable counts as unset: the cache is the pool's directory.
            .with("CACHE_DIR", "");
        let daemon = world.start();
        let client = reqwest::Client::new();
        let url = format!("{}/volumes/upload-content", daemon.url());
        let put = async |volume: &str, pool: &str, content: Vec<u8>| {
            let request = client
                .put(&url)
                .header("X-Volume-Name", volume)
                .header("X-Pool-Name", pool)
                .body(content);
            request.send().await.expect("an answer").status().as_u16()
        };
        let pool = libvirtd.pool.clone();
        let seed: Vec<u8> = (0..700_000u32)
            .flat_map(u32::to_le_bytes)
            .take(900_000)
            .collect();
        assert_eq!(put("seed.iso", &pool, seed.clone()).await, 200);
        let written = std::fs::File::open(libvirtd.path("pool/seed.iso")).expect("it is there");
        let mut found = vec![0; seed.len()];
        written.read_exact_at(&mut found, 0).expect("it is as long");
        assert!(found == seed, "the volume holds something else");

        assert_eq!(put("seed.iso", &pool, vec![0; (1 << 20) + 1]).await, 422);
        assert_eq!(put("none.iso", &pool, vec![0; 10]).await, 404);
        assert_eq!(put("seed.iso", "no-such-pool", vec![0; 10]).await, 404);

        let libvirt_is = async |up: bool| {
            wait_for("the probe to see it", async || {
                let answer = daemon.call("GET", "/readyz", None).await.ok()?;
                let ready: &Value = &answer.body["dependencies"]["libvirt"]["up"];
                let series = r#"dependencies_up{dependency="libvirt"}"#;
                let scraped = metric(&daemon, series).await?;
                (*ready == up && scraped == f64::from(u8::from(up))).then_some(())
            })
            .await;
        };
        libvirt_is(true).await;
        libvirtd.kill();
        libvirt_is(false).await;
        libvirtd.start_again().await;
        libvirt_is(true).await;
    }

    /// The content of somebody else's volume.
    const OTHERS: u8 = 0xa5;

    async fn world_with(libvirtd: &Libvirtd) -> World {
        let world = World::new().await;
        let others = vec![OTHERS; 32 << 20];
        std::fs::write(world.home.volume("others"), others).expect("it is written");
        world
            // So that only libvirt's answer protects it.
            .with("LVM_ADOPT_UNTAGGED", "true")
            .with("LIBVIRT_ENABLED", "true")
            .with("LIBVIRT_URI", &libvirtd.uri())
    }

    fn is_untouched(world: &World) -> bool {
        let bytes = std::fs::read(world.home.volume("others")).expect("it is read");
        let record = world.home.path().join("volumes/.lvp/others.json");
        bytes.iter().all(|byte| *byte == OTHERS) && !record.exists()
    }

    async fn provision(daemon: &Daemon, url: &str, volume: &str) -> JobStatus {
        let job = accepted(daemon, url, volume, 32 * MIB).await;
        daemon.ended(&job).await.expect("it ends")
    }

    fn cannot_tell(status: &JobStatus) {
        assert_eq!(
            (status.status, status.error_code),
            (JobState::Failed, Some(503)),
            "{status:?}"
        );
        let error = status.error.as_deref().unwrap_or_default();
        assert!(error.contains("Cannot find out"), "{error}");
    }

    #[tokio::test]
    async fn a_restart_of_libvirtd_fails_no_job_and_nothing_is_written_while_it_is_down() {
        if !require("libvirt") {
            return;
        }
        let mut libvirtd = Libvirtd::start().await;
        let world = world_with(&libvirtd).await;
        let builder = image(32 * MIB, 20, 1);
        let url = world.put("a.qcow2", &builder.build());
        let daemon = world.start();
        let status = provision(&daemon, &url, "vm-1").await;
        assert_eq!(status.status, JobState::Completed, "{status:?}");
        // The daemon's connection is to a libvirtd that is gone.
        libvirtd.kill();
        libvirtd.start_again().await;
        let status = provision(&daemon, &url, "vm-2").await;
        assert_eq!(status.status, JobState::Completed, "{status:?}");
        let asked_again = |message: &Value| message["message"] == "Asking libvirt again";
        assert!(!daemon.log().iter().any(asked_again), "it was not noticed");

        libvirtd.kill();
        cannot_tell(&provision(&daemon, &url, "others").await);
        assert!(is_untouched(&world), "written without asking libvirt");

        let job = accepted(&daemon, &url, "others", 32 * MIB).await;
        let before = daemon.log().len();
        wait_for("it to ask", async || {
            daemon.log()[before..].iter().any(asked_again).then_some(())
        })
        .await;
        libvirtd.start_again().await;
        let status = daemon.ended(&job).await.expect("it ends");
        assert_eq!(status.status, JobState::Completed, "{status:?}");
        assert!(holds(&world.home.volume("others"), &builder.disk()));
    }

    #[tokio::test]
    async fn a_hanging_libvirtd_delays_only_its_job_and_not_for_ever() {
        if !require("libvirt") {
            return;
        }
        let libvirtd = Libvirtd::start().await;
        let world = world_with(&libvirtd).await;
        let builder = image(32 * MIB, 20, 1);
        let url = world.put("a.qcow2", &builder.build());
        let daemon = world.start();
        let status = provision(&daemon, &url, "vm-1").await;
        assert_eq!(status.status, JobState::Completed, "{status:?}");
        libvirtd.signal("STOP");
        let job = accepted(&daemon, &url, "others", 32 * MIB).await;
        for route in ["/health", "/metrics", "/api/v1/jobs"] {
            let asked = Instant::now();
            let answer = daemon.call("GET", route, None).await.expect("an answer");
            assert_eq!(answer.status, 200, "{route}");
            let took = asked.elapsed();
            assert!(took < Duration::from_secs(3), "{route} took {took:?}");
        }
        cannot_tell(&daemon.ended(&job).await.expect("it ends"));
        assert!(is_untouched(&world), "written without asking libvirt");
        libvirtd.signal("CONT");
        let status = provision(&daemon, &url, "others").await;
        assert_eq!(status.status, JobState::Completed, "{status:?}");
        assert!(holds(&world.home.volume("others"), &builder.disk()));
    }
}
