use axum::{
    body::Body,
    http::{HeaderMap, StatusCode},
};
use bytesize::ByteSize;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt as _;

use super::*;
use crate::auth::{Registration, Settings, password::Cost};

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";

struct Api {
    router: Router,
    auth: Arc<Auth>,
    _dir: TempDir,
}

struct Answered {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Api {
    fn start(settings: Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cost = Cost { memory: ByteSize::kib(64), passes: 1, lanes: 1 };
        let settings = Settings { workers_max: 1, cost, ..settings };
        let auth = Arc::new(Auth::start(settings, dir.path(), || {}).unwrap());
        let health = Health::new(|| Ok(()), || Err("draining".to_owned()));
        let router = finish(api(health, Some(Arc::clone(&auth)), 4096));
        Self { router, auth, _dir: dir }
    }

    async fn send(&self, request: Request) -> Answered {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| text());
        Answered { status: parts.status, headers: parts.headers, body }
    }

    async fn post(&self, path: &str, content_type: &str, body: &str) -> Answered {
        let request = Request::post(path)
            .header("host", "x")
            .header("content-type", content_type)
            .body(Body::from(body.to_owned()));
        self.send(request.unwrap()).await
    }

    async fn get(&self, path: &str) -> Answered {
        self.send(Request::get(path).header("host", "x").body(Body::empty()).unwrap()).await
    }

    async fn register(&self, username: &str, password: &str) -> Answered {
        let body = json!({"username": username, "password": password}).to_string();
        self.post("/v1/accounts", JSON, &body).await
    }
}

fn api_with_defaults() -> Api {
    Api::start(Settings::default())
}

fn is_problem(answered: &Answered, status: u16, name: &str) {
    assert_eq!(answered.body["name"], name, "{}", answered.body);
    assert_eq!(answered.status, status);
    assert_eq!(answered.body["status"], status);
    assert_eq!(answered.headers["content-type"], "application/problem+json");
}

#[tokio::test]
async fn a_person_registers_and_gets_a_token_that_verifies() {
    let api = api_with_defaults();
    let created = api.register("Anna", "correct horse").await;
    assert_eq!(created.status, StatusCode::CREATED);
    assert_eq!(created.body["username"], "anna");

    let form = "grant_type=password&username=anna&password=correct+horse";
    let json = r#"{"grant_type":"password","username":"anna","password":"correct horse"}"#;
    for (content_type, body) in [(FORM, form), (JSON, json)] {
        let granted = api.post("/v1/token", content_type, body).await;
        assert_eq!(granted.status, StatusCode::OK, "{}", granted.body);
        assert_eq!(granted.headers["cache-control"], "no-store");
        assert_eq!(granted.body["token_type"], "Bearer");
        assert_eq!(granted.body["expires_in"], 3600);
        let token = granted.body["access_token"].as_str().unwrap();
        let now_s = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let claims = api.auth.verifier().verify(token, now_s).unwrap();
        assert_eq!(created.body["user"], claims.sub);
    }
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_user_get_the_same_answer() {
    let api = api_with_defaults();
    api.register("anna", "correct horse").await;
    let wrong = "grant_type=password&username=anna&password=wrong+horse";
    let unknown = "grant_type=password&username=bert&password=wrong+horse";
    let wrong = api.post("/v1/token", FORM, wrong).await;
    let unknown = api.post("/v1/token", FORM, unknown).await;
    is_problem(&wrong, 401, "invalid_credentials");
    assert_eq!(wrong.body["error"], "invalid_grant");
    assert_eq!(wrong.body, unknown.body);
    assert_eq!(wrong.headers, unknown.headers);
}

#[tokio::test]
async fn other_grants_and_missing_fields_are_told_in_the_words_of_oauth() {
    let api = api_with_defaults();
    for (body, error) in [
        ("grant_type=refresh_token&refresh_token=x", "unsupported_grant_type"),
        ("grant_type=client_credentials", "unsupported_grant_type"),
        ("username=anna&password=correct+horse", "invalid_request"),
        ("grant_type=password&username=anna", "invalid_request"),
        ("grant_type=password&grant_type=password", "invalid_request"),
        ("", "invalid_request"),
    ] {
        let refused = api.post("/v1/token", FORM, body).await;
        is_problem(&refused, 400, "bad_request");
        assert_eq!(refused.body["error"], error, "{body}");
    }
}

#[tokio::test]
async fn a_taken_name_and_rules_have_their_codes() {
    let api = api_with_defaults();
    api.register("anna", "correct horse").await;
    is_problem(&api.register("ANNA", "another horse").await, 409, "username_taken");
    is_problem(&api.register("an na", "correct horse").await, 400, "invalid_username");
    is_problem(&api.register("", "correct horse").await, 400, "invalid_username");
    is_problem(&api.register("bert", "short").await, 400, "invalid_password");
    is_problem(&api.register("bert", &"x".repeat(1025)).await, 400, "invalid_password");
    is_problem(&api.register("bert", &"x".repeat(5000)).await, 413, "message_too_large");
}

#[tokio::test]
async fn a_closed_registration_is_forbidden() {
    let api = Api::start(Settings { registration: Registration::Closed, ..Settings::default() });
    is_problem(&api.register("anna", "correct horse").await, 403, "forbidden");
}

#[tokio::test]
async fn unknown_addresses_and_methods_are_problems() {
    let api = api_with_defaults();
    is_problem(&api.get("/v1/nothing").await, 404, "not_found");
    is_problem(&api.get("/metrics").await, 404, "not_found");
    is_problem(&api.get("/v1/../v1/accounts").await, 404, "not_found");
    let wrong = api.get("/v1/accounts").await;
    is_problem(&wrong, 405, "method_not_allowed");
    assert_eq!(wrong.headers["allow"], "POST");
    is_problem(&api.post("/v1/accounts", "text/plain", "{}").await, 415, "unsupported_media_type");
    is_problem(&api.post("/v1/accounts", JSON, "{\"username\":").await, 400, "bad_request");
}

#[tokio::test]
async fn a_decoding_error_never_quotes_a_password() {
    let api = api_with_defaults();
    let body = r#"{"username":7,"password":"hunter2-hunter2"}"#;
    let refused = api.post("/v1/accounts", JSON, body).await;
    is_problem(&refused, 400, "bad_request");
    assert!(!refused.body.to_string().contains("hunter2"));
    let body = r#"{"username":"anna","password":1234567890}"#;
    let refused = api.post("/v1/accounts", JSON, body).await;
    assert!(!refused.body.to_string().contains("1234567890"), "{}", refused.body);
}

#[tokio::test]
async fn health_keys_and_the_welcome_are_public() {
    let api = api_with_defaults();
    assert_eq!(api.get("/livez").await.status, StatusCode::OK);
    let ready = api.get("/readyz").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ready.body, "draining\n");
    let keys = api.get("/.well-known/jwks.json").await;
    assert_eq!(keys.body["keys"][0]["kty"], "OKP");
    let welcome = api.get("/").await;
    assert!(welcome.body.as_str().unwrap().contains("hubbub"));
    assert_eq!(welcome.headers["x-content-type-options"], "nosniff");
}

#[tokio::test]
async fn heads_of_two_meanings_are_refused() {
    let api = api_with_defaults();
    let two_hosts = Request::get("/").header("host", "a").header("host", "b");
    let no_host = Request::get("/");
    let absolute = Request::get("http://other.example/").header("host", "a");
    for request in [two_hosts, no_host, absolute] {
        let refused = api.send(request.body(Body::empty()).unwrap()).await;
        is_problem(&refused, 400, "bad_request");
    }
}
