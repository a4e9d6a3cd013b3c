//! Requests to the HTTP API of a server, one answer each. Nothing is retried.

use std::net::IpAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{HeaderMap, Method, Request, StatusCode, Uri, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::ClientConfig;
use serde_json::Value;
use thiserror::Error;

use super::{error::Refusal, http::refusal, options::ServerUrl, tls::Authorities};
use crate::limits::{CLIENT_CONNECT_TIMEOUT, CLIENT_HTTP_BODY_BYTES_MAX, CLIENT_HTTP_TIMEOUT};

/// The HTTP API of one server, over HTTP or HTTPS, as somebody or as nobody. Cheap to clone; clones
/// share their connections.
#[derive(Clone, Debug)]
pub struct Api {
    server: ServerUrl,
    authorization: Option<Secret>,
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// A header's value that is not printed.
#[derive(Clone)]
struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Why a request was not answered as it should be.
#[derive(Debug, Error)]
pub enum ApiError {
    /// The server refused it.
    #[error("the server refused")]
    Refused(#[from] Refusal),
    /// The server could not be asked.
    #[error("the server at {server} could not be reached")]
    Unreachable {
        /// Its address.
        server: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("the server at {server} did not answer in time")]
    TimedOut {
        /// Its address.
        server: String,
    },
    /// The answer was not understood.
    #[error("the answer of {server} was not understood (HTTP status {status})")]
    Unintelligible {
        /// Its address.
        server: String,
        /// The HTTP status.
        status: u16,
    },
}

impl Api {
    /// For the server at this address, from this local address if given, as nobody.
    #[must_use]
    pub fn new(server: ServerUrl, local_address: Option<IpAddr>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_local_address(local_address);
        connector.set_connect_timeout(Some(CLIENT_CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        connector.enforce_http(false);
        let authorities = server.authorities().cloned().unwrap_or_else(Authorities::nobody);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(ClientConfig::clone(&authorities.config()))
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let http = Client::builder(TokioExecutor::new()).build(connector);
        Self { server, authorization: None, http }
    }

    /// The same server, asked with this token.
    #[must_use]
    pub fn with_token(self, token: &str) -> Self {
        Self { authorization: Some(Secret(format!("Bearer {token}"))), ..self }
    }

    /// The server.
    #[must_use]
    pub const fn server(&self) -> &ServerUrl {
        &self.server
    }

    /// Asks with JSON or with nothing, and answers status and JSON of a success; `Value::Null` if it
    /// has no body.
    ///
    /// # Errors
    /// When the server refuses, cannot be reached, or answers something else than JSON.
    pub async fn json(
        &self,
        method: Method,
        path: &str,
        head: &[(&'static str, &str)],
        body: Option<&Value>,
    ) -> Result<(u16, Value), ApiError> {
        let body = body.map(ToString::to_string).unwrap_or_default();
        let (status, body) = self.send(method, path, head, body.into()).await?;
        if body.is_empty() {
            return Ok((status, Value::Null));
        }
        let value = serde_json::from_slice(&body).map_err(|_| self.unintelligible(status))?;
        Ok((status, value))
    }

    /// Asks with JSON, and answers status and body of a success.
    ///
    /// # Errors
    /// When the server refuses, or cannot be reached.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        head: &[(&'static str, &str)],
        body: Bytes,
    ) -> Result<(u16, Bytes), ApiError> {
        let request = self.request(method, path, head, body)?;
        let exchange = async {
            let response = self
                .http
                .request(request)
                .await
                .map_err(|error| self.unreachable(root_cause(&error)))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, CLIENT_HTTP_BODY_BYTES_MAX)
                .collect()
                .await
                .map_err(|error| self.unreachable(error))?
                .to_bytes();
            self.judged(head.status, &head.headers, body)
        };
        tokio::time::timeout(CLIENT_HTTP_TIMEOUT, exchange)
            .await
            .unwrap_or_else(|_| Err(ApiError::TimedOut { server: self.server.to_string() }))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        head: &[(&'static str, &str)],
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, ApiError> {
        let uri: Uri =
            format!("{}{path}", self.server).parse().map_err(|error| self.unreachable(error))?;
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json");
        if let Some(Secret(authorization)) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        for (name, value) in head {
            request = request.header(*name, *value);
        }
        request.body(Full::from(body)).map_err(|error| self.unreachable(error))
    }

    fn judged(
        &self,
        status: StatusCode,
        head: &HeaderMap,
        body: Bytes,
    ) -> Result<(u16, Bytes), ApiError> {
        if status.is_success() {
            return Ok((status.as_u16(), body));
        }
        let unintelligible = || self.unintelligible(status.as_u16());
        Err(refusal(head, &body).map_or_else(unintelligible, ApiError::Refused))
    }

    fn unreachable(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ApiError {
        ApiError::Unreachable { server: self.server.to_string(), source: source.into() }
    }

    pub(super) fn unintelligible(&self, status: u16) -> ApiError {
        ApiError::Unintelligible { server: self.server.to_string(), status }
    }
}

/// The innermost cause, in words. The layers around it say only that a client failed to connect.
fn root_cause(mut error: &(dyn std::error::Error + 'static)) -> String {
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
