//! `image verify`: what a job would say of a local image, by the checksum files and signatures beside it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use lvp_api::error::chain;
use lvp_api::{Sha256Digest, Signer, Verified};
use lvp_trust::Now;
use serde_json::{Value, json};

use super::{EXIT_DONE, EXIT_FAILED, EXIT_REFUSED, complain, print};
use crate::cache::each_block;
use crate::config::SignaturePolicy;
use crate::files;
use crate::source::evidence::{self, Demand};
use crate::source::{self, SourceError, local};
use crate::transfer::{Hashers, Wanted};

/// Arguments of `image verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The image
    file: PathBuf,
    /// A file with public keys of OpenPGP or minisign, one of which has to have signed the image or a
    /// checksum file that names it; without any, a checksum will do. May be given several times
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What an image is, as far as somebody says.
#[derive(Debug)]
pub(super) struct Verdict {
    sha256: Sha256Digest,
    verified: Verified,
    signer: Option<Signer>,
    /// Signatures that do not count, beside one that does.
    ignored: Vec<String>,
}

/// Why an image is not what it should be, or nobody knows.
#[derive(Debug)]
pub(super) struct Failed {
    text: String,
    code: u8,
}

impl Failed {
    fn refused(text: String) -> Self {
        let code = EXIT_REFUSED;
        Self { text, code }
    }

    /// Says it on standard error, and returns the code to exit with.
    pub(super) fn report(&self) -> u8 {
        let what = match self.code {
            EXIT_REFUSED => "refused: ",
            _ => "",
        };
        complain(&format_args!("{what}{}", self.text), self.code)
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self {
            text: error.to_string(),
            code: EXIT_FAILED,
        }
    }
}

impl From<SourceError> for Failed {
    fn from(error: SourceError) -> Self {
        let is_ours = error.kind() == source::SourceErrorKind::Settings;
        Self {
            text: chain(&error),
            code: if is_ours { EXIT_FAILED } else { EXIT_REFUSED },
        }
    }
}

impl Verdict {
    /// Names and values, as `image inspect` shows them.
    pub(super) fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![
            ("sha256", self.sha256.to_string()),
            ("verified", self.verified.to_string()),
        ];
        if let Some(signer) = &self.signer {
            lines.push(("signed by", signer.to_string()));
        }
        lines.extend(self.ignored.iter().map(|text| ("left aside", text.clone())));
        lines
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "sha256": self.sha256.to_string(),
            "verified": self.verified,
            "signer": self.signer,
            "ignored": self.ignored,
        })
    }
}

pub(super) fn run(args: &VerifyArgs) -> u8 {
    let verdict = match verify(&args.file, &args.keys) {
        Ok(verdict) => verdict,
        Err(failed) => return failed.report(),
    };
    let text = match args.json {
        true => format!("{:#}\n", verdict.to_json()),
        false => super::columns(&verdict.lines()),
    };
    print(&text, EXIT_DONE)
}

/// Reads all that is beside the image, and holds it against the image's bytes.
pub(super) fn verify(path: &Path, keys: &[PathBuf]) -> Result<Verdict, Failed> {
    let policy = match keys.is_empty() {
        true => SignaturePolicy::Off,
        false => SignaturePolicy::Required,
    };
    let demand = Demand {
        policy,
        keys: Arc::new(source::read_keys(keys)?),
        now: Now::by_clock(),
    };
    let shown = path.display().to_string();
    let file = files::open_regular(path).map_err(|error| {
        io::Error::new(error.kind(), format!("Opening {shown} failed: {error}"))
    })?;
    let beside = local::beside(path, policy != SignaturePolicy::Off)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let checksums = evidence::judge(beside, &demand, None, &name, &shown)?;
    if checksums.is_empty() {
        return Err(Failed::refused(format!(
            "There is no checksum file beside {shown}, so nothing says what it must be: put one there \
             (sha256sum {name} > {name}.sha256), or give --key and a signature"
        )));
    }
    let mut hashers = Hashers::new(Wanted {
        sha512: checksums.sha512.is_some(),
        signatures: checksums.pending()?,
    });
    each_block(&file, |block| hashers.update(block)).map_err(|error| {
        io::Error::new(error.kind(), format!("Reading {shown} failed: {error}"))
    })?;
    let found = hashers.finish();
    if let Some(differs) = checksums.mismatch(&found.sha256, found.sha512.as_ref()) {
        return Err(Failed::refused(differs));
    }
    Ok(Verdict {
        sha256: found.sha256,
        verified: checksums.verified(),
        signer: checksums.signed_by(found.signatures)?,
        ignored: checksums.ignored,
    })
}
