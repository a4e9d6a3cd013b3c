//! Tokens that an attacker may send, each refused in the same words, and nobody else troubled.

use ed25519_dalek::{SigningKey, pkcs8::DecodePrivateKey as _};
use hubbub::{
    auth::{keys, store::keys::KeyStore},
    engine::Engine,
    limits::{Limits, TOKEN_BYTES_MAX},
    wire::{
        Encoding,
        code::{CloseCode, ErrorCode},
    },
};

use self::bad::Forge;
use crate::{
    auth::refused_handshake,
    harness::{Bystander, Heard, Peer, TestServer, authenticate, code_of},
};

#[path = "../tokens/bad.rs"]
mod bad;

/// Makes tokens with the very key of this server.
fn forge<E: Engine>(server: &TestServer<E>) -> Forge {
    let now_s = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let keys = KeyStore::open(server.data_dir(), now_s).unwrap();
    let key_id = keys.signing_key(now_s).unwrap().key_id().to_owned();
    let file = server.data_dir().join("keys").join(keys::file_name(&key_id));
    let key = SigningKey::from_pkcs8_pem(&std::fs::read_to_string(file).unwrap()).unwrap();
    Forge { key, key_id, realm: "hubbub".to_owned(), now_s }
}

#[tokio::test]
async fn every_bad_token_in_the_header_is_401() {
    let server = TestServer::start().await;
    let mut bystander = Bystander::join(&server).await;
    let forge = forge(&server);
    let mut refused = 0;
    for (name, token) in forge.bad() {
        // What HTTP itself does not carry as a header's value comes in a frame, below.
        if token.trim() != token || token.contains(char::is_control) || token.is_empty() {
            continue;
        }
        let (status, body) = refused_handshake(&server, &token).await;
        if token.len() > 2 * TOKEN_BYTES_MAX {
            assert!([401, 431].contains(&status), "{name}: {status}");
            continue;
        }
        assert_eq!(status, 401, "{name}");
        assert!(body.contains(ErrorCode::InvalidToken.name()), "{name}: {body}");
        refused += 1;
    }
    assert!(refused > 180, "{refused}");
    let peer = Peer::with_token(&server, &forge.good()).await.welcome().await;
    assert_eq!(peer.name, "ada");
    let accepted = server.metric_of("hubbub_tokens_accepted_total{by=\"signature\"}").await;
    assert!(accepted >= 1.0, "{accepted}");
    for class in ["claims", "key", "signature"] {
        let name = format!("hubbub_tokens_refused_total{{for=\"{class}\"}}");
        assert!(server.metric_of(&name).await >= 5.0, "{class}");
    }
    bystander.is_untroubled().await;
}

#[tokio::test]
async fn every_bad_token_in_a_frame_is_refused_and_ends_the_connection() {
    let server = TestServer::start().await;
    let mut bystander = Bystander::join(&server).await;
    let forge = forge(&server);
    // The command and its token share the message.
    let bytes_max = Limits::default().login_message_bytes_max.as_u64() as usize - 64;
    for (name, token) in forge.bad().into_iter().filter(|(_, token)| token.len() <= bytes_max) {
        let mut peer = Peer::anonymous(&server, Encoding::Proto).await;
        let refused = peer.ask(authenticate(&token)).await;
        assert_eq!(code_of(refused), ErrorCode::InvalidToken, "{name}");
        let closed = [Heard::Close(CloseCode::InvalidToken.number())];
        assert_eq!(peer.rest().await, closed, "{name}");
    }
    let mut peer = Peer::anonymous(&server, Encoding::Proto).await;
    peer.ask(authenticate(&forge.good())).await.unwrap();
    bystander.is_untroubled().await;
}
