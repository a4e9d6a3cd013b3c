//! The addresses of the public and the internal port, asked without sockets, over a real auth
//! service. Every answer is held against the OpenAPI document.

use std::net::{IpAddr, Ipv4Addr};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, StatusCode, request::Builder},
};
use bytesize::ByteSize;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt as _;

use super::*;
use crate::{
    auth::{Settings, password::Cost},
    edge::{
        self,
        address::Peer,
        admin_access::Secret,
        internal::{self, Internal},
    },
};

mod accounts;
mod administration;
mod document;
mod explorer;
mod heads;
mod page;
mod passwords;
mod sessions;
mod tokens;

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";
const PASSWORD: &str = "correct horse battery";

/// An auth service that stands alone, with both its ports.
struct Api {
    public: Site,
    /// The page alone, which a server with a hub has beside these.
    page: Site,
    internal: Site,
    auth: Arc<Auth>,
    secret: Secret,
    _dir: TempDir,
}

#[derive(Debug)]
struct Answered {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Api {
    fn start() -> Self {
        Self::start_with(|_, _| {})
    }

    fn start_with(change: impl FnOnce(&mut Settings, &mut edge::Settings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cost = Cost { memory: ByteSize::kib(64), passes: 1, lanes: 1 };
        let mut settings = Settings {
            workers_max: 1,
            cost,
            attempts_per_address_burst: 1_000,
            ..Settings::default()
        };
        let mut edge_settings = edge::Settings::default();
        change(&mut settings, &mut edge_settings);
        let auth = Arc::new(Auth::start(settings, dir.path(), || {}).unwrap());
        let live = Arc::new(Live::new(edge_settings).unwrap());
        let limits = Limits { request_body_bytes_max: ByteSize::b(4096), ..Limits::default() };
        let api = AuthApi::new(&auth, &live, &limits);
        let health = Health::new(|| Ok(()), || Err("draining".to_owned()));
        let secret = Secret::load_or_create(dir.path()).unwrap();
        let internal = Internal::new(health.clone(), || "hubbub_up 1\n".to_owned())
            .with_admin(admin::auth(&api), secret.clone());
        let internal = internal::router(internal);
        let page = finish(super::page::router(&api, "welcome\n"));
        Self { public: super::auth(&api, &health), page, internal, auth, secret, _dir: dir }
    }

    async fn send(&self, request: Request) -> Answered {
        answer(&self.public, request).await
    }

    async fn post(&self, path: &str, content_type: &str, body: &str) -> Answered {
        self.send(post(path, content_type, body)).await
    }

    async fn post_json(&self, path: &str, body: &Value) -> Answered {
        self.post(path, JSON, &body.to_string()).await
    }

    async fn get(&self, path: &str) -> Answered {
        self.send(ask(Method::GET, path).body(Body::empty()).unwrap()).await
    }

    /// With a token.
    async fn get_as(&self, path: &str, token: &str) -> Answered {
        let request = ask(Method::GET, path).header("authorization", format!("Bearer {token}"));
        self.send(request.body(Body::empty()).unwrap()).await
    }

    async fn register(&self, username: &str, password: &str) -> Answered {
        self.post_json("/v1/accounts", &json!({"username": username, "password": password})).await
    }

    async fn log_in(&self, username: &str, password: &str) -> Answered {
        let grant = json!({"grant_type": "password", "username": username, "password": password});
        self.post_json("/v1/token", &grant).await
    }

    async fn refresh(&self, token: &str) -> Answered {
        let grant = json!({"grant_type": "refresh_token", "refresh_token": token});
        self.post_json("/v1/token", &grant).await
    }

    /// A user that is logged in.
    async fn user(&self, username: &str) -> Login {
        assert_eq!(self.register(username, PASSWORD).await.status, StatusCode::CREATED);
        Login::of(&self.log_in(username, PASSWORD).await)
    }

    /// What the operator asks.
    async fn administer(&self, method: Method, path: &str, body: Option<Value>) -> Answered {
        let request = ask(method, path)
            .header("authorization", format!("Bearer {}", self.secret.expose()))
            .header("content-type", JSON);
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        answer(&self.internal, request.body(body).unwrap()).await
    }
}

/// Tokens as they were answered.
struct Login {
    access: String,
    refresh: String,
}

impl Login {
    #[track_caller]
    fn of(granted: &Answered) -> Self {
        assert_eq!(granted.status, StatusCode::OK, "{}", granted.body);
        let text = |name: &str| granted.body[name].as_str().expect("a token").to_owned();
        Self { access: text("access_token"), refresh: text("refresh_token") }
    }
}

/// A request from this machine.
fn ask(method: Method, path: &str) -> Builder {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "127.0.0.1")
        .extension(Peer(IpAddr::V4(Ipv4Addr::LOCALHOST)))
}

fn post(path: &str, content_type: &str, body: &str) -> Request {
    let request = ask(Method::POST, path).header("content-type", content_type);
    request.body(Body::from(body.to_owned())).unwrap()
}

/// Asks, and holds the answer against the document of the same port.
async fn answer(router: &Site, request: Request) -> Answered {
    let (method, path) =
        (request.method().as_str().to_lowercase(), request.uri().path().to_owned());
    let answered = answer_to(router, request).await;
    assert_eq!(answered.headers["x-content-type-options"], "nosniff");
    assert!(answered.headers.contains_key("cache-control"));
    assert!(!answered.headers.keys().any(|name| name.as_str().starts_with("access-control-")));
    let document =
        answer_to(router, ask(Method::GET, "/openapi.json").body(Body::empty()).unwrap());
    let operations = &document.await.body["paths"];
    let named = operations.as_object().unwrap().iter().find(|(name, _)| is_like(&path, name));
    if let Some((name, item)) = named
        && let Some(operation) = item.get(&method)
    {
        let described = &operation["responses"][answered.status.as_str()];
        assert!(described.is_object(), "{method} {name} has no {}", answered.status);
        if !answered.status.is_success() && !path.ends_with('z') {
            assert!(described["content"]["application/problem+json"].is_object(), "{described}");
            let code = format!("{} ({})", answered.body["name"], answered.body["code"]);
            let said = described["description"].as_str().unwrap();
            assert!(said.contains(&code.replace('"', "")), "{method} {name}: {code}: {said}");
        }
    }
    answered
}

/// Whether a path is one of a template such as `/a/{b}`.
fn is_like(path: &str, template: &str) -> bool {
    let (path, template): (Vec<_>, Vec<_>) =
        (path.split('/').collect(), template.split('/').collect());
    let is_same = |(part, like): (&&str, &&str)| part == like || like.starts_with('{');
    path.len() == template.len() && path.iter().zip(&template).all(is_same)
}

async fn answer_to(router: &Site, request: Request) -> Answered {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
    let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| text());
    Answered { status: parts.status, headers: parts.headers, body }
}

#[track_caller]
fn is_problem(answered: &Answered, status: u16, name: &str) {
    assert_eq!(answered.body["name"], name, "{}", answered.body);
    assert_eq!(answered.status, status, "{}", answered.body);
    assert_eq!(answered.body["status"], status);
    assert_eq!(answered.headers["content-type"], "application/problem+json");
}
