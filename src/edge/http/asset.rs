//! Files that are inside the binary, as a browser wants them: compressed where it takes that, and not
//! sent again where it has them.

use std::{
    io::{Read as _, Write as _},
    sync::OnceLock,
};

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use sha2::{Digest as _, Sha256};

pub(super) const HTML: &str = "text/html; charset=utf-8";
pub(super) const SCRIPT: &str = "text/javascript; charset=utf-8";
pub(super) const STYLE: &str = "text/css; charset=utf-8";
pub(super) const TEXT: &str = "text/plain; charset=utf-8";
pub(super) const ICON: &str = "image/svg+xml";

/// Kept, but asked about each time: another version of the server has another file.
pub(super) const ASK_AGAIN: HeaderValue = HeaderValue::from_static("no-cache");

/// A file with what is found out about it once.
#[derive(Debug)]
pub(super) struct Asset {
    content_type: &'static str,
    /// The hash of what is stored, in hexadecimal.
    hash: String,
    /// As it is. Of one that is stored compressed: for the first client that takes no gzip.
    plain: OnceLock<Bytes>,
    gzip: Option<Bytes>,
}

impl Asset {
    /// A file that is sent as it is.
    pub(super) fn plain(content_type: &'static str, bytes: &'static [u8]) -> Self {
        let plain = OnceLock::from(Bytes::from_static(bytes));
        Self { content_type, hash: hash(bytes), plain, gzip: None }
    }

    /// A file that is compressed here, once.
    pub(super) fn compressed(content_type: &'static str, bytes: &'static [u8]) -> Self {
        Self { gzip: Some(deflate(bytes)), ..Self::plain(content_type, bytes) }
    }

    /// A file that is stored as gzip.
    pub(super) fn gzip(content_type: &'static str, bytes: &'static [u8]) -> Self {
        let gzip = Some(Bytes::from_static(bytes));
        Self { content_type, hash: hash(bytes), plain: OnceLock::new(), gzip }
    }

    /// The file, or that the client has it. A cache may keep it as `cache_control` says.
    pub(super) fn answer(&self, asked: &HeaderMap, cache_control: HeaderValue) -> Response {
        let gzip = self.gzip.as_ref().filter(|_| takes_gzip(asked));
        // Two encodings of one file are two things to a cache.
        let tag = format!("\"{}{}\"", self.hash, if gzip.is_some() { "-gzip" } else { "" });
        let is_known = has_tag(asked, &tag);
        let mut response = if is_known {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            let body = gzip.unwrap_or_else(|| self.as_it_is()).clone();
            ([(header::CONTENT_TYPE, self.content_type)], body).into_response()
        };
        let headers = response.headers_mut();
        if gzip.is_some() && !is_known {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            headers.insert(header::ETAG, tag);
        }
        headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        headers.insert(header::CACHE_CONTROL, cache_control);
        response
    }

    fn as_it_is(&self) -> &Bytes {
        self.plain.get_or_init(|| inflate(self.gzip.as_ref().expect("a file is stored either way")))
    }
}

/// The items of all lines of a header that is a list.
pub(super) fn items(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
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

fn hash(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

fn deflate(plain: &[u8]) -> Bytes {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    let written = gzip.write_all(plain).and_then(|()| gzip.finish());
    written.expect("memory takes what is written").into()
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
