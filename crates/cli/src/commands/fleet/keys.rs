//! `lvpctl fleet keygen`, `nkey` and `init`.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use lvp_bus::layout;
use lvp_bus::users::UserKey;
use lvp_fleet::{HostName, IssuerKey};
use serde_json::json;

use super::{Fleet, failure};
use crate::args::SigningArgs;
use crate::exit::{Exit, Failure};
use crate::output::{self, Format, say};

/// Largest file that is read as a key.
const KEY_MAX_BYTES: u64 = 4096;

pub(super) fn make(format: Format, file: &Path, name: &str) -> Result<Exit, Failure> {
    let key = IssuerKey::new(&rand::random());
    write_secret(file, &key.secret_text())?;
    let line = format!("{name}={}", key.public());
    match format {
        Format::Json => output::print_json(&json!({
            "name": name, "key": key.public(), "trust": line, "file": file,
        }))?,
        Format::Name => output::print_line(&key.public())?,
        Format::Table => {
            output::print_line(&line)?;
            say(&format!(
                "Add this line to fleet.trust on the hosts; {} is the secret key, for whoever issues orders",
                file.display()
            ));
        }
    }
    Ok(Exit::Success)
}

/// A key for the broker, which signs nothing.
pub(super) fn make_nkey(
    format: Format,
    file: &Path,
    host: Option<&HostName>,
) -> Result<Exit, Failure> {
    let key = UserKey::new().map_err(|why| Failure::new(Exit::Failed, why))?;
    write_secret(file, &format!("{}\n", key.seed))?;
    let line = key.line(host);
    match format {
        Format::Json => output::print_json(&json!({
            "host": host, "key": key.public, "user": line, "file": file,
        }))?,
        Format::Name => output::print_line(&key.public)?,
        Format::Table => {
            output::print_line(&line)?;
            let whose = match host {
                Some(host) => format!("{host} (fleet.nkey_file)"),
                None => "whoever issues orders (LVP_NATS_NKEY)".to_owned(),
            };
            say(&format!(
                "Add this line to the users in accounts.conf on the NATS servers, and reload them; {} is the secret key of {whose}",
                file.display()
            ));
        }
    }
    Ok(Exit::Success)
}

/// To a file that is new, and that only its owner can read.
fn write_secret(file: &Path, text: &str) -> Result<(), Failure> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut opened| {
            opened.write_all(text.as_bytes())?;
            opened.sync_all()
        });
    written.map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!("Cannot write {}: {error}", file.display()),
        )
    })
}

pub(super) async fn init(fleet: &Fleet, replicas: u8) -> Result<Exit, Failure> {
    let names = layout::create(&fleet.broker, usize::from(replicas)).await;
    let names = names.map_err(|error| failure(&error))?;
    match fleet.format {
        Format::Json => output::print_json(&json!({ "streams": names, "replicas": replicas }))?,
        Format::Name | Format::Table => {
            for name in names {
                output::print_line(&name)?;
            }
        }
    }
    Ok(Exit::Success)
}

/// The key that signs.
pub(super) fn read(
    signing: &SigningArgs,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<IssuerKey, Failure> {
    let path = signing
        .key
        .clone()
        .or_else(|| env("LVP_FLEET_KEY").map(Into::into));
    let path = path.ok_or_else(|| {
        Failure::usage("The order has to be signed: give --key or LVP_FLEET_KEY, as `lvpctl fleet keygen` wrote it")
    })?;
    let failed = |why: String| Failure::usage(format!("Cannot read {}: {why}", path.display()));
    let length = std::fs::metadata(&path).map_err(|error| failed(error.to_string()))?;
    if !length.is_file() || length.len() > KEY_MAX_BYTES {
        return Err(failed("it is not a key's file".to_owned()));
    }
    let text = std::fs::read_to_string(&path).map_err(|error| failed(error.to_string()))?;
    IssuerKey::parse(&text).map_err(|error| failed(error.to_string()))
}
