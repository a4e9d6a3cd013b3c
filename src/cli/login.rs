//! Who a command acts as: `--as NAME`, a password or a saved login, and the connection.
//!
//! A password comes from `--password-file`, `HUBBUB_PASSWORD`, `HUBBUB_PASSWORD_FILE`, or a prompt;
//! never from the command line, which every user of the machine can read. One that is named wins
//! over a saved login, and is not followed by one.

use std::{
    borrow::Cow,
    env,
    fs::File,
    io::{self, IsTerminal as _, Read as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use clap::Args;
use hubbub::{
    client::{Accounts, Authorities, Client, ClientError, Options, ServerUrl, State, TokenError},
    wire::code::{CloseCode, ErrorCode},
};
use rustyline::{
    Behavior, ColorMode, Config, Editor, Helper,
    completion::Completer,
    error::ReadlineError,
    highlight::{CmdKind, Highlighter},
    hint::Hinter,
    history::MemHistory,
    validate::Validator,
};

use super::{
    CliError,
    program::program,
    saved::{Place, RenewError, SavedLogin},
};

/// Beyond this a file holds something else than a password.
const PASSWORD_BYTES_MAX: u64 = 4 * 1024;

/// Where a server listens that was told nothing else.
const DEFAULT_SERVER: &str = "http://127.0.0.1:7878";

/// A command line for the server at this URL, to be pasted.
pub(super) fn command(server: &str, words: &str) -> String {
    let program = program();
    if server == DEFAULT_SERVER {
        format!("{program} {words}")
    } else {
        format!("{program} {words} --server {server}")
    }
}

/// Where the server is, and where the password comes from.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServerArgs {
    /// The server
    #[arg(long, value_name = "URL", default_value = DEFAULT_SERVER)]
    server: ServerUrl,
    #[command(flatten)]
    secrets: SecretArgs,
}

/// What is believed of a server, and shown to it.
#[derive(Clone, Debug, Args)]
pub(crate) struct SecretArgs {
    /// File with the certificates, as PEM, of which one must have signed the server's; only with
    /// https:// [default: the system's]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// File with the password; - is standard input [env: HUBBUB_PASSWORD_FILE, HUBBUB_PASSWORD]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// Who to act as.
#[derive(Clone, Debug, Args)]
pub(crate) struct LoginArgs {
    /// The user to act as
    #[arg(long = "as", value_name = "NAME")]
    pub(super) name: String,
    /// The auth service, where its tokens come from [default: the server]
    #[arg(long, value_name = "URL")]
    auth: Option<ServerUrl>,
    #[command(flatten)]
    pub(super) server: ServerArgs,
}

impl LoginArgs {
    /// Who acts as this user at this server.
    pub(super) const fn at(
        server: ServerUrl,
        name: String,
        auth: Option<ServerUrl>,
        secrets: SecretArgs,
    ) -> Self {
        Self { name, auth, server: ServerArgs { server, secrets } }
    }

    /// A command line for the same user, server and auth service, to be pasted.
    pub(super) fn command(&self, words: &str) -> String {
        let command = self.server.command(words);
        match &self.auth {
            None => command,
            Some(auth) => format!("{command} --auth {auth}"),
        }
    }

    /// Where the tokens come from.
    pub(super) fn auth_url(&self) -> Result<ServerUrl, CliError> {
        match &self.auth {
            None => self.server.url(),
            // Each that speaks TLS may be signed by whom the file names.
            Some(auth) => match &self.server.secrets.ca {
                Some(ca) if auth.is_secure() => {
                    Ok(auth.clone().signed_by(Authorities::in_file(ca)?))
                }
                _ => Ok(auth.clone()),
            },
        }
    }
}

impl ServerArgs {
    /// The server, and who must have signed its certificate.
    pub(super) fn url(&self) -> Result<ServerUrl, CliError> {
        let server = self.server.clone();
        match &self.secrets.ca {
            None => Ok(server),
            Some(_) if !server.is_secure() => Err(CliError::CaWithoutTls(server.to_string())),
            Some(ca) => Ok(server.signed_by(Authorities::in_file(ca)?)),
        }
    }

    /// A command line for the same server, to be pasted.
    pub(super) fn command(&self, words: &str) -> String {
        let command = command(&self.server.to_string(), words);
        match &self.secrets.ca {
            None => command,
            Some(ca) => format!("{command} --ca {}", ca.display()),
        }
    }

    /// Whether the password takes up standard input.
    pub(super) fn reads_stdin(&self) -> bool {
        self.secrets.password_file.as_deref() == Some(Path::new("-"))
    }

    /// The password that was named on the command line or in the environment.
    pub(super) fn password(&self) -> Result<Option<String>, CliError> {
        if let Some(path) = &self.secrets.password_file {
            return read_password(path).map(Some);
        }
        if let Some(password) = env::var_os("HUBBUB_PASSWORD") {
            return Ok(Some(password.to_string_lossy().into_owned()));
        }
        env::var_os("HUBBUB_PASSWORD_FILE").map(|path| read_password(Path::new(&path))).transpose()
    }
}

/// Logs in and connects. Fails if the server cannot be reached now: only a client that has been
/// connected is worth waiting for.
pub(super) async fn connect(args: &LoginArgs) -> Result<Client, CliError> {
    let server = args.server.url()?;
    let accounts = Accounts::new(args.auth_url()?, None);
    let named = args.server.password()?;
    let place = Place::of(accounts.server(), &args.name).filter(|_| named.is_none());
    if let Some(place) = &place
        && let Some(client) = connect_with_saved(args, &server, &accounts, place).await?
    {
        return Ok(client);
    }
    let password = match named {
        Some(password) => password,
        None => prompt(&format!("Password for {}: ", args.name))?,
    };
    let token = accounts.token(&args.name, &password).await;
    let token = token.map_err(|error| not_logged_in(error, args))?;
    let get_token = match place {
        Some(place) => {
            let login = SavedLogin::new(&token, SystemTime::now());
            place.save(&login)?;
            place.get_token(accounts, login)
        }
        None => accounts.get_token_after(token, &args.name, &password),
    };
    settled(Client::connect(Options::new(server, get_token)), args).await
}

/// Says how to make an account, since the server does not tell whether there is one.
fn not_logged_in(error: TokenError, args: &LoginArgs) -> CliError {
    match error {
        TokenError::Refused(refusal) if refusal.is(ErrorCode::InvalidCredentials) => {
            let words = format!("account add {}", args.name);
            let command = match &args.auth {
                None => args.server.command(&words),
                Some(auth) => command(&auth.to_string(), &words),
            };
            CliError::WrongPassword { command }
        }
        error => error.into(),
    }
}

/// Connects with the saved login. `None` if there is none that still works.
async fn connect_with_saved(
    args: &LoginArgs,
    server: &ServerUrl,
    accounts: &Accounts,
    place: &Place,
) -> Result<Option<Client>, CliError> {
    let login = match place.fresh(accounts, None).await {
        Ok(Some(login)) => login,
        Ok(None) => return Ok(None),
        Err(RenewError::Saved(error)) => return Err(error),
        Err(RenewError::Token(error)) if error.again() => return Err(error.into()),
        Err(RenewError::Token(_)) => {
            place.remove();
            return Ok(None);
        }
    };
    let get_token = place.clone().get_token(accounts.clone(), login);
    let client = Client::connect(Options::new(server.clone(), get_token));
    match settled(client, args).await {
        Ok(client) => Ok(Some(client)),
        // Such as after the server's data was made anew: then ask for the password.
        Err(CliError::Client(error)) if is_login_refused(&error) => {
            place.remove();
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn is_login_refused(error: &ClientError) -> bool {
    match error {
        ClientError::Closed(closed) => closed.is(CloseCode::InvalidToken),
        ClientError::Handshake { status, .. } => *status == 401,
        ClientError::Token(_) => true,
        _ => false,
    }
}

/// Logs in, and answers an access token.
pub(super) async fn access_token(args: &LoginArgs) -> Result<String, CliError> {
    let accounts = Accounts::new(args.auth_url()?, None);
    let named = args.server.password()?;
    let place = Place::of(accounts.server(), &args.name).filter(|_| named.is_none());
    if let Some(place) = &place {
        match place.fresh(&accounts, None).await {
            Ok(Some(login)) => return Ok(login.into_access_token()),
            Ok(None) => {}
            Err(RenewError::Saved(error)) => return Err(error),
            Err(RenewError::Token(error)) if error.again() => return Err(error.into()),
            Err(RenewError::Token(_)) => place.remove(),
        }
    }
    let password = match named {
        Some(password) => password,
        None => prompt(&format!("Password for {}: ", args.name))?,
    };
    let token = accounts.token(&args.name, &password).await;
    let token = token.map_err(|error| not_logged_in(error, args))?;
    if let Some(place) = place {
        place.save(&SavedLogin::new(&token, SystemTime::now()))?;
    }
    Ok(token.access_token)
}

/// Waits for the first connection, but not for a second attempt.
pub(super) async fn settled(client: Client, args: &LoginArgs) -> Result<Client, CliError> {
    let mut state = client.state();
    loop {
        match &*state.borrow_and_update() {
            State::Connected { .. } => break,
            State::Closed(error) => return Err(error.clone().into()),
            State::Reconnecting { because, .. } => {
                let server = args.server.server.to_string();
                return Err(CliError::CannotConnect { server, because: because.to_string() });
            }
            State::Connecting => {}
        }
        if state.changed().await.is_err() {
            break;
        }
    }
    Ok(client)
}

/// Reads a password from a file: its first line.
fn read_password(path: &Path) -> Result<String, CliError> {
    let read = || {
        let mut text = String::new();
        if path == Path::new("-") {
            io::stdin().take(PASSWORD_BYTES_MAX).read_to_string(&mut text)?;
        } else {
            File::open(path)?.take(PASSWORD_BYTES_MAX).read_to_string(&mut text)?;
        }
        Ok(text.lines().next().unwrap_or_default().to_owned())
    };
    read().map_err(|source| CliError::PasswordFile { path: path.to_owned(), source })
}

/// Asks for a password on the terminal, without showing it. The line editor does it, since it also
/// gives the terminal back after Ctrl-C.
pub(super) fn prompt(question: &str) -> Result<String, CliError> {
    if !io::stdin().is_terminal() {
        return Err(CliError::NoPassword);
    }
    let config = Config::builder()
        .behavior(Behavior::PreferTerm)
        .color_mode(ColorMode::Forced)
        .auto_add_history(false)
        .build();
    let mut editor: Editor<Hidden, MemHistory> =
        Editor::with_history(config, MemHistory::new()).map_err(CliError::Terminal)?;
    editor.set_helper(Some(Hidden));
    editor.readline(question).map_err(|error| match error {
        ReadlineError::Eof | ReadlineError::Interrupted => CliError::Interrupted,
        error => CliError::Terminal(error),
    })
}

/// Shows nothing of what is typed; the cursor alone moves.
struct Hidden;

impl Completer for Hidden {
    type Candidate = String;
}
impl Hinter for Hidden {
    type Hint = String;
}
impl Validator for Hidden {}
impl Helper for Hidden {}

impl Highlighter for Hidden {
    fn highlight<'l>(&self, _line: &'l str, _pos: usize) -> Cow<'l, str> {
        Cow::Borrowed("")
    }

    fn highlight_char(&self, _line: &str, _pos: usize, _kind: CmdKind) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::read_password;

    #[test]
    fn the_password_of_a_file_is_its_first_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        fs::write(&path, "correct horse\r\nnot this\n").unwrap();
        assert_eq!(read_password(&path).unwrap(), "correct horse");
        fs::write(&path, "no newline ").unwrap();
        assert_eq!(read_password(&path).unwrap(), "no newline ");
        assert!(read_password(&folder.path().join("absent")).is_err());
    }
}
