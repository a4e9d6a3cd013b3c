//! File, environment and flags → one validated, immutable configuration.
//!
//! Flags win over the environment, the environment over the file, the file over the defaults. Every
//! key can be written as `hubbub.toml` has it, as `HUBBUB__SECTION__KEY`, or, to keep a value out of
//! the environment, as `HUBBUB__SECTION__KEY_FILE` with the path of a file that holds it. A key that
//! nobody knows stops the start: a typing error must not become a default in silence.

use std::{
    ffi::OsString,
    fmt::{self, Write as _},
    io,
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use bytesize::ByteSize;
use figment::{Figment, providers::Serialized, value::Value};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    auth, edge,
    limits::{self, Limits},
    server::cores::{PinCores, Shards},
};

mod engine;
mod layers;

pub use engine::{EngineFlag, EngineKind, JetStream};

/// The smallest head that the HTTP implementation can be limited to.
const REQUEST_HEAD_BYTES_FLOOR: u64 = 8 * 1024;

/// What the keys begin with that a running server takes over.
const RELOADABLE: &str = "edge.";

/// The configuration of one process.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the server listens and keeps its data.
    pub server: Server,
    /// The hub's threads.
    pub hub: Hub,
    /// What commits: SQLite in the data directory, or a cluster's engine.
    pub engine: EngineKind,
    /// The log of messages in the data directory.
    pub log: Log,
    /// The engine of a cluster.
    pub jetstream: JetStream,
    /// The channels.
    pub channels: Channels,
    /// Accounts and tokens.
    pub auth: auth::Settings,
    /// Whose tokens the hub takes.
    pub trust: auth::trust::Settings,
    /// HTTP and the upgrade to WebSocket.
    pub edge: edge::Settings,
    /// Every bound that an operator may set.
    pub limits: Limits,
    /// What the process tells about itself.
    pub log_output: LogOutput,
}

/// Where the server listens and keeps its data.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// The public port: WebSocket and HTTP. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Health, metrics and diagnosis. Not for the public.
    pub internal_listen: SocketAddr,
    /// Messages, accounts and keys. Made, for its owner only, if it is not there.
    pub data_dir: PathBuf,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7878)),
            internal_listen: SocketAddr::from(([127, 0, 0, 1], 7879)),
            data_dir: PathBuf::from("./hubbub-data"),
        }
    }
}

/// The hub's threads.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hub {
    /// `auto`, `off`, or the hub's cores.
    pub pin_cores: PinCores,
    /// `auto`, or how many threads share the connections and the channels.
    pub shards: Shards,
    /// How long a message may wait for others, under load, to share their writes. Zero: it never
    /// waits.
    #[serde(with = "humantime_serde")]
    pub cork_max: Duration,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            pin_cores: PinCores::default(),
            shards: Shards::default(),
            cork_max: Duration::from_millis(5),
        }
    }
}

/// The log of messages.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// When a commit is durable.
    pub synchronous: Synchronous,
}

/// When SQLite syncs its log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Synchronous {
    /// Before every acknowledgement.
    #[default]
    Full,
    /// At checkpoints. Loses acknowledged messages in a power cut: for experiments only, and the
    /// control of the durability test.
    Normal,
}

/// The channels.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Channels {
    /// Channels that are there from the first start on.
    pub created_at_start: Vec<String>,
}

impl Default for Channels {
    fn default() -> Self {
        Self { created_at_start: vec!["lobby".to_owned()] }
    }
}

/// What the process tells about itself.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogOutput {
    /// What is logged, as tracing's filters: `info`, `warn,hubbub=debug`, …
    pub filter: String,
}

impl Default for LogOutput {
    fn default() -> Self {
        Self { filter: "info".to_owned() }
    }
}

/// Which process the flags are for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Process {
    /// `hubbub serve`: its ports are those of `[server]`.
    #[default]
    Serve,
    /// `hubbub auth`: its ports are those of `[auth]`.
    Auth,
}

