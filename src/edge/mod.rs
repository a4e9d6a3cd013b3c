//! The edge: accepts connections, answers HTTP, hands WebSockets to the hub.
//!
//! It runs beside the hub's cores: a connect storm, a slow head or a login never costs a shard a turn.
//! The server builds an [`Edge`] from its parts, and calls [`accept::serve`] with
//! [`http::public`]'s router.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{auth::Auth, connection::login::Login, hub::Hub, limits::Limits};

pub mod accept;
pub mod http;
pub mod internal;
pub mod live;
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
    /// The certificate of the public port. With one, it speaks TLS and nothing else.
    pub tls: tls::Files,
}

/// What the public port needs.
pub struct Edge<E> {
    /// The way into the hub.
    pub hub: Hub,
    /// Verifies tokens.
    pub login: Arc<Login<E>>,
    /// Accounts and tokens, when they are served here.
    pub auth: Option<Arc<Auth>>,
    /// How the process feels.
    pub health: Health,
    /// What the operator set, and may set anew.
    pub live: Arc<Live>,
    /// The operator's bounds.
    pub limits: Limits,
}

impl<E> fmt::Debug for Edge<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edge").field("live", &self.live).finish_non_exhaustive()
    }
}
