//! `hubbub hub`: the server without accounts. Its users log in elsewhere, and bring their tokens.

use std::net::SocketAddr;

use hubbub::{
    config::{Config, Flags},
    server,
};

use super::{
    CliError,
    login::command,
    serve::{self, Reached},
};

/// Runs a hub, as `hubbub serve` runs a server.
pub(crate) fn hub(flags: &Flags) -> Result<(), CliError> {
    serve::run(flags, server::start_hub, greeting)
}

/// What a person sees first. Scripts wait for the first line.
fn greeting(config: &Config, public: SocketAddr, internal: SocketAddr) -> String {
    let addresses = serve::addresses(config, public, internal);
    let Reached { server, hint } = serve::reached(config, public);
    let trust = &config.trust;
    let issuer = if trust.jwks_url.is_empty() {
        trust.key_file.display().to_string()
    } else {
        trust.jwks_url.clone()
    };
    let others = trust.issuers.iter().map(|outside| outside.issuer.as_str());
    let issuers: Vec<_> = Some(issuer.as_str())
        .filter(|issuer| !issuer.is_empty())
        .into_iter()
        .chain(others)
        .collect();
    // Where the keys of our auth service are, it is itself.
    let service = trust.jwks_url.strip_suffix("/.well-known/jwks.json");
    let hints = service.map(|service| {
        let channel = serve::first_channel(config);
        let chat = command(&server, &format!("chat {channel} --as ada --auth {service}"));
        format!(
            "\n\
             Try, in another terminal{hint}:\n\
             \x20 {account}\n\
             \x20 {chat}\n",
            account = command(service, "account add ada"),
        )
    });
    format!(
        "{addresses}\x20 tokens      of {issuers}\n\
         {hints}\n\
         Ctrl-C stops it.\n",
        issuers = issuers.join(", "),
        hints = hints.unwrap_or_default(),
    )
}
