//! The HTTP API: one file per resource.

use std::{net::IpAddr, sync::Arc};

use axum::{Router, extract::Request, routing::get};

use super::{Edge, address, live::Live, upgrade};
use crate::{auth::Auth, engine::Engine, limits::Limits, wire::code::ErrorCode};

pub mod accounts;
pub mod admin;
mod asset;
pub mod bearer;
pub mod body;
pub mod channels;
pub mod chat;
pub mod explorer;
pub mod health;
pub mod keys;
pub mod me;
pub mod members;
pub mod messages;
pub mod openapi;
mod page;
pub mod password;
pub mod problem;
pub mod revocations;
pub mod session;
pub mod site;
pub mod token;
pub mod transfer;
pub mod users;
pub mod webhooks;

use chat::ChatApi;
use health::Health;
use openapi::Routes;
use problem::Problem;
use site::Site;

/// What `/` answers to who does not ask for a page.
const WELCOME: &str = "This is hubbub, a realtime chat server.\n\
    WebSocket: /v1/ws    Accounts: POST /v1/accounts    Tokens: POST /v1/token\n\
    Channels: /v1/channels    The HTTP API, to be tried out in a browser: /docs\n\
    The page to chat on: this address, in a browser\n";

/// The same where there are no accounts.
const WELCOME_TO_HUB: &str = "This is a hub of hubbub, a realtime chat server.\n\
    WebSocket: /v1/ws    Accounts and tokens: at its auth service, which is another address\n\
    Channels: /v1/channels    The HTTP API, to be tried out in a browser: /docs\n";

/// The same where there is no hub.
const WELCOME_TO_AUTH: &str = "This is the auth service of hubbub, a realtime chat server.\n\
    Accounts: POST /v1/accounts    Tokens: POST /v1/token\n\
    All of the API, to be tried out in a browser: /docs\n";

/// What the document says first.
const ABOUT: &str = "The public port of hubbub, a realtime chat server. Every refusal is a problem \
    (RFC 9457) with a code, which each operation lists. Messages as they are written come over the \
    WebSocket of a hub (`/v1/ws`), which cannot be tried out here.";

/// How somebody who tries it out comes by a token.
const ABOUT_LOGIN: &str = "To begin with: make an account (`POST /v1/accounts`), get a token for it \
    (`POST /v1/token`), and give its `access_token` to *Authorize*.";

/// The same where there are no accounts.
const ABOUT_LOGIN_ELSEWHERE: &str =
    "To begin with: give an `access_token` of the auth service to *Authorize*.";

/// What the document says of tokens.
const ABOUT_TOKEN: &str = "An access token, as `POST /v1/token` of the auth service issues it.";

/// What the addresses of accounts and tokens need.
#[derive(Clone, Debug)]
pub struct AuthApi {
    /// The auth service.
    pub auth: Arc<Auth>,
    /// Which proxies are trusted.
    pub live: Arc<Live>,
    /// Bytes of a body.
    pub body_bytes_max: usize,
}

impl AuthApi {
    /// Addresses of this auth service.
    #[must_use]
    pub fn new(auth: &Arc<Auth>, live: &Arc<Live>, limits: &Limits) -> Self {
        let body_bytes_max = usize::try_from(limits.request_body_bytes_max.as_u64());
        Self {
            auth: Arc::clone(auth),
            live: Arc::clone(live),
            body_bytes_max: body_bytes_max.unwrap_or(usize::MAX),
        }
    }

    /// Whose request this is.
    fn client(&self, request: &Request) -> IpAddr {
        address::client(request, &self.live.now().settings.trusted_proxies)
    }

    /// Whether the client spoke HTTPS, to us or to a trusted proxy.
    fn is_secure(&self, request: &Request) -> bool {
        let present = self.live.now();
        present.tls.is_some() || address::came_by_https(request, &present.settings.trusted_proxies)
    }
}

