//! `/v1/admin/…`: what an operator does, on the internal port only.
//!
//! Whoever asks shows the secret of the data directory, and asks an address or `localhost`: a page
//! whose name was made to point here (DNS rebinding) asks by that name.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};

use super::{AuthApi, bearer, openapi::Routes, problem::Problem};
use crate::{edge::admin_access::Secret, engine::Engine, hub::bans::Bans, wire::code::ErrorCode};

pub mod accounts;
pub mod bans;
pub mod invites;

/// The codes that the guard refuses with.
const REFUSALS: [ErrorCode; 2] = [ErrorCode::NotAuthenticated, ErrorCode::Forbidden];

/// What an operator does about accounts and tokens.
#[must_use]
pub fn auth(api: &AuthApi) -> Routes {
    Routes::new("")
        .with(accounts::__path_create, accounts::create, api, accounts::CREATE_REFUSALS)
        .with(accounts::__path_delete, accounts::delete, api, accounts::REFUSALS)
        .with(accounts::__path_disable, accounts::disable, api, accounts::REFUSALS)
        .with(accounts::__path_enable, accounts::enable, api, accounts::REFUSALS)
        .with(accounts::__path_log_out, accounts::log_out, api, accounts::REFUSALS)
        .with(invites::__path_make, invites::make, api, invites::REFUSALS)
}

/// What an operator does about who may come in.
#[must_use]
pub fn hub<E: Engine>(hub_bans: &Arc<Bans<E>>) -> Routes {
    Routes::new("")
        .with(bans::__path_ban, bans::ban::<E>, hub_bans, bans::BAN_REFUSALS)
        .with(bans::__path_lift, bans::lift::<E>, hub_bans, bans::LIFT_REFUSALS)
        .with(bans::__path_list, bans::list::<E>, hub_bans, bans::LIST_REFUSALS)
}

/// These addresses, for those who know the secret. Whatever an operator may ask of a part of the
/// server goes through here: [`auth`]'s, and a hub's.
#[must_use]
pub fn guarded(routes: Routes, secret: Secret) -> Routes {
    let secret = Arc::new(secret);
    let guard = middleware::from_fn_with_state(secret, guard);
    routes.refusing(&REFUSALS).wrapped(|router| router.route_layer(guard))
}

async fn guard(State(secret): State<Arc<Secret>>, request: Request, next: Next) -> Response {
    match check(&secret, &request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn check(secret: &Secret, request: &Request) -> Result<(), Problem> {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    if !host.is_some_and(is_unnamed) {
        return Err(Problem::new(ErrorCode::Forbidden).detail(
            "ask by an IP address or as localhost: a name may have been made to point here",
        ));
    }
    let shown = bearer::token(request.headers())?;
    if secret.is(shown) {
        Ok(())
    } else {
        Err(Problem::new(ErrorCode::NotAuthenticated)
            .status(StatusCode::UNAUTHORIZED)
            .detail("not the secret of this server's data directory"))
    }
}

/// Whether a `Host` is an address or `localhost`, with or without a port.
fn is_unnamed(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let is_v6 = || {
        let inner = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        inner.is_some_and(|inner| matches!(inner.parse(), Ok(IpAddr::V6(_))))
    };
    name.eq_ignore_ascii_case("localhost") || matches!(name.parse(), Ok(IpAddr::V4(_))) || is_v6()
}

#[cfg(test)]
mod tests {
    use super::is_unnamed;

    #[test]
    fn an_operator_asks_by_an_address() {
        for host in
            ["127.0.0.1", "127.0.0.1:7879", "[::1]:7879", "[::1]", "LocalHost:1", "10.0.0.1"]
        {
            assert!(is_unnamed(host), "{host}");
        }
        for host in [
            "",
            ":7879",
            "evil.example",
            "evil.example:7879",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "::1",
            "[evil]:1",
            "127.0.0.1:x",
            "127.1",
        ] {
            assert!(!is_unnamed(host), "{host}");
        }
    }
}
