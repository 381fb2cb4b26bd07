//! The command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use lvp_api::{ImageType, JobId, Priority, VolumeName};

use crate::config::Layer;
use crate::exit::{EXIT_CODES, Failure};
use crate::output::Format;

mod fleet;
mod images;
mod jobs;
mod local;

pub(crate) use fleet::{
    BrokerArgs, FleetArgs, FleetCommand, HowArgs, ImageArgs, OrderArgs, OrderCommand, SigningArgs,
    VolumeArg,
};
pub(crate) use images::{CacheCommand, GoldenCommand};
pub(crate) use jobs::{JobsArgs, PlanArgs, ProvisionArgs, ReconnectArgs, WaitArgs};
pub(crate) use local::{CertCommand, CertInitArgs, TokenArgs, TokenCommand, TokenRole};

/// Write images from object storage to the volumes of a KVM host
///
/// Talks to the libvirt-volume-provisioner daemon of one hypervisor. Results go
/// to standard output, everything else to standard error.
///
/// Options beat the environment, which beats the configuration file
/// (~/.config/lvpctl/config.yaml). The file takes the keys endpoint, token,
/// token_file, ca_cert, client_cert, client_key and timeout.
#[derive(Debug, Parser)]
#[command(
    name = "lvpctl",
    version,
    max_term_width = 79,
    after_long_help = EXIT_CODES,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,

    /// How results are printed
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value_t
    )]
    pub(crate) output: Format,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the daemon is and who is asking.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection options")]
pub(crate) struct ConnectionArgs {
    /// The daemon's address [env: LVP_ENDPOINT] [default:
    /// http://127.0.0.1:8080]
    #[arg(long, global = true, value_name = "URL")]
    endpoint: Option<String>,

    /// Access token; visible to every user of this machine, so a file is safer
    /// [env: LVP_TOKEN]
    #[arg(
        long,
        global = true,
        value_name = "TOKEN",
        conflicts_with = "token_file"
    )]
    token: Option<String>,

    /// File whose first line is the access token [env: LVP_TOKEN_FILE]
    #[arg(long, global = true, value_name = "PATH")]
    token_file: Option<PathBuf>,

    /// The only certificate authority to trust, PEM [env: LVP_CA_CERT]
    #[arg(long, global = true, value_name = "PATH")]
    ca_cert: Option<PathBuf>,

    /// Client certificate, PEM [env: LVP_CLIENT_CERT]
    #[arg(long, global = true, value_name = "PATH")]
    client_cert: Option<PathBuf>,

    /// Key of the client certificate, PEM [env: LVP_CLIENT_KEY]
    #[arg(long, global = true, value_name = "PATH")]
    client_key: Option<PathBuf>,

    /// Time limit, such as 90s or 2h: for the job when waiting for one,
    /// otherwise for the answer [env: LVP_TIMEOUT] [default: no limit for a
    /// job, 30s for an answer]
    #[arg(long, global = true, value_name = "DURATION")]
    timeout: Option<String>,

    /// Configuration file [env: LVP_CONFIG]
    /// [default: ~/.config/lvpctl/config.yaml]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) config: Option<PathBuf>,
}

impl ConnectionArgs {
    /// The time limit, where nothing else of these options is needed.
    pub(crate) fn timeout(&self) -> Result<Option<Duration>, Failure> {
        let text = self.timeout.clone();
        let text = text.or_else(|| {
            std::env::var("LVP_TIMEOUT")
                .ok()
                .filter(|text| !text.is_empty())
        });
        let parsed = text
            .as_deref()
            .map(crate::config::parse_duration)
            .transpose();
        parsed.map_err(|error| Failure::usage(format!("The timeout is wrong: {error}")))
    }

