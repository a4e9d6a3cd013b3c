//! `hubbub serve`: the whole server, until it is told to stop; and `hubbub config show`.

use std::fmt::Write as _;

use hubbub::{
    config::{self, Config, Flags},
    engine::Engine,
    server::{self, Server},
};

use super::{
    CliError,
    login::command,
    process::{self, internal_lines, is_secure, print, url_from_here},
};

/// Runs the server until it is told to stop.
pub(crate) fn serve(flags: &Flags) -> Result<(), CliError> {
    process::run(flags, server::start, greeting)
}

/// Prints every setting and where it comes from.
pub(crate) fn show_config(flags: &Flags) -> Result<(), CliError> {
    let loaded = Config::load(flags, config::environment())?;
    let width = loaded.settings.iter().map(|it| it.key.len() + it.value.len()).max();
    let mut page = String::new();
    for setting in &loaded.settings {
        let (key, value) = (&setting.key, &setting.value);
        let space = width.unwrap_or(0) + 2 - key.len() - value.len();
        let _ = writeln!(page, "{key} = {value}{:space$}# {}", "", setting.origin);
    }
    print(&page)
}

/// What a person sees first. Scripts wait for the first line.
fn greeting<E: Engine>(config: &Config, server: &Server<E>) -> String {
    let public = server.public_address();
    let channel = config.channels.created_at_start.first().map_or("lobby", String::as_str);
    let secure = if is_secure(config) { "s" } else { "" };
    let (url, hint) = url_from_here(config, public);
    format!(
        "listening on http{secure}://{public}\n\
         \n\
         hubbub {version}\n\
         \x20 open        {url}/\n\
         \x20 WebSocket   ws{secure}://{public}/v1/ws\n\
         {internally}\
         \n\
         Try, in another terminal{hint}:\n\
         \x20 {account}\n\
         \x20 {chat}\n\
         \n\
         Ctrl-C stops it.\n",
        version = env!("CARGO_PKG_VERSION"),
        internally = internal_lines(config, server.internal_address()),
        account = command(&url, "account add ada"),
        chat = command(&url, &format!("chat {channel} --as ada")),
    )
}
