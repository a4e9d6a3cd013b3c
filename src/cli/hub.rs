//! `hubbub hub`: the server without accounts. Its users log in elsewhere, and bring their tokens.

use hubbub::{
    config::{Config, Flags},
    engine::Engine,
    server::{self, Server},
};

use super::{
    CliError,
    login::command,
    process::{self, url_from_here},
    serve::{addresses, first_channel},
};

/// Runs a hub, as `hubbub serve` runs a server.
pub(crate) fn hub(flags: &Flags) -> Result<(), CliError> {
    process::run(flags, server::start_hub, greeting)
}

/// What a person sees first. Scripts wait for the first line.
fn greeting<E: Engine>(config: &Config, server: &Server<E>) -> String {
    let addresses = addresses(config, server);
    let (url, hint) = url_from_here(config, server.public_address());
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
        let channel = first_channel(config);
        let chat = command(&url, &format!("chat {channel} --as ada --auth {service}"));
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
