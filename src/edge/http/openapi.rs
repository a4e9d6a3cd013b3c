//! Addresses, and the OpenAPI document of them. An address is added together with what is said of
//! it, so that the document has no other addresses and methods than the router.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{
    Router,
    handler::Handler,
    http::{HeaderName, StatusCode, header},
    middleware,
    response::Response as Answer,
    routing::{MethodFilter, get, on},
};
use serde::Serialize;
// Hidden, and the only way to the tags of a single operation: utoipa-axum takes it as well.
use utoipa::__dev::Tags;
use utoipa::{
    Number, OpenApi as _, Path,
    openapi::{
        AllOf, Array, Content, Header, Info, KnownFormat, License, Object, ObjectBuilder, OneOf,
        OpenApi, PathItem, Ref, RefOr, Response, ResponseBuilder, Schema, SchemaFormat, Server,
        Type,
        path::{HttpMethod, Operation},
        schema::{AnyOf, ArrayItems},
        security::{Http, HttpAuthScheme, SecurityScheme},
        tag::TagBuilder,
    },
};

use super::{
    accounts, admin, channels, keys, me, members, messages, password, problem, session, token,
    transfer, users, webhooks,
};
use crate::{auth::revocation, metrics::Metrics, wire::code::ErrorCode};

/// Where the document is.
const PATH: &str = "/openapi.json";

/// The scheme of security that an operation names.
pub const BEARER: &str = "bearer";

