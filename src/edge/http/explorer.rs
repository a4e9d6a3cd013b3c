//! `/docs`: a page on which the API is tried out in a browser.
//!
//! It is Swagger UI, which is inside the binary (0.5 MB, compressed ahead), on `/openapi.json`. It
//! asks nobody but this server, and its Content-Security-Policy sees to that: no script, style or
//! address of another origin, nothing inline, no frame around it.

use std::sync::Arc;

use axum::{
    Router,
    http::{HeaderMap, HeaderValue, header},
    routing::get,
};

use super::asset::{ASK_AGAIN, Asset, HTML, SCRIPT, STYLE, TEXT};

/// Swagger UI sets styles by script (CSSOM), which is allowed, and has its icons as `data:`.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'; \
    form-action 'none'";

/// Everything below this address, and the address itself.
pub const PATH: &str = "/docs";

macro_rules! file {
    ($name:literal) => {
        include_bytes!(concat!("explorer/", $name))
    };
}

/// What is served: address, content type, and the file as it is stored.
const FILES: [(&str, &str, Stored); 9] = [
    (PATH, HTML, Stored::Plain(file!("index.html"))),
    ("/docs/", HTML, Stored::Plain(file!("index.html"))),
    ("/docs/explorer.css", STYLE, Stored::Plain(file!("explorer.css"))),
    ("/docs/explorer.js", SCRIPT, Stored::Plain(file!("explorer.js"))),
    ("/docs/swagger-ui.css", STYLE, Stored::Gzip(file!("swagger-ui.css.gz"))),
    ("/docs/swagger-ui-bundle.js", SCRIPT, Stored::Gzip(file!("swagger-ui-bundle.js.gz"))),
    // The licences of what is handed out.
    ("/docs/LICENSE", TEXT, Stored::Plain(file!("LICENSE"))),
    ("/docs/NOTICE", TEXT, Stored::Plain(file!("NOTICE"))),
    (
        "/docs/swagger-ui-bundle.js.LICENSE.txt",
        TEXT,
        Stored::Plain(file!("swagger-ui-bundle.js.LICENSE.txt")),
    ),
];

#[derive(Clone, Copy)]
enum Stored {
    Plain(&'static [u8]),
    Gzip(&'static [u8]),
}

/// The page and what it is made of.
pub fn router() -> Router {
    FILES.into_iter().fold(Router::new(), |router, (path, content_type, stored)| {
        let asset = Arc::new(match stored {
            Stored::Plain(bytes) => Asset::plain(content_type, bytes),
            Stored::Gzip(bytes) => Asset::gzip(content_type, bytes),
        });
        let answer = async move |headers: HeaderMap| {
            let mut response = asset.answer(&headers, ASK_AGAIN);
            let policy = HeaderValue::from_static(POLICY);
            response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
            response
        };
        router.route(path, get(answer))
    })
}
