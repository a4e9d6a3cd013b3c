//! A bounded GET: keys and revocations come from other processes by it.
//!
//! The addresses are the configuration's, never a token's. Redirects are not followed, answers have
//! a bound and a deadline, and connections are kept for the next question.

use std::{net::IpAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, StatusCode, Uri, body::Body as _, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use thiserror::Error;

use crate::limits::{FETCH_HEAD_BYTES_MAX, FETCH_IDLE_TIMEOUT};

/// Fetches documents over HTTP and HTTPS. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct Fetcher {
    http: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

/// Why there is no document.
#[derive(Debug, Error)]
pub enum FetchError {
    /// Nobody answers there, or not to the end.
    #[error("{url} cannot be reached: {cause}")]
    Unreachable {
        /// Where.
        url: Uri,
        /// The innermost cause, in words.
        cause: String,
    },
    /// The answer is none of success. A redirect is one of these.
    #[error("{url} answers {status}")]
    Status {
        /// Where.
        url: Uri,
        /// What it answers.
        status: StatusCode,
    },
    /// The body is longer than it may be.
    #[error("{url} answers more than {bytes_max} bytes")]
    TooLarge {
        /// Where.
        url: Uri,
        /// The bound.
        bytes_max: usize,
    },
    /// The answer was not there in time.
    #[error("{url} does not answer within {} ms", timeout.as_millis())]
    TimedOut {
        /// Where.
        url: Uri,
        /// The deadline.
        timeout: Duration,
    },
}

impl Default for Fetcher {
    fn default() -> Self {
        Self::new()
    }
}

impl Fetcher {
    /// Believes the authorities of this system. Reads their list, and so blocks for a moment.
    ///
    /// # Panics
    /// Never: the versions of TLS are those that the cryptography has.
    #[must_use]
    pub fn new() -> Self {
        let mut roots = RootCertStore::empty();
        // Without any, every HTTPS address is refused when it is asked, and the log says so then.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let tls = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .expect("ring has TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let http = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(FETCH_IDLE_TIMEOUT)
            .pool_max_idle_per_host(1)
            .http1_max_buf_size(FETCH_HEAD_BYTES_MAX)
            .build(connector);
        Self { http }
    }

    /// Gets the document at this address, whole. Needs a tokio runtime with time and I/O.
    ///
    /// # Errors
    /// When it cannot be had within these bounds, or the answer is not 200.
    pub async fn get(
        &self,
        url: &Uri,
        bytes_max: usize,
        timeout: Duration,
    ) -> Result<Bytes, FetchError> {
        tokio::time::timeout(timeout, self.exchange(url, bytes_max))
            .await
            .unwrap_or_else(|_| Err(FetchError::TimedOut { url: url.clone(), timeout }))
    }

    async fn exchange(&self, url: &Uri, bytes_max: usize) -> Result<Bytes, FetchError> {
        let unreachable = |cause| FetchError::Unreachable { url: url.clone(), cause };
        let request = Request::get(url.clone())
            .header(header::ACCEPT, "application/json")
            .body(Empty::new())
            .map_err(|error| unreachable(error.to_string()))?;
        let response =
            self.http.request(request).await.map_err(|error| unreachable(root_cause(&error)))?;
        let (head, mut body) = response.into_parts();
        if head.status != StatusCode::OK {
            return Err(FetchError::Status { url: url.clone(), status: head.status });
        }
        let too_large = || FetchError::TooLarge { url: url.clone(), bytes_max };
        if body.size_hint().lower() > bytes_max as u64 {
            return Err(too_large());
        }
        let mut document = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| unreachable(root_cause(&error)))?;
            let Ok(data) = frame.into_data() else { continue };
            if document.len() + data.len() > bytes_max {
                return Err(too_large());
            }
            document.extend_from_slice(&data);
        }
        Ok(document.freeze())
    }
}

/// Whether what is fetched from here may be read, and changed, on its way: plain HTTP to anywhere
/// but this machine.
#[must_use]
pub fn is_exposed(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    url.scheme_str() == Some("http") && !here
}

