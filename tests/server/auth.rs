//! Who gets in, by which of the three ways, and how long.

use std::time::Duration;

use hubbub::{
    client::{Client, ClientError, GetToken, Options, TokenError},
    engine::Engine,
    wire::{
        Encoding,
        code::{CloseCode, ErrorCode},
        proto::{self, client_envelope::Command, reply, server_envelope::Envelope},
    },
};

use crate::harness::{
    Bystander, Heard, LOBBY, Peer, Socket, TestServer, authenticate, bearer, code_of, handshake,
    history, publish, subscribe, within,
};

const PROTO: &str = "hubbub.v1.proto";

/// A connection that brings its token as a browser's page does.
async fn as_subprotocol<E: Engine>(server: &TestServer<E>, token: &str) -> Peer {
    let mut socket = Socket::connect(server.address()).await;
    let request = handshake(server.address(), &[PROTO, &bearer(token)], None);
    socket.write(request.as_bytes()).await;
    let (status, head) = socket.head().await;
    assert_eq!(status, 101, "a page learns nothing of a refused handshake: {head}");
    assert!(head.to_ascii_lowercase().contains("sec-websocket-protocol: hubbub.v1.proto\r\n"));
    assert!(!head.contains("bearer"), "the token is not echoed: {head}");
    Peer::over(socket, Encoding::Proto)
}

/// Status and body of a handshake with a token in the header.
pub(crate) async fn refused_handshake<E: Engine>(
    server: &TestServer<E>,
    token: &str,
) -> (u16, String) {
    let mut socket = Socket::connect(server.address()).await;
    let request = handshake(server.address(), &[PROTO], Some(token));
    socket.write(request.replace("Upgrade\r\n", "Upgrade, close\r\n").as_bytes()).await;
    let (status, _) = socket.head().await;
    (status, socket.rest().await)
}

#[tokio::test]
async fn a_good_token_is_the_same_user_whichever_way_it_comes() {
    let server = TestServer::start().await;
    let token = server.token("ada");
    let mut by_header = Peer::with_token(&server, &token).await;
    let mut by_subprotocol = as_subprotocol(&server, &token).await;
    let mut by_frame = Peer::anonymous(&server, Encoding::Proto).await;
    let id = by_frame.send(authenticate(&token)).await;
    let mut welcomes = Vec::new();
    for peer in [&mut by_header, &mut by_subprotocol, &mut by_frame] {
        welcomes.push(peer.welcome().await);
    }
    assert_eq!(welcomes[0].name, "ada");
    assert_ne!(welcomes[0].user_id, 0);
    assert!(welcomes.iter().all(|welcome| *welcome == welcomes[0]), "{welcomes:?}");
    match by_frame.reply(id).await.unwrap() {
        reply::Result::Authenticated(login) => assert_eq!(login.user_id, welcomes[0].user_id),
        other => panic!("{other:?}"),
    }
    assert_ne!(
        Peer::with_token(&server, &server.token("bob")).await.welcome().await.user_id,
        welcomes[0].user_id
    );
}

#[tokio::test]
async fn a_bad_token_is_refused_in_the_words_of_the_way_it_came() {
    let server = TestServer::start().await;
    let mut bystander = Bystander::join(&server).await;
    let elsewhere = TestServer::start().await;
    let good = server.token("ada");
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let bad = [
        ("garbage".to_owned(), CloseCode::InvalidToken),
        (format!("{signed}."), CloseCode::InvalidToken),
        (
            format!("{signed}.{}", signature.chars().rev().collect::<String>()),
            CloseCode::InvalidToken,
        ),
        (elsewhere.token("ada"), CloseCode::InvalidToken),
        (server.expired_token("ada"), CloseCode::TokenExpired),
    ];
    for (token, close) in bad {
        let code = match close {
            CloseCode::TokenExpired => ErrorCode::TokenExpired,
            _ => ErrorCode::InvalidToken,
        };
        let (status, body) = refused_handshake(&server, &token).await;
        assert_eq!(status, 401);
        assert!(body.contains(code.name()), "{body}");

        let mut peer = as_subprotocol(&server, &token).await;
        assert_eq!(peer.rest().await, [Heard::Close(close.number())]);

        for encoding in Encoding::ALL {
            let mut peer = Peer::anonymous(&server, encoding).await;
            let refused = peer.ask(authenticate(&token)).await;
            assert_eq!(code_of(refused), code);
            assert_eq!(peer.rest().await, [Heard::Close(close.number())]);
        }
        bystander.is_untroubled().await;
    }
}

