//! Makes the reference of the configuration and the example file from the table of keys.

use super::ignored::{IGNORED, IGNORED_VARIABLES};
use super::keys::{KEYS, Key, Kind};

/// `docs/config.md`.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Configuration\n\n\
         <!-- Made from crates/daemon/src/config/keys.rs by ./dev docs; do not edit. -->\n\n\
         The configuration is a YAML file, `/etc/libvirt-volume-provisioner/config.yaml` or the one that `--config` names. A missing\n\
         file means the defaults; an unknown key is an error that names the nearest known one. Every key is\n\
         also an environment variable. `--set SECTION.KEY=VALUE` overrides the environment, which overrides the\n\
         file; an empty variable and a key without a value (null) count as unset. Words such as levels, `true` and `false` may be\n\
         in any case; spaces, line ends and byte order marks around a value are ignored. Values of OpenTelemetry's variables that\n\
         cannot be understood are ignored with a warning, as its specification says. `LISTEN_ADDR` (the Go program's) sets host,\n\
         port or both. Former names of keys still work; if both names are set in one place, the values must be the\n\
         same. `libvirt-volume-provisioner config check` checks whether a configuration can be used, `config show`\n\
         prints every key with its value and its origin.\n",
    );
    let mut section = "";
    for key in KEYS {
        let (this, name) = key.path.split_once('.').unwrap_or((key.path, ""));
        if this != section {
            section = this;
            text.push_str(&format!(
                "\n## `{section}`\n\n| key | default | form | environment | meaning |\n|---|---|---|---|---|\n"
            ));
        }
        let default = match key.default {
            "" => "none".to_owned(),
            default => format!("`{default}`"),
        };
        let environment: Vec<_> = key.env.iter().map(|name| format!("`{name}`")).collect();
        text.push_str(&format!(
            "| `{name}` | {default} | {} | {} | {} |\n",
            form(key.kind),
            environment.join(", "),
            help(key)
        ));
    }
    text.push_str("\n## Accepted and ignored\n\n");
    for (key, why) in IGNORED {
        text.push_str(&format!("- `{key}`: {why}\n"));
    }
    for (name, why) in IGNORED_VARIABLES {
        text.push_str(&format!("- `{name}` in the environment: {why}\n"));
    }
    text
}

/// `packaging/config.yaml`: every key with its default, commented out.
pub fn example() -> String {
    let mut text = String::from(
        "# Configuration of libvirt-volume-provisioner. Made from the table of keys; nothing is set here.\n\
         #\n\
         # Remove the '#' before a key to set it; the value shown is its default (\"\" is none).\n\
         # Then: libvirt-volume-provisioner config check && systemctl restart libvirt-volume-provisioner\n\
         #\n\
         # minio.endpoint has to be set. On a host without libvirt, so do libvirt.enabled and cache.dir.\n",
    );
    let mut section = "";
    for key in KEYS {
        let (this, name) = key.path.split_once('.').unwrap_or((key.path, ""));
        if this != section {
            section = this;
            text.push_str(&format!("\n{section}:\n"));
        }
        let default = match key.default {
            "" => "\"\"",
            default => default,
        };
        // The text is put into a sentence, and some forms are sentences themselves.
        text.push_str(&format!(
            "  # {}.\n  # {}; environment: {}\n  #{name}: {default}\n",
            help(key),
            form(key.kind).replace('`', ""),
            key.env.join(", "),
        ));
    }
    text
}

/// The meaning of a key, with its former names.
fn help(key: &Key) -> String {
    match &key.former {
        None => key.help.to_owned(),
        Some(_) => format!("{}; {}", key.help, key.formerly()),
    }
}

fn form(kind: Kind) -> String {
    match kind {
        Kind::Text => "text".to_owned(),
        Kind::Word => "one word".to_owned(),
        Kind::Address => "IP address".to_owned(),
        Kind::Path => "path".to_owned(),
        Kind::Secret => "text, never shown".to_owned(),
        Kind::Secrets => "list of texts, never shown".to_owned(),
        Kind::Integer { min, max } => format!("{min} to {max}"),
        Kind::Fraction => "0 to 1".to_owned(),
        Kind::Sampling => "0 to 1, or a whole number".to_owned(),
        Kind::Bool => "`true`, `false`".to_owned(),
        Kind::Duration { .. } => "duration (`168h`, `30m`, `5s`, `100ms`)".to_owned(),
        Kind::Size => "bytes, or `10G`".to_owned(),
        Kind::SizeOrAuto => "bytes, `10G`, or `auto`".to_owned(),
        Kind::MillisecondList => "list of milliseconds".to_owned(),
        Kind::List => "list of words".to_owned(),
        Kind::OneOf(known) => words(known),
        Kind::Words(known) => format!("list of {}", words(known)),
        Kind::Stream(known) => format!("{}, or a path", words(known)),
    }
}

fn words(known: &[&str]) -> String {
    let known: Vec<_> = known.iter().map(|word| format!("`{word}`")).collect();
    known.join(", ")
}
