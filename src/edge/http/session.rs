//! `/v1/session`: signing in for a page of this very host. The refresh token is kept in a cookie that
//! no script can read, and comes in no body.
//!
//! A cookie comes along unasked, so who asks is looked at first: nobody but a page of this host, or a
//! program that is no browser. `SameSite=Strict` says the same to the browser, and a body has to be
//! JSON, which no form of another site can send.

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    AuthApi,
    body::{self, Takes},
    problem::Problem,
};
use crate::{
    auth::{LogInError, RefreshError, Registration, RevokeError, ServiceError, Tokens},
    clock, limits,
    wire::code::ErrorCode,
};

/// The cookie. It goes to these addresses and to no other.
const COOKIE: &str = "hubbub_session";
const PATH: &str = "/v1/session";

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Who signs in.
#[derive(Deserialize, ToSchema)]
#[schema(examples(json!({"username": "ada", "password": "correct horse battery"})))]
pub struct Credentials {
    /// As it was made.
    username: String,
    /// As it was made.
    #[schema(format = "password")]
    password: String,
}

/// An access token of the session.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SessionOpened)]
pub struct Opened {
    /// The JWT that hubs take.
    access_token: String,
    /// `Bearer`.
    token_type: &'static str,
    /// Seconds until the access token runs out.
    expires_in: u64,
    /// What the user logs in with, in lower case.
    username: String,
    /// The user's stable name among machines: `sub` of its tokens.
    user: String,
}

/// What a page wants to know before anybody signs in.
#[derive(Debug, Serialize, ToSchema)]
pub struct SignIn {
    /// Who may make an account.
    sign_up: SignUp,
    /// Whether the browser has the cookie of a session. Renewing it tells whether it is still good.
    has_cookie: bool,
}

/// Who may make an account.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SignUp {
    /// Everybody.
    Open,
    /// Whoever has an invite code.
    Invite,
    /// Nobody but the operator.
    Closed,
}

impl From<Registration> for SignUp {
    fn from(registration: Registration) -> Self {
        match registration {
            Registration::Open => Self::Open,
            Registration::Invite => Self::Invite,
            Registration::Closed => Self::Closed,
        }
    }
}

/// The codes that each of these refuses with.
pub const REFUSALS_OF_ALL: &[ErrorCode] = &[ErrorCode::Forbidden];

/// Says what a page must know before anybody signs in.
///
/// # Errors
/// When a page of another origin asks.
#[utoipa::path(
    get, path = "/v1/session", tag = "tokens", operation_id = "describe_session",
    params(("hubbub_session" = Option<String>, Cookie, description = "The session, if there is one.")),
    responses((status = 200, description = "How to sign in here.", body = SignIn)),
)]
pub async fn describe(
    State(api): State<AuthApi>,
    request: Request,
) -> Result<Json<SignIn>, Problem> {
    check_origin(&request, api.is_secure(&request))?;
    let has_cookie = !matches!(cookie(request.headers()), Ok(None));
    Ok(Json(SignIn { sign_up: api.auth.registration().into(), has_cookie }))
}

/// The codes that [`open`] refuses with.
pub const REFUSALS: &[ErrorCode] = &[
    ErrorCode::Forbidden,
    ErrorCode::InvalidCredentials,
    ErrorCode::RateLimited,
    ErrorCode::Overloaded,
    ErrorCode::Internal,
];

/// Signs in, for a page of this host.
///
/// The refresh token of the session is kept in a cookie that no script can read. An unknown user, a
/// wrong password and a user who may not log in get one and the same answer.
///
/// # Errors
/// When user name or password are wrong, a page of another origin asks, or there is no room.
#[utoipa::path(
    post, path = "/v1/session", tag = "tokens", operation_id = "open_session",
    request_body = Credentials,
    responses((
        status = 200, description = "An access token. Not to be cached.", body = Opened,
        headers(("Set-Cookie" = String, description = "The session.")),
    )),
)]
pub async fn open(State(api): State<AuthApi>, request: Request) -> Result<Response, Problem> {
    let (from, now_s) = (api.client(&request), clock::unix_s());
    let is_secure = api.is_secure(&request);
    check_origin(&request, is_secure)?;
    let given: Credentials = body::read(request, Takes::Json, api.body_bytes_max).await?;
    let begun = api.auth.log_in(&given.username, given.password, from, now_s).await;
    Ok(opened(&api, begun.map_err(not_begun)?, is_secure))
}