#[tokio::test]
async fn a_token_in_the_address_is_refused() {
    let server = TestServer::start().await;
    let mut socket = Socket::connect(server.address()).await;
    let request = handshake(server.address(), &[PROTO], None);
    let query = format!("/v1/ws?access_token={} ", server.token("ada"));
    socket.write(request.replace("/v1/ws ", &query).as_bytes()).await;
    assert_eq!(socket.head().await.0, 400);
}

#[tokio::test]
async fn a_login_that_is_renewed_outlives_one_that_is_not() {
    // Tokens count in seconds, and a slow machine may need more than one to log in twice. A server each
    // time: one counts its connections.
    let mut seconds = 1;
    let (server, mut bystander, mut renewed, mut forgotten) = loop {
        let server = TestServer::start().await;
        let bystander = Bystander::join(&server).await;
        let token = server.token_for("ada", Duration::from_secs(seconds));
        let mut peers = Vec::new();
        for _ in 0..2 {
            let mut peer = Peer::anonymous(&server, Encoding::Proto).await;
            if peer.ask(authenticate(&token)).await.is_ok() {
                peer.welcome().await;
                peers.push(peer);
            }
        }
        if let Ok([renewed, forgotten]) = <[Peer; 2]>::try_from(peers) {
            break (server, bystander, renewed, forgotten);
        }
        seconds *= 2;
    };
    let fresh = server.token("ada");
    match renewed.ask(authenticate(&fresh)).await {
        Ok(reply::Result::Authenticated(_)) => {}
        other => panic!("{other:?}"),
    }
    renewed.subscribe(LOBBY, None).await.unwrap();

    let closed = [Heard::Close(CloseCode::TokenExpired.number())];
    assert_eq!(forgotten.rest().await, closed);
    renewed.publish(LOBBY, "still here").await.unwrap();
    assert_eq!(renewed.messages(1).await[0].body, "still here");
    assert_eq!(server.closed("token_expired").await, 1);
    drop(renewed);
    bystander.resync().await;
    bystander.is_untroubled().await;
}

#[tokio::test]
async fn a_renewal_is_by_the_same_user_and_a_bad_one_ends_nothing() {
    let server = TestServer::start().await;
    let mut peer = Peer::login(&server, "ada").await;
    for (token, code) in [
        (server.token("bob"), ErrorCode::WrongUser),
        ("garbage".to_owned(), ErrorCode::InvalidToken),
        (server.expired_token("ada"), ErrorCode::TokenExpired),
    ] {
        let refused = peer.ask(authenticate(&token)).await;
        assert_eq!(code_of(refused), code);
    }
    peer.ask(authenticate(&server.token("ada"))).await.unwrap();
    let user = peer.publish(LOBBY, "still me").await.map(|_| ()).is_ok();
    assert!(user);
    let (messages, _) = peer.history(LOBBY, None, 0).await.unwrap();
    let ada = Peer::with_token(&server, &server.token("ada")).await.welcome().await.user_id;
    assert_eq!(messages[0].user, ada);
}

#[tokio::test]
async fn who_does_not_log_in_is_sent_away_in_time() {
    let server = TestServer::start_with(|config| {
        config.limits.authenticate_timeout = Duration::from_millis(200);
    })
    .await;
    let mut bystander = Bystander::join(&server).await;
    let mut silent = Peer::anonymous(&server, Encoding::Proto).await;
    let mut busy = Peer::anonymous(&server, Encoding::Json).await;
    busy.catch_up().await;
    let closed = [Heard::Close(CloseCode::NotAuthenticated.number())];
    assert_eq!(silent.rest().await, closed);
    assert_eq!(busy.rest().await, closed);
    bystander.is_untroubled().await;
}

