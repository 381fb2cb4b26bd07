//! S3 servers of several makes, behind one face: tests ask all of them the same.

mod moto;
mod radosgw;
mod seaweedfs;

use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use object_store::aws::{AmazonS3Builder, AwsAuthorizer, AwsCredential};
use object_store::client::HttpRequest;
use object_store::signer::Signer;
use object_store::{MultipartUpload as _, ObjectStoreExt as _};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, Url};

use crate::rclone::Rclone;
use crate::require::require;
use crate::s3::{ACCESS_KEY, S3, SECRET_KEY};
use moto::Moto;
use radosgw::RadosGw;
use seaweedfs::SeaweedFs;

/// Time to start, on a machine that is busy with other tests.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Whose server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    /// Ours, in the process, which is the crate `s3s` over files.
    S3s,
    /// `rclone serve s3` over files.
    Rclone,
    /// SeaweedFS, all its parts in one process.
    SeaweedFs,
    /// moto, which imitates AWS.
    Moto,
    /// Ceph's object gateway, over a cluster of its own.
    RadosGw,
}

/// Who asks.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The access key.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// What goes with keys that were lent for a while.
    pub session_token: Option<String>,
}

/// A running server; stops when it is dropped.
#[derive(Debug)]
pub struct Store {
    server: Server,
    endpoint: String,
    credentials: Credentials,
    http: reqwest::Client,
}

#[derive(Debug)]
enum Server {
    S3s(S3),
    Rclone(Rclone),
    SeaweedFs(SeaweedFs),
    Moto(Moto),
    RadosGw(RadosGw),
}

impl Make {
    /// The component that a test needs for it.
    fn component(self) -> Option<&'static str> {
        match self {
            Self::S3s => None,
            Self::Rclone => Some("rclone"),
            Self::SeaweedFs => Some("seaweedfs"),
            Self::Moto => Some("moto"),
            Self::RadosGw => Some("radosgw"),
        }
    }
}

impl Store {
    /// Starts a server. None, which was reported, where it is not installed.
    pub async fn start(make: Make) -> anyhow::Result<Option<Self>> {
        if let Some(component) = make.component()
            && !require(component)
        {
            return Ok(None);
        }
        let mut credentials = Credentials {
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SECRET_KEY.to_owned(),
            session_token: None,
        };
        let (server, endpoint) = match make {
            Make::S3s => {
                let server = S3::start().await?;
                let endpoint = server.endpoint().to_owned();
                (Server::S3s(server), endpoint)
            }
            Make::Rclone => {
                let server = Rclone::start()?;
                let endpoint = server.endpoint().to_owned();
                (Server::Rclone(server), endpoint)
            }
            Make::SeaweedFs => {
                let server = SeaweedFs::start()?;
                let endpoint = server.endpoint();
                (Server::SeaweedFs(server), endpoint)
            }
            Make::Moto => {
                let server = Moto::start().await?;
                credentials = server.user().clone();
                let endpoint = server.endpoint().to_owned();
                (Server::Moto(server), endpoint)
            }
            Make::RadosGw => {
                let server = RadosGw::start()?;
                let endpoint = server.endpoint();
                (Server::RadosGw(server), endpoint)
            }
        };
        let store = Self {
            server,
            endpoint,
            credentials,
            http: reqwest::Client::builder().no_proxy().build()?,
        };
        if matches!(make, Make::SeaweedFs | Make::RadosGw) {
            store.until_ready().await?;
        }
        Ok(Some(store))
    }

    /// The server's URL.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Who may do everything.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Who may do everything for a while; of servers that lend credentials.
    pub fn lent(&self) -> Option<&Credentials> {
        match &self.server {
            Server::Moto(moto) => Some(moto.role()),
            _ => None,
        }
    }

    /// Its URL by a name, below which it serves buckets as hosts, if it does.
    pub fn named_endpoint(&self) -> Option<String> {
        let domain = match &self.server {
            Server::SeaweedFs(server) => server.domain(),
            Server::RadosGw(server) => server.domain(),
            _ => return None,
        };
        Some(self.endpoint.replace("127.0.0.1", domain))
    }

    /// A URL with which anybody can get an object for a minute.
    pub async fn presigned(&self, bucket: &str, key: &str) -> anyhow::Result<Url> {
        let signer = AmazonS3Builder::new()
            .with_endpoint(&self.endpoint)
            .with_allow_http(true)
            .with_region("us-east-1")
            .with_bucket_name(bucket)
            .with_access_key_id(&self.credentials.access_key)
            .with_secret_access_key(&self.credentials.secret_key)
            .build()?;
        let minute = Duration::from_secs(60);
        Ok(signer.signed_url(Method::GET, &key.into(), minute).await?)
    }

