//! The commands: call the daemon and show its answers.

use std::io;
use std::path::Path;

use clap::CommandFactory as _;
use lvp_api::DeletedImage;

use crate::args::{
    CacheCommand, CertCommand, Cli, Command, GoldenCommand, TokenCommand, VolumesCommand,
};
use crate::client::{Client, Page};
use crate::config;
use crate::exit::{Exit, Failure};
use crate::output::{self, Format, say};

mod cache;
mod cert;
mod explain;
mod fleet;
mod golden;
mod health;
mod jobs;
mod log;
mod plan;
mod token;
mod top;
mod volumes;
mod wait;

pub(crate) use token::parse_name;

/// What every command needs.
struct Context {
    client: Client,
    format: Format,
    /// `--timeout`, which limits waiting too.
    timeout: Option<std::time::Duration>,
}

/// Runs the command.
pub(crate) async fn run(cli: Cli) -> Result<Exit, Failure> {
    // Commands that need no daemon need no configuration either.
    match &cli.command {
        Command::Completion { shell } => return completion(*shell),
        Command::Man { directory } => return man(directory),
        Command::Token(TokenCommand::New(args)) => return token::new(cli.output, args),
        Command::Cert(CertCommand::Init(args)) => return cert::init(args),
        _ => {}
    }
    let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if let Command::Fleet(args) = cli.command {
        // The daemon's address and credentials are not needed either.
        let timeout = cli.connection.timeout()?;
        return fleet::run(cli.output, timeout, *args, &env).await;
    }
    let settings = config::load(
        cli.connection.layer(),
        cli.connection.config.as_deref(),
        &env,
    )?;
    for warning in &settings.warnings {
        say(&format!("warning: {warning}"));
    }
    let context = Context {
        client: Client::new(&settings)?,
        format: cli.output,
        timeout: settings.timeout,
    };
    match cli.command {
        Command::Provision(args) => jobs::provision(&context, args).await,
        Command::Plan(args) => plan::show(&context, args).await,
        Command::Jobs(args) => jobs::list(&context, args).await,
        Command::Status { job } => jobs::status(&context, job).await,
        Command::Top { reconnect } => top::run(&context, &reconnect).await,
        Command::Watch { job, reconnect } => jobs::watch(&context, job, &reconnect).await,
        Command::Explain { job } => explain::show(&context, job).await,
        Command::Log { job, follow } => log::print(&context, job, follow).await,
        Command::Cancel { job } => jobs::cancel(&context, job).await,
        Command::Retry { job, wait } => jobs::retry(&context, job, &wait).await,
        Command::Cache(CacheCommand::Ls { limit, offset }) => {
            cache::list(&context, Page { limit, offset }).await
        }
        Command::Cache(CacheCommand::Fetch { what, golden, wait }) => {
            let request = what.request();
            match golden {
                true => golden::make(&context, &request, &wait).await,
                false => cache::fetch(&context, &request, &wait).await,
            }
        }
        Command::Cache(CacheCommand::Rm { keys }) => cache::remove(&context, &keys).await,
        Command::Golden(GoldenCommand::Ls) => golden::list(&context).await,
        Command::Golden(GoldenCommand::Make { what, wait }) => {
            golden::make(&context, &what.request(), &wait).await
        }
        Command::Golden(GoldenCommand::Rm { keys }) => golden::remove(&context, &keys).await,
        Command::Volumes { command: None } => volumes::list(&context).await,
        Command::Volumes {
            command: Some(VolumesCommand::Adopt { volumes }),
        } => volumes::adopt(&context, &volumes).await,
        Command::Volumes {
            command:
                Some(VolumesCommand::Verify {
                    volumes,
                    priority,
                    reconnect,
                }),
        } => volumes::verify(&context, &volumes, priority, &reconnect).await,
        Command::Upload(args) => volumes::upload(&context, &args).await,
        Command::Health => health::health(&context).await,
        Command::Completion { .. }
        | Command::Man { .. }
        | Command::Fleet(_)
        | Command::Token(_)
        | Command::Cert(_) => Ok(Exit::Success),
    }
}

/// One page for each command, `lvpctl.1`, `lvpctl-provision.1` and so on.
fn man(directory: &Path) -> Result<Exit, Failure> {
    let written = std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), directory));
    written.map(|()| Exit::Success).map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!("Cannot write to {}: {error}", directory.display()),
        )
    })
}

fn completion(shell: clap_complete::Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "lvpctl", &mut script);
    let script = String::from_utf8(script).map_err(|error| {
        let error = io::Error::new(io::ErrorKind::InvalidData, error);
        Failure::new(Exit::Failed, format!("The script is not text: {error}"))
    })?;
    output::print(&script)?;
    Ok(Exit::Success)
}

/// Shows what was deleted: a cached image or a golden volume.
fn show_deleted(context: &Context, deleted: &DeletedImage) -> Result<(), Failure> {
    let DeletedImage { status, key } = deleted;
    match context.format {
        Format::Json => output::print_json_line(deleted),
        Format::Name => output::print_line(&output::clean(key)),
        Format::Table => output::print_line(&output::clean(&format!("{key} {status}"))),
    }
}

/// Tells the user if a list has more entries than were shown.
fn say_if_more(shown: usize, offset: u32, total: u64) {
    let end = u64::from(offset).saturating_add(u64::try_from(shown).unwrap_or(u64::MAX));
    if shown > 0 && end < total {
        say(&format!(
            "{shown} of {total} shown; use --offset {end} to see more"
        ));
    }
}