/// The flags that set something of the configuration.
#[derive(Clone, PartialEq, Debug, Default, clap::Args)]
pub struct Flags {
    /// The configuration file [default: ./hubbub.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address of the public port: WebSocket and HTTP; port 0 takes a free one [default:
    /// 127.0.0.1:7878]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Address of the internal port: health and metrics [default: 127.0.0.1:7879]
    #[arg(long, value_name = "ADDR")]
    pub internal_listen: Option<SocketAddr>,
    /// Where messages, accounts and keys are kept [default: ./hubbub-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// What commits: sqlite, in the data directory; or JetStream on these servers of NATS, for many
    /// nodes, as nats://a,b,c [default: sqlite]
    #[arg(long, value_name = "sqlite|nats://A,B,C")]
    pub engine: Option<EngineFlag>,
    /// One server of NATS is enough: for trying it out [default: false]
    #[arg(long)]
    pub engine_single: bool,
    /// Which cores the hub has to itself, one for each shard: auto takes the first allowed ones, off
    /// leaves it to the kernel, and a list is such as 0,2-3 [default: auto]
    #[arg(long, value_name = "auto|off|LIST")]
    pub pin_cores: Option<PinCores>,
    /// Which clients get permessage-deflate if they offer it: auto is those that speak JSON
    /// [default: auto]
    #[arg(long, value_name = "off|auto|on")]
    pub deflate: Option<edge::Deflate>,
    /// The certificate of the public port with those that sign it, as PEM: the port then speaks
    /// HTTPS and WSS only; needs --tls-key [default: none]
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The key of the certificate, as PEM [default: none]
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// For `hubbub hub`: the keys of the auth service whose tokens it takes, as
    /// https://host/.well-known/jwks.json [default: none]
    #[arg(long, value_name = "URL")]
    pub jwks_url: Option<String>,
    /// For `hubbub hub`: a file with the public key of the auth service, as PEM or JWKS, instead of
    /// --jwks-url [default: none]
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// How many threads the hub has: auto is one for each core that is listed, or for each allowed
    /// one but the last [default: auto]
    #[arg(long, value_name = "auto|N")]
    pub shards: Option<Shards>,
    /// Whose flags they are.
    #[arg(skip)]
    pub process: Process,
}

/// A configuration, and where each of its values came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Every key, by name.
    pub settings: Vec<Setting>,
}

impl Loaded {
    /// The keys that differ in this later configuration and that a reload does not apply.
    #[must_use]
    pub fn needs_restart_for(&self, later: &Self) -> Vec<&str> {
        let pairs = self.settings.iter().zip(&later.settings);
        pairs
            .filter(|(is, will_be)| is.value != will_be.value && !is.key.starts_with(RELOADABLE))
            .map(|(is, _)| is.key.as_str())
            .collect()
    }
}

/// One key of a configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setting {
    /// Its name, with its section: `server.listen`.
    pub key: String,
    /// Its value, as TOML.
    pub value: String,
    /// `default`, the file, the variable or the flag.
    pub origin: String,
}

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Keys that nobody knows.
    #[error("{}", join(.0))]
    UnknownKeys(Vec<UnknownKey>),
    /// A value of the wrong type or form.
    #[error("{0}")]
    Value(String),
    /// Values that are well-formed but make no sense, or none together.
    #[error("{}", join(.0))]
    Nonsense(Vec<String>),
}

/// A key that nobody knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownKey {
    /// As it was written, with its section.
    pub key: String,
    /// Where it was written.
    pub origin: String,
    /// What may have been meant.
    pub suggestion: Option<String>,
}

impl fmt::Display for UnknownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown key `{}` ({})", self.key, self.origin)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, ": did you mean `{suggestion}`?"),
            None => Ok(()),
        }
    }
}

