//! The daemon from start to stop: assembles the parts, serves, and stops in order.

mod background;
mod engine;
mod network;
mod yielding;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::access::{self, Access};
use crate::cache::{Cache, CacheSettings};
use crate::cmd::Launcher;
use crate::config::{Config, check_with_cache};
use crate::delivery::webhooks::Webhooks;
use crate::dependencies::Dependencies;
use crate::fleet::Fleet;
use crate::golden::Shelf;
use crate::guests::Guests;
use crate::http::{App, Checkup, router};
use crate::job::log::Logs;
use crate::jobs::{JobSettings, Jobs, Services};
use crate::libvirt::{self, Hypervisor};
use crate::net::{self, Load};
use crate::source::{self, Source};
use crate::store::Store;
use crate::supervisor;
use crate::telemetry::Exports;
use crate::telemetry::logfile::{self, LogFile};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::Traces;
use crate::volume::{self, InUse, NoLibvirt, Volumes};
use background::{run_fleet, run_janitor, run_probes, run_webhooks};
use network::run_network;
use yielding::run_yielding;

/// A daemon that is listening but does not serve yet.
#[derive(Debug)]
pub struct Daemon {
    config: Config,
    app: App,
    listener: TcpListener,
    log_file: Option<LogFile>,
    hangup: Signal,
}

/// What the process sets up before the daemon starts.
#[derive(Debug, Default)]
pub struct Inherited {
    /// A listening socket from a socket unit. If there is one, `server.host` and `server.port` are
    /// not used.
    pub listener: Option<std::net::TcpListener>,
    /// The log's file, reopened on SIGHUP.
    pub log_file: Option<LogFile>,
    /// Counts of the log lines and spans that are sent to other hosts.
    pub exports: Exports,
    /// Where the log adds the lines about jobs.
    pub job_logs: Logs,
    /// Runs the checks of `doctor`.
    pub checkup: Checkup,
    /// Starts the processes that decode images, if this program can be one.
    pub launcher: Option<Launcher>,
}

/// How the daemon ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// In order.
    Stopped,
    /// At once, by a second signal.
    Killed,
}

