//! A real nats-server, which can be killed, started again, and made to forget everything.

pub mod jwt;

use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::daemon::DEADLINE;
use crate::port::Port;
use crate::process::signal;
use crate::require::{command, find_program};

/// A server with its store; stops when it is dropped.
#[derive(Debug)]
pub struct Nats {
    program: PathBuf,
    child: Option<Child>,
    port: Port,
    /// Where the other servers of its cluster find it.
    route: Option<Port>,
    name: String,
    directory: TempDir,
}

/// The key of a user of the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsUser {
    /// The secret, as `fleet.nkey_file` takes it.
    pub seed: String,
    /// The public key, as the server's configuration takes it.
    pub public: String,
}

impl NatsUser {
    /// A new one.
    pub fn new() -> io::Result<Self> {
        let pair = nkeys::KeyPair::new_user();
        Ok(Self {
            seed: pair.seed().map_err(io::Error::other)?,
            public: pair.public_key(),
        })
    }
}

impl Nats {
    /// All servers that are installed: the one of the `PATH`, and Debian's if that is another.
    pub fn programs() -> Vec<PathBuf> {
        let debian = PathBuf::from("/usr/sbin/nats-server");
        let found = find_program("nats-server").into_iter();
        let mut found: Vec<_> = found
            .chain(Some(debian).filter(|path| path.is_file()))
            .collect();
        found.dedup();
        found
    }

    /// Starts the server of the `PATH`, with more lines for its configuration.
    pub fn start(more: &str) -> io::Result<Self> {
        Self::start_program(Path::new("nats-server"), more)
    }

    /// Starts a certain server.
    pub fn start_program(program: &Path, more: &str) -> io::Result<Self> {
        let mut server = Self::stopped(program, "test")?;
        server.configure(more)?;
        server.run()?;
        Ok(server)
    }

    /// Starts a cluster of three, named `n0` to `n2`.
    pub fn cluster(program: &Path) -> io::Result<[Self; 3]> {
        let mut servers = [
            Self::stopped(program, "n0")?,
            Self::stopped(program, "n1")?,
            Self::stopped(program, "n2")?,
        ];
        let mut routes = Vec::new();
        for server in &mut servers {
            let route = server.route.insert(Port::reserve()?);
            routes.push(format!("nats-route://{}", route.address()));
        }
        for server in &mut servers {
            let listen = server.route.as_ref().map(Port::address);
            let listen = listen
                .map(|address| address.to_string())
                .unwrap_or_default();
            server.configure(&format!(
                "cluster {{ name: fleet, listen: \"{listen}\", routes: [{}] }}",
                routes.join(", ")
            ))?;
            server.run()?;
        }
        Ok(servers)
    }

    fn stopped(program: &Path, name: &str) -> io::Result<Self> {
        Ok(Self {
            program: program.to_owned(),
            child: None,
            port: Port::reserve()?,
            route: None,
            name: name.to_owned(),
            directory: tempfile::Builder::new().prefix("lvp-nats-").tempdir()?,
        })
    }

    /// What it calls itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The server's URL.
    pub fn url(&self) -> String {
        format!("nats://{}", self.port.address())
    }

    /// Writes its configuration anew, for the next start or [`Nats::reload`].
    pub fn configure(&self, more: &str) -> io::Result<()> {
        let store = self.store().display().to_string();
        let text = format!(
            "listen: \"{}\"\nserver_name: {}\njetstream {{ store_dir: \"{store}\", max_mem: 64M, max_file: 2G }}\n{more}\n",
            self.port.address(),
            self.name,
        );
        std::fs::write(self.directory.path().join("server.conf"), text)
    }

    /// Makes the running server read its configuration again.
    pub fn reload(&self) -> anyhow::Result<()> {
        match &self.child {
            Some(child) => signal(child.id(), "HUP"),
            None => Ok(()),
        }
    }

    /// Starts it, if it does not run.
    pub fn run(&mut self) -> io::Result<()> {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.path().join("log"))?;
        let child = command(&self.program)
            .arg("-c")
            .arg(self.directory.path().join("server.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        let deadline = Instant::now() + DEADLINE;
        while !self.answers() {
            if Instant::now() > deadline {
                return Err(io::Error::other(format!(
                    "nats-server does not answer: {}",
                    self.log()
                )));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Sends SIGKILL, and waits until it is gone. Its store stays.
    pub fn kill(&mut self) -> io::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Removes what it has stored. It must not run.
    pub fn forget(&self) -> io::Result<()> {
        std::fs::remove_dir_all(self.store())
    }

    fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    /// A server greets whoever connects.
    fn answers(&self) -> bool {
        let greeting = || {
            let mut stream = TcpStream::connect(self.port.address())?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            let mut bytes = [0; 4];
            stream.read_exact(&mut bytes)?;
            Ok::<_, io::Error>(bytes)
        };
        greeting().is_ok_and(|bytes| &bytes == b"INFO")
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        // Nothing can be done about a server that cannot be killed.
        self.kill().ok();
    }
}