fn join<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl Config {
    /// Reads the configuration from the file, these environment variables and these flags.
    ///
    /// # Errors
    /// When a file cannot be read, a key is unknown, or a value makes no sense.
    pub fn load(
        flags: &Flags,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Loaded, ConfigError> {
        let defaults = Figment::from(Serialized::defaults(Self::default()));
        let known = layers::leaves(&defaults);
        let mut figment = defaults;
        let mut unknown = Vec::new();
        for layer in layers::read(flags, environment, &known)? {
            unknown.extend(layers::unknown_keys(&layer, &known)?);
            figment = figment.merge(layer);
        }
        if !unknown.is_empty() {
            return Err(ConfigError::UnknownKeys(unknown));
        }
        let config: Self = figment.extract().map_err(|error| describe(&error))?;
        let nonsense = config.nonsense();
        if !nonsense.is_empty() {
            return Err(ConfigError::Nonsense(nonsense));
        }
        Ok(Loaded { settings: settings(&figment, &config, &known), config })
    }

    /// Everything about the values that makes no sense, one sentence each.
    fn nonsense(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut must = |holds: bool, sentence: &str| {
            if !holds {
                found.push(sentence.to_owned());
            }
        };
        let limits = &self.limits;
        for (key, size) in [
            ("message_bytes_max", limits.message_bytes_max),
            ("login_message_bytes_max", limits.login_message_bytes_max),
            ("request_head_bytes_max", limits.request_head_bytes_max),
            ("request_body_bytes_max", limits.request_body_bytes_max),
            ("outbox_bytes_max", limits.outbox_bytes_max),
        ] {
            must(size > ByteSize::b(0), &format!("limits.{key} must be more than nothing"));
        }
        for (key, duration) in [
            ("request_head_timeout", limits.request_head_timeout),
            ("authenticate_timeout", limits.authenticate_timeout),
            ("frame_timeout", limits.frame_timeout),
            ("write_stall_timeout", limits.write_stall_timeout),
            ("ping_interval", limits.ping_interval),
            ("pong_timeout", limits.pong_timeout),
            ("drain_timeout", limits.drain_timeout),
        ] {
            must(!duration.is_zero(), &format!("limits.{key} must be more than nothing"));
        }
        must(
            self.hub.cork_max <= limits::CORK_MAX,
            &format!("hub.cork_max must not be above {}ms", limits::CORK_MAX.as_millis()),
        );
        must(limits.connections_max > 0, "limits.connections_max must be at least 1");
        must(
            limits.subscriptions_per_connection_max > 0,
            "limits.subscriptions_per_connection_max must be at least 1",
        );
        must(
            limits.presence_users_max <= limits::PRESENCE_USERS_MAX,
            &format!("limits.presence_users_max must not be above {}", limits::PRESENCE_USERS_MAX),
        );
        must(
            limits.ephemeral_per_second > 0 && limits.ephemeral_burst > 0,
            "limits.ephemeral_per_second and limits.ephemeral_burst must be at least 1",
        );
        must(
            limits.login_message_bytes_max <= limits.message_bytes_max,
            "limits.login_message_bytes_max must not be above limits.message_bytes_max",
        );
        let replay = limits::TAIL_BYTES_MAX + limits::REPLAY_BYTES_MAX;
        must(
            limits.message_bytes_max.as_u64().saturating_add(replay as u64)
                <= limits.outbox_bytes_max.as_u64(),
            &format!(
                "limits.outbox_bytes_max must hold a resume ({}) and limits.message_bytes_max",
                ByteSize::b(replay as u64)
            ),
        );
        must(
            limits.outbox_bytes_max <= ByteSize::gib(1),
            "limits.outbox_bytes_max must not be above 1 GiB",
        );
        must(
            limits.request_head_bytes_max.as_u64() >= REQUEST_HEAD_BYTES_FLOOR,
            "limits.request_head_bytes_max must be at least 8 KiB",
        );
        must(
            limits.request_head_bytes_max.as_u64() >= 2 * limits::TOKEN_BYTES_MAX as u64,
            "limits.request_head_bytes_max must hold a token in base64",
        );

        let auth = &self.auth;
        must(
            auth.workers_max <= limits::AUTH_WORKERS_MAX,
            &format!("auth.workers_max must not be above {}", limits::AUTH_WORKERS_MAX),
        );
        must(auth.workers_min > 0, "auth.workers_min must be at least 1");
        must(
            auth.workers_max == 0 || auth.workers_min <= auth.workers_max,
            "auth.workers_min must not be above auth.workers_max",
        );
        if let Err(error) = auth.cost.check() {
            must(false, &format!("auth.cost cannot be used: {error}"));
        }
        must(
            auth.access_token_lifetime.as_secs() >= 1,
            "auth.access_token_lifetime must be at least 1s",
        );
        must(
            auth.refresh_token_lifetime >= auth.access_token_lifetime,
            "auth.refresh_token_lifetime must not be below auth.access_token_lifetime",
        );
        must(auth.sessions_per_user_max > 0, "auth.sessions_per_user_max must be at least 1");
        for (key, rate) in [
            ("attempts_per_address_per_second", auth.attempts_per_address_per_second),
            ("attempts_per_account_per_minute", auth.attempts_per_account_per_minute),
        ] {
            must(rate.is_finite() && rate > 0.0, &format!("auth.{key} must be above 0"));
        }
        must(
            auth.attempts_per_address_burst > 0 && auth.attempts_per_account_burst > 0,
            "auth.attempts_per_address_burst and auth.attempts_per_account_burst must be at least 1",
        );
        must(!auth.issuer.is_empty(), "auth.issuer must not be empty");
        must(!auth.audience.is_empty(), "auth.audience must not be empty");
        for sentence in self.trust.nonsense(&auth.issuer) {
            must(false, &sentence);
        }
        for sentence in self.jetstream.nonsense(self.engine) {
            must(false, &sentence);
        }

        for origin in &self.edge.allowed_origins {
            must(
                is_origin(origin),
                &format!(
                    "edge.allowed_origins: `{origin}` is not of the form `https://host` or \
                     `https://host:port`, in lower case"
                ),
            );
        }
        let tls = &self.edge.tls;
        must(
            tls.certificate.as_os_str().is_empty() == tls.key.as_os_str().is_empty(),
            "edge.tls.certificate and edge.tls.key are needed both, or none of them",
        );
        for name in &self.channels.created_at_start {
            must(
                (1..=limits::CHANNEL_NAME_BYTES_MAX).contains(&name.len()),
                &format!(
                    "channels.created_at_start: `{name}` must have 1 to {} bytes",
                    limits::CHANNEL_NAME_BYTES_MAX
                ),
            );
        }
        let same_port = self.server.listen == self.server.internal_listen;
        must(
            !same_port || self.server.listen.port() == 0,
            "server.listen and server.internal_listen must differ",
        );
        let same_port = self.auth.listen == self.auth.internal_listen;
        must(
            !same_port || self.auth.listen.port() == 0,
            "auth.listen and auth.internal_listen must differ",
        );
        must(!self.server.data_dir.as_os_str().is_empty(), "server.data_dir must not be empty");
        found
    }
}

/// Whether a browser would send this as an `Origin`: they are compared exactly, so that one with a
/// path or in upper case would never match.
fn is_origin(text: &str) -> bool {
    let Some((scheme, host)) = text.split_once("://") else { return false };
    let plain = |byte: u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase();
    let within = |byte: u8| plain(byte) && !b"/?#@\\".contains(&byte);
    !scheme.is_empty() && !host.is_empty() && scheme.bytes().all(within) && host.bytes().all(within)
}

/// The environment of this process, for [`Config::load`]. Variables that are not UTF-8 are not ours.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    let text = |text: OsString| text.into_string().ok();
    std::env::vars_os().filter_map(move |(name, value)| Some((text(name)?, text(value)?)))
}

/// figment's error, with the key first and the place last.
fn describe(error: &figment::Error) -> ConfigError {
    let mut text = String::new();
    for error in error.clone() {
        if !text.is_empty() {
            text.push('\n');
        }
        if !error.path.is_empty() {
            let _ = write!(text, "{}: ", error.path.join("."));
        }
        let _ = write!(text, "{}", error.kind);
        if let Some(metadata) = &error.metadata {
            let _ = write!(text, " ({})", metadata.name);
        }
    }
    ConfigError::Value(text)
}

/// Every key with its effective value: as parsed, so that `65536` shows as `64.0 KiB`.
fn settings(figment: &Figment, config: &Config, known: &[String]) -> Vec<Setting> {
    let effective = Figment::from(Serialized::defaults(config));
    known
        .iter()
        .map(|key| {
            let value = effective.find_value(key).map(|value| as_toml(&value)).unwrap_or_default();
            let origin = figment
                .find_metadata(key)
                .filter(|metadata| metadata.source.is_none())
                .map_or_else(|| "default".to_owned(), |metadata| metadata.name.to_string());
            Setting { key: key.clone(), value, origin }
        })
        .collect()
}

fn as_toml(value: &Value) -> String {
    toml::Value::try_from(value).map(|value| value.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
