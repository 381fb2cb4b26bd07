//! The daemon's life: put the parts together, serve, stop in order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use lvp_image::copy::Engine;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::access::{self, Access};
use crate::cache::{Cache, CacheSettings};
use crate::clock::JumpDetector;
use crate::config::{Config, check_with_cache};
use crate::delivery::webhooks::Webhooks;
use crate::dependencies::Dependencies;
use crate::http::{App, router};
use crate::jobs::former;
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

/// A daemon that listens and has not begun to serve.
#[derive(Debug)]
pub struct Daemon {
    config: Config,
    app: App,
    listener: TcpListener,
    log_file: Option<LogFile>,
    hangup: Signal,
}

/// What the process has before the daemon starts.
#[derive(Debug, Default)]
pub struct Inherited {
    /// A socket that listens already, from a socket unit; `server.host` and `server.port` do not
    /// matter then.
    pub listener: Option<std::net::TcpListener>,
    /// The log's file, opened anew on SIGHUP.
    pub log_file: Option<LogFile>,
    /// What is counted of the log lines and spans that leave the host.
    pub exports: Exports,
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
        // Caught from the start: logrotate's must not end a daemon that is still starting.
        let hangup = signal(SignalKind::hangup())?;
        // A write past a limit of the file's size (RLIMIT_FSIZE) is an error then, not the end.
        let too_large = rustix::process::Signal::XFSZ.as_raw();
        drop(signal(SignalKind::from_raw(too_large))?);
        let services = Arc::new(services(&config).await?);
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
        let app = App {
            services,
            jobs,
            access,
            dependencies,
            started,
            serve_metrics: config.metrics.enabled,
            serve_page: config.ui.enabled,
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
        let services = &app.services;
        // Before the first job, so that nobody resumes from what is about to be swept.
        let swept = services
            .cache
            .reconcile()
            .await
            .context("Cannot tidy the cache")?;
        let resumed = app
            .jobs
            .resume()
            .await
            .context("Cannot read the unfinished jobs")?;
        let background = CancellationToken::new();
        let probes = tokio::spawn(run_probes(app.clone(), background.clone()));
        let janitor = tokio::spawn(run_janitor(app.clone(), config.clone(), background.clone()));
        let webhooks = tokio::spawn(run_webhooks(app.clone(), background.clone()));
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
            // Status stays readable while the last jobs end.
            app.jobs.shut_down(config.server.shutdown_grace).await;
            stopped.cancel();
            background.cancel();
            for task in [probes, janitor, webhooks, credentials, watchdog, server] {
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

/// What SIGHUP asks for: credentials read again, and for logrotate the log's file opened anew.
async fn reload(app: &App, log_file: Option<&LogFile>) {
    access::reload(&app.access).await;
    let Some(file) = log_file else {
        return;
    };
    match file.reopen() {
        Ok(()) => tracing::info!(component = "daemon", "Log file opened anew"),
        Err(error) => {
            let error = error.to_string();
            tracing::error!(component = "daemon", error, "The log file cannot be opened");
        }
    }
}

async fn run_probes(app: App, stop: CancellationToken) {
    app.dependencies.watch(&app.services, stop).await;
}

/// Sends webhooks.
async fn run_webhooks(app: App, stop: CancellationToken) {
    let services = &app.services;
    if let Some(webhooks) = &services.webhooks {
        let (store, metrics) = (&services.store, &*services.metrics);
        webhooks.run(store, metrics, &stop).await;
    }
}

/// Evicts, sweeps and forgets at every interval.
async fn run_janitor(app: App, config: Config, stop: CancellationToken) {
    let interval = config.cache.eviction_interval;
    report_former_places(&app, &config, &stop).await;
    reconcile_volumes(&app, &stop).await;
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
    let mut clock = JumpDetector::new();
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        if clock.has_jumped() {
            tracing::warn!(
                component = "daemon",
                "The clock jumped: nothing is taken for old until the next round"
            );
        } else {
            forget_what_is_old(&app).await;
        }
        reconcile_volumes(&app, &stop).await;
    }
}

async fn forget_what_is_old(app: &App) {
    match app.services.cache.reconcile().await {
        Ok(swept) if swept != Default::default() => {
            tracing::info!(component = "cache", ?swept, "Cache tidied");
        }
        Ok(_) => {}
        Err(error) => {
            let error = crate::error::chain(&error);
            tracing::error!(component = "cache", error, "The cache cannot be tidied");
        }
    }
    if let Err(error) = app.jobs.forget_old().await {
        let error = crate::error::chain(&error);
        tracing::error!(component = "storage", error, "Old jobs cannot be forgotten");
    }
}

/// What is unfinished where volumes were kept before the configuration was changed.
async fn report_former_places(app: &App, config: &Config, stop: &CancellationToken) {
    let report = former::report(&app.services.store, config);
    if let Some(Err(error)) = stop.run_until_cancelled(report).await {
        let error = crate::error::chain(&error);
        tracing::warn!(
            component = "storage",
            error,
            "Former places of volumes are not known"
        );
    }
}

/// Volumes against jobs. A stuck LVM holds up neither the start nor the stop.
async fn reconcile_volumes(app: &App, stop: &CancellationToken) {
    match stop.run_until_cancelled(app.jobs.reconcile_volumes()).await {
        Some(Ok(found)) if found != Default::default() => {
            tracing::info!(component = "provisioner", ?found, "Volumes reconciled");
        }
        Some(Ok(_)) | None => {}
        Some(Err(error)) => {
            let error = crate::error::chain(&error);
            tracing::error!(
                component = "provisioner",
                error,
                "Volumes cannot be reconciled"
            );
        }
    }
}

async fn services(config: &Config) -> anyhow::Result<Services> {
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
    let source = Source::new(&source::SourceSettings::from(config))?;
    let cache = CacheSettings::new(cache_dir, &config.cache);
    let cache = Cache::open(cache, store.clone())?;
    let volumes = volumes(config, hypervisor.clone())?;
    Ok(Services {
        source,
        cache,
        volumes,
        engine: Engine::new(),
        webhooks: Webhooks::new(&config.webhooks)?,
        hypervisor,
        store,
        metrics,
        doubt: Arc::default(),
        settings: JobSettings::from(config),
    })
}

/// Whether the files that the configuration names can be used: the start would end over them.
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

/// The configured directory, or else the libvirt pool's.
async fn cache_dir(
    config: &Config,
    hypervisor: Option<&dyn Hypervisor>,
) -> anyhow::Result<PathBuf> {
    match (&config.cache.dir, hypervisor) {
        (Some(dir), _) => Ok(dir.clone()),
        (None, Some(hypervisor)) => hypervisor
            .pool_directory(&config.libvirt.pool)
            .await
            .context("The cache's directory cannot be had from libvirt (cache.dir is not set)"),
        (None, None) => anyhow::bail!("cache.dir is needed when libvirt.enabled is false"),
    }
}

/// A socket that a socket unit holds. Where it listens was decided there; that it may be reached from
/// elsewhere without any credential is refused here.
fn adopt(listener: std::net::TcpListener, access: &Access) -> anyhow::Result<TcpListener> {
    let address = listener.local_addr()?;
    ensure!(
        address.ip().is_loopback() || access.asks_for_credentials(),
        "The socket unit listens on {address}, and neither tokens nor a client CA are configured: \
         give ListenStream= a loopback address, or set server.api_tokens_file or server.ca_cert"
    );
    warn_of_tokens_in_clear(address.ip(), access);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener).context("The socket unit's socket cannot be served")
}

fn warn_of_tokens_in_clear(host: IpAddr, access: &Access) {
    if !host.is_loopback() && access.has_tokens_in_clear() {
        tracing::warn!(
            component = "access",
            "Tokens travel in clear text: set server.tls_cert and server.tls_key"
        );
    }
}

/// Where to listen. Without any credential to ask for, that is this host alone.
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
