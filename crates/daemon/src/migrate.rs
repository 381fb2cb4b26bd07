//! `config migrate`: makes a configuration of this program from the Go program's.
//!
//! Keys and variables have the same names, so little remains to be done: values in forms that are accepted but not our
//! own are rewritten, what has no meaning here is left out, and a note is printed for what has another meaning. `config
//! check` accepts the file that is written, or the notes say what is missing.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use crate::config::keys::{Key, Kind};
use crate::config::{Config, LogSampling, Origin, Settings};
use crate::files;

/// The tokens file that the Go program used by default.
const TOKENS: &str = "/etc/libvirt-volume-provisioner/tokens";

/// Largest file of environment variables.
const FILE_MAX_BYTES: u64 = 1 << 20; // 1 MiB

/// Arguments of `config migrate`.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// The Go program's config.yaml; /dev/null if it was configured by variables only
    old: PathBuf,
    /// A file with its environment variables, NAME=VALUE a line, such as
    /// /etc/default/libvirt-volume-provisioner
    #[arg(long, value_name = "PATH")]
    environment: Option<PathBuf>,
    /// The new file, which must not exist yet; standard output by default
    #[arg(long, value_name = "PATH")]
    output: Option<PathBuf>,
}

/// A new configuration, and notes about it.
#[derive(Debug)]
struct Migrated {
    yaml: String,
    notes: Vec<String>,
    /// Whether the daemon accepts it as it is.
    is_usable: bool,
}

/// Writes the new file and the notes. Returns false if it cannot be used yet.
pub fn run(args: &MigrateArgs) -> anyhow::Result<bool> {
    let variables = match &args.environment {
        Some(path) => variables(path)?,
        None => BTreeMap::new(),
    };
    let migrated = migrate(&args.old, &variables, Path::new(TOKENS).exists())?;
    match &args.output {
        Some(path) => {
            // The file may hold secrets.
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
                .with_context(|| format!("Cannot make {}", path.display()))?;
            file.write_all(migrated.yaml.as_bytes())
                .and_then(|()| file.sync_all())
                .with_context(|| format!("Cannot write {}", path.display()))?;
        }
        None => io::stdout()
            .write_all(migrated.yaml.as_bytes())
            .context("Cannot write to standard output")?,
    }
    for note in &migrated.notes {
        // If standard error is closed, nobody can be told.
        writeln!(io::stderr(), "note: {note}").ok();
    }
    Ok(migrated.is_usable)
}

fn migrate(
    old: &Path,
    variables: &BTreeMap<String, String>,
    has_tokens: bool,
) -> anyhow::Result<Migrated> {
    let mut settings = Settings::load_foreign(old, |name| variables.get(name).cloned())?;
    let mut notes = std::mem::take(&mut settings.warnings);
    let set = |settings: &Settings, path: &str| {
        let found = settings.iter().find(|(key, _)| key.path == path);
        found
            .filter(|(_, setting)| setting.origin != Origin::Default && !setting.text.is_empty())
            .map(|(_, setting)| setting.text.clone())
    };
    if set(&settings, "server.api_tokens_file").is_none() {
        if has_tokens {
            settings.set("server.api_tokens_file", TOKENS)?;
            notes.push(format!(
                "server.api_tokens_file is set to {TOKENS}, which the Go program read by default; tokens that could be guessed \
                 are refused ('doctor' names them)"
            ));
        } else if set(&settings, "server.ca_cert").is_none() {
            notes.push(
                "there are neither tokens nor a client CA: the daemon will listen on loopback only"
                    .to_owned(),
            );
        }
    }
    if set(&settings, "server.ca_cert").is_some() {
        notes.push(
            "server.ca_cert: client certificates are verified now, and only this CA is trusted"
                .to_owned(),
        );
    }
    let database = set(&settings, "server.db_path");
    notes.push(format!(
        "the jobs in the Go program's database ({}) are not taken over, and server.db_path is left out: move the file to \
         another place than the new database, and hand over its volumes with 'db adopt-go-volumes FILE'",
        database.as_deref().unwrap_or("provisioner.db where it was started")
    ));
    notes.push(
        "the Go program's cached images (NAME and NAME.sha256 in the pool) are not used: delete them by hand"
            .to_owned(),
    );
    if set(&settings, "lvm.volume_group").is_none() {
        notes.push(
            "lvm.volume_group is not set: the default is vg0; releases of the Go program before 0.10 always used the group data"
                .to_owned(),
        );
    }
    if set(&settings, "cache.max_size_bytes").is_none() {
        notes.push("cache.max_size_bytes is not set: the default is 8 GiB".to_owned());
    }
    let (is_usable, sampling) = match Config::from_settings(&settings) {
        Ok(config) => (true, config.logging.sampling),
        Err(error) => {
            notes.push(format!("it cannot be used yet: {error}"));
            (false, LogSampling::All)
        }
    };
    if set(&settings, "logging.sampling_rate").is_some() {
        notes.push(format!("logging.sampling_rate means: {sampling}"));
    }
    Ok(Migrated {
        yaml: yaml(&settings),
        notes,
        is_usable,
    })
}

