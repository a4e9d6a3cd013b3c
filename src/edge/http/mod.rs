//! The HTTP API: one file per resource.

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    http::{HeaderValue, header},
    middleware::{self, Next},
    response::Response,
    routing::{get, post},
};

use super::{Edge, upgrade};
use crate::{auth::Auth, engine::Engine, wire::code::ErrorCode};

pub mod accounts;
pub mod body;
pub mod health;
pub mod keys;
pub mod problem;
pub mod token;

use health::Health;
use problem::Problem;

/// What `/` answers until the page exists.
const WELCOME: &str = "This is hubbub, a realtime chat server.\n\
    WebSocket: /v1/ws    Accounts: POST /v1/accounts    Tokens: POST /v1/token\n";

/// Everything on the public port.
pub fn public<E: Engine>(edge: Edge<E>) -> Router {
    let bytes_max = usize::try_from(edge.limits.request_body_bytes_max.as_u64());
    let api = api(edge.health.clone(), edge.auth.clone(), bytes_max.unwrap_or(usize::MAX));
    finish(api.route("/v1/ws", get(upgrade::upgrade::<E>).with_state(Arc::new(edge))))
}

/// What is answered without the hub. A hub whose accounts are elsewhere has no addresses for them.
fn api(health: Health, auth: Option<Arc<Auth>>, body_bytes_max: usize) -> Router {
    let router = Router::new()
        .route("/", get(async || WELCOME))
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .with_state(health);
    let Some(auth) = auth else { return router };
    let accounts = accounts::Accounts { auth: Arc::clone(&auth), body_bytes_max };
    let token = token::Token { auth: Arc::clone(&auth), body_bytes_max };
    router
        .route("/v1/accounts", post(accounts::create).with_state(accounts))
        .route("/v1/token", post(token::issue).with_state(token))
        .route("/.well-known/jwks.json", get(keys::jwks).with_state(auth))
}

/// Answers the rest of all requests as problems, and what a browser should know about every answer.
pub fn finish(router: Router) -> Router {
    router
        .fallback(async || Problem::new(ErrorCode::NotFound))
        .method_not_allowed_fallback(async || Problem::new(ErrorCode::MethodNotAllowed))
        .layer(middleware::from_fn(harden))
}

/// Refuses heads that mean different things to different readers, and marks every answer.
async fn harden(request: Request, next: Next) -> Response {
    let mut response = match check_head(&request) {
        Ok(()) => next.run(request).await,
        Err(problem) => axum::response::IntoResponse::into_response(problem),
    };
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn check_head(request: &Request) -> Result<(), Problem> {
    let refusal = |detail: &'static str| Err(Problem::new(ErrorCode::BadRequest).detail(detail));
    if request.uri().authority().is_some() {
        return refusal("this is no proxy: the target must be a path");
    }
    let hosts = request.headers().get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == hyper::Version::HTTP_11) {
        return refusal("exactly one Host is needed");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
