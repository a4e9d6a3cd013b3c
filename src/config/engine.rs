//! Which engine commits, and the part of the configuration that is JetStream's.

use std::{convert::Infallible, path::PathBuf, str::FromStr};

use hyper::Uri;
use serde::{Deserialize, Serialize};

use crate::limits;

/// Which engine commits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// SQLite in the data directory: one node.
    #[default]
    Sqlite,
    /// NATS JetStream: many nodes.
    JetStream,
}

impl EngineKind {
    /// As the configuration writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::JetStream => "jetstream",
        }
    }
}

/// The engine of a cluster.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JetStream {
    /// All servers of NATS, as `nats://host:4222`. Each one is checked at the start.
    pub servers: Vec<String>,
    /// A file with what the servers ask for: `.creds` of NATS, or `user:password`. Empty: nothing.
    pub credentials: PathBuf,
    /// What all names in NATS begin with: several clusters may share an account.
    pub prefix: String,
    /// How many streams share the channels. Fixed when the cluster is made.
    pub streams: usize,
    /// One server of NATS is enough: for trying it out. What its disk loses is lost.
    pub single: bool,
    /// Servers of NATS that do not sync are taken too. Loses acknowledged messages in a power cut: for
    /// experiments only, and the control of the durability test.
    pub accept_lossy: bool,
    /// Where the servers tell of themselves, as `http://host:8222`. Empty: port 8222 of each server.
    pub monitor_urls: Vec<String>,
}

impl Default for JetStream {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            credentials: PathBuf::new(),
            prefix: "hubbub".to_owned(),
            streams: 4,
            single: false,
            accept_lossy: false,
            monitor_urls: Vec::new(),
        }
    }
}

impl JetStream {
    /// Everything about the values that makes no sense, one sentence each.
    pub(super) fn nonsense(&self, kind: EngineKind) -> Vec<String> {
        let mut found = Vec::new();
        if kind == EngineKind::JetStream && self.servers.is_empty() {
            found.push("jetstream.servers must name the servers of NATS".to_owned());
        }
        for server in &self.servers {
            if !is_address(server, &["nats", "tls"]) {
                found.push(format!(
                    "jetstream.servers: `{}` is not of the form `nats://host:4222`",
                    without_secret(server)
                ));
            } else if server.contains('@') {
                // The flag is seen by every user of the machine, and the key by who reads the settings.
                found.push(
                    "jetstream.servers must not hold a password: jetstream.credentials names a file"
                        .to_owned(),
                );
            }
        }
        for url in &self.monitor_urls {
            if !is_address(url, &["http"]) {
                found.push(format!(
                    "jetstream.monitor_urls: `{url}` is not of the form `http://host:8222`"
                ));
            }
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if !(1..=limits::NATS_PREFIX_BYTES_MAX).contains(&self.prefix.len())
            || !self.prefix.bytes().all(plain)
        {
            found.push(format!(
                "jetstream.prefix must have 1 to {} letters, digits, `-` and `_`",
                limits::NATS_PREFIX_BYTES_MAX
            ));
        }
        if !(1..=limits::JETSTREAM_LOGS_MAX).contains(&self.streams) {
            found.push(format!("jetstream.streams must be 1 to {}", limits::JETSTREAM_LOGS_MAX));
        }
        found
    }
}

/// Whether it is `scheme://host` or `scheme://host:port`, and nothing behind it.
fn is_address(text: &str, schemes: &[&str]) -> bool {
    let Ok(uri) = text.parse::<Uri>() else { return false };
    uri.scheme_str().is_some_and(|scheme| schemes.contains(&scheme))
        && uri.host().is_some_and(|host| !host.is_empty())
        && matches!(uri.path(), "" | "/")
        && uri.query().is_none()
}

fn without_secret(text: &str) -> &str {
    text.rsplit_once('@').map_or(text, |(_, place)| place)
}

/// What `--engine` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EngineFlag {
    /// `sqlite`.
    Sqlite,
    /// The servers of NATS.
    JetStream(Vec<String>),
}

impl FromStr for EngineFlag {
    type Err = Infallible;

    /// `sqlite`, or `nats://a,b:4223,c`: the scheme of the first is that of all without one.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == EngineKind::Sqlite.name() {
            return Ok(Self::Sqlite);
        }
        let scheme = text.split_once("://").map_or("nats", |(scheme, _)| scheme);
        let whole = |server: &str| match server.trim() {
            server if server.contains("://") => server.to_owned(),
            server => format!("{scheme}://{server}"),
        };
        Ok(Self::JetStream(text.split(',').map(whole).collect()))
    }
}
