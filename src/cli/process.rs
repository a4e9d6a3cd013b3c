//! A command that runs until it is told to stop: logging, signals, reload and drain are the same for
//! all of them.

use std::{
    io::{IsTerminal as _, Write as _, stderr, stdout},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    panic,
    process::abort,
    thread,
};

use hubbub::{
    config::{self, Config, Flags, Loaded},
    edge::tls::TlsError,
    engine::Engine,
    server::{Server, StartError, auth::AuthServer},
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::{CliError, sentence};

/// What runs until it is told to stop.
pub(super) trait Process: Send + 'static {
    /// Takes over what it can of a configuration.
    fn reload(&self, config: &Config) -> Result<(), TlsError>;
    /// Ends in order. Whether it was in time.
    fn drain(self) -> bool;
}

impl<E: Engine> Process for Server<E> {
    fn reload(&self, config: &Config) -> Result<(), TlsError> {
        Self::reload(self, config)
    }

    fn drain(self) -> bool {
        Self::drain(self)
    }
}

impl Process for AuthServer {
    fn reload(&self, config: &Config) -> Result<(), TlsError> {
        Self::reload(self, config)
    }

    fn drain(self) -> bool {
        Self::drain(self)
    }
}

/// Runs until SIGTERM or SIGINT, then drains. A second one of these ends it at once. SIGHUP makes it
/// read its configuration and its certificate again.
pub(super) fn run<P: Process>(
    flags: &Flags,
    start: impl FnOnce(&Config) -> Result<P, StartError>,
    greeting: impl FnOnce(&Config, &P) -> String,
) -> Result<(), CliError> {
    let loaded = Config::load(flags, config::environment())?;
    let config = &loaded.config;
    log_to_stderr(&config.log_output.filter)?;
    end_with_the_hub_or_a_store();

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?;
    let mut signals = runtime.block_on(async { Signals::new() }).map_err(CliError::Runtime)?;
    let process = start(config)?;
    print(&greeting(config, &process))?;
    while let Told::Reload = runtime.block_on(signals.next()) {
        reload(&process, &loaded, flags);
    }
    tracing::info!("draining; a second signal stops at once");
    stop(process, &runtime, signals)
}

/// Reads the configuration again, as at the start, and applies what a running process can take over.
fn reload<P: Process>(process: &P, start: &Loaded, flags: &Flags) {
    let outcome = Config::load(flags, config::environment())
        .map_err(|error| sentence(&error))
        .and_then(|loaded| match process.reload(&loaded.config) {
            Ok(()) => Ok(loaded),
            Err(error) => Err(sentence(&error)),
        });
    match outcome {
        Ok(loaded) => {
            let ignored = start.needs_restart_for(&loaded);
            if !ignored.is_empty() {
                tracing::warn!(keys = ignored.join(", "), "needs a restart to take effect");
            }
            tracing::info!("reloaded: new connections get the new settings of [edge]");
        }
        Err(error) => tracing::error!(error, "nothing is reloaded: the old settings stay"),
    }
}

fn stop<P: Process>(
    process: P,
    runtime: &tokio::runtime::Runtime,
    mut signals: Signals,
) -> Result<(), CliError> {
    let drain = thread::spawn(move || process.drain());
    let (drained, is_drained) = tokio::sync::oneshot::channel();
    thread::spawn(move || drained.send(drain.join().unwrap_or(false)));
    runtime.block_on(async {
        tokio::select! {
            in_time = is_drained => match in_time {
                Ok(true) => Ok(()),
                Ok(false) | Err(_) => Err(CliError::DrainedLate),
            },
            () = signals.stop() => Err(CliError::StoppedAtOnce),
        }
    })
}

/// What a signal means.
enum Told {
    Stop,
    Reload,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.hang_up.recv() => Told::Reload,
        }
    }

    /// Waits for the next one that means to stop: while it drains, nothing is reloaded.
    async fn stop(&mut self) {
        while let Told::Reload = self.next().await {}
    }
}

/// Where a public port is reached from here, and what has to be said about it. What listens
/// everywhere is reached by the loopback.
pub(super) fn url_from_here(config: &Config, public: SocketAddr) -> (String, &'static str) {
    let here = match public.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    if is_secure(config) {
        let url = format!("https://NAME:{}", public.port());
        (url, ", with the certificate's name for NAME")
    } else {
        (format!("http://{}", SocketAddr::new(here, public.port())), "")
    }
}

/// The lines of a greeting that every process has: its internal port, and where its data are.
pub(super) fn internal_lines(config: &Config, internal: SocketAddr) -> String {
    format!(
        "\x20 health      http://{internal}/readyz\n\
         \x20 metrics     http://{internal}/metrics\n\
         \x20 data        {data}\n",
        data = config.server.data_dir.display(),
    )
}

/// Whether the public port speaks TLS, as the configuration is now: a reload may change it.
pub(super) fn is_secure(config: &Config) -> bool {
    !config.edge.tls.certificate.as_os_str().is_empty()
}

pub(super) fn print(text: &str) -> Result<(), CliError> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CliError::Output)
}

fn log_to_stderr(filter: &str) -> Result<(), CliError> {
    // The client of NATS tells of every step, and the engine of what matters. A filter may say otherwise.
    let all = format!("async_nats=warn,{filter}");
    let filter = EnvFilter::try_new(all).map_err(|_| CliError::LogFilter(filter.to_owned()))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .init();
    Ok(())
}

/// A panic on a thread of the hub or of a store leaves a state that nobody knows, and a process that
/// answers nothing any more: it ends, and its clients find every acknowledged message after the next
/// start.
fn end_with_the_hub_or_a_store() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        report(info);
        let name = thread::current().name().unwrap_or_default().to_owned();
        if ["hub", "accounts", "engine"].contains(&&*name) || name.starts_with("log") {
            abort();
        }
    }));
}
