//! Logins that are kept between commands, so that `chat --as ada` works after `account add ada`.
//!
//! What is kept is the token, never the password: a token runs out by itself, is good for one
//! server only, and is worth nothing to somebody who tries it elsewhere. When it has run out, its
//! refresh token (if the server gives such) gets the next one, or the password is asked for again.

use std::{
    env, fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hubbub::client::{ServerUrl, Token};
use serde::{Deserialize, Serialize};

use super::CliError;

/// A token that runs out sooner than this is not used any more.
const LEFT_MIN: Duration = Duration::from_secs(30);

/// A login on disk.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct SavedLogin {
    pub(super) access_token: String,
    /// In seconds since 1970.
    expires_at: Option<u64>,
    pub(super) refresh_token: Option<String>,
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

    /// Whether the token holds long enough to be used.
    pub(super) fn holds(&self, now: SystemTime) -> bool {
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

    use hubbub::client::Token;

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
