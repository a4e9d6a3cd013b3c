//! The internal port: health, metrics, profiles and administration, on a thread of their own, so that
//! they answer when the rest is too busy to.

use std::{fmt, io, net::TcpListener, sync::Arc, thread::JoinHandle};

use axum::{
    extract::State,
    http::{HeaderName, header},
};
use tokio::sync::watch;

use super::{
    accept::{self, Permits},
    admin_access::Secret,
    http::{admin, checks, finish, health::Health, openapi::Routes, site::Site},
    profile,
};
use crate::{
    limits::{self, Limits},
    wire::code::ErrorCode,
};

/// What Prometheus expects of OpenMetrics text.
const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the internal port needs.
#[derive(Clone)]
pub struct Internal {
    health: Health,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
    admin: Option<Routes>,
}

impl Internal {
    /// `metrics` writes all of them as OpenMetrics text. It must not block.
    pub fn new(health: Health, metrics: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self { health, metrics: Arc::new(metrics), admin: None }
    }

    /// The same, with these addresses for those who know the secret.
    #[must_use]
    pub fn with_admin(mut self, routes: Routes, secret: Secret) -> Self {
        self.admin = Some(admin::guarded(routes, secret));
        self
    }
}

impl fmt::Debug for Internal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Internal").finish_non_exhaustive()
    }
}

/// Everything on the internal port.
pub fn router(internal: Internal) -> Site {
    let mut routes = checks("hubbub, the internal port", &internal.health)
        .with(__path_metrics, metrics, &internal, &[])
        .with(profile::__path_profile, profile::profile, &(), PROFILE_REFUSALS);
    if let Some(admin) = internal.admin {
        routes = routes.and(admin);
    }
    finish(routes.described(ABOUT, ABOUT_SECRET).into_router())
}

/// What the document says first.
const ABOUT: &str = "The internal port of hubbub: health, metrics, profiles, and what an operator \
    does. Every refusal is a problem (RFC 9457) with a code, which each operation lists.";

/// What the document says of the operator's secret.
const ABOUT_SECRET: &str = "The secret of the data directory: what is in its file `admin-secret`.";

/// The codes that a profile is refused with.
const PROFILE_REFUSALS: &[ErrorCode] = &[ErrorCode::Busy, ErrorCode::Internal];

/// Every counter and histogram.
#[utoipa::path(
    get, path = "/metrics", tag = "health", operation_id = "get_metrics",
    responses((status = 200, description = "OpenMetrics text.", body = String,
        content_type = METRICS_CONTENT_TYPE)),
)]
async fn metrics(State(internal): State<Internal>) -> ([(HeaderName, &'static str); 1], String) {
    ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], (internal.metrics)())
}

/// Serves the internal port on a thread of its own, until `shutdown` turns true.
///
/// # Errors
/// When the thread or its runtime cannot be started.
pub fn spawn(
    listener: TcpListener,
    internal: Internal,
    limits: Limits,
    shutdown: watch::Receiver<bool>,
) -> io::Result<JoinHandle<()>> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _entered = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    std::thread::Builder::new().name("internal".to_owned()).spawn(move || {
        let permits = Permits::new(limits::INTERNAL_CONNECTIONS_MAX);
        let plain = || None;
        let router = router(internal);
        let read_bytes_max = limits::INTERNAL_READ_BYTES_MAX;
        let serving =
            accept::serve(listener, router, permits, plain, &limits, read_bytes_max, shutdown);
        runtime.block_on(serving);
    })
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{SocketAddr, TcpStream},
    };

    use super::*;

    fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn health_and_metrics_answer_on_a_thread_of_their_own() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, shutdown) = watch::channel(false);
        let health = Health::new(|| Ok(()), || Err("draining".to_owned()));
        let internal = Internal::new(health, || "hubbub_up 1\n".to_owned());
        let serving = spawn(listener, internal, Limits::default(), shutdown).unwrap();

        assert!(ask(address, "/livez").starts_with("HTTP/1.1 200 "));
        let ready = ask(address, "/readyz");
        assert!(ready.starts_with("HTTP/1.1 503 ") && ready.ends_with("draining\n"), "{ready}");
        assert!(ask(address, "/metrics").ends_with("hubbub_up 1\n"));
        assert!(ask(address, "/v1/ws").starts_with("HTTP/1.1 404 "));
        stop.send(true).unwrap();
        serving.join().unwrap();
    }
}
