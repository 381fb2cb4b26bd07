//! Arguments of the commands for jobs: provisioning, waiting, listing.

use std::str::FromStr;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use lvp_api::units::{ByteSize, GIB, MIB};
use lvp_api::{
    Checksum, Cloning, Expand, ImageType, JobState, Priority, ProvisionRequest, VolumeName,
    WhenFull,
};

use super::{image_type_parser, priority_parser};

/// Write an image to a volume
///
/// Creates the volume if it does not exist. An existing volume is overwritten,
/// and holds exactly the image afterwards; one that is not marked as this
/// program's is refused unless --adopt is given. Prints the job's id.
#[derive(Debug, Args)]
pub(crate) struct ProvisionArgs {
    #[command(flatten)]
    pub(crate) what: WhatArgs,

    /// Text that is repeated in the job's status, in logs and in traces
    #[arg(long, value_name = "TEXT")]
    pub(crate) correlation_id: Option<String>,

    /// A repeated request with the same key returns the first one's job
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,

    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

/// Show what provisioning would do, without doing it
///
/// Checks the image, the cache and the volume as they are now; nothing is
/// reserved. The exit code is 5 if provisioning would fail.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) what: WhatArgs,
}

// No documentation comment: it would replace that of the commands.
#[derive(Debug, Args)]
pub(crate) struct WhatArgs {
    /// s3://BUCKET/KEY, or the object's URL at the daemon's object store
    pub(crate) image_url: String,

    /// Name of the volume
    pub(crate) volume: VolumeName,

    /// Size of the volume, such as 50G or 1.5T; units are powers of 1024
    #[arg(long, value_parser = parse_volume_size)]
    pub(crate) size: ByteSize,

    /// Format of the image
    #[arg(long, value_name = "TYPE", default_value = "qcow2", value_parser = image_type_parser())]
    pub(crate) image_type: ImageType,

    /// Digest that the image must have: sha256:HEX or sha512:HEX
    #[arg(long, value_name = "DIGEST")]
    pub(crate) checksum: Option<Checksum>,

    /// Overwrite the volume even if it is not marked as this program's
    #[arg(long)]
    pub(crate) adopt: bool,

    /// Whether to clone the image's golden volume: if possible (auto), never,
    /// or fail if it is not possible (require)
    #[arg(long, value_name = "WHETHER", default_value = "auto", value_parser = cloning_parser())]
    pub(crate) clone: Cloning,

    /// If the pool of the volumes is too full, wait this long for room (1s to 168h) instead of failing
    #[arg(long, value_name = "DURATION", value_parser = crate::config::parse_duration)]
    pub(crate) wait_for_room: Option<std::time::Duration>,
    /// What to do to the guest's partition table on a larger volume: move the
    /// backup GPT to the volume's end (gpt), or nothing (none); by default as
    /// the daemon is configured
    #[arg(long, value_name = "WHAT", value_parser = expand_parser())]
    pub(crate) expand: Option<Expand>,

    /// Which jobs begin first; while all slots are taken, one of high priority
    /// pauses one of low priority [default: normal]
    #[arg(long, value_name = "PRIORITY", value_parser = priority_parser())]
    pub(crate) priority: Option<Priority>,
}

impl WhatArgs {
    /// The request to the API.
    pub(crate) fn request(self) -> ProvisionRequest {
        let ByteSize(size_bytes) = self.size;
        let is_whole = size_bytes.is_multiple_of(GIB);
        ProvisionRequest {
            image_url: self.image_url,
            volume_name: self.volume.into(),
            // Whole GiB are sent in the older field, which daemons of every generation know.
            volume_size_gb: is_whole.then_some(size_bytes / GIB),
            volume_size_bytes: (!is_whole).then_some(size_bytes),
            image_type: self.image_type,
            checksum: self.checksum,
            correlation_id: None,
            adopt: self.adopt,
            clone: self.clone,
            when_full: match self.wait_for_room {
                Some(_) => WhenFull::Wait,
                None => WhenFull::Refuse,
            },
            wait_seconds: self.wait_for_room.map(|wait| wait.as_secs()),
            expand: self.expand,
            priority: self.priority,
        }
    }
}

/// Whether and how to wait for the job that a command creates.
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Wait for the end of the job; the exit code tells the outcome
    #[arg(long)]
    pub(crate) wait: bool,

    #[command(flatten)]
    pub(crate) reconnect: ReconnectArgs,
}

/// What to do if the daemon becomes unreachable while a job is followed.
#[derive(Debug, Args)]
pub(crate) struct ReconnectArgs {
    /// While waiting: how long to retry if the daemon becomes unreachable
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = crate::config::parse_duration)]
    pub(crate) reconnect_for: std::time::Duration,
}

/// List the jobs, newest first
#[derive(Debug, Args)]
pub(crate) struct JobsArgs {
    /// Only jobs in this state, or in one of several: failed,cancelled
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = job_state_parser())]
    pub(crate) status: Vec<JobState>,

    /// Only jobs of this volume
    #[arg(long, value_name = "VOLUME")]
    pub(crate) volume: Option<String>,

    /// Only jobs of this priority, or of one of several: normal,high
    #[arg(long, value_name = "PRIORITY", value_delimiter = ',', value_parser = priority_parser())]
    pub(crate) priority: Vec<Priority>,

    /// Only jobs whose image URL contains this text, in any case
    #[arg(long, value_name = "TEXT")]
    pub(crate) image: Option<String>,

    /// Only jobs that contain this text in id, volume, image URL, correlation
    /// id or error, in any case
    #[arg(long, value_name = "TEXT")]
    pub(crate) search: Option<String>,

    /// Only jobs accepted at this time or later, such as 2026-01-27T10:30:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,

    /// Only jobs accepted before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,

    /// Show at most this many jobs [default: the daemon's]
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u32>,

    /// Skip the first N jobs
    #[arg(long, value_name = "N")]
    pub(crate) offset: Option<u32>,
}

/// Parses a volume's size. A small number without a unit is a mistake, not a
/// volume of 50 bytes.
pub(super) fn parse_volume_size(text: &str) -> Result<ByteSize, String> {
    let size = ByteSize::from_str(text).map_err(|error| error.to_string())?;
    if size.0 < MIB {
        return Err(format!(
            "{size} is less than 1 MiB: is a unit missing, as in 50G?"
        ));
    }
    Ok(size)
}

fn cloning_parser() -> impl TypedValueParser<Value = Cloning> {
    PossibleValuesParser::new(Cloning::ALL.map(Cloning::as_str))
        .try_map(|name| Cloning::from_str(&name))
}

fn expand_parser() -> impl TypedValueParser<Value = Expand> {
    PossibleValuesParser::new(Expand::ALL.map(Expand::as_str))
        .try_map(|name| Expand::from_str(&name))
}

fn job_state_parser() -> impl TypedValueParser<Value = JobState> {
    PossibleValuesParser::new(JobState::ALL.map(JobState::as_str))
        .try_map(|name| JobState::from_str(&name))
}
