//! The S3 server inside the process, with a directory of its own and keys that tests know.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use lvp_s3server::{Options, S3Server, Traffic};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::tls::TestCa;

/// The access key that test servers accept.
pub const ACCESS_KEY: &str = "test-access";
/// Its secret.
pub const SECRET_KEY: &str = "test-secret-0123456789";

/// A running S3 server over a temporary directory.
#[derive(Debug)]
pub struct S3 {
    // Stops before its directory goes.
    server: S3Server,
    objects: Objects,
}

/// A directory of objects, whatever serves it: `BUCKET/KEY` is a file.
#[derive(Debug)]
pub struct Objects {
    root: PathBuf,
    // Removes the directory when dropped, unless somebody wants it kept.
    _temporary: Option<TempDir>,
}

impl S3 {
    /// Starts a server that speaks plain HTTP.
    pub async fn start() -> io::Result<Self> {
        Self::start_with(Options::default()).await
    }

    /// Starts a server that wants no credentials, as a plain HTTP mirror.
    pub async fn start_anonymous() -> io::Result<Self> {
        let objects = Objects::new()?;
        let server = S3Server::start(objects.root(), Options::default()).await?;
        Ok(Self { server, objects })
    }

    /// Starts a server whose certificate this CA signed.
    pub async fn start_with_tls(ca: &TestCa) -> io::Result<Self> {
        Self::start_with(Options {
            tls: Some(ca.acceptor()),
            ..Options::default()
        })
        .await
    }

    /// Starts a server over a directory that stays.
    pub async fn start_in(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let objects = Objects {
            root: root.to_owned(),
            _temporary: None,
        };
        Self::serve(objects, Options::default()).await
    }

    async fn start_with(options: Options) -> io::Result<Self> {
        Self::serve(Objects::new()?, options).await
    }

    async fn serve(objects: Objects, options: Options) -> io::Result<Self> {
        let options = Options {
            credentials: Some((ACCESS_KEY.to_owned(), SECRET_KEY.to_owned())),
            ..options
        };
        Ok(Self {
            server: S3Server::start(objects.root(), options).await?,
            objects,
        })
    }

    /// The server's URL.
    pub fn endpoint(&self) -> &str {
        self.server.endpoint()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The requests it got and what it sent.
    pub fn traffic(&self) -> &Traffic {
        self.server.traffic()
    }

    /// What it serves.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }
}

impl Objects {
    /// An empty directory.
    pub fn new() -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("lvp-s3-").tempdir()?;
        Ok(Self {
            root: directory.path().to_owned(),
            _temporary: Some(directory),
        })
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file of an object.
    pub fn path(&self, bucket: &str, key: &str) -> PathBuf {
        self.root().join(bucket).join(key)
    }

    /// Creates or replaces an object at once, making its bucket where needed.
    pub fn put(&self, bucket: &str, key: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(bucket, key);
        let directory = path.parent().unwrap_or(self.root());
        fs::create_dir_all(directory)?;
        let mut file = tempfile::NamedTempFile::new_in(self.root())?;
        file.write_all(bytes)?;
        file.persist(path)?;
        Ok(())
    }

    /// Makes an existing file an object, by a hard link where the file system allows one.
    pub fn put_file(&self, bucket: &str, key: &str, file: &Path) -> io::Result<()> {
        let path = self.path(bucket, key);
        fs::create_dir_all(path.parent().unwrap_or(self.root()))?;
        match fs::hard_link(file, &path) {
            Ok(()) => Ok(()),
            Err(_) => fs::copy(file, &path).map(drop),
        }
    }

    /// Puts the `.sha256` object that `sha256sum` would have made beside an object.
    pub fn put_sidecar(&self, bucket: &str, key: &str) -> io::Result<()> {
        let mut hasher = Sha256::new();
        io::copy(
            &mut fs::File::open(self.path(bucket, key))?,
            &mut Hashing(&mut hasher),
        )?;
        let digest: String = hasher
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let name = key.rsplit('/').next().unwrap_or(key);
        let line = format!("{digest}  {name}\n");
        self.put(bucket, &format!("{key}.sha256"), line.as_bytes())
    }
}

struct Hashing<'a>(&'a mut Sha256);

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
