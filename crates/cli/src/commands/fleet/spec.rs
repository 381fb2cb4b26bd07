//! What an order is to say, from options or from a YAML file, and the documents that say it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use lvp_api::units::{ByteSize, parse_duration};
use lvp_api::{ImageType, Sha256Digest, VolumeName};
use lvp_fleet::{Action, HostName, Image, Order, OrderId, OrderKind, Target, Volume, Wave};
use serde::Deserialize;

use crate::args::{ImageArgs, OrderArgs, VolumeArg};
use crate::exit::Failure;

/// How long a host may say nothing, unless somebody says otherwise.
const SILENCE: Duration = Duration::from_secs(30);

/// Until the deadline, likewise.
const DEADLINE: Duration = Duration::from_secs(24 * 3600);

/// The broker keeps orders no longer.
const DEADLINE_MAX: Duration = lvp_bus::layout::KEPT;

/// An order to any number of targets.
#[derive(Debug)]
pub(super) struct Spec {
    pub(super) id: OrderId,
    kind: OrderKind,
    image: Image,
    targets: Vec<Target>,
    volumes: Vec<VolumeArg>,
    wave: Option<Wave>,
    jitter: Duration,
    bytes_per_sec: Option<ByteSize>,
    deadline: Duration,
}

/// What a file says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    id: Option<OrderId>,
    kind: OrderKind,
    image: FileImage,
    targets: Vec<Target>,
    #[serde(default)]
    volumes: Vec<FileVolume>,
    hosts_at_once: Option<u32>,
    max_failures: Option<u32>,
    silence: Option<String>,
    jitter: Option<String>,
    bytes_per_sec: Option<String>,
    deadline: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileImage {
    url: Option<String>,
    sha256: Sha256Digest,
    #[serde(rename = "type", default)]
    image_type: ImageType,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileVolume {
    host: Option<HostName>,
    name: VolumeName,
    size: String,
}

impl Spec {
    pub(super) fn of_options(
        kind: OrderKind,
        image: Image,
        volumes: Vec<VolumeArg>,
        order: &OrderArgs,
    ) -> Result<Self, Failure> {
        let mut targets = Vec::new();
        if order.all {
            targets.push(Target::All);
        }
        targets.extend(order.group.iter().cloned().map(Target::Group));
        targets.extend(order.host.iter().cloned().map(Target::Host));
        Self {
            id: named(order.id.clone(), kind, &image)?,
            kind,
            image,
            targets,
            volumes,
            wave: wave(order.hosts_at_once, order.max_failures, order.silence),
            jitter: order.jitter.unwrap_or_default(),
            bytes_per_sec: order.bytes_per_sec,
            deadline: order.deadline,
        }
        .checked()
    }

    pub(super) fn of_file(path: &Path) -> Result<Self, Failure> {
        let wrong = |why: String| Failure::usage(format!("{}: {why}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let file: File = serde_saphyr::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let duration = |key: &str, text: &Option<String>| match text {
            None => Ok(None),
            Some(text) => parse_duration(text).map(Some).map_err(|_| {
                wrong(format!(
                    "{key} must be a duration such as 24h, 30m or 30s, not {text:?}"
                ))
            }),
        };
        let mut volumes = Vec::new();
        for volume in &file.volumes {
            let size = volume.size.parse::<ByteSize>();
            volumes.push(VolumeArg {
                host: volume.host.clone(),
                name: volume.name.clone(),
                size: size.map_err(|error| wrong(format!("volume {}: {error}", volume.name)))?,
            });
        }
        let rate = file.bytes_per_sec.as_ref();
        let rate = rate.map(|text| text.parse::<ByteSize>()).transpose();
        let image = Image {
            url: file.image.url.clone(),
            image_type: file.image.image_type,
            sha256: file.image.sha256,
        };
        if file.hosts_at_once.is_none() && (file.max_failures.is_some() || file.silence.is_some()) {
            return Err(wrong(
                "max_failures and silence need hosts_at_once".to_owned(),
            ));
        }
        Self {
            id: named(file.id.clone(), file.kind, &image)?,
            kind: file.kind,
            image,
            targets: file.targets.clone(),
            volumes,
            wave: wave(
                file.hosts_at_once,
                file.max_failures,
                duration("silence", &file.silence)?,
            ),
            jitter: duration("jitter", &file.jitter)?.unwrap_or_default(),
            bytes_per_sec: rate.map_err(|error| wrong(format!("bytes_per_sec: {error}")))?,
            deadline: duration("deadline", &file.deadline)?.unwrap_or(DEADLINE),
        }
        .checked()
    }

    fn checked(mut self) -> Result<Self, Failure> {
        let of_one = self.volumes.iter().filter_map(|volume| volume.host.clone());
        let of_one: Vec<_> = of_one.map(Target::Host).collect();
        let is_for_hosts = self
            .targets
            .iter()
            .all(|target| matches!(target, Target::Host(_)));
        if !of_one.is_empty() && !is_for_hosts {
            return Err(Failure::usage(
                "Volumes of single hosts go with targets that are single hosts: give --host, or no target at all",
            ));
        }
        self.targets.extend(of_one);
        self.targets.sort();
        self.targets.dedup();
        if self.targets.is_empty() {
            return Err(Failure::usage(
                "The order is for nobody: give --all, --group or --host",
            ));
        }
        if self.deadline > DEADLINE_MAX {
            return Err(Failure::usage(
                "The deadline is more than 30 days away, and orders are kept no longer",
            ));
        }
        if self
            .wave
            .is_some_and(|wave| !lvp_fleet::order::SILENCE_SECONDS.contains(&wave.silence_seconds))
        {
            return Err(Failure::usage(
                "The silence must be from 3s to 1h, in whole seconds",
            ));
        }
        Ok(self)
    }

    /// One document for each target, all of one revision.
    pub(super) fn documents(
        &self,
        revision: u64,
        now: u64,
        issuer: &str,
    ) -> Result<BTreeMap<String, Order>, Failure> {
        let mut documents = BTreeMap::new();
        for target in &self.targets {
            let volumes = self
                .volumes
                .iter()
                .filter(|volume| match (&volume.host, target) {
                    (None, _) => true,
                    (Some(host), Target::Host(target)) => host == target,
                    (Some(_), _) => false,
                });
            let volumes = volumes.map(|volume| Volume {
                name: volume.name.clone(),
                size_bytes: volume.size.0,
            });
            let order = Order {
                id: self.id.clone(),
                revision,
                action: Action::Follow,
                kind: self.kind,
                target: target.clone(),
                image: self.image.clone(),
                volumes: volumes.collect(),
                wave: self.wave,
                jitter_seconds: self.jitter.as_secs(),
                bytes_per_sec: self.bytes_per_sec.map(|rate| rate.0),
                issued_at: now,
                deadline: now.saturating_add(self.deadline.as_secs()),
                issuer: issuer.to_owned(),
            };
            order
                .check()
                .map_err(|error| Failure::usage(format!("{target}: {error}")))?;
            documents.insert(target.subject(&self.id), order);
        }
        Ok(documents)
    }
}

impl From<ImageArgs> for Image {
    fn from(args: ImageArgs) -> Self {
        Self {
            url: Some(args.image_url),
            image_type: args.image_type,
            sha256: args.sha256,
        }
    }
}

fn named(id: Option<OrderId>, kind: OrderKind, image: &Image) -> Result<OrderId, Failure> {
    match id {
        Some(id) => Ok(id),
        None => {
            let digest = image.sha256.to_string();
            let text = format!("{kind}-{}", digest.get(..12).unwrap_or_default());
            text.parse()
                .map_err(|error| Failure::usage(format!("{error}")))
        }
    }
}

fn wave(
    hosts_at_once: Option<u32>,
    max_failures: Option<u32>,
    silence: Option<Duration>,
) -> Option<Wave> {
    hosts_at_once.map(|hosts_at_once| Wave {
        hosts_at_once,
        max_failures,
        silence_seconds: silence.unwrap_or(SILENCE).as_secs(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Spec, String> {
        let directory = tempfile::tempdir().expect("there is room");
        let path = directory.path().join("order.yaml");
        std::fs::write(&path, text).expect("there is room");
        Spec::of_file(&path).map_err(|failure| failure.to_string())
    }

    fn with(more: &str) -> String {
        let digest = "ab".repeat(32);
        format!("kind: provision\nimage: {{url: s3://images/a, sha256: {digest}}}\n{more}")
    }

    #[test]
    fn a_file_becomes_one_document_for_each_target() {
        let text = "targets: [host:a, host:b]\nhosts_at_once: 2\nmax_failures: 1\nsilence: 10s\njitter: 1m\nbytes_per_sec: 2M\n\
                    volumes:\n- {name: data, size: 1G}\n- {name: boot, size: 2G, host: b}\n";
        let spec = of(&with(text)).expect("it is right");
        let documents = spec.documents(3, 1000, "ops").expect("they are right");
        let volumes = |host: &str| {
            let order = &documents[&format!("lvp.v1.order.host.{host}.provision-abababababab")];
            assert_eq!((order.revision, order.deadline), (3, 1000 + 24 * 3600));
            assert_eq!(
                (order.jitter_seconds, order.bytes_per_sec),
                (60, Some(2 << 20))
            );
            let names = order.volumes.iter().map(|volume| volume.name.to_string());
            names.collect::<Vec<_>>()
        };
        assert_eq!(volumes("a"), ["data"]);
        assert_eq!(volumes("b"), ["data", "boot"]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (text, reason) in [
            ("targets: []\nvolumes: [{name: a, size: 1G}]", "for nobody"),
            ("targets: [all]", "from 1 to"),
            (
                "targets: [all]\nvolumes: [{name: a, size: 1G, host: h}]",
                "single hosts",
            ),
            ("targets: [all]\nmax_failures: 1", "need hosts_at_once"),
            ("targets: [all]\nspeed: 1", "speed"),
            ("targets: [everybody]", "target"),
            ("targets: [all]\ndeadline: soon", "deadline must be"),
            ("targets: [all]\nbytes_per_sec: fast", "bytes_per_sec: "),
            (
                "targets: [all]\nbytes_per_sec: 0\nvolumes: [{name: a, size: 1G}]",
                "is less than 65536",
            ),
            (
                "targets: [all]\ndeadline: 1000h\nvolumes: [{name: a, size: 1G}]",
                "30 days",
            ),
            (
                "targets: [all]\nhosts_at_once: 1\nsilence: 1s\nvolumes: [{name: a, size: 1G}]",
                "3s to 1h",
            ),
        ] {
            let refused = of(&with(text)).and_then(|spec| {
                let documents = spec.documents(1, 1, "ops");
                documents.map(|_| ()).map_err(|failure| failure.to_string())
            });
            let refused = refused.expect_err(text);
            assert!(refused.contains(reason), "{text}: {refused}");
        }
    }
}
