//! `/docs`: a page on which the API is tried out in a browser.
//!
//! It is Swagger UI, which is inside the binary (0.5 MB, compressed ahead), on `/openapi.json`. It
//! asks nobody but this server, and its Content-Security-Policy sees to that: no script, style or
//! address of another origin, nothing inline, no frame around it.

use std::{
    io::Read as _,
    sync::{Arc, OnceLock},
};

use axum::{
    Router,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use bytes::Bytes;
use flate2::read::GzDecoder;
use sha2::{Digest as _, Sha256};

/// Swagger UI sets styles by script (CSSOM), which is allowed, and has its icons as `data:`.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'; \
    form-action 'none'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

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

/// A file with what is found out about it once.
struct Asset {
    content_type: &'static str,
    stored: Stored,
    /// The hash of what is stored, in hexadecimal.
    hash: String,
    /// What is compressed, inflated for the first client that takes no gzip.
    inflated: OnceLock<Bytes>,
}

/// The page and what it is made of.
pub fn router() -> Router {
    FILES.into_iter().fold(Router::new(), |router, (path, content_type, stored)| {
        let asset = Arc::new(Asset::new(content_type, stored));
        router.route(path, get(async move |headers: HeaderMap| asset.answer(&headers)))
    })
}

impl Asset {
    fn new(content_type: &'static str, stored: Stored) -> Self {
        let (Stored::Plain(bytes) | Stored::Gzip(bytes)) = stored;
        let hash = format!("{:x}", Sha256::digest(bytes));
        Self { content_type, stored, hash, inflated: OnceLock::new() }
    }

    fn answer(&self, asked: &HeaderMap) -> Response {
        let (body, is_gzip) = match self.stored {
            Stored::Plain(bytes) => (Bytes::from_static(bytes), false),
            Stored::Gzip(bytes) if takes_gzip(asked) => (Bytes::from_static(bytes), true),
            Stored::Gzip(bytes) => (self.inflated.get_or_init(|| inflate(bytes)).clone(), false),
        };
        // Two encodings of one file are two things to a cache.
        let tag = format!("\"{}{}\"", self.hash, if is_gzip { "-gzip" } else { "" });
        let is_known = has_tag(asked, &tag);
        let mut response = if is_known {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            ([(header::CONTENT_TYPE, self.content_type)], body).into_response()
        };
        let headers = response.headers_mut();
        if is_gzip && !is_known {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            headers.insert(header::ETAG, tag);
        }
        for (name, value) in [
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::VARY, "Accept-Encoding"),
            // Kept, but asked about each time: another version of the server has another page.
            (header::CACHE_CONTROL, "no-cache"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// The items of all lines of a header that is a list.
fn items(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

/// Whether the client says that it takes gzip. One that says nothing may be a person with curl.
fn takes_gzip(asked: &HeaderMap) -> bool {
    items(asked, header::ACCEPT_ENCODING).any(|item| {
        let (coding, quality) = item.split_once(';').unwrap_or((item, ""));
        let quality = quality.trim().strip_prefix("q=").and_then(|q| q.trim().parse::<f32>().ok());
        let coding = coding.trim();
        (coding.eq_ignore_ascii_case("gzip") || coding == "*") && quality != Some(0.0)
    })
}

/// Whether the client has this version already (RFC 9110 §13.1.2).
fn has_tag(asked: &HeaderMap, tag: &str) -> bool {
    items(asked, header::IF_NONE_MATCH)
        .any(|item| item == "*" || item.strip_prefix("W/").unwrap_or(item) == tag)
}

/// Our own file, so its size is known to be what it is.
fn inflate(gzip: &[u8]) -> Bytes {
    let mut plain = Vec::new();
    let inflated = GzDecoder::new(gzip).read_to_end(&mut plain);
    inflated.expect("a test inflates each of these files");
    plain.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_those_who_name_it() {
        for (line, expected) in [
            (Some("gzip, deflate, br, zstd"), true),
            (Some("br;q=1.0, GZIP;q=0.5"), true),
            (Some("*"), true),
            (Some("gzip;q=0"), false),
            (Some("gzip; q=0.000, br"), false),
            (Some("identity"), false),
            (Some(""), false),
            (None, false),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(line) = line {
                headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(line));
            }
            assert_eq!(takes_gzip(&headers), expected, "{line:?}");
        }
    }
}