/// The address of a document, if it is one that can be fetched: `http` or `https`, with a host, and
/// without a name and password in it, which would end up in logs.
#[must_use]
pub fn address(text: &str) -> Option<Uri> {
    let url: Uri = text.parse().ok()?;
    let scheme = matches!(url.scheme_str(), Some("http" | "https"));
    let authority =
        url.authority().is_some_and(|it| !it.host().is_empty() && !it.as_str().contains('@'));
    (scheme && authority && !text.contains('#')).then_some(url)
}

/// The innermost cause, in words. The layers around it say only that something failed.
fn root_cause(mut error: &(dyn std::error::Error + 'static)) -> String {
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        task::JoinHandle,
    };

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    /// A server that gives these answers to as many requests, and counts its connections.
    async fn answering(answers: Vec<String>) -> (Uri, JoinHandle<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap()).parse().unwrap();
        let serving = tokio::spawn(async move {
            let mut answers = answers.into_iter().peekable();
            let mut connections = 0;
            while answers.peek().is_some() {
                let (mut stream, _) = listener.accept().await.unwrap();
                connections += 1;
                let mut request = vec![0; 4_096];
                for answer in answers.by_ref() {
                    let length = stream.read(&mut request).await.unwrap();
                    assert!(request[..length].starts_with(b"GET /keys HTTP/1.1\r\n"));
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    if answer.contains("connection: close") {
                        break;
                    }
                }
            }
            connections
        });
        (url, serving)
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn a_connection_serves_one_question_after_another() {
        let (url, serving) = answering(vec![ok("one"), ok("two"), ok("three")]).await;
        let fetcher = Fetcher::new();
        for expected in ["one", "two", "three"] {
            assert_eq!(fetcher.get(&url, 5, DEADLINE).await.unwrap(), expected);
        }
        assert_eq!(serving.await.unwrap(), 1, "connections");
    }

    #[tokio::test]
    async fn a_long_answer_is_not_read_whether_it_says_its_length_or_not() {
        let said = ok("123456");
        let unsaid = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n123456".to_owned();
        for answer in [said, unsaid] {
            let (url, _serving) = answering(vec![answer]).await;
            let error = Fetcher::new().get(&url, 5, DEADLINE).await.unwrap_err();
            assert!(matches!(error, FetchError::TooLarge { bytes_max: 5, .. }), "{error}");
        }
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let (elsewhere, other) = answering(vec![ok("gold")]).await;
        let redirect =
            format!("HTTP/1.1 302 Found\r\nlocation: {elsewhere}\r\ncontent-length: 0\r\n\r\n");
        let (url, _serving) = answering(vec![redirect]).await;
        let error = Fetcher::new().get(&url, 5, DEADLINE).await.unwrap_err();
        assert!(matches!(error, FetchError::Status { status: StatusCode::FOUND, .. }), "{error}");
        assert!(!other.is_finished(), "nobody came");
        other.abort();
    }

    #[tokio::test]
    async fn who_does_not_answer_is_given_up_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Uri = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let soon = Duration::from_millis(20);
        let error = Fetcher::new().get(&url, 5, soon).await.unwrap_err();
        assert!(matches!(error, FetchError::TimedOut { .. }), "{error}");
        drop(listener);
        let error = Fetcher::new().get(&url, 5, DEADLINE).await.unwrap_err();
        assert!(matches!(error, FetchError::Unreachable { .. }), "{error}");
    }

    #[test]
    fn an_address_has_a_scheme_and_a_host_and_no_secrets() {
        for good in ["http://127.0.0.1:1/keys", "https://id.example.com/a/b?c=d", "http://[::1]/"] {
            assert!(address(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "/keys",
            "id.example.com",
            "ftp://a/b",
            "file:///etc/passwd",
            "https://",
            "https://user:password@host/",
            "https://host/#part",
            "https:// host/",
        ] {
            assert!(address(bad).is_none(), "{bad}");
        }
        let exposed = |text| is_exposed(&address(text).unwrap());
        assert!(exposed("http://id.example.com/") && exposed("http://10.0.0.1/"));
        assert!(!exposed("https://id.example.com/") && !exposed("http://localhost:1/"));
        assert!(!exposed("http://127.8.9.1/") && !exposed("http://[::1]:80/"));
    }
}