    /// These options as the topmost layer of the configuration.
    pub(crate) fn layer(&self) -> Layer {
        Layer {
            endpoint: self.endpoint.clone(),
            token: self.token.clone(),
            token_file: self.token_file.clone(),
            ca_cert: self.ca_cert.clone(),
            client_cert: self.client_cert.clone(),
            client_key: self.client_key.clone(),
            timeout: self.timeout.clone(),
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Provision(ProvisionArgs),
    Plan(PlanArgs),
    Jobs(JobsArgs),
    /// Show one job
    Status {
        /// The job's id
        job: JobId,
    },
    /// Follow a job to its end
    ///
    /// Shows progress on standard error and the job's final state on standard
    /// output; with -o json, one line for every change. The exit code tells
    /// the outcome. Ctrl-C stops watching, not the job.
    Watch {
        /// The job's id
        job: JobId,
        #[command(flatten)]
        reconnect: ReconnectArgs,
    },
    /// Follow all jobs, until Ctrl-C
    ///
    /// On a terminal, shows a line with progress for each unfinished job, and
    /// leaves a line for each job that ends. Otherwise, and with -o json,
    /// prints one line for every change on standard output.
    Top {
        #[command(flatten)]
        reconnect: ReconnectArgs,
    },
    /// Tell what bounded a job: network, CPU, device, limit or queue
    ///
    /// Shows the shares of the job's time, what would make such a job faster,
    /// and when its stages ran.
    Explain {
        /// The job's id
        job: JobId,
    },
    /// Print what was logged about a job
    ///
    /// The daemon keeps the first lines and the last ones, up to 400 lines and
    /// 64 KiB, for as long as it keeps the job.
    Log {
        /// The job's id
        job: JobId,
        /// Go on until the job has ended
        #[arg(long, short = 'f')]
        follow: bool,
    },
    /// Cancel a pending or running job
    ///
    /// A volume that the job created is removed. One that it found stays: as it
    /// was, if nothing was written to it yet, or else not ready and without a
    /// boot sector.
    Cancel {
        /// The job's id
        job: JobId,
    },
    /// Submit the request of a failed or cancelled job again
    ///
    /// Prints the id of the new job. The old job does not change.
    Retry {
        /// The old job's id
        job: JobId,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// List, fetch and remove cached images
    #[command(subcommand)]
    Cache(CacheCommand),
    /// List, make and remove golden volumes, from which volumes are cloned
    #[command(subcommand)]
    Golden(GoldenCommand),
    /// List volumes, verify them, or hand them over to the daemon
    Volumes {
        #[command(subcommand)]
        command: Option<VolumesCommand>,
    },
    Upload(UploadArgs),
    /// Show the health of the daemon and its dependencies
    ///
    /// The exit code is 7 if the daemon is not ready to accept jobs.
    Health,
    Fleet(Box<FleetArgs>),
    /// Make tokens for the daemon's tokens file
    #[command(subcommand)]
    Token(TokenCommand),
    /// Make certificates for the daemon and its clients
    #[command(subcommand)]
    Cert(CertCommand),
    /// Print a completion script for a shell
    ///
    /// For bash: lvpctl completion bash > /etc/bash_completion.d/lvpctl
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages, one for each command
    ///
    /// For all users: lvpctl man /usr/local/share/man/man1
    Man {
        /// The directory for the files; created if absent
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

/// What to do with volumes.
#[derive(Debug, Subcommand)]
pub(crate) enum VolumesCommand {
    /// Hand existing volumes over to the daemon
    ///
    /// For volumes that are not marked as this program's: from then on, jobs
    /// may overwrite them. This command does not change their content, and a
    /// running virtual machine may have them open.
    Adopt {
        /// Names of the volumes
        #[arg(required = true)]
        volumes: Vec<VolumeName>,
    },
    /// Read volumes and compare them with what was written to them
    ///
    /// For clones, golden volumes, and volumes whose image has a golden volume.
    /// A volume differs once a virtual machine was started from it. The exit
    /// code is 1 if a volume differs.
    Verify {
        /// Names of the volumes; a golden volume is called lvp-golden-KEY-TYPE
        #[arg(required = true)]
        volumes: Vec<VolumeName>,

        /// Which jobs begin first [default: normal]
        #[arg(long, value_name = "PRIORITY", value_parser = priority_parser())]
        priority: Option<Priority>,

        #[command(flatten)]
        reconnect: ReconnectArgs,
    },
}

/// Write a file into an existing libvirt storage volume
///
/// For cloud-init's seed image. The volume keeps its size: the file must fit.
#[derive(Debug, Args)]
pub(crate) struct UploadArgs {
    /// The file to send
    pub(crate) file: PathBuf,

    /// Name of the libvirt storage volume
    pub(crate) volume: String,

    /// The libvirt storage pool
    #[arg(long, default_value = "cloud-init")]
    pub(crate) pool: String,
}

fn priority_parser() -> impl TypedValueParser<Value = Priority> {
    PossibleValuesParser::new(Priority::ALL.map(Priority::as_str))
        .try_map(|name| Priority::from_str(&name))
}

fn image_type_parser() -> impl TypedValueParser<Value = ImageType> {
    PossibleValuesParser::new(ImageType::ALL.map(ImageType::as_str))
        .try_map(|name| ImageType::from_str(&name))
}
