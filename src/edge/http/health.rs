//! `/livez` and `/readyz`: whether the process beats, and whether it takes work.
//!
//! Liveness looks at nothing outside the process and does not fail under load, or a supervisor would
//! turn an overload into a storm of restarts.

use std::{fmt, sync::Arc};

use axum::{extract::State, http::StatusCode};

type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// How the process feels: two questions that the server answers. They must not block.
#[derive(Clone)]
pub struct Health {
    live: Check,
    ready: Check,
}

impl Health {
    /// Both answer `Ok`, or say in a few words what is wrong.
    pub fn new(
        live: impl Fn() -> Result<(), String> + Send + Sync + 'static,
        ready: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self { live: Arc::new(live), ready: Arc::new(ready) }
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").finish_non_exhaustive()
    }
}

/// Whether the process beats.
#[utoipa::path(
    get, path = "/livez", tag = "health", operation_id = "check_live",
    responses(
        (status = 200, description = "It does.", body = String),
        (status = 503, description = "It does not, with a few words on why.", body = String),
    ),
)]
pub async fn live(State(health): State<Health>) -> (StatusCode, String) {
    answer((health.live)())
}

/// Whether the process takes work.
#[utoipa::path(
    get, path = "/readyz", tag = "health", operation_id = "check_ready",
    responses(
        (status = 200, description = "It does.", body = String),
        (status = 503, description = "Not now, with a few words on why.", body = String),
    ),
)]
pub async fn ready(State(health): State<Health>) -> (StatusCode, String) {
    answer((health.ready)())
}

fn answer(checked: Result<(), String>) -> (StatusCode, String) {
    match checked {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}
