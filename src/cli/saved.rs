//! Logins that are kept between commands, so that `chat --as ada` works after `account add ada`.
//!
//! What is kept is the token, never the password: a token runs out by itself, is good for one
//! server only, and is worth nothing to somebody who tries it elsewhere. When it has run out, its
//! refresh token gets the next one, or the password is asked for again. A refresh token is good once,
//! and who brings it twice is taken for a thief: so commands that run at the same time take turns.

use std::{
    env,
    fs::{self, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use hubbub::client::{Accounts, GetToken, ServerUrl, Token, TokenError};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::Mutex;

use super::CliError;

/// A token that runs out sooner than this is not used any more.
const LEFT_MIN: Duration = Duration::from_secs(30);

/// How long a command waits for another one that renews the same login, and how often it looks.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);
const TURN_INTERVAL: Duration = Duration::from_millis(50);

/// A login on disk.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct SavedLogin {
    access_token: String,
    /// In seconds since 1970.
    expires_at: Option<u64>,
    refresh_token: Option<String>,
}

/// Why a login could not be got anew.
#[derive(Debug, Error)]
pub(super) enum RenewError {
    /// What is kept.
    #[error(transparent)]
    Saved(#[from] CliError),
    /// The server gave none.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// Where the login of one user at one server is kept.
#[derive(Clone, Debug)]
pub(super) struct Place {
    folder: PathBuf,
    file: PathBuf,
}

impl SavedLogin {
    pub(super) fn new(token: &Token, now: SystemTime) -> Self {
        let until = |left: Duration| (now + left).duration_since(UNIX_EPOCH).ok();
        Self {
            access_token: token.access_token.clone(),
            expires_at: token.expires_in.and_then(until).map(|at| at.as_secs()),
            refresh_token: token.refresh_token.clone(),
        }
    }

    /// What is shown to the server.
    pub(super) fn into_access_token(self) -> String {
        self.access_token
    }

    /// Whether the token holds long enough to be used.
    fn holds(&self, now: SystemTime) -> bool {
        self.expires_at.is_none_or(|at| {
            let at = UNIX_EPOCH.checked_add(Duration::from_secs(at));
            at.is_some_and(|at| at.duration_since(now).is_ok_and(|left| left > LEFT_MIN))
        })
    }
}

impl Place {
    /// In `$XDG_CONFIG_HOME/hubbub/logins`, or `~/.config/hubbub/logins`. `None` without a home.
    pub(super) fn of(server: &ServerUrl, name: &str) -> Option<Self> {
        let absolute =
            |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let config =
            absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
        Some(Self::in_folder(config.join("hubbub/logins"), server, name))
    }

    fn in_folder(folder: PathBuf, server: &ServerUrl, name: &str) -> Self {
        // A token that was got by TLS is not sent without it.
        let secure = if server.is_secure() { "https-" } else { "" };
        let (name, authority) = (file_name(name), file_name(server.authority()));
        let file = folder.join(format!("{name}@{secure}{authority}.json"));
        Self { folder, file }
    }

    /// A callback that begins with this login, and goes on with what is kept here.
    pub(super) fn get_token(self, accounts: Accounts, login: SavedLogin) -> GetToken {
        // The client never asks twice at a time.
        let state = Arc::new(Mutex::new((Some(login.access_token), None::<String>)));
        GetToken::new(move || {
            let (place, accounts, state) = (self.clone(), accounts.clone(), Arc::clone(&state));
            async move {
                let (first, last) = &mut *state.lock().await;
                let token = match first.take() {
                    Some(token) => token,
                    None => match place.fresh(&accounts, last.as_deref()).await {
                        Ok(Some(login)) => login.access_token,
                        Err(RenewError::Token(error)) => return Err(error),
                        // Somebody logged out, or the file is not what it was.
                        Ok(None) | Err(RenewError::Saved(_)) => return Err(TokenError::Expired),
                    },
                };
                *last = Some(token.clone());
                Ok(token)
            }
        })
    }

    /// The login, got anew if it has run out or if it is the one that holds this access token, which
    /// the server did not take. `None` if there is none that could be got anew.
    pub(super) async fn fresh(
        &self,
        accounts: &Accounts,
        refused: Option<&str>,
    ) -> Result<Option<SavedLogin>, RenewError> {
        let is_good = |login: &SavedLogin| {
            login.holds(SystemTime::now()) && refused != Some(login.access_token.as_str())
        };
        // Whoever saves a login replaces the file whole, so reading it needs no turn.
        if let Some(login) = self.load()?.filter(is_good) {
            return Ok(Some(login));
        }
        let _turn = self.turn().await?;
        let Some(login) = self.load()? else { return Ok(None) };
        if is_good(&login) {
            return Ok(Some(login));
        }
        let Some(refresh_token) = &login.refresh_token else { return Ok(None) };
        let token = accounts.refresh(refresh_token).await?;
        let login = SavedLogin::new(&token, SystemTime::now());
        self.save(&login)?;
        Ok(Some(login))
    }

    /// Waits for the turn to change the login. It ends when the file is dropped, or its process ends.
    async fn turn(&self) -> Result<fs::File, CliError> {
        let failed = |source| CliError::SavedLogin { path: self.file.clone(), source };
        let path = self.file.with_extension("turn");
        let file = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path);
        let file = file.map_err(failed)?;
        let until = Instant::now() + TURN_TIMEOUT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
                Err(TryLockError::WouldBlock) if Instant::now() > until => {
                    return Err(failed(io::ErrorKind::TimedOut.into()));
                }
                Err(TryLockError::WouldBlock) => tokio::time::sleep(TURN_INTERVAL).await,
            }
        }
    }

    /// The saved login, if there is one.
    pub(super) fn load(&self) -> Result<Option<SavedLogin>, CliError> {
        let failed = |source| CliError::SavedLogin { path: self.file.clone(), source };
        let mut file = match fs::File::open(&self.file) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        if file.metadata().map_err(failed)?.permissions().mode() & 0o077 != 0 {
            return Err(CliError::SavedLoginOpen { path: self.file.clone() });
        }
        // A file that is not ours to understand is as good as none: logging in writes it anew.
        let text = io::read_to_string(&mut file).map_err(failed)?;
        Ok(serde_json::from_str(&text).ok())
    }

    /// Keeps a login, readable by its owner only. The file is whole at any moment.
    pub(super) fn save(&self, login: &SavedLogin) -> Result<(), CliError> {
        let write = || {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
            let text = serde_json::to_vec(login)?;
            let draft = self.file.with_extension(format!("{}.draft", std::process::id()));
            let mut file =
                fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
            file.write_all(&text)?;
            drop(file);
            fs::rename(&draft, &self.file)
        };
        write().map_err(|source| CliError::SavedLogin { path: self.file.clone(), source })
    }

    /// Forgets a login that the server does not take.
    pub(super) fn remove(&self) {
        // If it stays, the next command finds out again that it is of no use.
        let _ = fs::remove_file(&self.file);
    }
}

