//! Servers with certificates as openssl makes them, right and wrong.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::task::AbortOnDropHandle;

use crate::signing::run;

const CA_SETTINGS: &str = "[ca]
default_ca = d
[d]
database = index
serial = serial
new_certs_dir = .
default_md = sha256
policy = p
copy_extensions = copyall
unique_subject = no
[p]
commonName = supplied
";

const KEY: [&str; 5] = [
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:P-256",
    "-nodes",
];

/// A server, the authority that a client is told, and what it has to say.
#[derive(Debug)]
pub struct Case {
    /// What is wrong with it.
    pub name: &'static str,
    /// Its URL.
    pub endpoint: String,
    /// The file with an authority.
    pub ca: Option<PathBuf>,
    /// Parts of the error; none where the connection comes up, and the answer is 404.
    pub words: &'static [&'static str],
}

/// All of them, and what they live by.
#[derive(Debug)]
pub struct Cases {
    /// In no particular order.
    pub cases: Vec<Case>,
    directory: TempDir,
    servers: Vec<AbortOnDropHandle<()>>,
}

impl Cases {
    /// Starts them.
    pub async fn start() -> io::Result<Self> {
        let mut this = Self {
            cases: Vec::new(),
            directory: tempfile::tempdir()?,
            servers: Vec::new(),
        };
        this.make_authority()?;
        let right = "DNS:localhost,IP:127.0.0.1";
        let other = "DNS:other.example.com";
        let (past, now, future) = ("20200101", "20210101", "21000101");
        let ca = Some(this.path("ca.pem"));
        for (name, alternative, from, to, ca, words) in [
            (
                "unknown",
                right,
                past,
                future,
                None,
                &["is not trusted"][..],
            ),
            ("known", right, past, future, ca.clone(), &[]),
            (
                "expired",
                right,
                past,
                now,
                ca.clone(),
                &["expired on 2021-01-01", "renew"],
            ),
            (
                "early",
                right,
                future,
                "21010101",
                ca.clone(),
                &["not valid before 2100-01-01", "clock"],
            ),
            (
                "named",
                other,
                past,
                future,
                ca.clone(),
                &["is not for 127.0.0.1, but for other.example.com"],
            ),
        ] {
            this.issue(name, alternative, from, to)?;
            this.serve(name, true, ca, words).await?;
        }
        for (name, constraint, words) in [
            (
                "own-authority",
                "CA:TRUE",
                &["CA:TRUE", "basicConstraints=CA:FALSE"][..],
            ),
            ("self-signed", "CA:FALSE", &[]),
        ] {
            this.sign_itself(name, right, constraint)?;
            let own = Some(this.path(&format!("{name}.pem")));
            this.serve(name, true, own, words).await?;
        }
        this.serve("http-to-tls", false, None, &["use https://"])
            .await?;
        this.serve_plain().await?;
        Ok(this)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn openssl(&self, arguments: &[&str]) {
        run("openssl", arguments, b"");
    }

    fn make_authority(&self) -> io::Result<()> {
        let directory = self.directory.path().display().to_string();
        let settings = CA_SETTINGS
            .replace("= index", &format!("= {directory}/index"))
            .replace("= serial", &format!("= {directory}/serial"))
            .replace("= .", &format!("= {directory}"));
        fs::write(self.path("settings"), settings)?;
        fs::write(self.path("index"), "")?;
        fs::write(self.path("serial"), "01\n")?;
        self.sign_itself("ca", "DNS:ca", "CA:TRUE")
    }

    fn sign_itself(&self, name: &str, alternative: &str, constraint: &str) -> io::Result<()> {
        let (key, pem) = (
            self.text(&format!("{name}.key")),
            self.text(&format!("{name}.pem")),
        );
        let (names, constraint) = (
            format!("subjectAltName={alternative}"),
            format!("basicConstraints=critical,{constraint}"),
        );
        let subject = format!("/CN={name}");
        let mut arguments = vec![
            "req", "-x509", "-keyout", &key, "-out", &pem, "-subj", &subject,
        ];
        arguments.extend(["-addext", &names, "-addext", &constraint]);
        arguments.extend(KEY);
        self.openssl(&arguments);
        Ok(())
    }

    fn issue(&self, name: &str, alternative: &str, from: &str, to: &str) -> io::Result<()> {
        let at = |ending: &str| self.text(&format!("{name}.{ending}"));
        let (key, request, pem) = (at("key"), at("csr"), at("pem"));
        let (names, subject) = (
            format!("subjectAltName={alternative}"),
            format!("/CN={name}"),
        );
        let mut arguments = vec!["req", "-new", "-keyout", &key, "-out", &request];
        arguments.extend(["-subj", &subject, "-addext", &names]);
        arguments.extend(KEY);
        self.openssl(&arguments);
        let (settings, ca, ca_key) = (
            self.text("settings"),
            self.text("ca.pem"),
            self.text("ca.key"),
        );
        let (from, to) = (format!("{from}000000Z"), format!("{to}000000Z"));
        let mut arguments = vec![
            "ca", "-batch", "-notext", "-config", &settings, "-cert", &ca,
        ];
        arguments.extend(["-keyfile", &ca_key, "-in", &request, "-out", &pem]);
        arguments.extend(["-startdate", &from, "-enddate", &to]);
        self.openssl(&arguments);
        Ok(())
    }

    async fn serve(
        &mut self,
        name: &'static str,
        is_asked_by_tls: bool,
        ca: Option<PathBuf>,
        words: &'static [&'static str],
    ) -> io::Result<()> {
        // Whoever speaks HTTP to it does not come as far as the certificate.
        let files = if is_asked_by_tls { name } else { "known" };
        let acceptor = acceptor(
            &self.path(&format!("{files}.pem")),
            &self.path(&format!("{files}.key")),
        )
        .map_err(io::Error::other)?;
        let port = self
            .listen(move |stream| {
                let acceptor = acceptor.clone();
                async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        answer(stream, "404 Not Found").await;
                    }
                }
            })
            .await?;
        let scheme = if is_asked_by_tls { "https" } else { "http" };
        self.cases.push(Case {
            name,
            endpoint: format!("{scheme}://127.0.0.1:{port}"),
            ca,
            words,
        });
        Ok(())
    }

    async fn serve_plain(&mut self) -> io::Result<()> {
        let port = self
            .listen(|stream| answer(stream, "400 Bad Request"))
            .await?;
        self.cases.push(Case {
            name: "tls-to-http",
            endpoint: format!("https://127.0.0.1:{port}"),
            ca: Some(self.path("ca.pem")),
            words: &["does not speak TLS", "http://"],
        });
        Ok(())
    }

    async fn listen<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> io::Result<u16> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let serving = async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(stream).await;
            }
        };
        self.servers
            .push(AbortOnDropHandle::new(tokio::spawn(serving)));
        Ok(port)
    }
}

/// Reads something, and answers whatever it was.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, status: &str) {
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let mut request = [0; 4096];
    // A client that went away has seen enough.
    if stream.read(&mut request).await.is_ok() && stream.write_all(answer.as_bytes()).await.is_ok()
    {
        stream.shutdown().await.ok();
    }
}

fn acceptor(
    certificate: &Path,
    key: &Path,
) -> Result<TlsAcceptor, Box<dyn std::error::Error + Send + Sync>> {
    let certificate = CertificateDer::from_pem_file(certificate)?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
