//! The edge: accepts connections, answers HTTP, hands WebSockets to the hub.
//!
//! It runs beside the hub's cores: a connect storm, a slow head or a login never costs a shard a turn.
//! The server builds an [`Edge`] from its parts, and calls [`accept::serve`] with
//! [`http::public`]'s router.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    auth::Auth,
    connection::login::Login,
    hub::{Hub, desk::Desk},
    limits::Limits,
    metrics::Metrics,
    wire::Encoding,
};

pub mod accept;
pub mod address;
pub mod admin_access;
pub mod http;
pub mod internal;
pub mod live;
mod plain;
pub mod profile;
pub mod tls;
pub mod upgrade;

use http::health::Health;
use live::Live;

/// What an operator may set about HTTP and the upgrade to WebSocket.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Pages from other hosts that may open a WebSocket: `https://chat.example.com`. A page from our
    /// own host may always.
    pub allowed_origins: Vec<String>,
    /// To whom compression is agreed when they offer it. Connections that exist keep what they agreed
    /// on.
    pub deflate: Deflate,
    /// Reverse proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed. Nobody else's are.
    pub trusted_proxies: Vec<address::Network>,
    /// The certificate of the public port. With one, it speaks TLS and nothing else.
    pub tls: tls::Files,
}

/// Which clients get permessage-deflate if they offer it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Deflate {
    /// None.
    Off,
    /// Those that speak JSON. Protobuf is small already, and compressing it once more costs more
    /// time than it saves bytes.
    #[default]
    Auto,
    /// All.
    On,
}

impl Deflate {
    /// Whether clients of this encoding get it.
    #[must_use]
    pub const fn is_for(self, encoding: Encoding) -> bool {
        match (self, encoding) {
            (Self::Off, _) | (Self::Auto, Encoding::Proto) => false,
            (Self::Auto, Encoding::Json) | (Self::On, _) => true,
        }
    }
}

/// The text of a flag is none of `off`, `auto` and `on`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("must be off, auto or on")]
pub struct DeflateError;

impl FromStr for Deflate {
    type Err = DeflateError;

    fn from_str(text: &str) -> Result<Self, DeflateError> {
        match text {
            "off" => Ok(Self::Off),
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            _ => Err(DeflateError),
        }
    }
}

impl fmt::Display for Deflate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Auto => "auto",
            Self::On => "on",
        })
    }
}

/// What the public port needs.
pub struct Edge<E> {
    /// The way into the hub.
    pub hub: Hub,
    /// What users want of channels and members.
    pub desk: Arc<Desk<E>>,
    /// Verifies tokens.
    pub login: Arc<Login<E>>,
    /// Accounts and tokens, when they are served here.
    pub auth: Option<Arc<Auth>>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// How the process feels.
    pub health: Health,
    /// What the operator set, and may set anew.
    pub live: Arc<Live>,
    /// The operator's bounds.
    pub limits: Limits,
}

impl<E> Edge<E> {
    /// What the addresses of accounts and tokens need, where there are any.
    fn auth_api(&self) -> Option<http::AuthApi> {
        self.auth.as_ref().map(|auth| http::AuthApi::new(auth, &self.live, &self.limits))
    }
}

impl<E> fmt::Debug for Edge<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edge").field("live", &self.live).finish_non_exhaustive()
    }
}
