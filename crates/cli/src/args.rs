//! The command line.

use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use lvp_api::units::{ByteSize, GIB, MIB};
use lvp_api::{
    CacheFetchRequest, Checksum, Cloning, ImageType, JobId, JobState, ProvisionRequest,
    Sha256Digest, VolumeName,
};

use crate::config::Layer;
use crate::exit::EXIT_CODES;
use crate::output::Format;

/// Put images from object storage onto the volumes of a KVM host
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
    /// The daemon's address [env: LVP_ENDPOINT] [default: http://127.0.0.1:8080]
    #[arg(long, global = true, value_name = "URL")]
    endpoint: Option<String>,

    /// Access token; seen by every user of this machine, so better a file
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

    /// Give up after this long, such as 90s or 2h: on the job when waiting
    /// for one, else on the answer [env: LVP_TIMEOUT] [default: wait for a job
    /// without limit, 30s for an answer]
    #[arg(long, global = true, value_name = "DURATION")]
    timeout: Option<String>,

    /// Configuration file [env: LVP_CONFIG]
    /// [default: ~/.config/lvpctl/config.yaml]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) config: Option<PathBuf>,
}

impl ConnectionArgs {
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
    /// On a terminal, a line with progress for each job that has not ended, and
    /// one that stays for each that does. Otherwise, and with -o json, one line
    /// for every change on standard output.
    Top {
        #[command(flatten)]
        reconnect: ReconnectArgs,
    },
    /// Cancel a pending or running job
    ///
    /// A volume that the job created is removed. One that it found stays: as it
    /// was, if nothing was written to it yet, or else not ready and without a boot
    /// sector.
    Cancel {
        /// The job's id
        job: JobId,
    },
    /// Ask again for what a failed or cancelled job was to do
    ///
    /// Prints the id of the new job. The old one stays as it is.
    Retry {
        /// The old job's id
        job: JobId,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// List, fill and clean the image cache
    #[command(subcommand)]
    Cache(CacheCommand),
    /// List, make and remove golden volumes, from which others are cloned
    #[command(subcommand)]
    Golden(GoldenCommand),
    /// List the volumes, or hand one over to the daemon
    Volumes {
        #[command(subcommand)]
        command: Option<VolumesCommand>,
    },
    Upload(UploadArgs),
    /// Show whether the daemon and what it depends on are well
    ///
    /// The exit code is 7 when the daemon is not ready to take jobs.
    Health,
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
        /// The directory for the files; made when absent
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

/// What to do with volumes.
#[derive(Debug, Subcommand)]
pub(crate) enum VolumesCommand {
    /// Hand existing volumes over to the daemon
    ///
    /// For volumes that say nothing of this program: from then on jobs may
    /// rewrite them. Nothing is written to them by this, and a running virtual
    /// machine may have them open.
    Adopt {
        /// Names of the volumes
        #[arg(required = true)]
        volumes: Vec<VolumeName>,
    },
}

/// What to do with tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    New(TokenArgs),
}

/// Make a token, and print its line for the tokens file
///
/// Nothing is sent: append the line to the file that the daemon's
/// server.api_tokens_file names; it is read again by itself. With -o name, only
/// the token is printed.
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// Name of the token's holder, for the daemon's audit log
    #[arg(long, value_name = "NAME", default_value = "lvpctl", value_parser = crate::commands::parse_name)]
    pub(crate) name: String,

    /// What the token allows
    #[arg(long, value_enum, default_value_t)]
    pub(crate) role: TokenRole,
}

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum TokenRole {
    /// Everything
    #[default]
    Provision,
    /// To look, and change nothing
    Read,
}

/// What to do with certificates.
#[derive(Debug, Subcommand)]
pub(crate) enum CertCommand {
    Init(CertInitArgs),
}

/// Make a certificate authority, and a server's and a client's certificate
///
/// For a start, where there is no authority yet. Writes ca, server and client,
/// each as .pem (certificate) and .key. Existing files are left alone.
#[derive(Debug, Args)]
pub(crate) struct CertInitArgs {
    /// The directory for the files; made when absent
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,

    /// Name or address of the server; may be repeated
    /// [default: localhost, 127.0.0.1 and ::1]
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Vec<String>,

    /// Name of the client, for the daemon's audit log
    #[arg(long, value_name = "NAME", default_value = "lvpctl")]
    pub(crate) client: String,

    /// How long the server's and the client's certificates are valid
    #[arg(long, default_value_t = 825, value_parser = clap::value_parser!(u16).range(1..=3650))]
    pub(crate) days: u16,
}

/// Put an image on a volume
///
/// Creates the volume when there is none. An existing one is overwritten: it
/// holds exactly the image afterwards. One that says nothing of this program is
/// refused, unless --adopt is given. Prints the job's id.
#[derive(Debug, Args)]
pub(crate) struct ProvisionArgs {
    #[command(flatten)]
    pub(crate) what: WhatArgs,

    /// Text that comes back on the job, in logs and in traces
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
/// Looks at the image, the cache and the volume as they are now; nothing is
/// reserved. The exit code is 5 when something is in the way.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) what: WhatArgs,
}

