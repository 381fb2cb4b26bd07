//! Arguments of the commands for the fleet.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use lvp_api::units::ByteSize;
use lvp_api::{ImageType, Sha256Digest};
use lvp_fleet::{GroupName, HostName, OrderId};

use super::image_type_parser;

/// Order images and volumes on many hosts at once
///
/// Orders and reports travel through NATS, so these commands talk to its
/// servers and not to a daemon. Each order is signed with a key that the hosts'
/// fleet.trust names.
#[derive(Debug, Args)]
pub(crate) struct FleetArgs {
    #[command(flatten)]
    pub(crate) broker: BrokerArgs,

    #[command(subcommand)]
    pub(crate) command: FleetCommand,
}

/// Where the NATS servers are and who is asking.
#[derive(Debug, Args)]
#[command(next_help_heading = "NATS options")]
pub(crate) struct BrokerArgs {
    /// NATS servers, separated by commas [env: LVP_NATS_URL]
    /// [default: nats://127.0.0.1:4222]
    #[arg(long, global = true, value_name = "URL", value_delimiter = ',')]
    pub(crate) nats_url: Vec<String>,

    /// The only certificate authority to trust, PEM [env: LVP_NATS_CA]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) nats_ca: Option<PathBuf>,

    /// Client certificate, PEM [env: LVP_NATS_CERT]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) nats_cert: Option<PathBuf>,

    /// Key of the client certificate, PEM [env: LVP_NATS_KEY]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) nats_key: Option<PathBuf>,

    /// File with a JWT and its seed, as nsc writes it [env: LVP_NATS_CREDS]
    #[arg(long, global = true, value_name = "PATH", conflicts_with = "nats_nkey")]
    pub(crate) nats_creds: Option<PathBuf>,

    /// File with the seed of an nkey [env: LVP_NATS_NKEY]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) nats_nkey: Option<PathBuf>,
}

/// What to do with the fleet.
#[derive(Debug, Subcommand)]
pub(crate) enum FleetCommand {
    /// Make the stream of orders and the buckets of reports, or bring them to
    /// this release's limits
    Init {
        /// How many servers of a cluster keep each of them
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
        replicas: u8,
    },
    /// Make a key that signs orders
    ///
    /// Writes the secret key to a file that only its owner can read, and prints
    /// the line for the hosts' fleet.trust. Nothing is sent.
    Keygen {
        /// The file; it must not exist
        file: PathBuf,
        /// Who holds the key, for the hosts' audit logs
        #[arg(long, value_name = "NAME", default_value = "lvpctl", value_parser = crate::commands::parse_name)]
        name: String,
    },
    /// Make a key with which a host or an issuer connects to NATS
    ///
    /// Writes the seed to a file that only its owner can read, for
    /// fleet.nkey_file or LVP_NATS_NKEY, and prints the line for the users in
    /// accounts.conf (deploy/nats). Nothing is sent.
    Nkey {
        /// The file; it must not exist
        file: PathBuf,
        /// The host that it is for, as fleet.host has it [default: an issuer]
        #[arg(long, value_name = "NAME")]
        host: Option<HostName>,
    },
    /// Issue an order
    #[command(subcommand)]
    Order(Box<OrderCommand>),
    /// Show how an order stands
    ///
    /// The exit code is 0 if all hosts have done it, 1 if all have ended and
    /// not all have done it, 3 if its deadline has passed, and 8 if hosts are
    /// still to end. A host that says nothing is shown as silent.
    Status {
        /// The order
        order: OrderId,
    },
    /// Follow an order to its end
    ///
    /// The exit codes are those of `status`. Ctrl-C stops watching, not the
    /// order.
    Watch {
        /// The order
        order: OrderId,
    },
    /// Cancel an order on all its hosts
    ///
    /// Jobs that run are cancelled. What is done stays.
    Cancel {
        /// The order
        order: OrderId,

        #[command(flatten)]
        signing: SigningArgs,
    },
    /// List the hosts, and what they say about themselves
    Hosts,
}