/// The codes that [`renew`] refuses with.
pub const RENEW_REFUSALS: &[ErrorCode] = &[
    ErrorCode::Forbidden,
    ErrorCode::NotAuthenticated,
    ErrorCode::InvalidToken,
    ErrorCode::RateLimited,
    ErrorCode::Overloaded,
    ErrorCode::Internal,
];

/// Gets another access token for the session of the cookie, which is replaced.
///
/// A cookie is good for one renewal, as a refresh token is: two at the same time end the session, so
/// the tabs of a browser take turns.
///
/// # Errors
/// When there is no session, a page of another origin asks, or there is no room.
#[utoipa::path(
    post, path = "/v1/session/renew", tag = "tokens", operation_id = "renew_session",
    params(("hubbub_session" = Option<String>, Cookie, description = "The session.")),
    responses((
        status = 200, description = "An access token. Not to be cached.", body = Opened,
        headers(("Set-Cookie" = String, description = "The session.")),
    )),
)]
pub async fn renew(State(api): State<AuthApi>, request: Request) -> Result<Response, Problem> {
    let (from, now_s) = (api.client(&request), clock::unix_s());
    let is_secure = api.is_secure(&request);
    check_origin(&request, is_secure)?;
    let Some(token) = cookie(request.headers())?.map(str::to_owned) else {
        return Err(Problem::new(ErrorCode::NotAuthenticated).detail("there is no session"));
    };
    // Its body, if there is one, is nobody's concern.
    drop(request);
    match api.auth.refresh(&token, from, now_s).await {
        Ok(tokens) => Ok(opened(&api, tokens, is_secure)),
        Err(RefreshError::InvalidGrant) => {
            let problem = Problem::new(ErrorCode::InvalidToken).detail("the session is over");
            Ok(with_cookie(problem.into_response(), &no_cookie(is_secure)))
        }
        Err(RefreshError::RateLimited(error)) => Err(error.into()),
        Err(RefreshError::Service(error)) => Err(unserved(error, "renewed")),
    }
}

/// The codes that [`close`] refuses with.
pub const CLOSE_REFUSALS: &[ErrorCode] =
    &[ErrorCode::Forbidden, ErrorCode::RateLimited, ErrorCode::Overloaded, ErrorCode::Internal];

/// Signs out: ends the session of the cookie, and takes the cookie away.
///
/// Without a session there is nothing to end, which is no error.
///
/// # Errors
/// When a page of another origin asks, there are too many cookies, the address has tried too often, or
/// the store fails.
#[utoipa::path(
    delete, path = "/v1/session", tag = "tokens", operation_id = "close_session",
    params(("hubbub_session" = Option<String>, Cookie, description = "The session, if there is one.")),
    responses((
        status = 204, description = "No session has this cookie any more.",
        headers(("Set-Cookie" = String, description = "Takes the cookie away.")),
    )),
)]
pub async fn close(State(api): State<AuthApi>, request: Request) -> Result<Response, Problem> {
    let (from, now_s) = (api.client(&request), clock::unix_s());
    let is_secure = api.is_secure(&request);
    check_origin(&request, is_secure)?;
    let tokens: Vec<_> = cookies(request.headers()).map(str::to_owned).collect();
    drop(request);
    // Who signs out may have been given more than one, and wants to be rid of them.
    for token in tokens.iter().take(limits::SESSION_COOKIES_MAX) {
        api.auth.revoke(token, from, now_s).await.map_err(not_closed)?;
    }
    if tokens.len() > limits::SESSION_COOKIES_MAX {
        return Err(Problem::new(ErrorCode::BadRequest).detail("too many sessions to end"));
    }
    Ok(with_cookie(StatusCode::NO_CONTENT.into_response(), &no_cookie(is_secure)))
}