#[tokio::test]
async fn before_the_login_no_command_is_obeyed() {
    let server = TestServer::start().await;
    let mut bystander = Bystander::join(&server).await;
    let mut peer = Peer::anonymous(&server, Encoding::Proto).await;
    for command in [
        publish(LOBBY, "hello", 0),
        subscribe(LOBBY, None),
        history(LOBBY, None, 0),
        history("nowhere", None, 0),
        Command::Users(proto::Users { user_ids: vec![1] }),
        Command::CreateChannel(proto::CreateChannel {
            channel_name: "mine".to_owned(),
            ..Default::default()
        }),
        Command::Unsubscribe(proto::Unsubscribe { channel_id: 1 }),
    ] {
        let refused = peer.ask(command).await;
        assert_eq!(code_of(refused), ErrorCode::NotAuthenticated);
    }
    bystander.is_untroubled().await;
    let token = server.token("ada");
    peer.ask(authenticate(&token)).await.unwrap();
    peer.welcome().await;
    peer.subscribe(LOBBY, None).await.unwrap();
}

#[tokio::test]
async fn commands_behind_the_login_in_one_write_are_obeyed_after_it() {
    let server = TestServer::start().await;
    let mut peer = Peer::anonymous(&server, Encoding::Proto).await;
    let token = server.token("ada");
    let mut frames = Vec::new();
    for (id, command) in
        (1..).zip([authenticate(&token), subscribe(LOBBY, None), publish(LOBBY, "hello", 0)])
    {
        frames.extend(peer.encode(id, command));
    }
    peer.socket.write(&frames).await;
    peer.welcome().await;
    for id in 1..=3 {
        peer.reply(id).await.unwrap();
    }
    assert_eq!(peer.messages(1).await[0].body, "hello");
}

#[tokio::test]
async fn an_account_is_made_and_logs_in_by_its_password() {
    let mut server = TestServer::start().await;
    let accounts = server.accounts();
    accounts.create("Ada", "correct horse battery").await.unwrap();
    let refused = |outcome: Result<_, TokenError>, code: ErrorCode| match outcome {
        Err(TokenError::Refused(refusal)) => assert!(refusal.is(code), "{refusal}"),
        Err(other) => panic!("{other}"),
        Ok(()) => panic!("{code} was to be refused"),
    };
    refused(accounts.create("ada", "another password").await, ErrorCode::UsernameTaken);
    refused(accounts.create("a b", "another password").await, ErrorCode::InvalidUsername);
    refused(accounts.create("bob", "short").await, ErrorCode::InvalidPassword);
    let wrong = accounts.token("ada", "wrong horse battery").await.map(drop);
    refused(wrong, ErrorCode::InvalidCredentials);
    let nobody = accounts.token("nobody", "correct horse battery").await.map(drop);
    refused(nobody, ErrorCode::InvalidCredentials);

    let get_token = accounts.get_token("ada", "correct horse battery");
    let client = Client::connect(Options::new(server.url(), get_token));
    let (user, name) = within("a login", client.connected()).await.unwrap();
    assert_eq!(&*name, "ada");
    let names = client.users([user]).await.unwrap();
    assert_eq!(names[&user], name);
    let token = accounts.token("ada", "correct horse battery").await.unwrap();
    assert!(token.expires_in.is_some());

    // Accounts, keys and numbers of users outlive the process.
    server.restart().await;
    let welcome = Peer::with_token(&server, &token.access_token).await.welcome().await;
    assert_eq!(welcome.user_id, user.0);
    let accounts = server.accounts();
    accounts.token("ada", "correct horse battery").await.unwrap();
}

#[tokio::test]
async fn a_client_whose_token_is_refused_gives_up_with_the_reason() {
    let server = TestServer::start().await;
    let client = Client::connect(Options::new(server.url(), GetToken::fixed("garbage")));
    match within("the client's end", client.connected()).await.unwrap_err() {
        ClientError::Handshake { status: 401, refusal: Some(refusal) } => {
            assert!(refusal.is(ErrorCode::InvalidToken));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_unknown_user_has_no_name() {
    let server = TestServer::start().await;
    let mut peer = Peer::login(&server, "ada").await;
    let user_ids = vec![u32::MAX, 0];
    match peer.ask(Command::Users(proto::Users { user_ids })).await.unwrap() {
        reply::Result::Users(list) => assert_eq!(list.users, []),
        other => panic!("{other:?}"),
    }
    let user_ids = vec![1; hubbub::limits::USERS_PER_LOOKUP_MAX + 1];
    let refused = peer.ask(Command::Users(proto::Users { user_ids })).await;
    assert_eq!(code_of(refused), ErrorCode::BadRequest);
    assert!(!matches!(peer.catch_up().await[..], [Heard::Envelope(Envelope::Reply(_)), ..]));
}