impl Daemon {
    /// Opens everything and listens. No job runs yet.
    pub async fn start(config: Config, inherited: Inherited) -> anyhow::Result<Self> {
        let started = Instant::now();
        // SIGHUP is caught from the start: one from logrotate must not end a daemon that is still
        // starting.
        let hangup = signal(SignalKind::hangup())?;
        // A write beyond a limit of the file's size (RLIMIT_FSIZE) then is an error instead of a
        // fatal signal.
        let too_large = rustix::process::Signal::XFSZ.as_raw();
        drop(signal(SignalKind::from_raw(too_large))?);
        let services = Arc::new(services(&config, inherited.job_logs, inherited.launcher).await?);
        let jobs = Jobs::new(Arc::clone(&services));
        let access = Arc::new(Access::load(&config.server)?);
        let listener = match inherited.listener {
            Some(listener) => adopt(listener, &access)?,
            None => {
                let address = address(&config, &access);
                TcpListener::bind(address).await.with_context(|| {
                    format!("Cannot listen on {address} (server.host, server.port)")
                })?
            }
        };
        let dependencies = Arc::new(Dependencies::of(&services));
        let fleet = config.fleet.clone();
        let fleet = fleet.map(|fleet| Fleet::new(fleet, jobs.clone(), Arc::clone(&services)));
        let app = App {
            services,
            jobs,
            access,
            fleet,
            dependencies,
            started,
            serve_metrics: config.metrics.enabled,
            serve_page: config.ui.enabled,
            trace_url: config.ui.trace_url.as_deref().map(Into::into),
            checkup: inherited.checkup,
            exports: Arc::new(inherited.exports),
            load: Arc::new(Load::new(config.server.max_connections_per_address)),
            shared: Arc::default(),
        };
        Ok(Self {
            config,
            app,
            listener,
            log_file: inherited.log_file,
            hangup,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until SIGTERM or SIGINT, then stops in order.
    pub async fn run(self) -> anyhow::Result<Ended> {
        let Self {
            config,
            app,
            listener,
            log_file,
            mut hangup,
        } = self;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let address = listener.local_addr()?.to_string();
        tracing::info!(component = "daemon", address, "Listening");
        let services = &app.services;
        // Before the first job, so that no job resumes from a file that is about to be swept.
        let swept = services
            .cache
            .reconcile()
            .await
            .context("Cannot clean up the cache")?;
        // Before any job runs, as it closes the gates of those that have to wait for their turn.
        if let Some(fleet) = &app.fleet {
            let prepared = fleet.prepare().await;
            prepared.context("Cannot read the orders of the fleet")?;
        }
        let resumed = app
            .jobs
            .resume()
            .await
            .context("Cannot read the unfinished jobs")?;
        let background = CancellationToken::new();
        let probes = tokio::spawn(run_probes(app.clone(), background.clone()));
        let janitor = tokio::spawn(run_janitor(app.clone(), config.clone(), background.clone()));
        let webhooks = tokio::spawn(run_webhooks(app.clone(), background.clone()));
        let fleet = tokio::spawn(run_fleet(app.fleet.clone(), background.clone()));
        let yielding = run_yielding(app.clone(), config.clone(), background.clone());
        let yielding = tokio::spawn(yielding);
        let network = run_network(app.clone(), config.clone(), background.clone());
        let network = tokio::spawn(network);
        let stopped = CancellationToken::new();
        let (pulse, heart) = net::pulse();
        let server = tokio::spawn(net::serve(
            listener,
            app.access.tls().cloned(),
            Arc::clone(&app.load),
            router(app.clone()),
            heart,
            stopped.clone(),
        ));
        let credentials = tokio::spawn(access::watch(app.access.clone(), background.clone()));
        tracing::info!(
            component = "daemon",
            resumed,
            ?swept,
            version = env!("CARGO_PKG_VERSION"),
            "Ready"
        );
        supervisor::ready(&address);
        let watchdog = supervisor::run_watchdog(app.clone(), pulse, address, background.clone());
        let watchdog = tokio::spawn(watchdog);
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => {
                    supervisor::reloading(reload(&app, log_file.as_ref())).await;
                }
            }
        }
        supervisor::stopping(config.server.shutdown_grace, app.jobs.active());
        tracing::info!(
            component = "daemon",
            grace_secs = config.server.shutdown_grace.as_secs(),
            running = app.jobs.active(),
            "Stopping"
        );
        let orderly = async {
            // Status can still be read while the last jobs end.
            app.jobs.shut_down(config.server.shutdown_grace).await;
            stopped.cancel();
            background.cancel();
            let tasks = [probes, janitor, webhooks, fleet, yielding, network];
            for task in tasks.into_iter().chain([credentials, watchdog, server]) {
                task.await.ok();
            }
        };
        tokio::select! {
            () = orderly => {}
            _ = terminate.recv() => return Ok(Ended::Killed),
            _ = interrupt.recv() => return Ok(Ended::Killed),
        }
        Ok(Ended::Stopped)
    }
}

/// Does what SIGHUP asks for: reads credentials again, and reopens the log's file for logrotate.
async fn reload(app: &App, log_file: Option<&LogFile>) {
    access::reload(&app.access).await;
    let Some(file) = log_file else {
        return;
    };
    match file.reopen() {
        Ok(()) => tracing::info!(component = "daemon", "Log file reopened"),
        Err(error) => {
            let error = error.to_string();
            tracing::error!(component = "daemon", error, "Cannot reopen the log file");
        }
    }
}

async fn services(
    config: &Config,
    logs: Logs,
    launcher: Option<Launcher>,
) -> anyhow::Result<Services> {
    let hypervisor = match config.libvirt.enabled {
        true => Some(libvirt::connect(&config.libvirt.uri)?),
        false => None,
    };
    let cache_dir = cache_dir(config, hypervisor.as_deref()).await?;
    check_with_cache(config, Some(&cache_dir))?;
    let metrics = Arc::new(Metrics::new(
        config.libvirt.max_concurrent,
        config.cache.max_size_bytes,
    ));
    let store = Store::open(&config.server.db_path, Arc::clone(&metrics) as _)?;
    let guests = Arc::new(Guests::new(config.into()));
    let network = guests.network().limiter();
    let source = Source::yielding(&source::SourceSettings::from(config), network)?;
    let cache = CacheSettings::new(cache_dir, &config.cache);
    let cache = Cache::open(cache, store.clone())?;
    let volumes = volumes(config, hypervisor.clone())?;
    let golden = Shelf::new((&config.golden).into(), Arc::clone(&volumes), store.clone());
    Ok(Services {
        source,
        cache,
        volumes,
        golden,
        guests,
        engine: engine::new(config.image.sandbox, launcher).await?,
        webhooks: Webhooks::new(&config.webhooks)?,
        hypervisor,
        store,
        metrics,
        logs,
        gates: Arc::default(),
        rates: Arc::default(),
        doubt: Arc::default(),
        settings: JobSettings::from(config),
    })
}

/// Checks whether the files that the configuration names can be used, as the start does.
pub fn look(config: &Config) -> anyhow::Result<()> {
    Access::load(&config.server)?;
    Source::new(&source::SourceSettings::from(config))?;
    Traces::new(&config.tracing)?;
    Webhooks::new(&config.webhooks)?;
    if let Some(file) = &config.logging.file {
        logfile::look(file)?;
    }
    if config.libvirt.enabled && !cfg!(feature = "libvirt") {
        libvirt::connect(&config.libvirt.uri)?;
    }
    Ok(())
}

/// The configured back end.
pub fn volumes(
    config: &Config,
    hypervisor: Option<Arc<dyn Hypervisor>>,
) -> anyhow::Result<Arc<dyn Volumes>> {
    let in_use: Arc<dyn InUse> = match hypervisor {
        Some(hypervisor) => hypervisor,
        None => Arc::new(NoLibvirt),
    };
    Ok(volume::open(config, in_use)?)
}

/// The configured directory, or otherwise the libvirt pool's.
async fn cache_dir(
    config: &Config,
    hypervisor: Option<&dyn Hypervisor>,
) -> anyhow::Result<PathBuf> {
    match (&config.cache.dir, hypervisor) {
        (Some(dir), _) => Ok(dir.clone()),
        (None, Some(hypervisor)) => hypervisor
            .pool_directory(&config.libvirt.pool)
            .await
            .context("Cannot get the cache directory from libvirt (cache.dir is not set)"),
        (None, None) => anyhow::bail!("cache.dir must be set when libvirt.enabled is false"),
    }
}

/// The listening socket of a socket unit. Its address was decided there; if it can be reached from
/// other hosts and no credential is configured, it is refused here.
fn adopt(listener: std::net::TcpListener, access: &Access) -> anyhow::Result<TcpListener> {
    let address = listener.local_addr()?;
    ensure!(
        address.ip().is_loopback() || access.asks_for_credentials(),
        "The socket unit listens on {address}, and neither tokens nor a client CA are configured: \
         give ListenStream= a loopback address, or set server.api_tokens_file or server.ca_cert"
    );
    warn_of_tokens_in_clear(address.ip(), access);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener).context("Cannot serve the socket unit's socket")
}

fn warn_of_tokens_in_clear(host: IpAddr, access: &Access) {
    if !host.is_loopback() && access.has_tokens_in_clear() {
        tracing::warn!(
            component = "access",
            "Tokens travel in clear text: set server.tls_cert and server.tls_key"
        );
    }
}

/// The address to listen on. If no credential is configured, that is loopback.
fn address(config: &Config, access: &Access) -> SocketAddr {
    let asked = config.server.host;
    let address = SocketAddr::new(asked, config.server.port);
    if asked.is_loopback() {
        return address;
    }
    if access.asks_for_credentials() {
        warn_of_tokens_in_clear(asked, access);
        return address;
    }
    tracing::warn!(
        component = "access",
        host = %asked,
        "Neither tokens nor a client CA are configured: listening on loopback only"
    );
    let loopback: IpAddr = match asked {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(loopback, config.server.port)
}