/// Everything on the public port of a hub. One whose accounts are elsewhere has no addresses for
/// them.
pub fn public<E: Engine>(edge: Edge<E>) -> Site {
    let mut routes = checks("hubbub", &edge.health);
    let api = edge.auth_api();
    let (root, login) = match &api {
        Some(api) => (page::router(api, WELCOME), ABOUT_LOGIN),
        None => (welcome(WELCOME_TO_HUB), ABOUT_LOGIN_ELSEWHERE),
    };
    if let Some(api) = &api {
        routes = routes.and(accounts_and_tokens(api));
    }
    let chat = ChatApi::new(&edge.desk, &edge.login, &edge.limits);
    let chat = Arc::new(chat);
    let posts = messages::shortcut(Arc::clone(&chat), Arc::clone(&edge.metrics));
    let edge = Arc::new(edge);
    let routes = routes.and(chat::routes(&chat).counted(&edge.metrics)).with(
        __path_websocket,
        upgrade::upgrade::<E>,
        &edge,
        WEBSOCKET_REFUSALS,
    );
    public_pages(routes, root, login).with(posts)
}

/// Everything on the public port of an auth service that stands alone.
pub fn auth(api: &AuthApi, health: &Health) -> Site {
    let routes = checks("hubbub auth", health).and(accounts_and_tokens(api));
    public_pages(routes, welcome(WELCOME_TO_AUTH), ABOUT_LOGIN)
}

/// What people find on a public port, beside the addresses of programs.
fn public_pages(routes: Routes, root: Router, login: &str) -> Site {
    let routes = routes.described(&format!("{ABOUT}\n\n{login}"), ABOUT_TOKEN);
    finish(routes.into_router().merge(root).merge(explorer::router()))
}

/// A few words at `/`, where there is no page.
fn welcome(words: &'static str) -> Router {
    Router::new().route("/", get(async move || words))
}

/// How the process feels.
pub fn checks(title: &str, health: &Health) -> Routes {
    Routes::new(title).with(health::__path_live, health::live, health, &[]).with(
        health::__path_ready,
        health::ready,
        health,
        &[],
    )
}

/// What users and hubs ask of the auth service.
fn accounts_and_tokens(api: &AuthApi) -> Routes {
    Routes::new("")
        .with(accounts::__path_create, accounts::create, api, accounts::REFUSALS)
        .with(token::__path_issue, token::issue, api, token::REFUSALS)
        .with(token::__path_revoke, token::revoke, api, token::REVOKE_REFUSALS)
        .with(session::__path_describe, session::describe, api, session::REFUSALS_OF_ALL)
        .with(session::__path_open, session::open, api, session::REFUSALS)
        .with(session::__path_renew, session::renew, api, session::RENEW_REFUSALS)
        .with(session::__path_close, session::close, api, session::CLOSE_REFUSALS)
        .with(password::__path_change, password::change, api, password::REFUSALS)
        .with(me::__path_me, me::me, api, me::REFUSALS)
        .with(keys::__path_jwks, keys::jwks, api, &[])
        .with(revocations::__path_revocations, revocations::revocations, api, revocations::REFUSALS)
}

/// The codes that a handshake is refused with by a status.
const WEBSOCKET_REFUSALS: &[ErrorCode] = &[
    ErrorCode::InvalidToken,
    ErrorCode::TokenExpired,
    ErrorCode::Forbidden,
    ErrorCode::Overloaded,
    ErrorCode::Draining,
    ErrorCode::Internal,
];

/// Becomes a WebSocket (RFC 6455).
///
/// `docs/PROTOCOL.md` says what is spoken on it.
#[utoipa::path(
    get, path = "/v1/ws", tag = "chat", operation_id = "open_websocket",
    security(("bearer" = []), ()),
    responses(
        (status = 101, description = "From here on frames are spoken."),
        (status = 426, description = "bad_request (100): another version of WebSocket.",
            body = problem::Body, content_type = "application/problem+json"),
    ),
)]
#[expect(dead_code, reason = "the document's words for `upgrade`, which is generic")]
fn websocket() {}

/// Answers the rest of all requests as problems.
pub fn finish(router: Router) -> Site {
    Site::new(
        router
            .fallback(async || Problem::new(ErrorCode::NotFound))
            .method_not_allowed_fallback(async || Problem::new(ErrorCode::MethodNotAllowed)),
    )
}

#[cfg(test)]
mod tests;
