//! The HTTP side of a server, as far as a client needs it: make an account, get a token.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::{HeaderMap, Method, header};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Mutex;

use super::{
    api::{Api, ApiError},
    backoff::asked_for,
    error::{Refusal, TokenError},
    options::{GetToken, ServerUrl, Token},
};
use crate::wire::code::ErrorCode;

/// The accounts and tokens of one server, over HTTP or HTTPS. Cheap to clone; clones share their
/// connections.
#[derive(Clone, Debug)]
pub struct Accounts {
    api: Api,
}

/// What `POST /v1/token` answers.
#[derive(Deserialize)]
struct TokenBody {
    access_token: String,
    expires_in: Option<u64>,
    refresh_token: Option<String>,
}

impl Accounts {
    /// For the server at this address, from this local address if given.
    #[must_use]
    pub fn new(server: ServerUrl, local_address: Option<IpAddr>) -> Self {
        Self { api: Api::new(server, local_address) }
    }

    /// The server.
    #[must_use]
    pub const fn server(&self) -> &ServerUrl {
        self.api.server()
    }

    /// Makes an account.
    ///
    /// # Errors
    /// When the server refuses, or cannot be reached.
    pub async fn create(&self, username: &str, password: &str) -> Result<(), TokenError> {
        let body = json!({ "username": username, "password": password });
        self.post("/v1/accounts", &body).await.map(drop)
    }

    /// Gets a token by user name and password.
    ///
    /// # Errors
    /// When the server refuses, or cannot be reached.
    pub async fn token(&self, username: &str, password: &str) -> Result<Token, TokenError> {
        let body = json!({
            "grant_type": "password", "username": username, "password": password,
        });
        self.ask_for_token(&body).await
    }

    /// Gets a token by the refresh token that came with an earlier one.
    ///
    /// # Errors
    /// When the server refuses, or cannot be reached.
    pub async fn refresh(&self, refresh_token: &str) -> Result<Token, TokenError> {
        let body = json!({ "grant_type": "refresh_token", "refresh_token": refresh_token });
        self.ask_for_token(&body).await
    }

    /// A callback that logs in with this user name and password, and from then on trades the refresh
    /// token of each login for the next one: that costs the server a thousandth of a password.
    #[must_use]
    pub fn get_token(&self, username: &str, password: &str) -> GetToken {
        self.logins(username, password, None)
    }

    /// The same, beginning with a login that was made before.
    #[must_use]
    pub fn get_token_after(&self, first: Token, username: &str, password: &str) -> GetToken {
        self.logins(username, password, Some(first))
    }

    fn logins(&self, username: &str, password: &str, first: Option<Token>) -> GetToken {
        let logins = Logins {
            accounts: self.clone(),
            username: username.to_owned(),
            password: password.to_owned(),
            refresh_token: first.as_ref().and_then(|token| token.refresh_token.clone()),
            first: first.map(|token| token.access_token),
        };
        // The client never asks twice at a time.
        let logins = Arc::new(Mutex::new(logins));
        GetToken::new(move || {
            let logins = Arc::clone(&logins);
            async move { logins.lock().await.next().await }
        })
    }

    /// Whether people chat there too. An auth service apart has accounts and tokens alone; a server
    /// that cannot be asked is taken for a whole one.
    pub async fn is_hub(&self) -> bool {
        match self.api.send(Method::GET, "/v1/ws", &[], Bytes::new()).await {
            // The other refusals are those of a request that is no handshake.
            Err(ApiError::Refused(refusal)) => !refusal.is(ErrorCode::NotFound),
            _ => true,
        }
    }

    async fn ask_for_token(&self, body: &serde_json::Value) -> Result<Token, TokenError> {
        let (status, body) = self.post("/v1/token", body).await?;
        let token: TokenBody =
            serde_json::from_slice(&body).map_err(|_| self.api.unintelligible(status))?;
        Ok(Token {
            access_token: token.access_token,
            expires_in: token.expires_in.map(Duration::from_secs),
            refresh_token: token.refresh_token,
        })
    }

    /// Posts JSON, and answers the body of a success.
    async fn post(&self, path: &str, body: &serde_json::Value) -> Result<(u16, Bytes), TokenError> {
        Ok(self.api.send(Method::POST, path, &[], body.to_string().into()).await?)
    }
}

/// What an RFC 9457 problem body, or the error body of a token endpoint, says of a refusal.
#[derive(Deserialize)]
struct Problem {
    code: Option<u16>,
    detail: Option<String>,
    title: Option<String>,
    error_description: Option<String>,
    retry_after_ms: Option<u64>,
}