/// The settings as the text of a file.
fn yaml(settings: &Settings) -> String {
    let mut text =
        String::from("# Made from the Go program's configuration by 'config migrate'.\n");
    let mut section = "";
    let written = settings.iter().filter(|(key, setting)| {
        setting.origin != Origin::Default
            && !setting.text.is_empty()
            && key.path != "server.db_path"
    });
    for (key, setting) in written {
        let (this, name) = key.path.split_once('.').unwrap_or((key.path, ""));
        if this != section {
            section = this;
            text.push_str(&format!("\n{section}:\n"));
        }
        text.push_str(&format!("  {name}: {}\n", value(key, &setting.text)));
    }
    text
}

/// A value in YAML: text in quotes, in JSON's form.
fn value(key: &Key, text: &str) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    match key.kind {
        Kind::Integer { .. } | Kind::Bool | Kind::Fraction | Kind::Sampling => text.to_owned(),
        kind if kind.takes_several() => {
            let items = text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty());
            let items: Vec<_> = items.map(quoted).collect();
            format!("[{}]", items.join(", "))
        }
        _ => quoted(text),
    }
}

/// Parses `NAME=VALUE` lines in the form that systemd's EnvironmentFile= and shells use.
fn variables(path: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let text = files::read_text_or_null(path, FILE_MAX_BYTES)
        .with_context(|| format!("Cannot read {}", path.display()))?;
    let pairs = text.lines().filter_map(|line| {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=')?;
        let value = value.trim();
        let bare = ['"', '\'']
            .into_iter()
            .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
        (!name.starts_with('#')).then(|| (name.trim().to_owned(), bare.unwrap_or(value).to_owned()))
    });
    Ok(pairs.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = r#"
server: {port: 8443, tls_cert: /cert.pem, tls_key: /key.pem, ca_cert: /ca.pem, db_path: /old/provisioner.db, http3: true}
minio: {endpoint: "https://minio:9000", access_key: 00123456, secret_key: "1e10", bucket: images, retry_backoff_ms: [1, 2]}
libvirt: {max_concurrent: 3}
logging: {level: WARNING, file: stdout, sampling_rate: 5}
tracing: {endpoint: "otel:4317", exporters: [otlp, stdout]}
profiler: {enabled: true}
"#;

    fn of(old: &str, variables: &[(&str, &str)]) -> Migrated {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("old.yaml");
        std::fs::write(&path, old).unwrap();
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        migrate(&path, &variables.iter().map(pair).collect(), false).unwrap()
    }

    #[test]
    fn the_go_programs_file_is_migrated_to_one_that_is_accepted() {
        let migrated = of(OLD, &[]);
        assert!(migrated.is_usable, "{:?}", migrated.notes);
        for line in [
            "  port: 8443",
            "  access_key: \"00123456\"",
            "  secret_key: \"1e10\"",
            "  retry_backoff_ms: [\"1\", \"2\"]",
            "  level: \"warn\"",
            "  file: \"stdout\"",
            "  exporters: [\"otlp\", \"stdout\"]",
        ] {
            assert!(
                migrated.yaml.lines().any(|found| found == line),
                "{line}: {}",
                migrated.yaml
            );
        }
        assert!(!migrated.yaml.contains("db_path"), "{}", migrated.yaml);
        for told in [
            "server.http3",
            "profiler",
            "minio.bucket",
            "/old/provisioner.db",
            "one line in 5 is written",
            "client certificates are verified",
        ] {
            assert!(
                migrated.notes.iter().any(|note| note.contains(told)),
                "{told}: {:?}",
                migrated.notes
            );
        }
        // The new file is read strictly, and has the same meaning.
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("new.yaml");
        std::fs::write(&path, &migrated.yaml).unwrap();
        let settings = Settings::load(&path, true, |_| None).unwrap();
        assert_eq!(yaml(&settings), migrated.yaml);
        assert_eq!(settings.warnings, Vec::<String>::new());
    }

    #[test]
    fn variables_are_migrated_and_what_is_missing_is_reported() {
        let migrated = of(
            "",
            &[
                ("MINIO_ENDPOINT", "http://minio:9000"),
                ("LISTEN_ADDR", "10.0.0.1:9090"),
            ],
        );
        assert!(migrated.is_usable, "{:?}", migrated.notes);
        assert!(
            migrated.yaml.contains("host: \"10.0.0.1\"\n  port: 9090\n"),
            "{}",
            migrated.yaml
        );
        let migrated = of("minio: {endpoint: 'ftp://x'}", &[]);
        assert!(!migrated.is_usable);
        assert!(
            migrated
                .notes
                .iter()
                .any(|note| note.contains("cannot be used yet"))
        );
    }

    #[test]
    fn a_file_of_variables_is_read_as_systemd_reads_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("default");
        let text = "# PORT=1\n\nexport PORT=\"8443\"\nMINIO_SECRET_KEY='a=b c'\nLOG_LEVEL = info\n";
        std::fs::write(&path, text).unwrap();
        let found = variables(&path).unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = [
            pair("LOG_LEVEL", "info"),
            pair("MINIO_SECRET_KEY", "a=b c"),
            pair("PORT", "8443"),
        ];
        assert_eq!(found, BTreeMap::from(expected));
    }
}
