//! Keys and signatures by the programs that people sign with.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::require::command;

/// A home directory of GnuPG, whose agent ends with it.
#[derive(Debug)]
pub struct Gpg {
    // Short, as the agent's socket is in it.
    home: tempfile::TempDir,
}

impl Default for Gpg {
    fn default() -> Self {
        Self::new()
    }
}

impl Gpg {
    /// An empty one.
    pub fn new() -> Self {
        let home = tempfile::Builder::new()
            .prefix("gpg")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in("/tmp");
        Self {
            home: home.expect("/tmp has room"),
        }
    }

    /// Makes a key without a passphrase; returns its fingerprint. `algorithm` and `expire` as
    /// `gpg --quick-generate-key` has them; it begins at `when` (`20200101T000000`) if that is given.
    pub fn key(&self, user: &str, algorithm: &str, expire: &str, when: Option<&str>) -> String {
        let mut arguments = faked(when);
        arguments.extend(["--quick-generate-key", user, algorithm, "sign", expire]);
        self.run(&arguments, b"");
        let listed = self.run(&["--with-colons", "--list-keys", user], b"");
        let listed = String::from_utf8(listed).expect("it is text");
        let line = listed.lines().find(|line| line.starts_with("fpr:"));
        let fingerprint = line.and_then(|line| line.split(':').nth(9));
        fingerprint.expect("there is one").to_owned()
    }

    /// A key's public part, armored.
    pub fn public(&self, key: &str) -> Vec<u8> {
        self.run(&["--armor", "--export", key], b"")
    }

    /// Signs with a key: `how` is `--detach-sign`, `--clearsign` and what else belongs to it.
    pub fn sign(&self, key: &str, how: &[&str], data: &[u8]) -> Vec<u8> {
        let key = format!("{key}!");
        let mut arguments = vec!["--local-user", &key];
        arguments.extend(how);
        self.run(&arguments, data)
    }

    /// Revokes a key, by the certificate that gpg made beside it.
    pub fn revoke(&self, key: &str) {
        let file = self.home.path().join(format!("openpgp-revocs.d/{key}.rev"));
        let text = fs::read_to_string(file).expect("gpg made it");
        // The colon keeps it from being imported by mistake.
        let text = text.replace(":-----BEGIN", "-----BEGIN");
        self.run(&["--import"], text.as_bytes());
    }

    /// Gives its menu of a key these answers, one a line.
    pub fn edit(&self, key: &str, answers: &str) {
        let how = [
            "--no-batch",
            "--no-tty",
            "--command-fd",
            "0",
            "--edit-key",
            key,
        ];
        self.run(&how, answers.as_bytes());
    }

    /// Runs it, which has to succeed; returns what it prints.
    pub fn run(&self, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let mut all = vec!["--homedir", self.home.path().to_str().expect("it is UTF-8")];
        all.extend([
            "--batch",
            "--yes",
            "--pinentry-mode",
            "loopback",
            "--passphrase",
            "",
        ]);
        all.extend(arguments);
        run("gpg", &all, input)
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        let home = self.home.path();
        let mut kill = command("gpgconf");
        kill.arg("--homedir").arg(home).args(["--kill", "all"]);
        // Without its home the agent ends by itself, only later.
        kill.output().ok();
    }
}

fn faked(when: Option<&str>) -> Vec<&str> {
    when.map_or_else(Vec::new, |when| vec!["--faked-system-time", when])
}

/// A key pair of minisign.
#[derive(Debug)]
pub struct Minisign {
    home: tempfile::TempDir,
}

impl Default for Minisign {
    fn default() -> Self {
        Self::new()
    }
}

impl Minisign {
    /// A new one, without a password.
    pub fn new() -> Self {
        let this = Self {
            home: tempfile::tempdir().expect("there is room"),
        };
        let (public, secret) = (this.path("key.pub"), this.path("key.sec"));
        run(
            "minisign",
            &["-G", "-W", "-p", text(&public), "-s", text(&secret)],
            b"",
        );
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// The file with its public key.
    pub fn public(&self) -> Vec<u8> {
        fs::read(self.path("key.pub")).expect("it was written")
    }

    /// Signs; `how` are further arguments.
    pub fn sign(&self, how: &[&str], data: &[u8]) -> Vec<u8> {
        let (file, signature) = (self.path("data"), self.path("data.minisig"));
        fs::write(&file, data).expect("there is room");
        let secret = self.path("key.sec");
        let mut arguments = vec!["-S", "-s", text(&secret), "-m", text(&file)];
        arguments.extend(["-x", text(&signature)]);
        arguments.extend(how);
        run("minisign", &arguments, b"");
        fs::read(signature).expect("it was written")
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("it is UTF-8")
}

/// Runs a program with this on its standard input, which has to succeed; returns what it prints.
pub fn run(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = command(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("it is a pipe");
    let output = std::thread::scope(|scope| {
        // It may stop reading.
        scope.spawn(move || stdin.write_all(input).ok());
        child.wait_with_output().expect("it ends")
    });
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    output.stdout
}
