//! Access tokens for a server that we have started: users who are to chat need not log in first.
//!
//! They are signed with the server's own key, which lies in its data directory, and so are what its
//! own logins would have given out; only the passwords are left out.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::JwkSet};
use serde::Serialize;

use super::ask;

/// The folder of the keys in the data directory: a file `KID.pem` each, PKCS#8 in PEM.
const KEY_FOLDER: &str = "keys";
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
    // The first of the server's keys is the one that signs; that it is the one in the file shows at
    // the first login.
    let keys = ask::get(server, "/.well-known/jwks.json", DEADLINE).await?;
    let keys: JwkSet = serde_json::from_str(&keys).context("the server's public keys")?;
    let key = keys.keys.into_iter().next().context("the server has no public key")?;
    let key_id = key.common.key_id.context("the server's public key has no name")?;
    let path = data_dir.join(KEY_FOLDER).join(format!("{key_id}.pem"));
    let pem = std::fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    let signing = EncodingKey::from_ed_pem(&pem)
        .with_context(|| format!("{} holds no Ed25519 key", path.display()))?;
    let mut header = Header::new(Algorithm::EdDSA);
    header.typ = Some("at+jwt".to_owned());
    header.kid = Some(key_id);
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

#[cfg(test)]
mod tests {
    use hubbub::{
        client::{Client, GetToken, Options},
        config::Config,
        server::{self, cores::PinCores},
    };

    use super::*;

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
        assert!(missing.to_string().contains(".pem cannot be read"), "{missing}");
        let folder = other.path().join(KEY_FOLDER);
        std::fs::create_dir(&folder).unwrap();
        let forger = hubbub::auth::keys::TokenKey::create(&folder).unwrap();
        let servers = std::fs::read_dir(data.path().join(KEY_FOLDER)).unwrap().next().unwrap();
        let forgers = folder.join(format!("{}.pem", forger.key_id()));
        std::fs::rename(forgers, folder.join(servers.unwrap().file_name())).unwrap();
        let forged = sign(address, other.path(), 1).await.unwrap();
        let forged = Client::connect(Options::new(url, GetToken::fixed(&forged[0])));
        assert!(forged.connected().await.is_err(), "a forged token was taken");
        assert!(std::thread::spawn(move || server.drain()).join().unwrap());
    }
}
