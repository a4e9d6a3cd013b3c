//! What every answer has, and requests that get nowhere.

use super::*;

#[tokio::test]
async fn unknown_addresses_and_methods_are_problems() {
    let api = Api::start();
    is_problem(&api.get("/v1/nothing").await, 404, "not_found");
    is_problem(&api.get("/v1/../v1/accounts").await, 404, "not_found");
    let wrong = api.get("/v1/accounts").await;
    is_problem(&wrong, 405, "method_not_allowed");
    assert_eq!(wrong.headers["allow"], "POST");
    is_problem(&api.post("/v1/accounts", "text/plain", "{}").await, 415, "unsupported_media_type");
}

#[tokio::test]
async fn health_and_the_welcome_are_public() {
    let api = Api::start();
    assert_eq!(api.get("/livez").await.status, StatusCode::OK);
    let ready = api.get("/readyz").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ready.body, "draining\n");
    let welcome = api.get("/").await;
    assert!(welcome.body.as_str().unwrap().contains("hubbub"));
    assert_eq!(welcome.headers["cache-control"], "no-store");
}

#[tokio::test]
async fn a_page_of_another_site_is_told_nothing_that_lets_it_in() {
    let api = Api::start();
    let request = ask(Method::OPTIONS, "/v1/token")
        .header("origin", "https://evil.example")
        .header("access-control-request-method", "POST");
    // `answer` looks for headers of CORS in every answer.
    is_problem(&api.send(request.body(Body::empty()).unwrap()).await, 405, "method_not_allowed");
}

#[tokio::test]
async fn heads_of_two_meanings_are_refused() {
    let api = Api::start();
    let two_hosts = Request::get("/").header("host", "a").header("host", "b");
    let no_host = Request::get("/");
    let absolute = Request::get("http://other.example/").header("host", "a");
    for request in [two_hosts, no_host, absolute] {
        let refused = api.send(request.body(Body::empty()).unwrap()).await;
        is_problem(&refused, 400, "bad_request");
    }
}