/// The refusal in the head and body of an HTTP error; `None` if the body does not name our code.
pub(super) fn refusal(head: &HeaderMap, body: &[u8]) -> Option<Refusal> {
    let problem: Problem = serde_json::from_slice(body).ok()?;
    let in_head = || head.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok();
    let retry_after = problem
        .retry_after_ms
        .or_else(|| in_head().map(|seconds: u64| seconds.saturating_mul(1_000)))
        .and_then(asked_for);
    Some(Refusal {
        number: problem.code?,
        message: problem.detail.or(problem.error_description).or(problem.title).unwrap_or_default(),
        retry_after,
        head: None,
    })
}

/// The logins of one client, one after another.
struct Logins {
    accounts: Accounts,
    username: String,
    password: String,
    /// The access token to begin with.
    first: Option<String>,
    /// Good for one trade.
    refresh_token: Option<String>,
}

impl Logins {
    async fn next(&mut self) -> Result<String, TokenError> {
        if let Some(token) = self.first.take() {
            return Ok(token);
        }
        let token = match self.refresh().await? {
            Some(token) => token,
            None => self.accounts.token(&self.username, &self.password).await?,
        };
        self.refresh_token = token.refresh_token;
        Ok(token.access_token)
    }

    /// None if only the password will do.
    async fn refresh(&mut self) -> Result<Option<Token>, TokenError> {
        let Some(refresh_token) = self.refresh_token.take() else { return Ok(None) };
        match self.accounts.refresh(&refresh_token).await {
            Ok(token) => Ok(Some(token)),
            // It was refused before it was looked at, and is as good as before.
            Err(error @ TokenError::Refused(_)) if error.again() => {
                self.refresh_token = Some(refresh_token);
                Err(error)
            }
            // Without an answer it may have been used up, and to bring it twice would end the session.
            Err(_) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        task::JoinHandle,
    };

    use super::Accounts;
    use crate::{client::error::TokenError, wire::code::ErrorCode};

    /// A server that gives one answer, and hands back what it was asked and from where.
    async fn answering(answer: &'static str) -> (Accounts, JoinHandle<(String, String)>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let asked = tokio::spawn(async move {
            let (mut stream, from) = listener.accept().await.unwrap();
            let mut request = vec![0; 4_096];
            let mut length = 0;
            while !request[..length].ends_with(b"}") {
                length += stream.read(&mut request[length..]).await.unwrap();
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            (String::from_utf8_lossy(&request[..length]).into_owned(), from.ip().to_string())
        });
        (Accounts::new(server, Some([127, 0, 0, 9].into())), asked)
    }

    #[tokio::test]
    async fn a_token_is_had_for_a_password_from_the_chosen_address() {
        let answer = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n\
            {\"access_token\":\"t\",\"token_type\":\"Bearer\",\"expires_in\":3600}";
        let (accounts, asked) = answering(answer).await;
        let token = accounts.token("ada", "correct horse").await.unwrap();
        assert_eq!(token.access_token, "t");
        assert_eq!(token.expires_in, Some(Duration::from_secs(3_600)));
        let (request, from) = asked.await.unwrap();
        assert!(request.starts_with("POST /v1/token HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("\"grant_type\":\"password\""), "{request}");
        assert_eq!(from, "127.0.0.9");
    }

    #[tokio::test]
    async fn a_refusal_keeps_its_code_and_its_hint() {
        let answer = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 3\r\ncontent-length: 35\r\n\
            \r\n{\"code\":503,\"detail\":\"no room now\"}";
        let (accounts, _asked) = answering(answer).await;
        let error = accounts.token("ada", "correct horse").await.unwrap_err();
        let TokenError::Refused(refusal) = &error else { panic!("{error:?}") };
        assert!(refusal.is(ErrorCode::Overloaded));
        assert_eq!(refusal.to_string(), "no room now [overloaded (503)]");
        assert!(error.again());
        assert_eq!(error.retry_after(), Some(Duration::from_secs(3)));
    }

    #[test]
    fn a_hint_of_0_is_none_and_none_is_without_end() {
        let hint =
            |body: &[u8]| super::refusal(&hyper::HeaderMap::new(), body).unwrap().retry_after;
        assert_eq!(hint(br#"{"code":503,"retry_after_ms":0}"#), None);
        let without_end = br#"{"code":503,"retry_after_ms":18446744073709551615}"#;
        assert_eq!(hint(without_end), Some(crate::limits::CLIENT_RETRY_AFTER_MAX));
    }

    #[tokio::test]
    async fn an_answer_of_another_program_is_not_taken_for_a_refusal() {
        let answer = "HTTP/1.1 404 Not Found\r\ncontent-length: 6\r\n\r\nnginx!";
        let (accounts, _asked) = answering(answer).await;
        let error = accounts.create("ada", "correct horse").await.unwrap_err();
        assert!(matches!(error, TokenError::Unintelligible { status: 404, .. }), "{error:?}");
        assert!(!error.again());
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_worth_another_attempt() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        drop(listener);
        let error = Accounts::new(server, None).token("ada", "x").await.unwrap_err();
        assert!(matches!(error, TokenError::Unreachable { .. }) && error.again(), "{error:?}");
    }
}
