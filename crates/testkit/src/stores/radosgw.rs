//! Ceph's object gateway over a cluster of one monitor and one object store in memory, with virtual hosts below
//! `s3.localhost`.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};
use tempfile::TempDir;

use super::ServerProcess;
use crate::port::Port;
use crate::require::command;
use crate::s3::{ACCESS_KEY, SECRET_KEY};

/// Below it, buckets are hosts.
const DOMAIN: &str = "s3.localhost";

/// The cluster's name to its parts, which find each other by the monitor's port.
const CLUSTER: &str = "00000000-0000-4000-8000-000000000001";

/// A running gateway and its cluster.
#[derive(Debug)]
pub(super) struct RadosGw {
    // Stop in this order, before their directory goes.
    gateway: ServerProcess,
    _store: ServerProcess,
    _monitor: ServerProcess,
    port: Port,
    _monitor_port: Port,
    _directory: TempDir,
}

impl RadosGw {
    /// Starts it; it serves a few seconds later.
    pub(super) fn start() -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("lvp-ceph-").tempdir()?;
        let at = directory.path();
        let (port, monitor_port) = (Port::reserve()?, Port::reserve()?);
        let monitor_at = format!("[v2:{}]", monitor_port.address());
        fs::write(at.join("ceph.conf"), settings(at, &monitor_at))?;
        for name in ["mon", "osd", "rgw"] {
            fs::create_dir(at.join(name))?;
        }
        let map = [
            "--create",
            "--addv",
            "a",
            &monitor_at,
            "--fsid",
            CLUSTER,
            "monmap",
        ];
        run(at, "monmaptool", &map)?;
        run(at, "ceph-mon", &["--mkfs", "-i", "a", "--monmap", "monmap"])?;
        let monitor = serve(at, "ceph-mon", &["-i", "a"])?;
        // Waits until the monitor answers.
        run(at, "ceph", &["--connect-timeout", "60", "osd", "create"])?;
        run(at, "ceph-osd", &["--mkfs", "-i", "0"])?;
        let store = serve(at, "ceph-osd", &["-i", "0"])?;
        // Makes the gateway's pools, and so waits until they can be written to.
        let user = [
            "user",
            "create",
            "--uid=test",
            "--display-name=test",
            &format!("--access-key={ACCESS_KEY}"),
            &format!("--secret={SECRET_KEY}"),
        ];
        run(at, "radosgw-admin", &user)?;
        let frontend = format!("--rgw-frontends=beast endpoint={}", port.address());
        let gateway = serve(at, "radosgw", &["-n", "client.admin", &frontend])?;
        Ok(Self {
            gateway,
            _store: store,
            _monitor: monitor,
            port,
            _monitor_port: monitor_port,
            _directory: directory,
        })
    }

    pub(super) fn domain(&self) -> &'static str {
        DOMAIN
    }

    /// The end of what the gateway said.
    pub(super) fn said(&self) -> String {
        self.gateway.said()
    }

    /// Where it is.
    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.port.address())
    }
}

/// One of everything, on this machine alone, and without authentication between its parts: that needs connections
/// without encryption.
fn settings(at: &Path, monitor: &str) -> String {
    let modes = ["cluster", "service", "client"];
    let modes = modes.map(|of| format!("ms {of} mode = crc\nms mon {of} mode = crc\n"));
    let at = at.display();
    format!(
        "[global]\n\
         fsid = {CLUSTER}\n\
         mon host = {monitor}\n\
         auth cluster required = none\n\
         auth service required = none\n\
         auth client required = none\n\
         {}\
         ms bind msgr1 = false\n\
         public addr = 127.0.0.1\n\
         run dir = {at}\n\
         admin socket = {at}/$name.asok\n\
         pid file =\n\
         log file =\n\
         log to stderr = true\n\
         err to stderr = true\n\
         mon data = {at}/mon\n\
         osd data = {at}/osd\n\
         rgw data = {at}/rgw\n\
         osd objectstore = memstore\n\
         memstore device bytes = 1073741824\n\
         osd pool default size = 1\n\
         osd pool default min size = 1\n\
         osd pool default pg num = 1\n\
         osd pool default pgp num = 1\n\
         osd pool default pg autoscale mode = off\n\
         osd crush chooseleaf type = 0\n\
         mon allow pool size one = true\n\
         mon data avail crit = 0\n\
         rgw run sync thread = false\n\
         rgw dns name = {DOMAIN}\n",
        modes.concat()
    )
}

fn serve(at: &Path, program: &str, arguments: &[&str]) -> anyhow::Result<ServerProcess> {
    let mut server = command(program);
    server.args(["-c", "ceph.conf", "-f"]).args(arguments);
    Ok(ServerProcess::start(server.current_dir(at))?)
}

fn run(at: &Path, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let mut once = command(program);
    if program != "monmaptool" {
        once.args(["-c", "ceph.conf"]);
    }
    let output = once.args(arguments).current_dir(at).output();
    let output = output.with_context(|| format!("{program} does not start"))?;
    ensure!(
        output.status.success(),
        "{program} {arguments:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