// No documentation comment: it would stand in for that of the commands.
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

    /// What the image must be: sha256:HEX or sha512:HEX
    #[arg(long, value_name = "DIGEST")]
    pub(crate) checksum: Option<Checksum>,

    /// Overwrite the volume also if it says nothing of this program
    #[arg(long)]
    pub(crate) adopt: bool,

    /// Share the image's bytes with other volumes of it where that can be done
    /// (auto), never, or fail where it cannot (require)
    #[arg(long, value_name = "WHETHER", default_value = "auto", value_parser = cloning_parser())]
    pub(crate) clone: Cloning,
}

impl WhatArgs {
    /// What the API is asked.
    pub(crate) fn request(self) -> ProvisionRequest {
        let ByteSize(size_bytes) = self.size;
        let is_whole = size_bytes.is_multiple_of(GIB);
        ProvisionRequest {
            image_url: self.image_url,
            volume_name: self.volume.into(),
            // Whole GiB are said in the older field, which daemons of every generation know.
            volume_size_gb: is_whole.then_some(size_bytes / GIB),
            volume_size_bytes: (!is_whole).then_some(size_bytes),
            image_type: self.image_type,
            checksum: self.checksum,
            correlation_id: None,
            adopt: self.adopt,
            clone: self.clone,
        }
    }
}

/// Whether and how to wait for the job that a command makes.
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Wait for the end of the job; the exit code tells the outcome
    #[arg(long)]
    pub(crate) wait: bool,

    #[command(flatten)]
    pub(crate) reconnect: ReconnectArgs,
}

/// What to do when the daemon goes away while a job is followed.
#[derive(Debug, Args)]
pub(crate) struct ReconnectArgs {
    /// While waiting: how long to try again when the daemon goes away
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

    /// Only jobs with this in the image's URL, in any case
    #[arg(long, value_name = "TEXT")]
    pub(crate) image: Option<String>,

    /// Only jobs with this in id, volume, image URL, correlation id or error,
    /// in any case
    #[arg(long, value_name = "TEXT")]
    pub(crate) search: Option<String>,

    /// Only jobs accepted at this time or later, such as 2026-01-27T10:30:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,

    /// Only jobs accepted before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,

    /// At most so many jobs [default: the daemon's]
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u32>,

    /// Leave out the first N jobs
    #[arg(long, value_name = "N")]
    pub(crate) offset: Option<u32>,
}

/// What to do with the image cache.
#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// List the cached images
    #[command(visible_alias = "list")]
    Ls {
        /// At most so many images [default: the daemon's]
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
        /// Leave out the first N images
        #[arg(long, value_name = "N")]
        offset: Option<u32>,
    },
    /// Fetch an image into the cache, without a volume
    Fetch {
        #[command(flatten)]
        what: ImageArgs,
        /// Make the image's golden volume as well, from which volumes are cloned
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
    /// Make an image's golden volume ahead
    ///
    /// The first job of an image does so as well, where volumes can be cloned.
    Make {
        #[command(flatten)]
        what: ImageArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Remove images' golden volumes
    ///
    /// What was cloned from them stays as it is. One that a job is making or
    /// cloning is not removed.
    #[command(visible_alias = "delete")]
    Rm {
        /// The images' keys, as "golden ls" shows them
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<Sha256Digest>,
    },
}

// No documentation comment: it would stand in for that of the commands.
#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    /// s3://BUCKET/KEY, or the object's URL at the daemon's object store
    pub(crate) image_url: String,
    /// Format of the image
    #[arg(long, value_name = "TYPE", default_value = "qcow2", value_parser = image_type_parser())]
    pub(crate) image_type: ImageType,
    /// What the image must be: sha256:HEX or sha512:HEX
    #[arg(long, value_name = "DIGEST")]
    pub(crate) checksum: Option<Checksum>,
    /// Text that comes back on the job, in logs and in traces
    #[arg(long, value_name = "TEXT")]
    pub(crate) correlation_id: Option<String>,
}

impl ImageArgs {
    /// What the API is asked.
    pub(crate) fn request(self) -> CacheFetchRequest {
        CacheFetchRequest {
            image_url: self.image_url,
            image_type: self.image_type,
            checksum: self.checksum,
            correlation_id: self.correlation_id,
        }
    }
}

/// Write a file into an existing libvirt storage volume
///
/// For the seed image of cloud-init. The volume keeps its size: the file must
/// fit.
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

/// A volume's size. A bare small number is a forgotten unit, not a volume of 50 bytes.
fn parse_volume_size(text: &str) -> Result<ByteSize, String> {
    let size = ByteSize::from_str(text).map_err(|error| error.to_string())?;
    if size.0 < MIB {
        return Err(format!(
            "{size} is less than 1 MiB: is a unit missing, as in 50G?"
        ));
    }
    Ok(size)
}

fn image_type_parser() -> impl TypedValueParser<Value = ImageType> {
    PossibleValuesParser::new(ImageType::ALL.map(ImageType::as_str))
        .try_map(|name| ImageType::from_str(&name))
}

fn cloning_parser() -> impl TypedValueParser<Value = Cloning> {
    PossibleValuesParser::new(Cloning::ALL.map(Cloning::as_str))
        .try_map(|name| Cloning::from_str(&name))
}

fn job_state_parser() -> impl TypedValueParser<Value = JobState> {
    PossibleValuesParser::new(JobState::ALL.map(JobState::as_str))
        .try_map(|name| JobState::from_str(&name))
}