/// What operations are told apart by, in the order of the document.
const TAGS: &[(&str, &str)] = &[
    ("accounts", "Users, and what a user may know about itself."),
    ("tokens", "Access and refresh tokens, what they are verified by, and which were taken back."),
    ("chat", "The WebSocket, on which messages come as they are written."),
    ("channels", "What there is, and what it is."),
    ("members", "Who is in a channel, and as what."),
    ("messages", "To publish, and to read what was published."),
    ("webhooks", "Addresses by which programs post to a channel."),
    ("bulk", "Exports and imports: whole logs, streamed."),
    ("admin", "What an operator does."),
    ("health", "How the process feels."),
];

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
    messages::MessageList,
    messages::NewMessage,
    messages::Posted,
    messages::SettingsChange,
    password::Change,
    problem::Body,
    revocation::Page,
    revocation::Revocation,
    revocation::Revoked,
    session::Credentials,
    session::Opened,
    session::SignIn,
    session::SignUp,
    token::Grant,
    token::Granted,
    token::Unwanted,
    crate::transfer::decode::InvalidLine,
    crate::transfer::import::Records,
    crate::transfer::import::Report,
    crate::transfer::import::Stats,
    transfer::ImportResult,
    transfer::Imported,
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
        let mut license = License::new("MIT or Apache-2.0");
        license.identifier = Some(env!("CARGO_PKG_LICENSE").to_owned());
        document.info.license = Some(license);
        // Wherever the document was read, also behind a proxy with another name.
        document.servers = Some(vec![Server::new("/")]);
        Self { router: Router::new(), document }
    }

    /// The same, with what the document says of all of them, and of the bearer token that they want.
    #[must_use]
    pub fn described(mut self, about: &str, bearer: &str) -> Self {
        self.document.info.description = Some(about.to_owned());
        let mut scheme = Http::new(HttpAuthScheme::Bearer);
        scheme.description = Some(bearer.to_owned());
        let components = self.document.components.get_or_insert_default();
        components.add_security_scheme(BEARER, SecurityScheme::Http(scheme));
        self
    }

    /// The same, with each of their refusals counted, whoever decides on it.
    #[must_use]
    pub fn counted(mut self, metrics: &Arc<Metrics>) -> Self {
        let metrics = Arc::clone(metrics);
        self.router = self.router.layer(middleware::map_response(move |answer: Answer| {
            count_refusal(&metrics, &answer);
            std::future::ready(answer)
        }));
        self
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
        P: Path + for<'t> Tags<'t>,
        H: Handler<T, S>,
        T: 'static,
        S: Clone + Send + Sync + 'static,
    {
        let _ = documented;
        let mut operation = P::operation();
        operation.tags = Some(P::tags().into_iter().map(str::to_owned).collect());
        operation.description = operation.description.map(|text| in_prose(&text));
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
            for operation in operations(item) {
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
        describe_tags(&mut document);
        bound_integers(&mut document);
        keep_named_schemas(&mut document);
        let text = document.to_json().expect("a document is made of names and texts");
        let answer = move || async move { ([CONTENT_TYPE], text) };
        self.router.route(PATH, get(answer))
    }
}

/// Counts the refusal that an answer is, if it is one.
pub(super) fn count_refusal(metrics: &Metrics, answer: &Answer) {
    if let Some(code) = answer.extensions().get::<ErrorCode>() {
        metrics.refused(*code);
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

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    [get, put, post, delete, patch].into_iter().flatten()
}

/// Rust's `# Errors` is a heading to Markdown, and the page would show it as one.
fn in_prose(description: &str) -> String {
    description.replace("# Errors\nWhen ", "Refused when ")
}

/// A sentence for each tag that an operation has.
fn describe_tags(document: &mut OpenApi) {
    let items = document.paths.paths.values_mut();
    let named: BTreeSet<_> =
        items.flat_map(operations).flat_map(|it| it.tags.iter().flatten()).collect();
    let tags = TAGS.iter().filter(|(name, _)| named.contains(&(*name).to_owned()));
    let tags =
        tags.map(|(name, said)| TagBuilder::new().name(*name).description(Some(*said)).build());
    document.tags = Some(tags.collect());
}

/// utoipa calls a `u32` an `int32` that is not negative, which leaves out its upper half.
fn bound_integers(document: &mut OpenApi) {
    for operation in document.paths.paths.values_mut().flat_map(operations) {
        let parameters = operation.parameters.iter_mut().flatten();
        parameters.filter_map(|it| it.schema.as_mut()).for_each(bound_integers_of);
    }
    let schemas = document.components.iter_mut().flat_map(|it| it.schemas.values_mut());
    schemas.for_each(bound_integers_of);
}

/// Each port has the schemas of its own addresses only.
fn keep_named_schemas(document: &mut OpenApi) {
    let Some(components) = &mut document.components else { return };
    let mut named = BTreeSet::new();
    let mut texts = vec![json_of(&document.paths)];
    while let Some(text) = texts.pop() {
        for (name, schema) in &components.schemas {
            if text.contains(&format!("\"#/components/schemas/{name}\""))
                && named.insert(name.clone())
            {
                texts.push(json_of(schema));
            }
        }
    }
    components.schemas.retain(|name, _| named.contains(name));
}

fn json_of(part: &impl Serialize) -> String {
    serde_json::to_string(part).expect("a document is made of names and texts")
}

fn bound_integers_of(schema: &mut RefOr<Schema>) {
    let RefOr::T(schema) = schema else { return };
    match schema {
        Schema::Object(object) => {
            bound(object);
            object.properties.values_mut().for_each(bound_integers_of);
        }
        Schema::Array(Array { items: ArrayItems::RefOrSchema(items), .. }) => {
            bound_integers_of(items);
        }
        Schema::OneOf(OneOf { items, .. })
        | Schema::AllOf(AllOf { items, .. })
        | Schema::AnyOf(AnyOf { items, .. }) => items.iter_mut().for_each(bound_integers_of),
        _ => {}
    }
}

fn bound(object: &mut Object) {
    let is_32 = object.format == Some(SchemaFormat::KnownFormat(KnownFormat::Int32));
    let is_unsigned = object.minimum.as_ref().is_some_and(|minimum| match minimum {
        Number::Int(minimum) => *minimum >= 0,
        Number::UInt(_) => true,
        Number::Float(minimum) => *minimum >= 0.0,
    });
    if is_32 && is_unsigned {
        object.format = Some(SchemaFormat::KnownFormat(KnownFormat::Int64));
        let maximum = object.maximum.take();
        object.maximum = maximum.or(Some(Number::UInt(u32::MAX as usize)));
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
    if status == StatusCode::UNAUTHORIZED {
        let mut challenge = Header::default();
        challenge.description = Some("The scheme that is wanted (RFC 6750).".to_owned());
        response = response.header("WWW-Authenticate", challenge);
    }
    let waits = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
    if waits.contains(&status) {
        let seconds = ObjectBuilder::new().schema_type(Type::Integer).build();
        let mut hint = Header::new(seconds);
        hint.description = Some("Seconds after which another attempt may pass.".to_owned());
        response = response.header("Retry-After", hint);
    }
    RefOr::T(response.build())
}
