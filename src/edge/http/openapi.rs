//! Addresses, and the OpenAPI document of them. An address is added together with what is said of
//! it, so that the document has no other addresses and methods than the router.

use std::collections::BTreeMap;

use axum::{
    Router,
    handler::Handler,
    http::{HeaderName, StatusCode, header},
    routing::{MethodFilter, get, on},
};
use utoipa::{
    OpenApi as _, Path,
    openapi::{
        Content, Header, Info, ObjectBuilder, OpenApi, PathItem, Ref, RefOr, Response,
        ResponseBuilder, Type,
        path::{HttpMethod, Operation},
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use super::{
    accounts, admin, channels, keys, me, members, messages, password, problem, token, users,
    webhooks,
};
use crate::{auth::revocation, wire::code::ErrorCode};

/// Where the document is.
const PATH: &str = "/openapi.json";

/// The scheme of security that an operation names.
pub const BEARER: &str = "bearer";

/// What the bodies are made of.
#[derive(utoipa::OpenApi)]
#[openapi(components(schemas(
    accounts::NewAccount,
    accounts::Created,
    admin::bans::Ban,
    admin::bans::BanList,
    admin::invites::Invite,
    admin::invites::Invited,
    channels::Channel,
    channels::ChannelList,
    channels::NewChannel,
    channels::NewSettings,
    channels::QuotaBody,
    channels::Used,
    crate::log::settings::Posting,
    crate::log::settings::Role,
    crate::log::settings::Visibility,
    keys::Jwk,
    keys::Jwks,
    me::Me,
    members::Member,
    members::MemberList,
    members::NewRole,
    members::Standing,
    messages::Entry,
    messages::MemberChange,
    messages::NewMessage,
    messages::Page,
    messages::Posted,
    messages::SettingsChange,
    password::Change,
    problem::Body,
    revocation::Page,
    revocation::Revocation,
    revocation::Revoked,
    token::Grant,
    token::Granted,
    token::Unwanted,
    users::User,
    users::UserList,
    webhooks::NewWebhook,
    webhooks::Webhook,
    webhooks::WebhookList,
    webhooks::WebhookMade,
)))]
struct Schemas;

/// Addresses with their document.
#[derive(Clone)]
pub struct Routes {
    router: Router,
    document: OpenApi,
}

impl std::fmt::Debug for Routes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Routes").finish_non_exhaustive()
    }
}

impl Routes {
    /// None yet, under this title.
    #[must_use]
    pub fn new(title: &str) -> Self {
        let mut document = Schemas::openapi();
        document.info = Info::new(title, env!("CARGO_PKG_VERSION"));
        Self { router: Router::new(), document }
    }

    /// One more. `documented` is what `#[utoipa::path]` makes beside the handler, `__path_` and its
    /// name; it has the path and the method. `refusals` are the codes that the handler itself
    /// refuses with; those of an unreadable head or body come on top.
    #[must_use]
    pub fn with<P, H, T, S>(
        mut self,
        documented: P,
        handler: H,
        state: &S,
        refusals: &[ErrorCode],
    ) -> Self
    where
        P: Path,
        H: Handler<T, S>,
        T: 'static,
        S: Clone + Send + Sync + 'static,
    {
        let _ = documented;
        let mut operation = P::operation();
        describe_refusals(&mut operation, refusals);
        let methods = P::methods();
        let filter = methods.iter().map(filter).reduce(MethodFilter::or);
        let filter = filter.expect("an operation has a method");
        self.document.paths.add_path_operation(P::path(), methods, operation);
        self.router = self.router.route(&P::path(), on(filter, handler).with_state(state.clone()));
        self
    }

    /// These and those.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.document.merge(others.document);
        self.router = self.router.merge(others.router);
        self
    }

    /// The same, where each refuses with these codes too.
    #[must_use]
    pub fn refusing(mut self, refusals: &[ErrorCode]) -> Self {
        for item in self.document.paths.paths.values_mut() {
            let PathItem { get, put, post, delete, patch, .. } = item;
            for operation in [get, put, post, delete, patch].into_iter().flatten() {
                describe_refusals(operation, refusals);
            }
        }
        self
    }

    /// The same, each in a wrapping of its handler.
    #[must_use]
    pub fn wrapped(mut self, wrap: impl FnOnce(Router) -> Router) -> Self {
        self.router = wrap(self.router);
        self
    }

    /// The document as it is served.
    #[must_use]
    pub fn document(&self) -> &OpenApi {
        &self.document
    }

    /// A router of all of them and of their document.
    ///
    /// The document is written once; it is the same for everybody.
    pub fn into_router(self) -> Router {
        let mut document = self.document;
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme(BEARER, SecurityScheme::Http(scheme));
        let text = document.to_json().expect("a document is made of names and texts");
        let answer = move || async move { ([CONTENT_TYPE], text) };
        self.router.route(PATH, get(answer))
    }
}

const CONTENT_TYPE: (HeaderName, &str) = (header::CONTENT_TYPE, "application/json");

fn filter(method: &HttpMethod) -> MethodFilter {
    match method {
        HttpMethod::Get => MethodFilter::GET,
        HttpMethod::Post => MethodFilter::POST,
        HttpMethod::Put => MethodFilter::PUT,
        HttpMethod::Delete => MethodFilter::DELETE,
        HttpMethod::Options => MethodFilter::OPTIONS,
        HttpMethod::Head => MethodFilter::HEAD,
        HttpMethod::Patch => MethodFilter::PATCH,
        HttpMethod::Trace => MethodFilter::TRACE,
    }
}

/// One answer for each status, with the codes that it can have.
fn describe_refusals(operation: &mut Operation, codes: &[ErrorCode]) {
    let mut by_status: BTreeMap<StatusCode, Vec<ErrorCode>> = BTreeMap::new();
    let mut add = |status, code| {
        let codes = by_status.entry(status).or_default();
        if !codes.contains(&code) {
            codes.push(code);
        }
    };
    // A head that means different things to different readers.
    add(StatusCode::BAD_REQUEST, ErrorCode::BadRequest);
    if operation.request_body.is_some() {
        add(StatusCode::REQUEST_TIMEOUT, ErrorCode::BadRequest);
        add(problem::status(ErrorCode::MessageTooLarge), ErrorCode::MessageTooLarge);
        add(problem::status(ErrorCode::UnsupportedMediaType), ErrorCode::UnsupportedMediaType);
    }
    codes.iter().for_each(|code| add(problem::status(*code), *code));
    for (status, codes) in by_status {
        let responses = &mut operation.responses.responses;
        // What the handler says of itself is finer.
        responses.entry(status.as_str().to_owned()).or_insert_with(|| refusal(status, &codes));
    }
}

fn refusal(status: StatusCode, codes: &[ErrorCode]) -> RefOr<Response> {
    let sentences: Vec<_> =
        codes.iter().map(|code| format!("{code}: {}", code.sentence())).collect();
    let schema = Ref::from_schema_name("Problem");
    let mut response = ResponseBuilder::new()
        .description(sentences.join(" "))
        .content("application/problem+json", Content::new(Some(schema)));
    let waits = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
    if waits.contains(&status) {
        let seconds = ObjectBuilder::new().schema_type(Type::Integer).build();
        let mut hint = Header::new(seconds);
        hint.description = Some("Seconds after which another attempt may pass.".to_owned());
        response = response.header("Retry-After", hint);
    }
    RefOr::T(response.build())
}