    /// Creates or replaces an object, making its bucket where needed. Its version, where the server keeps some.
    pub async fn put(
        &self,
        bucket: &str,
        key: &str,
        bytes: &[u8],
    ) -> anyhow::Result<Option<String>> {
        let objects = match &self.server {
            Server::S3s(server) => server.objects(),
            Server::Rclone(server) => server.objects(),
            Server::SeaweedFs(_) | Server::Moto(_) | Server::RadosGw(_) => {
                // It may be there already.
                self.send(Method::PUT, bucket, Vec::new()).await?;
                let path = format!("{bucket}/{}", encode(key));
                let answer = self.send(Method::PUT, &path, bytes.to_vec()).await?;
                let status = answer.status();
                ensure!(status.is_success(), "{status} for {path}");
                let version = answer.headers().get("x-amz-version-id");
                let version = version.map(|version| version.to_str().map(str::to_owned));
                return Ok(version.transpose()?);
            }
        };
        objects.put(bucket, key, bytes)?;
        Ok(None)
    }

    /// Uploads an object in parts, as clients do with large ones.
    pub async fn put_in_parts(
        &self,
        bucket: &str,
        key: &str,
        bytes: &[u8],
        part_bytes: usize,
    ) -> anyhow::Result<()> {
        self.put(bucket, "any", b"makes the bucket").await?;
        let store = AmazonS3Builder::new()
            .with_endpoint(&self.endpoint)
            .with_allow_http(true)
            .with_region("us-east-1")
            .with_bucket_name(bucket)
            .with_access_key_id(&self.credentials.access_key)
            .with_secret_access_key(&self.credentials.secret_key)
            .build()?;
        let mut upload = store.put_multipart(&key.into()).await?;
        for part in bytes.chunks(part_bytes) {
            upload.put_part(part.to_vec().into()).await?;
        }
        upload.complete().await?;
        Ok(())
    }

    /// Keeps the versions of a bucket's objects from now on. Whether the server can.
    pub async fn keep_versions(&self, bucket: &str) -> anyhow::Result<bool> {
        let wanted = "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                      <Status>Enabled</Status></VersioningConfiguration>";
        self.send(Method::PUT, bucket, Vec::new()).await?;
        let path = format!("{bucket}?versioning=");
        let answer = self.send(Method::PUT, &path, wanted.into()).await?;
        Ok(answer.status().is_success())
    }

    /// Waits until buckets can be made and objects written.
    async fn until_ready(&self) -> anyhow::Result<()> {
        let ready = async {
            loop {
                if self.put("ready", "ready", b"ready").await.is_ok() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(START_TIMEOUT, ready)
            .await
            .with_context(|| match &self.server {
                Server::SeaweedFs(server) => format!("It does not serve: {}", server.said()),
                Server::RadosGw(server) => format!("It does not serve: {}", server.said()),
                _ => "It does not serve".to_owned(),
            })
    }

    /// Sends one signed request.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<reqwest::Response> {
        let credential = AwsCredential {
            key_id: self.credentials.access_key.clone(),
            secret_key: self.credentials.secret_key.clone(),
            token: self.credentials.session_token.clone(),
        };
        let url: Url = format!("{}/{path}", self.endpoint).parse()?;
        let mut request = HttpRequest::new(body.clone().into());
        *request.method_mut() = method.clone();
        *request.uri_mut() = url.as_str().parse()?;
        AwsAuthorizer::new(&credential, "s3", "us-east-1").try_authorize(&mut request, None)?;
        let headers = request.into_parts().0.headers;
        let request = self.http.request(method, url).headers(headers);
        // Also of an empty one, which Ceph's gateway wants to be told.
        let request = request.header("content-length", body.len()).body(body);
        Ok(request.send().await?)
    }
}

/// Everything but the unreserved characters of RFC 3986 and the slash.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

fn encode(key: &str) -> String {
    utf8_percent_encode(key, ENCODED).to_string()
}

/// A server as a process. What it says is read to its end, so that it never blocks on its own log.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl ServerProcess {
    /// Starts it.
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        Self::start_and(command, |_| ())
    }

    /// Starts it, and waits for the line of its log that tells where it listens.
    pub(crate) fn announced(
        command: &mut Command,
        endpoint: fn(&str) -> Option<String>,
    ) -> io::Result<(Self, String)> {
        let (sender, endpoints) = mpsc::channel();
        let process = Self::start_and(command, move |line| {
            if let Some(endpoint) = endpoint(line) {
                // Only the first is waited for.
                sender.send(endpoint).ok();
            }
        })?;
        let endpoint = endpoints.recv_timeout(START_TIMEOUT).map_err(|error| {
            let said = process.said();
            io::Error::other(format!("The server did not come up: {error}: {said}"))
        })?;
        Ok((process, endpoint))
    }

    /// The end of what it said.
    pub(crate) fn said(&self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log[log.len().saturating_sub(20)..].join("\n")
    }

    fn start_and(command: &mut Command, read: impl Fn(&str) + Send + 'static) -> io::Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = child.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                read(&line);
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                lines.push(line);
            }
        });
        Ok(Self {
            child,
            log,
            reader: Some(reader),
        })
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // An error means that it has ended already; the wait reaps it in both cases.
        self.child.kill().ok();
        self.child.wait().ok();
        if let Some(reader) = self.reader.take() {
            reader.join().ok();
        }
    }
}
