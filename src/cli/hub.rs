//! `hubbub hub`: the server without accounts. Its users log in elsewhere, and bring their tokens.

use hubbub::{
    config::{Config, Flags},
    engine::Engine,
    server::{self, Server},
};

use super::{
    CliError,
    login::command,
    process::{self, internal_lines, is_secure, url_from_here},
};

/// Where the keys of an auth service are, beside its other addresses.
const JWKS_PATH: &str = "/.well-known/jwks.json";

/// Runs a hub until it is told to stop.
pub(crate) fn hub(flags: &Flags) -> Result<(), CliError> {
    process::run(flags, server::start_hub, greeting)
}

/// What a person sees first. Scripts wait for the first line.
fn greeting<E: Engine>(config: &Config, server: &Server<E>) -> String {
    let public = server.public_address();
    let secure = if is_secure(config) { "s" } else { "" };
    format!(
        "listening on http{secure}://{public}\n\
         \n\
         hubbub {version}, a hub\n\
         \x20 WebSocket   ws{secure}://{public}/v1/ws\n\
         \x20 tokens      of {issuers}\n\
         {internally}\
         {hints}\n\
         Ctrl-C stops it.\n",
        version = env!("CARGO_PKG_VERSION"),
        issuers = issuers(config).join(", "),
        internally = internal_lines(config, server.internal_address()),
        hints = hints(config, server).unwrap_or_default(),
    )
}

/// Whose tokens are taken.
fn issuers(config: &Config) -> Vec<String> {
    let trust = &config.trust;
    let mut issuers = vec![trust.jwks_url.clone(), trust.key_file.display().to_string()];
    issuers.extend(trust.issuers.iter().map(|outside| outside.issuer.clone()));
    issuers.retain(|issuer| !issuer.is_empty());
    issuers
}

/// What to try, if it is known where users log in.
fn hints<E: Engine>(config: &Config, server: &Server<E>) -> Option<String> {
    let service = config.trust.jwks_url.strip_suffix(JWKS_PATH)?;
    let channel = config.channels.created_at_start.first().map_or("lobby", String::as_str);
    let (url, hint) = url_from_here(config, server.public_address());
    Some(format!(
        "\n\
         Try, in another terminal{hint}:\n\
         \x20 {account}\n\
         \x20 {chat}\n",
        account = command(service, "account add ada"),
        chat = command(&url, &format!("chat {channel} --as ada --auth {service}")),
    ))
}