/// A page may ask if it is of this host, by its scheme where we know that. Browsers say where a page is
/// from in `Sec-Fetch-Site` or `Origin`, or in both; whoever says neither is no browser of today.
fn check_origin(request: &Request, is_secure: bool) -> Result<(), Problem> {
    let headers = request.headers();
    let refusal = || {
        Err(Problem::new(ErrorCode::Forbidden)
            .detail("pages of another origin may not sign in here"))
    };
    let sites = headers.get_all(SEC_FETCH_SITE).iter();
    // `none`: a person typed the address.
    if !sites.into_iter().all(|site| site == "same-origin" || site == "none") {
        return refusal();
    }
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let Some(origin) = origins.next() else { return Ok(()) };
    if origins.next().is_some() {
        return refusal();
    }
    let Ok(origin) = origin.to_str() else { return refusal() };
    let host = match origin.strip_prefix("https://") {
        Some(host) => Some(host),
        // Behind a proxy that ends TLS and is not trusted we do not know our own scheme.
        None => origin.strip_prefix("http://").filter(|_| !is_secure),
    };
    let ours = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    if host.is_some() && host == ours { Ok(()) } else { refusal() }
}

/// The session of a request.
///
/// # Errors
/// When there are several: one of them may be another site's under our domain, and the browser does
/// not tell which.
fn cookie(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut all = cookies(headers);
    let first = all.next();
    if all.next().is_some() {
        return Err(Problem::new(ErrorCode::BadRequest).detail("more than one session"));
    }
    Ok(first)
}

/// All cookies of our name. The line is read as bytes: those of others beside ours may be in any script,
/// and so may one that somebody planted under our name, which then is no session.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(header::COOKIE).into_iter().map(HeaderValue::as_bytes);
    let pairs = lines.flat_map(|line| line.split(|byte| *byte == b';'));
    pairs.filter_map(|pair| {
        let (name, value) = pair.split_at(pair.iter().position(|byte| *byte == b'=')?);
        let is_ours = name.trim_ascii() == COOKIE.as_bytes();
        is_ours.then(|| str::from_utf8(value[1..].trim_ascii()).unwrap_or_default())
    })
}

/// What is answered to whoever has a session now.
fn opened(api: &AuthApi, tokens: Tokens, is_secure: bool) -> Response {
    let cookie =
        set_cookie(&tokens.refresh_token, api.auth.refresh_token_lifetime().as_secs(), is_secure);
    let opened = Opened {
        access_token: tokens.access_token,
        token_type: "Bearer",
        expires_in: tokens.lifetime.as_secs(),
        username: tokens.account.username.as_str().to_owned(),
        user: tokens.account.subject,
    };
    with_cookie(Json(opened).into_response(), &cookie)
}

fn set_cookie(value: &str, max_age_s: u64, is_secure: bool) -> String {
    let secure = if is_secure { "; Secure" } else { "" };
    format!("{COOKIE}={value}; Path={PATH}; HttpOnly; SameSite=Strict; Max-Age={max_age_s}{secure}")
}

fn no_cookie(is_secure: bool) -> String {
    set_cookie("", 0, is_secure)
}

fn with_cookie(mut response: Response, cookie: &str) -> Response {
    let cookie = HeaderValue::from_str(cookie).expect("a refresh token is plain ASCII");
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    response
}

fn not_begun(error: LogInError) -> Problem {
    match error {
        LogInError::InvalidCredentials => Problem::new(ErrorCode::InvalidCredentials),
        LogInError::RateLimited(error) => error.into(),
        LogInError::Service(error) => unserved(error, "opened"),
    }
}

fn not_closed(error: RevokeError) -> Problem {
    match error {
        RevokeError::RateLimited(error) => error.into(),
        RevokeError::Service(error) => unserved(error, "closed"),
    }
}

fn unserved(error: ServiceError, what: &'static str) -> Problem {
    if let ServiceError::Failed(error) = &error {
        tracing::error!(%error, "a session could not be {what}");
    }
    error.into()
}
