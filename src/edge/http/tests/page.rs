//! The page at `/`, and what it is made of.

use std::io::Read as _;

use bytes::Bytes;
use flate2::read::GzDecoder;

use super::*;

const HTML: (&str, &str) = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
const PARTS: [(&str, &str); 3] = [
    ("/app.js", "text/javascript; charset=utf-8"),
    ("/app.css", "text/css; charset=utf-8"),
    ("/icon.svg", "image/svg+xml"),
];

async fn load(api: &Api, path: &str, lines: &[(&str, &str)]) -> (StatusCode, HeaderMap, Bytes) {
    let mut request = ask(Method::GET, path);
    for (name, value) in lines {
        let headers = request.headers_mut().unwrap();
        headers.insert(
            axum::http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        );
    }
    let request = request.body(Body::empty()).unwrap();
    let (parts, body) = api.page.clone().oneshot(request).await.unwrap().into_parts();
    (parts.status, parts.headers, body.collect().await.unwrap().to_bytes())
}

async fn page(api: &Api) -> String {
    let (status, _, body) = load(api, "/", &[HTML]).await;
    assert_eq!(status, StatusCode::OK);
    String::from_utf8(body.to_vec()).unwrap()
}

/// The directives of the page's policy under these lines of a head.
async fn policy(api: &Api, lines: &[(&str, &str)]) -> Vec<String> {
    let (status, headers, _) = load(api, "/", &[&[HTML], lines].concat()).await;
    assert_eq!(status, StatusCode::OK, "{lines:?}");
    let [policy] = headers.get_all("content-security-policy").iter().collect::<Vec<_>>()[..] else {
        panic!("{headers:?}")
    };
    policy.to_str().unwrap().split("; ").map(str::to_owned).collect()
}

#[tokio::test]
async fn a_browser_gets_the_page_and_all_that_it_names() {
    let api = Api::start();
    let page = page(&api).await;
    let after = |attribute| page.split(attribute).skip(1);
    let named: Vec<_> = after("src=\"").chain(after("href=\"")).collect();
    let named = named.iter().map(|rest| rest.split('"').next().unwrap());
    let mut versions = 0;
    for path in named.filter(|path| *path != "/docs") {
        let (status, headers, body) = load(&api, path, &[]).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        assert!(!body.is_empty(), "{path}");
        assert_eq!(headers["cache-control"], "public, max-age=31536000, immutable", "{path}");
        versions += 1;
    }
    assert_eq!(versions, PARTS.len(), "{page}");
    let inline = page.contains("<style") || page.contains("style=") || page.contains("<script>");
    assert!(!inline && !page.contains("://"), "the policy would refuse it");
}

#[tokio::test]
async fn who_does_not_ask_for_html_gets_a_few_words() {
    let api = Api::start();
    for lines in [&[][..], &[("accept", "*/*")]] {
        let (status, headers, body) = load(&api, "/", lines).await;
        assert_eq!((status, &body[..]), (StatusCode::OK, &b"welcome\n"[..]));
        assert_eq!(headers["content-type"], "text/plain; charset=utf-8");
        assert_eq!(headers["vary"], "Accept, Accept-Encoding");
    }
}

#[tokio::test]
async fn the_page_has_the_headers_that_bind_a_browser() {
    let api = Api::start();
    let (_, headers, _) = load(&api, "/", &[HTML]).await;
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cache-control", "no-cache"),
        ("vary", "Accept, Accept-Encoding"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    assert!(headers["permissions-policy"].to_str().unwrap().contains("camera=()"));
    assert!(!headers.contains_key("set-cookie"));
    let policy = policy(&api, &[]).await;
    for directive in [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
        "connect-src 'self' ws://127.0.0.1",
    ] {
        assert!(policy.iter().any(|it| it == directive), "{directive}: {policy:?}");
    }
    assert_eq!(policy.len(), 10, "{policy:?}");
}

#[tokio::test]
async fn the_policy_names_the_websocket_of_the_host_and_of_no_other() {
    let api = Api::start_with(|_, edge| {
        edge.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    });
    let https = ("x-forwarded-proto", "https");
    for (lines, expected) in [
        (&[("host", "chat.example.com")][..], "connect-src 'self' ws://chat.example.com"),
        (&[("host", "chat.example.com"), https], "connect-src 'self' wss://chat.example.com"),
        (&[("host", "localhost:7878")], "connect-src 'self' ws://localhost:7878"),
        (&[("host", "[::1]:7878")], "connect-src 'self'"),
        (&[("host", "evil.example; script-src *")], "connect-src 'self'"),
        (&[("host", "a b"), https], "connect-src 'self'"),
        (&[("host", "*")], "connect-src 'self'"),
        (&[("host", "a\u{e4}")], "connect-src 'self'"),
    ] {
        let policy = policy(&api, lines).await;
        assert_eq!(policy.len(), 10, "{policy:?}");
        assert_eq!(policy.last().unwrap(), expected, "{lines:?}");
    }
}

#[tokio::test]
async fn only_a_part_under_its_own_version_is_kept_for_good() {
    let api = Api::start();
    for (path, content_type) in PARTS {
        for query in ["", "?", "?v=", "?v=other", "?v=0&x=1", "?x"] {
            let (status, headers, _) = load(&api, &format!("{path}{query}"), &[]).await;
            assert_eq!(status, StatusCode::OK, "{path}{query}");
            assert_eq!(headers["cache-control"], "no-cache", "{path}{query}");
            assert_eq!(headers["content-type"], content_type);
            assert_eq!(headers["x-content-type-options"], "nosniff");
        }
    }
}

#[tokio::test]
async fn each_file_is_compressed_and_not_sent_again() {
    let api = Api::start();
    for path in ["/", "/app.js", "/app.css", "/icon.svg"] {
        let (_, headers, plain) = load(&api, path, &[HTML]).await;
        assert!(!headers.contains_key("content-encoding"), "{path}");
        let gzip = ("accept-encoding", "gzip, br");
        let (_, compressed, body) = load(&api, path, &[HTML, gzip]).await;
        assert_eq!(compressed["content-encoding"], "gzip", "{path}");
        assert!(compressed["vary"].to_str().unwrap().contains("Accept-Encoding"), "{path}");
        let mut inflated = Vec::new();
        GzDecoder::new(&body[..]).read_to_end(&mut inflated).unwrap();
        assert_eq!(inflated, plain, "{path}");

        assert_ne!(headers["etag"], compressed["etag"], "{path}");
        let known = ("if-none-match", compressed["etag"].to_str().unwrap());
        let (status, again, body) = load(&api, path, &[HTML, gzip, known]).await;
        assert_eq!((status, body.len()), (StatusCode::NOT_MODIFIED, 0), "{path}");
        assert_eq!(again["etag"], compressed["etag"], "{path}");
        assert_eq!(again["cache-control"], compressed["cache-control"], "{path}");
        assert_eq!(load(&api, path, &[HTML, known]).await.0, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn there_is_nothing_else_below_the_page() {
    let api = Api::start();
    for path in ["/index.html", "/app.js/", "/dist/app.js", "/..%2fapp.js", "/app.js.map"] {
        assert_eq!(load(&api, path, &[HTML]).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    let request = ask(Method::POST, "/").body(Body::empty()).unwrap();
    is_problem(&answer_to(&api.page, request).await, 405, "method_not_allowed");
}
