//! Arguments of the commands for cached images and golden volumes.

use clap::{Args, Subcommand};
use lvp_api::{CacheFetchRequest, Checksum, ImageType, Priority, Sha256Digest};

use super::{WaitArgs, image_type_parser, priority_parser};

/// What to do with the image cache.
#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// List the cached images
    #[command(visible_alias = "list")]
    Ls {
        /// Show at most this many images [default: the daemon's]
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
        /// Skip the first N images
        #[arg(long, value_name = "N")]
        offset: Option<u32>,
    },
    /// Fetch an image into the cache, without a volume
    Fetch {
        #[command(flatten)]
        what: ImageArgs,
        /// Also make the image's golden volume, from which volumes are cloned
        #[arg(long)]
        golden: bool,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Remove images from the cache
    ///
    /// An image that a job is using is not removed.
    #[command(visible_alias = "delete")]
    Rm {
        /// The images' keys, as "cache ls" shows them
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<Sha256Digest>,
    },
}

/// What to do with golden volumes.
#[derive(Debug, Subcommand)]
pub(crate) enum GoldenCommand {
    /// List the golden volumes, the last used first
    #[command(visible_alias = "list")]
    Ls,
    /// Make an image's golden volume in advance
    ///
    /// Where volumes can be cloned, the first job of an image makes it too.
    Make {
        #[command(flatten)]
        what: ImageArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Remove images' golden volumes
    ///
    /// Volumes that were cloned from them are not affected. A golden volume
    /// that a job is making or cloning is not removed.
    #[command(visible_alias = "delete")]
    Rm {
        /// The images' keys, as "golden ls" shows them
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<Sha256Digest>,
    },
}

// No documentation comment: it would replace that of the commands.
#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    /// s3://BUCKET/KEY, or the object's URL at the daemon's object store
    pub(crate) image_url: String,
    /// Format of the image
    #[arg(long, value_name = "TYPE", default_value = "qcow2", value_parser = image_type_parser())]
    pub(crate) image_type: ImageType,
    /// Digest that the image must have: sha256:HEX or sha512:HEX
    #[arg(long, value_name = "DIGEST")]
    pub(crate) checksum: Option<Checksum>,
    /// Text that is repeated in the job's status, in logs and in traces
    #[arg(long, value_name = "TEXT")]
    pub(crate) correlation_id: Option<String>,
    /// Which jobs begin first [default: low]
    #[arg(long, value_name = "PRIORITY", value_parser = priority_parser())]
    pub(crate) priority: Option<Priority>,
}

impl ImageArgs {
    /// The request to the API.
    pub(crate) fn request(self) -> CacheFetchRequest {
        CacheFetchRequest {
            image_url: self.image_url,
            image_type: self.image_type,
            checksum: self.checksum,
            correlation_id: self.correlation_id,
            priority: self.priority,
        }
    }
}
