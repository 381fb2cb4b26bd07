//! SeaweedFS: master, volume server, filer and S3 gateway in one process, with virtual hosts below `s3.localhost`.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::ServerProcess;
use crate::port::Port;
use crate::require::command;
use crate::s3::{ACCESS_KEY, SECRET_KEY};

/// The services that listen, each on a port of its own, and which of them have a socket beside it.
const SERVICES: [&str; 8] = [
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port.grpc",
    "s3.port",
];

/// Below it, buckets are hosts.
const DOMAIN: &str = "s3.localhost";

/// A running SeaweedFS.
#[derive(Debug)]
pub(super) struct SeaweedFs {
    // Stops before its directory goes.
    process: ServerProcess,
    ports: Vec<Port>,
    _directory: TempDir,
}

impl SeaweedFs {
    /// Starts it; it serves a few seconds later.
    pub(super) fn start() -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("lvp-weed-").tempdir()?;
        let path = |name: &str| directory.path().join(name);
        let identities = serde_json::json!({"identities": [{
            "name": "test",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List"],
        }]});
        fs::write(path("s3.json"), identities.to_string())?;
        fs::create_dir(path("data"))?;
        let ports = SERVICES.map(|_| Port::reserve());
        let ports = ports.into_iter().collect::<Result<Vec<_>, _>>()?;
        let numbered = SERVICES.iter().zip(&ports);
        let mut weed = command("weed");
        weed.args(["-logtostderr=true", "server"])
            .arg(format!("-dir={}", path("data").display()))
            .args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1"])
            .args(numbered.map(|(name, port)| format!("-{name}={}", port.address().port())))
            // It reports to its makers unless it is told not to.
            .arg("-master.telemetry=false")
            .args([
                "-master.electionTimeout=1s",
                "-master.heartbeatInterval=100ms",
            ])
            .args(["-master.volumeSizeLimitMB=64", "-volume.max=32"])
            .args([
                "-s3",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                "-s3.iam=false",
            ])
            .arg(format!("-s3.config={}", path("s3.json").display()))
            .arg(format!("-s3.domainName={DOMAIN}"))
            .arg(format!(
                "-filer.localSocket={}",
                path("filer.sock").display()
            ))
            .arg(format!("-s3.localSocket={}", path("s3.sock").display()))
            .current_dir(directory.path())
            .env("HOME", directory.path());
        Ok(Self {
            process: ServerProcess::start(&mut weed)?,
            ports,
            _directory: directory,
        })
    }

    pub(super) fn domain(&self) -> &'static str {
        DOMAIN
    }

    /// The end of what it said.
    pub(super) fn said(&self) -> String {
        self.process.said()
    }

    /// Where its S3 gateway is.
    pub(super) fn endpoint(&self) -> String {
        let last = self.ports.last().map(Port::address);
        last.map_or_else(String::new, |address| format!("http://{address}"))
    }
}

impl Drop for SeaweedFs {
    fn drop(&mut self) {
        // It is killed, so that it leaves these.
        for (service, port) in SERVICES.iter().zip(&self.ports) {
            if let Some(service) = service.strip_suffix(".port.grpc") {
                let socket = format!("seaweedfs-{service}-grpc-{}.sock", port.address().port());
                // An error means that it was never made.
                fs::remove_file(PathBuf::from("/tmp").join(socket)).ok();
            }
        }
    }
}