/// A name as a part of a file name: what is not plain is written as its bytes.
fn file_name(name: &str) -> String {
    name.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(byte).to_string(),
            byte => format!("%{byte:02x}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::PermissionsExt as _,
        time::{Duration, UNIX_EPOCH},
    };

    use hubbub::client::{Accounts, ServerUrl, Token};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::{Place, SavedLogin, file_name};
    use crate::cli::CliError;

    fn login(expires_in: u64) -> SavedLogin {
        let token = Token {
            access_token: "t".to_owned(),
            expires_in: Some(Duration::from_secs(expires_in)),
            refresh_token: None,
        };
        SavedLogin::new(&token, UNIX_EPOCH)
    }

    #[test]
    fn a_saved_login_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let server = "http://127.0.0.1:1".parse().unwrap();
        let place = Place::in_folder(folder.path().join("a/b"), &server, "ada");
        assert!(place.load().unwrap().is_none());
        place.save(&login(100)).unwrap();
        place.save(&login(100)).unwrap();
        assert_eq!(place.load().unwrap().unwrap().access_token, "t");
        let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&place.file), 0o600);
        assert_eq!(mode(&place.folder), 0o700);
        assert_eq!(fs::read_dir(&place.folder).unwrap().count(), 1, "no draft stays");

        fs::set_permissions(&place.file, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(place.load(), Err(CliError::SavedLoginOpen { .. })));
        place.remove();
        assert!(place.load().unwrap().is_none());
    }

    /// Answers so many requests for tokens, and tells the refresh tokens that it was brought.
    async fn token_endpoint(requests: usize) -> (ServerUrl, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let serving = tokio::spawn(async move {
            let mut brought = Vec::new();
            while brought.len() < requests {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = String::new();
                while !request.ends_with('}') {
                    let mut part = [0; 4096];
                    let read = stream.read(&mut part).await.unwrap();
                    request.push_str(std::str::from_utf8(&part[..read]).unwrap());
                }
                let (_, body) = request.split_once("\r\n\r\n").unwrap();
                let body: serde_json::Value = serde_json::from_str(body).unwrap();
                brought.push(body["refresh_token"].as_str().unwrap().to_owned());
                let number = brought.len();
                let body = format!(
                    r#"{{"access_token":"a{number}","expires_in":900,"refresh_token":"r{number}"}}"#
                );
                let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length:";
                let answer = format!("{head} {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            brought
        });
        (server, serving)
    }

    #[tokio::test]
    async fn commands_that_run_at_the_same_time_use_a_refresh_token_once() {
        let folder = tempfile::tempdir().unwrap();
        let (server, serving) = token_endpoint(2).await;
        let place = Place::in_folder(folder.path().to_owned(), &server, "ada");
        let old = SavedLogin { refresh_token: Some("r0".to_owned()), ..login(0) };
        place.save(&old).unwrap();
        let accounts = Accounts::new(server, None);
        let (one, other) = tokio::join!(place.fresh(&accounts, None), place.fresh(&accounts, None));
        assert_eq!(one.unwrap().unwrap().access_token, "a1");
        assert_eq!(other.unwrap().unwrap().access_token, "a1");

        // A token that the server does not take is got anew, and the next of the same chain.
        let kept = place.fresh(&accounts, Some("another")).await.unwrap().unwrap();
        assert_eq!(kept.access_token, "a1");
        let renewed = place.fresh(&accounts, Some("a1")).await.unwrap().unwrap();
        assert_eq!(renewed.access_token, "a2");
        assert_eq!(serving.await.unwrap(), ["r0", "r1"]);
    }

    #[test]
    fn a_token_that_is_about_to_run_out_is_not_used() {
        assert!(login(100).holds(UNIX_EPOCH));
        assert!(!login(100).holds(UNIX_EPOCH + Duration::from_secs(80)));
        assert!(!login(100).holds(UNIX_EPOCH + Duration::from_secs(200)));
    }

    #[test]
    fn no_name_leaves_its_folder() {
        assert_eq!(file_name("../ada"), "%2e%2e%2fada");
        assert_eq!(file_name("ada-2_x"), "ada-2_x");
    }
}
