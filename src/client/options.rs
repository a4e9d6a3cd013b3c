//! What a client is told at its start: which server, which login, which bounds.

use std::{fmt, future::Future, net::IpAddr, pin::Pin, str::FromStr, sync::Arc, time::Duration};

use hyper::Uri;
use thiserror::Error;

use super::{error::TokenError, tls::Authorities};
use crate::limits::{CLIENT_BACKOFF_MAX, CLIENT_COMMAND_TIMEOUT, CLIENT_DELIVERIES_MAX};

/// How a client connects.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server.
    pub server: ServerUrl,
    /// Where tokens come from. There is no other way in for one.
    pub get_token: GetToken,
    /// The address to connect from, such as one of 127.0.0.0/8 to have more ports.
    pub local_address: Option<IpAddr>,
    /// How long a command is retried when its call names no deadline.
    pub command_timeout: Duration,
    /// The longest wait before the next attempt to connect. A harness that restarts its server all
    /// the time wants less than people do.
    pub backoff_max: Duration,
    /// Deliveries that may wait for the reader of each subscription.
    pub deliveries_max: usize,
}

impl Options {
    /// The usual options.
    #[must_use]
    pub fn new(server: ServerUrl, get_token: GetToken) -> Self {
        Self {
            server,
            get_token,
            local_address: None,
            command_timeout: CLIENT_COMMAND_TIMEOUT,
            backoff_max: CLIENT_BACKOFF_MAX,
            deliveries_max: CLIENT_DELIVERIES_MAX,
        }
    }
}

/// The address of a server, such as `http://127.0.0.1:7878` or `https://chat.example.com`.
#[derive(Clone, Debug)]
pub struct ServerUrl {
    authority: String,
    /// With these, it is TLS.
    authorities: Option<Authorities>,
}

impl ServerUrl {
    /// The same server, believed if one of these has signed its certificate. Without this it is up
    /// to the system's list. Says nothing about a server without TLS.
    #[must_use]
    pub fn signed_by(mut self, authorities: Authorities) -> Self {
        self.authorities = self.authorities.map(|_| authorities);
        self
    }

    /// Whether it is reached by TLS.
    #[must_use]
    pub const fn is_secure(&self) -> bool {
        self.authorities.is_some()
    }

    /// What TLS with it takes, if it is to be.
    pub(super) const fn authorities(&self) -> Option<&Authorities> {
        self.authorities.as_ref()
    }

    /// Host and port.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Where its WebSocket is.
    #[must_use]
    pub fn web_socket(&self) -> String {
        let scheme = if self.is_secure() { "wss" } else { "ws" };
        format!("{scheme}://{}/v1/ws", self.authority)
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure() { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority)
    }
}

/// Why a text is no server address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ServerUrlError {
    /// Not of this form.
    #[error("it must look like http://127.0.0.1:7878 or https://chat.example.com")]
    Malformed,
}

impl FromStr for ServerUrl {
    type Err = ServerUrlError;

    fn from_str(text: &str) -> Result<Self, ServerUrlError> {
        let uri: Uri = text.parse().map_err(|_| ServerUrlError::Malformed)?;
        let is_secure = match uri.scheme_str() {
            Some("http" | "ws") => false,
            Some("https" | "wss") => true,
            _ => return Err(ServerUrlError::Malformed),
        };
        let authority = uri.authority().ok_or(ServerUrlError::Malformed)?;
        let at_root = matches!(uri.path(), "" | "/") && uri.query().is_none();
        if !at_root || authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(ServerUrlError::Malformed);
        }
        let port = authority.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        let authorities = is_secure.then(Authorities::of_system);
        Ok(Self { authority: format!("{}:{port}", authority.host()), authorities })
    }
}

type TokenFuture = Pin<Box<dyn Future<Output = Result<String, TokenError>> + Send>>;

/// The callback that gets an access token. A client calls it for its first connection, before a
/// token runs out, and when the server no longer takes the one it has; never twice at a time.
#[derive(Clone)]
pub struct GetToken(Arc<dyn Fn() -> TokenFuture + Send + Sync>);

impl GetToken {
    /// Wraps a function.
    pub fn new<F, T>(get_token: F) -> Self
    where
        F: Fn() -> T + Send + Sync + 'static,
        T: Future<Output = Result<String, TokenError>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(get_token())))
    }

    /// Always this token. When it runs out, so does the client.
    #[must_use]
    pub fn fixed(token: &str) -> Self {
        let token = Arc::<str>::from(token);
        Self::new(move || std::future::ready(Ok(token.to_string())))
    }

    pub(super) fn call(&self) -> TokenFuture {
        (self.0)()
    }
}

impl fmt::Debug for GetToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GetToken")
    }
}

/// What a token endpoint gives out.
#[derive(Clone)]
pub struct Token {
    /// The token for the connection.
    pub access_token: String,
    /// How long it holds from now on.
    pub expires_in: Option<Duration>,
    /// What renews it without a password, if the server gives such.
    pub refresh_token: Option<String>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("expires_in", &self.expires_in).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{ServerUrl, ServerUrlError};

    #[test]
    fn a_server_address_is_a_scheme_a_host_and_perhaps_a_port() {
        let parse = |text: &str| text.parse::<ServerUrl>().map(|url| url.to_string());
        assert_eq!(parse("http://127.0.0.1:7878").as_deref(), Ok("http://127.0.0.1:7878"));
        assert_eq!(parse("http://chat.example/").as_deref(), Ok("http://chat.example:80"));
        assert_eq!(parse("ws://[::1]:1").as_deref(), Ok("http://[::1]:1"));
        assert_eq!(parse("https://chat.example").as_deref(), Ok("https://chat.example:443"));
        assert_eq!(parse("wss://[::1]:1").as_deref(), Ok("https://[::1]:1"));
        for text in ["", "127.0.0.1:7878", "http://", "http://a/v1/ws", "http://u:p@a", "ftp://a"] {
            assert_eq!(parse(text), Err(ServerUrlError::Malformed), "{text}");
        }
    }

    #[test]
    fn a_token_is_not_printed_for_debugging() {
        let token = super::Token {
            access_token: "canary".to_owned(),
            expires_in: None,
            refresh_token: Some("canary".to_owned()),
        };
        assert!(!format!("{token:?}").contains("canary"));
    }
}
