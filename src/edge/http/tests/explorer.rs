//! The page at `/docs`.

use std::io::Read as _;

use bytes::Bytes;
use flate2::read::GzDecoder;
use sha2::{Digest as _, Sha256};

use super::*;

/// Swagger UI as npm serves it.
const BUNDLE: (&str, &str) = (
    "/docs/swagger-ui-bundle.js",
    "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
);
const STYLE: (&str, &str) =
    ("/docs/swagger-ui.css", "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d");

/// What a file is answered with.
async fn load(api: &Api, path: &str, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, Bytes) {
    let mut request = ask(Method::GET, path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).unwrap();
    let (parts, body) = api.public.clone().oneshot(request).await.unwrap().into_parts();
    (parts.status, parts.headers, body.collect().await.unwrap().to_bytes())
}

async fn text(api: &Api, path: &str) -> String {
    let (status, _, body) = load(api, path, &[]).await;
    assert_eq!(status, StatusCode::OK, "{path}");
    String::from_utf8(body.to_vec()).unwrap()
}

/// The addresses that a page names.
fn named(page: &str) -> Vec<&str> {
    let after = |attribute| page.split(attribute).skip(1);
    let values = after("src=\"").chain(after("href=\""));
    values.map(|rest| rest.split('"').next().unwrap()).collect()
}

#[tokio::test]
async fn the_page_and_all_that_it_names_are_served_under_a_strict_policy() {
    let api = Api::start();
    let page = text(&api, "/docs").await;
    assert_eq!(text(&api, "/docs/").await, page);
    let mut paths = named(&page);
    assert!(paths.contains(&BUNDLE.0) && paths.contains(&STYLE.0), "{paths:?}");
    // The document has the policy of the port, and the icon is empty.
    paths.retain(|path| *path != "/openapi.json" && !path.starts_with("data:"));
    paths.push("/docs");
    for path in paths {
        let (status, headers, body) = load(&api, path, &[]).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        assert!(!body.is_empty(), "{path}");
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; "), "{path}: {policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{path}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{path}: {policy}");
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(headers["cache-control"], "no-cache", "{path}");
    }
    assert_eq!(api.get("/docs/../../etc/passwd").await.status, StatusCode::NOT_FOUND);
    assert_eq!(api.get("/docs/README.md").await.status, StatusCode::NOT_FOUND);
    let document = api.get("/openapi.json").await.body["paths"].take();
    assert!(!document.as_object().unwrap().keys().any(|path| path.starts_with("/docs")));
}

#[tokio::test]
async fn nothing_is_asked_of_another_server() {
    let api = Api::start();
    for path in ["/docs", "/docs/explorer.js", "/docs/explorer.css"] {
        let text = text(&api, path).await;
        assert!(!text.contains("://") && !text.contains("\"//"), "{path}");
    }
    let page = text(&api, "/docs").await;
    let inline = page.contains("<style") || page.contains("style=") || page.contains("<script>");
    assert!(!inline, "the policy would refuse it");
    let styles = text(&api, STYLE.0).await;
    let urls = styles.split("url(").skip(1);
    let others: Vec<_> = urls.filter(|url| !url.trim_matches('"').starts_with("data:")).collect();
    assert!(others.is_empty() && !styles.contains("@import"), "{others:?}");
}

#[tokio::test]
async fn swagger_ui_is_what_npm_serves() {
    let api = Api::start();
    for (path, hash) in [BUNDLE, STYLE] {
        let (_, headers, plain) = load(&api, path, &[]).await;
        assert!(!headers.contains_key("content-encoding"), "{path}");
        assert_eq!(format!("{:x}", Sha256::digest(&plain)), hash, "{path}");
        let (_, headers, gzip) = load(&api, path, &[("accept-encoding", "br, gzip")]).await;
        assert_eq!(headers["content-encoding"], "gzip", "{path}");
        assert_eq!(headers["vary"], "Accept-Encoding", "{path}");
        let mut inflated = Vec::new();
        GzDecoder::new(&gzip[..]).read_to_end(&mut inflated).unwrap();
        assert_eq!(inflated, plain, "{path}");
    }
}

#[tokio::test]
async fn the_licences_of_swagger_ui_come_with_it() {
    let api = Api::start();
    assert!(text(&api, "/docs/LICENSE").await.contains("Apache License"));
    assert!(text(&api, "/docs/NOTICE").await.contains("SmartBear"));
    let bundle = text(&api, BUNDLE.0).await;
    let named = bundle.lines().next().unwrap().split(' ').find(|word| word.contains("LICENSE"));
    let path = format!("/docs/{}", named.unwrap());
    assert!(text(&api, &path).await.contains("MIT"), "{path}");
}

#[tokio::test]
async fn what_a_browser_has_is_not_sent_again() {
    let api = Api::start();
    let gzip = ("accept-encoding", "gzip");
    let (_, headers, _) = load(&api, STYLE.0, &[gzip]).await;
    let tag = headers["etag"].to_str().unwrap().to_owned();
    let (status, headers, body) =
        load(&api, STYLE.0, &[gzip, ("if-none-match", &format!("\"other\", W/{tag}"))]).await;
    assert_eq!(status, StatusCode::NOT_MODIFIED);
    assert_eq!(headers["etag"], *tag);
    assert!(body.is_empty());
    let (status, headers, _) = load(&api, STYLE.0, &[("if-none-match", &tag)]).await;
    assert_eq!(status, StatusCode::OK, "the other encoding is another thing");
    assert_ne!(headers["etag"], *tag);
}