/// The kinds of orders.
#[derive(Debug, Subcommand)]
pub(crate) enum OrderCommand {
    /// Have an image in the caches of hosts
    Prewarm {
        #[command(flatten)]
        image: ImageArgs,
        #[command(flatten)]
        order: OrderArgs,
    },
    /// Write an image to volumes on hosts
    Provision {
        #[command(flatten)]
        image: ImageArgs,
        /// A volume as NAME=SIZE on each host, or as HOST/NAME=SIZE on one;
        /// may be repeated, and one is needed
        #[arg(long = "volume", value_name = "VOLUME", value_parser = parse_volume)]
        volumes: Vec<VolumeArg>,
        #[command(flatten)]
        order: OrderArgs,
    },
    /// Remove an image from the caches of hosts
    Evict {
        /// The image's digest, as the cache's lists show it
        sha256: Sha256Digest,
        #[command(flatten)]
        order: OrderArgs,
    },
    /// Issue the order that a YAML file describes
    ///
    /// The file has the keys id, kind, image (url, sha256, type), targets (all,
    /// group:NAME, host:NAME), volumes (name, size, host), hosts_at_once,
    /// max_failures, silence, jitter, bytes_per_sec and deadline. What it does not have is as
    /// without the option of that name.
    Apply {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        signing: SigningArgs,
        #[command(flatten)]
        how: HowArgs,
    },
}

/// The image of an order.
#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    /// s3://BUCKET/KEY, or the object's URL at the hosts' object store
    pub(crate) image_url: String,

    /// SHA-256 of the image, as it is stored
    #[arg(long, value_name = "HEX")]
    pub(crate) sha256: Sha256Digest,

    /// Format of the image
    #[arg(long, value_name = "TYPE", default_value = "qcow2", value_parser = image_type_parser())]
    pub(crate) image_type: ImageType,
}

/// Whom an order is for, and how they follow it.
#[derive(Debug, Args)]
pub(crate) struct OrderArgs {
    /// The order's name [default: the kind and the beginning of the digest]
    #[arg(long, value_name = "NAME")]
    pub(crate) id: Option<OrderId>,

    /// All hosts
    #[arg(long, conflicts_with_all = ["group", "host"])]
    pub(crate) all: bool,

    /// The hosts of a group; may be repeated
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) group: Vec<GroupName>,

    /// A host; may be repeated
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) host: Vec<HostName>,

    /// Never more hosts at once than this [default: all begin at once]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) hosts_at_once: Option<u32>,

    /// Once more hosts than this have failed, no further host begins
    #[arg(long, value_name = "NUMBER", requires = "hosts_at_once")]
    pub(crate) max_failures: Option<u32>,

    /// A host that works and says nothing for so long stops, and loses its
    /// place [default: 30s]
    #[arg(long, value_name = "DURATION", requires = "hosts_at_once", value_parser = crate::config::parse_duration)]
    pub(crate) silence: Option<Duration>,

    /// Each host begins at a moment of its own within this time
    #[arg(long, value_name = "DURATION", value_parser = crate::config::parse_duration)]
    pub(crate) jitter: Option<Duration>,

    /// Most bytes per second that each host fetches, such as 50M
    #[arg(long, value_name = "SIZE")]
    pub(crate) bytes_per_sec: Option<ByteSize>,

    /// From now, when hosts stop following it, at most 30 days
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = crate::config::parse_duration)]
    pub(crate) deadline: Duration,

    #[command(flatten)]
    pub(crate) signing: SigningArgs,

    #[command(flatten)]
    pub(crate) how: HowArgs,
}

/// Who signs.
#[derive(Debug, Args)]
pub(crate) struct SigningArgs {
    /// File with the secret key that signs [env: LVP_FLEET_KEY]
    #[arg(long, value_name = "PATH")]
    pub(crate) key: Option<PathBuf>,

    /// Who issues it, for people [default: $USER]
    #[arg(long, value_name = "NAME")]
    pub(crate) issuer: Option<String>,
}

/// How an order is issued.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct HowArgs {
    /// Only print which hosts would do what
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Replace an order of this name; hosts that are no longer meant cancel it
    #[arg(long)]
    pub(crate) revise: bool,

    /// Follow the order to its end, as `watch` does
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) wait: bool,
}

/// A volume on each host, or on one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumeArg {
    pub(crate) host: Option<HostName>,
    pub(crate) name: lvp_api::VolumeName,
    pub(crate) size: ByteSize,
}

fn parse_volume(text: &str) -> Result<VolumeArg, String> {
    let (volume, size) = text
        .split_once('=')
        .ok_or("write NAME=SIZE or HOST/NAME=SIZE")?;
    let (host, name) = match volume.split_once('/') {
        Some((host, name)) => (Some(host), name),
        None => (None, volume),
    };
    let host = host.map(str::parse).transpose();
    Ok(VolumeArg {
        host: host.map_err(|error: lvp_fleet::names::ParseNameError| error.to_string())?,
        name: name
            .parse()
            .map_err(|error: lvp_api::volume::ParseVolumeNameError| error.to_string())?,
        size: super::jobs::parse_volume_size(size)?,
    })
}
