//! `hubbub serve`: reads the configuration, starts the server, and stops it when told to.

use std::{
    fmt::Write as _,
    io::{IsTerminal as _, Write as _, stderr, stdout},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    panic,
    process::abort,
    thread,
};

use hubbub::{
    config::{self, Config, Flags, Loaded},
    engine::Engine,
    server::{self, Server, StartError},
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::{CliError, login::command};
use crate::sentence;

/// Runs a server with its own accounts.
pub(crate) fn serve(flags: &Flags) -> Result<(), CliError> {
    run(flags, server::start, greeting)
}

/// Runs a server until SIGTERM or SIGINT, then drains it. A second one of these ends it at once.
/// SIGHUP makes it read its configuration and its certificate again.
pub(super) fn run<E: Engine>(
    flags: &Flags,
    start: impl FnOnce(&Config) -> Result<Server<E>, StartError>,
    greeting: impl FnOnce(&Config, SocketAddr, SocketAddr) -> String,
) -> Result<(), CliError> {
    let loaded = Config::load(flags, config::environment())?;
    let config = &loaded.config;
    log_to_stderr(&config.log_output.filter)?;
    end_with_the_hub_or_the_log();

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?;
    let mut signals = runtime.block_on(async { Signals::new() }).map_err(CliError::Runtime)?;
    let server = start(config)?;
    print(&greeting(config, server.public_address(), server.internal_address()))?;
    while let Told::Reload = runtime.block_on(signals.next()) {
        reload(&server, &loaded, flags);
    }
    tracing::info!("draining; a second signal stops at once");
    stop(server, &runtime, signals)
}

/// Reads the configuration again, as at the start, and applies what a running server can take over.
fn reload<E: Engine>(server: &Server<E>, start: &Loaded, flags: &Flags) {
    let outcome = Config::load(flags, config::environment())
        .map_err(|error| sentence(&error))
        .and_then(|loaded| match server.reload(&loaded.config) {
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

/// Prints every setting and where it comes from.
pub(crate) fn show_config(flags: &Flags) -> Result<(), CliError> {
    let loaded = Config::load(flags, config::environment())?;
    let width = loaded.settings.iter().map(|it| it.key.len() + it.value.len()).max();
    let mut page = String::new();
    for setting in &loaded.settings {
        let (key, value) = (&setting.key, &setting.value);
        let space = width.unwrap_or(0) + 2 - key.len() - value.len();
        let _ = writeln!(page, "{key} = {value}{:space$}# {}", "", setting.origin);
    }
    print(&page)
}

fn stop<E: Engine>(
    server: Server<E>,
    runtime: &tokio::runtime::Runtime,
    mut signals: Signals,
) -> Result<(), CliError> {
    let drain = thread::spawn(move || server.drain());
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

/// What a person sees first. Scripts wait for the first line.
fn greeting(config: &Config, public: SocketAddr, internal: SocketAddr) -> String {
    let addresses = addresses(config, public, internal);
    let Reached { server, hint } = reached(config, public);
    format!(
        "{addresses}\n\
         Try, in another terminal{hint}:\n\
         \x20 {account}\n\
         \x20 {chat}\n\
         \n\
         Ctrl-C stops it.\n",
        account = command(&server, "account add ada"),
        chat = command(&server, &format!("chat {} --as ada", first_channel(config))),
    )
}

/// The first channel that there is.
pub(super) fn first_channel(config: &Config) -> &str {
    config.channels.created_at_start.first().map_or("lobby", String::as_str)
}

/// How a server is reached from here.
pub(super) struct Reached {
    /// By this URL.
    pub(super) server: String,
    /// What is to be put into it.
    pub(super) hint: &'static str,
}

/// How the server is reached from here.
pub(super) fn reached(config: &Config, public: SocketAddr) -> Reached {
    // What listens everywhere is reached from here by the loopback.
    let here = match public.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    if is_secure(config) {
        let server = format!("https://NAME:{}", public.port());
        Reached { server, hint: ", with the certificate's name for NAME" }
    } else {
        let server = format!("http://{}", SocketAddr::new(here, public.port()));
        Reached { server, hint: "" }
    }
}

/// Whether the public port speaks TLS. As it is now: a reload may change it.
fn is_secure(config: &Config) -> bool {
    !config.edge.tls.certificate.as_os_str().is_empty()
}

/// Where the server is and keeps its data.
pub(super) fn addresses(config: &Config, public: SocketAddr, internal: SocketAddr) -> String {
    let secure = if is_secure(config) { "s" } else { "" };
    format!(
        "listening on http{secure}://{public}\n\
         \n\
         hubbub {version}\n\
         \x20 WebSocket   ws{secure}://{public}/v1/ws\n\
         \x20 health      http://{internal}/readyz\n\
         \x20 metrics     http://{internal}/metrics\n\
         \x20 data        {data}\n",
        version = env!("CARGO_PKG_VERSION"),
        data = config.server.data_dir.display(),
    )
}

fn print(text: &str) -> Result<(), CliError> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CliError::Output)
}

fn log_to_stderr(filter: &str) -> Result<(), CliError> {
    let filter = EnvFilter::try_new(filter).map_err(|_| CliError::LogFilter(filter.to_owned()))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .init();
    Ok(())
}

/// A panic on a thread of the hub or the log leaves a state that nobody knows: the process ends, and
/// its clients find every acknowledged message after the next start.
fn end_with_the_hub_or_the_log() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        report(info);
        let name = thread::current().name().unwrap_or_default().to_owned();
        if name == "hub" || name.starts_with("log") {
            abort();
        }
    }));
}
