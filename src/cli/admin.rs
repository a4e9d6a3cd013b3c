//! How a command of the operator asks a running server: on its internal port, with the secret of its
//! data directory.

use std::{error::Error, io, path::PathBuf};

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Full, Limited, combinators::UnsyncBoxBody};
use hubbub::{
    config::{self, Config, Flags},
    edge::admin_access::{self, Secret, SecretError},
    limits::{CLIENT_HTTP_BODY_BYTES_MAX, CLIENT_HTTP_TIMEOUT},
};
use hyper::{Method, Request, Response, StatusCode, Uri, body::Incoming, header};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use thiserror::Error;

use super::CliError;

/// Whose data.
#[derive(Clone, Debug, Args)]
pub(crate) struct DataArgs {
    /// The data directory of the server [default: ./hubbub-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Which server to administer.
#[derive(Clone, Debug, Args)]
pub(crate) struct AdminArgs {
    #[command(flatten)]
    data: DataArgs,
    /// The internal port of the server, as http://ADDRESS:PORT [default: what the server that runs
    /// on the data directory wrote there]
    #[arg(long, value_name = "URL")]
    internal: Option<Uri>,
}

/// Why a server was not administered.
#[derive(Debug, Error)]
pub(crate) enum AdminError {
    #[error("could not read the admin secret of {}; name the --data-dir of the server", .data_dir.display())]
    Secret {
        data_dir: PathBuf,
        #[source]
        source: SecretError,
    },
    #[error("no server runs on {}; name its --data-dir, or its --internal port", .0.display())]
    NotRunning(PathBuf),
    #[error("--internal must be of the form http://ADDRESS:PORT, and not {0}")]
    Url(Uri),
    #[error("could not reach the server at {url}")]
    Unreachable {
        url: String,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    #[error("{message} [{name} ({code})]")]
    Refused { message: String, name: String, code: u16 },
    #[error("{url} gave an answer ({status}) that is none of hubbub's internal port")]
    Unintelligible { url: String, status: StatusCode },
    #[error("{url} did not answer in time")]
    TimedOut { url: String },
}

/// What a problem says, as far as a person wants to know.
#[derive(Deserialize)]
struct Problem {
    title: String,
    detail: Option<String>,
    name: String,
    code: u16,
}

/// The admin addresses of a server.
pub(super) struct Admin {
    /// `http://ADDRESS:PORT`.
    url: String,
    secret: Secret,
    http: Client<HttpConnector, Body>,
}

/// What a request carries: a whole, or what comes part by part.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

impl DataArgs {
    /// The data directory that is meant: a server in this folder, under this environment, would use
    /// it.
    pub(super) fn data_dir(&self) -> Result<PathBuf, CliError> {
        let flags = Flags { data_dir: self.data_dir.clone(), ..Flags::default() };
        Ok(Config::load(&flags, config::environment())?.config.server.data_dir)
    }
}

impl AdminArgs {
    /// The server that is meant.
    pub(super) fn admin(&self) -> Result<Admin, CliError> {
        let data_dir = self.data.data_dir()?;
        let url = match &self.internal {
            Some(url) => {
                let is_bare = url.path() == "/" && url.query().is_none();
                match (url.scheme_str(), url.authority()) {
                    (Some("http"), Some(authority)) if is_bare => format!("http://{authority}"),
                    _ => return Err(AdminError::Url(url.clone()).into()),
                }
            }
            None => {
                let address = admin_access::announced(&data_dir);
                let mut address =
                    address.ok_or_else(|| AdminError::NotRunning(data_dir.clone()))?;
                if address.ip().is_unspecified() {
                    address.set_ip(match address.ip() {
                        std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                        std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
                    });
                }
                format!("http://{address}")
            }
        };
        let secret = Secret::load(&data_dir)
            .map_err(|source| AdminError::Secret { data_dir: data_dir.clone(), source })?;
        let http = Client::builder(TokioExecutor::new()).build_http();
        Ok(Admin { url, secret, http })
    }
}

impl Admin {
    /// Asks for something that is answered.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<T, CliError> {
        let (status, body) = self.send(method, path, Some(body)).await?;
        let unintelligible = || AdminError::Unintelligible { url: self.url.clone(), status };
        Ok(serde_json::from_slice(&body).map_err(|_| unintelligible())?)
    }

    /// Asks for something that is done.
    pub(super) async fn tell(&self, method: Method, path: &str) -> Result<(), CliError> {
        Ok(self.send(method, path, None).await.map(drop)?)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Bytes), AdminError> {
        let body = Full::from(body.map(ToString::to_string).unwrap_or_default());
        let body = body.map_err(|never| match never {}).boxed_unsync();
        let exchange = async {
            let answer = self.open(method, path, "application/json", body).await?;
            let status = answer.status();
            Ok((status, self.whole(answer).await?))
        };
        let answered = tokio::time::timeout(CLIENT_HTTP_TIMEOUT, exchange).await;
        answered.unwrap_or_else(|_| Err(self.timed_out()))
    }

    /// Begins a request, and answers what a server answers that does it. However long that takes.
    pub(super) async fn open(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Body,
    ) -> Result<Response<Incoming>, AdminError> {
        let url = &self.url;
        let request = Request::builder()
            .method(method)
            .uri(format!("{url}{path}"))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.secret.expose()))
            .header(header::CONTENT_TYPE, content_type)
            .body(body)
            .map_err(|error| self.unreachable(error.into()))?;
        // The layers around it say only that a client failed to connect.
        let answer = self.http.request(request).await;
        let answer = answer.map_err(|error| self.unreachable(innermost(&error).into()))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        Err(match serde_json::from_slice::<Problem>(&self.whole(answer).await?) {
            Ok(Problem { title, detail, name, code }) => {
                AdminError::Refused { message: detail.unwrap_or(title), name, code }
            }
            Err(_) => AdminError::Unintelligible { url: url.clone(), status },
        })
    }

    /// The body of an answer that is not large.
    pub(super) async fn whole(&self, answer: Response<Incoming>) -> Result<Bytes, AdminError> {
        let body = Limited::new(answer.into_body(), CLIENT_HTTP_BODY_BYTES_MAX).collect().await;
        Ok(body.map_err(|error| self.unreachable(error))?.to_bytes())
    }

    pub(super) fn unreachable(&self, source: Box<dyn Error + Send + Sync>) -> AdminError {
        AdminError::Unreachable { url: self.url.clone(), source }
    }

    pub(super) fn timed_out(&self) -> AdminError {
        AdminError::TimedOut { url: self.url.clone() }
    }
}

fn innermost(mut error: &(dyn Error + 'static)) -> String {
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
