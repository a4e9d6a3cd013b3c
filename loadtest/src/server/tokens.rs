//! Access tokens for a server that we have started: users who are to chat need not log in first.
//!
//! They are signed with the server's own key, which lies in its data directory, and so are what its
//! own logins would have given out; only the passwords are left out.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use jsonwebtoken::{
    Algorithm, EncodingKey, Header,
    jwk::{Jwk, JwkSet},
};
use serde::Serialize;

use super::ask;

/// The file of the key in the data directory, if it has none in the folder of keys: PKCS#8 in PEM.
const KEY_FILE: &str = "token-key.pem";
/// The folder of keys in the data directory. The newest signs.
const KEYS_FOLDER: &str = "keys";
/// Who issues tokens, and for whom, unless the server is configured otherwise.
const REALM: &str = "hubbub";
/// No run is longer.
const LIFETIME: Duration = Duration::from_secs(24 * 3_600);
/// For the public keys.
const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    name: &'a str,
    iss: &'a str,
    aud: &'a str,
    iat: u64,
    exp: u64,
    jti: String,
    scope: &'a str,
}

/// Tokens of the users `virtual-0`, `virtual-1`, …, as many as this, for the server at this public
/// address. They are good for a day.
pub(crate) async fn sign(server: SocketAddr, data_dir: &Path, count: usize) -> Result<Vec<String>> {
    // The server says which key it verifies with; that it is the key of the file shows at the first
    // login.
    let keys = ask::get(server, "/.well-known/jwks.json", DEADLINE).await?;
    let keys: JwkSet = serde_json::from_str(&keys).context("the server's public keys")?;
    let path = key_file(data_dir);
    // Of several it is the one that its file is named after, if any is.
    let stem = path.file_stem().and_then(|it| it.to_str());
    let is_named = |key: &&Jwk| key.common.key_id.as_deref() == stem;
    let named = keys.keys.iter().find(is_named).or(keys.keys.first()).cloned();
    let key = named.context("the server has no public key")?;
    let pem = std::fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    let signing = EncodingKey::from_ed_pem(&pem)
        .with_context(|| format!("{} holds no Ed25519 key", path.display()))?;
    let mut header = Header::new(Algorithm::EdDSA);
    header.typ = Some("at+jwt".to_owned());
    header.kid = Some(key.common.key_id.context("the server's public key has no name")?);
    let now_s = std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_secs();
    let issue = |number| {
        let name = format!("virtual-{number}");
        let claims = Claims {
            sub: &name,
            name: &name,
            iss: REALM,
            aud: REALM,
            iat: now_s,
            exp: now_s + LIFETIME.as_secs(),
            jti: format!("{:032x}", rand::random::<u128>()),
            scope: "chat",
        };
        jsonwebtoken::encode(&header, &claims, &signing)
            .map_err(|error| anyhow!(error).context("the server's key does not sign"))
    };
    (0..count).map(issue).collect()
}

/// The newest of the folder of keys, or the one key beside it.
fn key_file(data_dir: &Path) -> PathBuf {
    let keys = std::fs::read_dir(data_dir.join(KEYS_FOLDER)).into_iter().flatten().flatten();
    let keys = keys.map(|entry| entry.path());
    let keys = keys.filter(|path| path.extension().is_some_and(|it| it == "pem"));
    let written = |path: &PathBuf| path.metadata().and_then(|it| it.modified()).ok();
    let newest = keys.max_by_key(|path| (written(path), path.clone()));
    newest.unwrap_or_else(|| data_dir.join(KEY_FILE))
}

#[cfg(test)]
mod tests {
    use hubbub::{
        client::{Client, GetToken, Options},
        config::Config,
        server::{self, cores::PinCores},
    };

    use super::*;

    #[test]
    fn the_newest_of_the_keys_signs_and_without_a_folder_the_only_one() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(key_file(data.path()), data.path().join("token-key.pem"));
        let keys = data.path().join("keys");
        std::fs::create_dir(&keys).unwrap();
        for (name, written_s) in [("a.pem", 10), ("b.pem", 30), ("c.pem", 20), ("d.json", 40)] {
            let file = std::fs::File::create(keys.join(name)).unwrap();
            let written = std::time::UNIX_EPOCH + Duration::from_secs(written_s);
            file.set_modified(written).unwrap();
        }
        assert_eq!(key_file(data.path()), keys.join("b.pem"));
    }

    #[tokio::test]
    async fn a_real_server_takes_the_tokens_and_knows_the_users_by_their_names() {
        let data = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.server.data_dir = data.path().to_owned();
        config.server.listen = "127.0.0.1:0".parse().unwrap();
        config.server.internal_listen = config.server.listen;
        config.hub.pin_cores = PinCores::Off;
        // A server blocks while it starts and stops, and has runtimes of its own.
        let server = std::thread::spawn(move || server::start(&config).unwrap()).join().unwrap();
        let address = server.public_address();

        let tokens = sign(address, data.path(), 2).await.unwrap();
        assert_eq!(tokens.len(), 2);
        let url: hubbub::client::ServerUrl = format!("http://{address}").parse().unwrap();
        let mut ids = Vec::new();
        for token in &tokens {
            let client = Client::connect(Options::new(url.clone(), GetToken::fixed(token)));
            let (id, _) = client.connected().await.unwrap();
            ids.push(id);
        }
        assert_ne!(ids[0], ids[1], "two users are one");

        // A key that is not the server's.
        let other = tempfile::tempdir().unwrap();
        let missing = sign(address, other.path(), 1).await.unwrap_err();
        assert!(missing.to_string().contains("token-key.pem"), "{missing}");
        hubbub::auth::keys::TokenKey::load_or_create(other.path()).unwrap();
        let forged = sign(address, other.path(), 1).await.unwrap();
        let forged = Client::connect(Options::new(url, GetToken::fixed(&forged[0])));
        assert!(forged.connected().await.is_err(), "a forged token was taken");
        assert!(std::thread::spawn(move || server.drain()).join().unwrap());
    }
}
