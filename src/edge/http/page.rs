//! `/`: the page on which people chat. It is built from `web/`, and inside the binary.
//!
//! It asks nobody but this server, and its Content-Security-Policy sees to that: no script, style or
//! address of another origin, nothing inline, no text that becomes HTML, no frame around it. The page
//! itself is asked about each time; what it is made of is named with a version, and kept for good.

use std::sync::LazyLock;

use axum::{
    Router,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse as _, Response},
    routing::get,
};

use super::{
    AuthApi,
    asset::{ASK_AGAIN, Asset, HTML, ICON, SCRIPT, STYLE, items},
};
use crate::limits;

macro_rules! file {
    ($name:literal) => {
        include_bytes!(concat!("../../../web/dist/", $name))
    };
}

const PAGE: &[u8] = file!("index.html");

/// Compressed for the first who asks, once for the process.
static ROOT: LazyLock<Asset> = LazyLock::new(|| Asset::compressed(HTML, PAGE));

/// What the page is made of, by its address.
static PARTS: [(&str, LazyLock<Asset>); 3] = [
    ("/app.js", LazyLock::new(|| Asset::compressed(SCRIPT, file!("app.js")))),
    ("/app.css", LazyLock::new(|| Asset::compressed(STYLE, file!("app.css")))),
    ("/icon.svg", LazyLock::new(|| Asset::compressed(ICON, file!("icon.svg")))),
];

/// A file under the version that the page names it by does not change.
const FOR_GOOD: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

/// What the page may not do, whatever runs in it. Its WebSocket is named by [`policy`].
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'; connect-src 'self'";

const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const PERMISSIONS_POLICY: HeaderName = HeaderName::from_static("permissions-policy");

/// The page and what it is made of. Who does not ask for HTML gets the welcome, which is plain text.
pub(super) fn router(api: &AuthApi, welcome: &'static str) -> Router {
    let api = api.clone();
    let root = async move |request: Request| {
        let (asked, is_secure) = (request.headers(), api.is_secure(&request));
        let mut response = if takes_html(asked) {
            with_policies(ROOT.answer(asked, ASK_AGAIN), &policy(asked, is_secure))
        } else {
            welcome.into_response()
        };
        let vary = HeaderValue::from_static("Accept, Accept-Encoding");
        response.headers_mut().insert(header::VARY, vary);
        response
    };
    PARTS.iter().fold(Router::new().route("/", get(root)), |router, (path, asset)| {
        let version = version(path);
        let answer = async move |request: Request| {
            let is_named = version.is_some() && request.uri().query() == version;
            asset.answer(request.headers(), if is_named { FOR_GOOD } else { ASK_AGAIN })
        };
        router.route(path, get(answer))
    })
}

/// The query by which the page names a part of it. Under another one an older page, or nobody's, asks:
/// what is kept for that must not be this.
fn version(path: &str) -> Option<&'static str> {
    let page = std::str::from_utf8(PAGE).expect("the page is text");
    let (_, named) = page.split_once(&format!("\"{path}?"))?;
    named.split('"').next()
}

/// Whether HTML is asked for by name, as browsers do. `*/*` is curl's.
fn takes_html(asked: &HeaderMap) -> bool {
    items(asked, header::ACCEPT).any(|item| {
        item.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/html"))
    })
}

/// The policy of the page under this host. Not every browser takes `'self'` for a WebSocket too, so its
/// address is named; `ws:` stands for `wss:` as well.
fn policy(asked: &HeaderMap, is_secure: bool) -> String {
    let host = asked.get(header::HOST).and_then(|host| host.to_str().ok());
    match host.filter(|host| is_plain_host(host)) {
        Some(host) => format!("{POLICY} {}://{host}", if is_secure { "wss" } else { "ws" }),
        None => POLICY.to_owned(),
    }
}

/// Whether a host is a name or an IPv4 address, with or without a port, and can mean nothing else in a
/// policy. Policies have no IPv6 addresses.
fn is_plain_host(host: &str) -> bool {
    let (name, port) = host.split_once(':').unwrap_or((host, "0"));
    let of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    let has_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    host.len() <= limits::HOST_BYTES_MAX
        && !name.is_empty()
        && name.bytes().all(of_name)
        && has_port
}

fn with_policies(mut response: Response, policy: &str) -> Response {
    let headers = response.headers_mut();
    let policy = HeaderValue::from_str(policy).expect("a policy is plain ASCII");
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    headers.insert(OPENER_POLICY, HeaderValue::from_static("same-origin"));
    let nothing = "camera=(), microphone=(), geolocation=(), payment=(), usb=()";
    headers.insert(PERMISSIONS_POLICY, HeaderValue::from_static(nothing));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_host_that_can_mean_nothing_else_comes_into_the_policy() {
        for (host, expected) in [
            ("localhost", true),
            ("127.0.0.1:7878", true),
            ("chat.example.com:443", true),
            ("", false),
            (":7878", false),
            ("localhost:", false),
            ("localhost:7878:1", false),
            ("localhost:*", false),
            ("*", false),
            ("*.example.com", false),
            ("a; script-src *", false),
            ("a,b", false),
            ("a b", false),
            ("a/b", false),
            ("user@a", false),
            ("[::1]:7878", false),
            ("'unsafe-inline'", false),
            ("häuser.example", false),
        ] {
            assert_eq!(is_plain_host(host), expected, "{host}");
        }
        assert!(is_plain_host(&"a".repeat(limits::HOST_BYTES_MAX)));
        assert!(!is_plain_host(&"a".repeat(limits::HOST_BYTES_MAX + 1)));
    }

    #[test]
    fn each_part_is_named_by_the_page_with_a_version() {
        for (path, _) in &PARTS {
            let version = version(path).unwrap_or_else(|| panic!("the page does not name {path}"));
            assert!(version.starts_with("v=") && version.len() > 2, "{path}?{version}");
        }
    }

    #[test]
    fn html_is_for_those_who_name_it() {
        for (line, expected) in [
            ("text/html,application/xhtml+xml,*/*;q=0.8", true),
            ("application/json, Text/HTML;q=0.9", true),
            ("*/*", false),
            ("text/plain", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(line));
            assert_eq!(takes_html(&headers), expected, "{line}");
        }
        assert!(!takes_html(&HeaderMap::new()));
    }
}
