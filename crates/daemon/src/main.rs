//! Command line of the daemon.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use lvp_image::worker;
use provisioner::cmd::Launcher;
use provisioner::config::{Config, ConfigError, DEFAULT_PATH, Origin, Settings};
use provisioner::config_cmd;
use provisioner::db_cmd::{self, AdoptArgs, BackupArgs};
use provisioner::demo::DemoArgs;
use provisioner::doctor::{self, DoctorArgs};
use provisioner::image_cmd::{self, EXIT_USAGE, ImageCommand};
use provisioner::job::log::Logs;
use provisioner::migrate::{self, MigrateArgs};
use provisioner::serve::{Daemon, Ended, Inherited};
use provisioner::supervisor;
use provisioner::telemetry::Exports;
use provisioner::telemetry::logs;
use provisioner::telemetry::sinks::Sinks;
use provisioner::telemetry::traces::Traces;
use provisioner::threads;

/// Puts VM images from object storage onto volumes of this host
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon (the default)
    Serve(ServeArgs),
    /// Show the whole path of an image on this machine, without any set-up
    Demo(DemoArgs),
    /// Check everything that the daemon needs
    ///
    /// Changes nothing, and may run beside the daemon. Exit codes: 0 all is well, 1 there are
    /// warnings, 2 something does not work.
    Doctor {
        #[command(flatten)]
        doctor: DoctorArgs,
        #[command(flatten)]
        serve: ServeArgs,
    },
    /// Inspect an image, or convert it, with the daemon's own code
    #[command(subcommand)]
    Image(ImageCommand),
    /// Back up, check and repair the database
    Db {
        #[command(subcommand)]
        command: DbCommand,
    },
    /// Write the manual pages, one for each command
    ///
    /// For all users: libvirt-volume-provisioner man /usr/local/share/man/man1
    Man {
        /// The directory for the files; created if missing
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Check, show or migrate the configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Debug, Subcommand)]
enum DbCommand {
    /// Copy the database, whether the daemon runs or not
    Backup {
        #[command(flatten)]
        backup: BackupArgs,
        #[command(flatten)]
        serve: ServeArgs,
    },
    /// Read the whole database and check whether it is sound
    Check(ServeArgs),
    /// End all unfinished jobs as cancelled, while the daemon is stopped
    ///
    /// For a restored database: jobs that were requested before the backup are not run again.
    CancelUnfinished(ServeArgs),
    /// Hand over the volumes that the Go program of the same name made
    ///
    /// Reads the completed jobs in its database, and marks their volumes as this program's, so that
    /// jobs may rewrite them. No byte of a volume is changed. The exit code is 1 if one of them is
    /// refused.
    AdoptGoVolumes {
        #[command(flatten)]
        adopt: AdoptArgs,
        #[command(flatten)]
        serve: ServeArgs,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check whether the configuration can be used
    Check(ServeArgs),
    /// Print every key with its value and its origin; secrets are hidden
    Show(ServeArgs),
    /// Make a configuration from the Go program's, and list what has another meaning here
    ///
    /// The exit code is 1 if the new configuration cannot be used yet; the notes on standard error
    /// say why.
    Migrate(MigrateArgs),
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// Configuration file [default: /etc/libvirt-volume-provisioner/config.yaml]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Set a configuration key, overriding the file and the environment; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
}

impl ServeArgs {
    fn path(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| DEFAULT_PATH.into())
    }

    fn settings(&self) -> Result<Settings, ConfigError> {
        let path = self.path();
        let environment = |name: &str| std::env::var(name).ok();
        let mut settings = Settings::load(&path, self.config.is_some(), environment)?;
        for assignment in &self.set {
            let (key, value) = assignment.split_once('=').unwrap_or((assignment, ""));
            settings.set(key, value)?;
        }
        Ok(settings)
    }

    fn load(&self) -> Result<(Settings, Config), ConfigError> {
        let settings = self.settings()?;
        let config = Config::from_settings(&settings)?;
        Ok((settings, config))
    }
}

pub(crate) fn main() -> ExitCode {
    // Before anything else: such a process is to have nothing.
    if worker::is_asked() {
        return worker::run();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // If the terminal is gone, nobody can be told.
            error.print().ok();
            return ExitCode::from(if error.use_stderr() { EXIT_USAGE } else { 0 });
        }
    };
    match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(args) => serve(&args),
        Command::Demo(args) => demo(args),
        Command::Doctor { doctor, serve } => examine(&doctor, &serve),
        Command::Image(command) => ExitCode::from(image_cmd::run(&command)),
        Command::Db {
            command: DbCommand::Backup { backup, serve },
        } => db(&serve, |path| db_cmd::backup(&backup, path)),
        Command::Db {
            command: DbCommand::Check(args),
        } => db(&args, db_cmd::check),
        Command::Db {
            command: DbCommand::CancelUnfinished(args),
        } => db(&args, db_cmd::cancel_unfinished),
        Command::Db {
            command: DbCommand::AdoptGoVolumes { adopt, serve },
        } => adopt_go_volumes(&adopt, &serve),
        Command::Man { directory } => man(&directory),
        Command::Config {
            command: ConfigCommand::Check(args),
        } => check(&args),
        Command::Config {
            command: ConfigCommand::Show(args),
        } => show(&args),
        Command::Config {
            command: ConfigCommand::Migrate(args),
        } => match migrate::run(&args) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => complain(&error, EXIT_USAGE),
        },
    }
}

fn serve(args: &ServeArgs) -> ExitCode {
    let (settings, config) = match args.load() {
        Ok(loaded) => loaded,
        Err(error) => return complain(&error.into(), EXIT_USAGE),
    };
    // Before there are threads.
    let listener = match supervisor::inherited_listener() {
        Ok(listener) => listener,
        Err(error) => return complain(&error, EXIT_USAGE),
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error, 1),
    };
    let looked = {
        let _within = runtime.enter();
        provisioner::serve::look(&config)
    };
    if let Err(error) = looked
        && !config_cmd::may_work_later(&error)
    {
        return complain(&error, EXIT_USAGE);
    }
    let job_logs = Logs::default();
    let started = (|| {
        let within = runtime.enter();
        let traces = Traces::new(&config.tracing)?;
        let sinks = Sinks::start(&config.logging)?;
        drop(within);
        let of_jobs = job_logs.clone();
        let log = logs::init(&config.logging, traces.tracer(), sinks.writer(), of_jobs)?;
        Ok((traces, sinks, log))
    })();
    let (traces, sinks, log) = match started {
        Ok(started) => started,
        Err(error) => return complain(&error, 1),
    };
    for warning in &settings.warnings {
        tracing::warn!(component = "config", "{warning}");
    }
    let sampling = config.logging.sampling;
    let is_set = settings.iter().any(|(key, setting)| {
        key.path == "logging.sampling_rate" && setting.origin != Origin::Default
    });
    if is_set {
        tracing::info!(component = "config", "logging.sampling_rate: {sampling}");
    }
    let exports = Exports {
        lines: sinks.counts().into_iter().chain(log.counts()).collect(),
        spans: Arc::clone(traces.counts()),
    };
    let launcher = Launcher::of_this_program();
    let checkup = doctor::checkup(
        (args.path(), settings, config.clone()),
        launcher,
        runtime.handle().clone(),
    );
    let ended = runtime.block_on(async {
        let inherited = Inherited {
            listener,
            log_file: log.file.clone(),
            exports,
            job_logs,
            checkup,
            launcher: Some(launcher),
        };
        Daemon::start(config, inherited).await?.run().await
    });
    let status = match ended {
        Ok(Ended::Stopped) => ExitCode::SUCCESS,
        Ok(Ended::Killed) => ExitCode::from(130),
        Err(error) => {
            tracing::error!(
                component = "daemon",
                error = format!("{error:#}"),
                "Cannot go on"
            );
            ExitCode::FAILURE
        }
    };
    runtime.block_on(async {
        let traces = threads::blocking(move || traces.flush());
        // This thread cannot be stopped; a panic in it would be in the log.
        tokio::join!(sinks.close(), traces).1.ok();
    });
    log.close();
    // Blocking threads that hang in a device must not keep the process alive.
    runtime.shutdown_background();
    status
}

fn db(args: &ServeArgs, work: impl FnOnce(&Path) -> anyhow::Result<()>) -> ExitCode {
    // Only one key is needed: a backup does not depend on the rest of the configuration.
    let settings = match args.settings() {
        Ok(settings) => settings,
        Err(error) => return complain(&error.into(), EXIT_USAGE),
    };
    let database = settings
        .iter()
        .find(|(key, _)| key.path == "server.db_path")
        .map(|(_, setting)| PathBuf::from(&setting.text));
    let done = database
        .context("server.db_path is not set")
        .and_then(|database| work(&database));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error, 1),
    }
}

fn adopt_go_volumes(adopt: &AdoptArgs, serve: &ServeArgs) -> ExitCode {
    let config = match serve.load() {
        Ok((_, config)) => config,
        Err(error) => return complain(&error.into(), EXIT_USAGE),
    };
    let done = runtime().and_then(|runtime| {
        let volumes = provisioner::serve::volumes(&config, None)?;
        runtime.block_on(db_cmd::adopt_go_volumes(adopt, &*volumes))
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => complain(&error, 1),
    }
}

fn man(directory: &Path) -> ExitCode {
    let written = std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), directory))
        .with_context(|| format!("Cannot write to {}", directory.display()));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error, 1),
    }
}

fn examine(args: &DoctorArgs, serve: &ServeArgs) -> ExitCode {
    let report = runtime().and_then(|runtime| {
        let launcher = Launcher::of_this_program();
        runtime.block_on(doctor::run(args, &serve.path(), serve.load(), launcher))
    });
    match report {
        Ok(code) => ExitCode::from(code),
        Err(error) => complain(&error, 2),
    }
}

fn demo(args: DemoArgs) -> ExitCode {
    let ended = runtime().and_then(|runtime| runtime.block_on(provisioner::demo::run(args)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error, 1),
    }
}

fn check(args: &ServeArgs) -> ExitCode {
    let (settings, config) = match args.load() {
        Ok(loaded) => loaded,
        Err(error) => return complain(&error.into(), EXIT_USAGE),
    };
    let checked = runtime().and_then(|runtime| {
        let _within = runtime.enter();
        config_cmd::check(&settings, &config)
    });
    match checked {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error, EXIT_USAGE),
    }
}

fn show(args: &ServeArgs) -> ExitCode {
    match args.settings() {
        Ok(settings) => {
            config_cmd::show(&settings);
            ExitCode::SUCCESS
        }
        Err(error) => complain(&error.into(), EXIT_USAGE),
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?)
}

#[expect(clippy::print_stderr, reason = "the process's own last words")]
fn complain(error: &anyhow::Error, status: u8) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::from(status)
}
