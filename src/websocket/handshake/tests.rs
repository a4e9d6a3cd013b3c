//! Handshakes that are completed, and each way to be refused.

use tokio_tungstenite::tungstenite::http::{Request, Response, StatusCode, Version};

use super::{Answer, Refusal, answer, offered, offered_bearer};
use crate::{websocket::deflate::Agreed, wire::Encoding};

const GOOD: [(&str, &str); 5] = [
    ("Host", "localhost"),
    ("Connection", "keep-alive, Upgrade"),
    ("Upgrade", "WebSocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

fn request(headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::get("/v1/ws");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

fn good_with(headers: &[(&str, &str)]) -> Request<()> {
    request(&[&GOOD[..], headers].concat())
}

/// A good request in which one header has another value, or is left out.
fn good_but(header: &str, value: Option<&str>) -> Request<()> {
    let others: Vec<_> = GOOD.into_iter().filter(|(name, _)| *name != header).collect();
    let changed: Vec<_> = value.map(|value| (header, value)).into_iter().collect();
    request(&[others, changed].concat())
}

fn refusal(request: &Request<()>) -> Refusal {
    answer(request, Encoding::from_subprotocol, |_| false).unwrap_err()
}

fn agreed(request: &Request<()>) -> (Response<()>, Encoding) {
    match answer(request, Encoding::from_subprotocol, |_| false).unwrap() {
        Answer::Agreed { response, subprotocol, deflate: None } => (response, subprotocol),
        Answer::Agreed { .. } => panic!("deflate was not wanted"),
        Answer::NothingInCommon { .. } => panic!("nothing in common"),
    }
}

fn nothing_in_common(request: &Request<()>) -> Response<()> {
    match answer(request, Encoding::from_subprotocol, |_| false).unwrap() {
        Answer::NothingInCommon { response } => response,
        Answer::Agreed { subprotocol, .. } => panic!("agreed on {subprotocol:?}"),
    }
}

fn echoed(response: &Response<()>) -> Vec<&str> {
    let echoed = response.headers().get_all("Sec-WebSocket-Protocol");
    echoed.iter().map(|value| value.to_str().unwrap()).collect()
}

#[test]
fn a_handshake_is_completed_with_the_key_of_the_rfc() {
    let (response, encoding) = agreed(&good_with(&[("Sec-WebSocket-Protocol", "hubbub.v1.json")]));
    assert_eq!(encoding, Encoding::Json);
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.headers()["Sec-WebSocket-Accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(response.headers()["Upgrade"], "websocket");
    assert_eq!(response.headers()["Connection"], "Upgrade");
    assert!(!response.headers().contains_key("Sec-WebSocket-Extensions"));
}

#[test]
fn the_first_subprotocol_that_both_speak_is_echoed_alone() {
    let request = good_with(&[
        ("Sec-WebSocket-Protocol", "chat,hubbub.v9.proto"),
        ("Sec-WebSocket-Protocol", ", hubbub.v1.json ,hubbub.v1.proto"),
    ]);
    let (response, encoding) = agreed(&request);
    assert_eq!(encoding, Encoding::Json);
    assert_eq!(echoed(&response), ["hubbub.v1.json"]);
}

#[test]
fn a_token_among_the_subprotocols_is_found_and_never_echoed() {
    let offer = [("Sec-WebSocket-Protocol", "hubbub.bearer.ZXlK, hubbub.v1.proto")];
    let request = good_with(&offer);
    assert_eq!(offered_bearer(request.headers()), Some("ZXlK"));
    assert_eq!(echoed(&agreed(&request).0), ["hubbub.v1.proto"]);

    let alone = good_with(&[("Sec-WebSocket-Protocol", "hubbub.bearer.ZXlK")]);
    assert!(echoed(&nothing_in_common(&alone)).is_empty());
    let mut asked = Vec::new();
    let choose = |name: &str| {
        asked.push(name.to_owned());
        Some(())
    };
    answer(&alone, choose, |()| false).unwrap();
    assert!(asked.is_empty());
}

#[test]
fn compression_is_agreed_where_it_is_offered_and_wanted_and_the_response_says_so() {
    const EXTENSIONS: &str = "Sec-WebSocket-Extensions";
    let answered = |offer: Option<&'static str>, subprotocol, wanted| {
        let mut headers = vec![("Sec-WebSocket-Protocol", subprotocol)];
        headers.extend(offer.map(|offer| (EXTENSIONS, offer)));
        match answer(&good_with(&headers), Encoding::from_subprotocol, wanted).unwrap() {
            Answer::Agreed { response, deflate, .. } => {
                let header = response.headers().get(EXTENSIONS);
                (deflate, header.map(|value| value.to_str().unwrap().to_owned()))
            }
            Answer::NothingInCommon { response } => {
                assert!(!response.headers().contains_key(EXTENSIONS));
                (None, None)
            }
        }
    };
    let only_json = |encoding: &Encoding| *encoding == Encoding::Json;
    let offer = Some("permessage-deflate; client_max_window_bits");
    let always = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    let agreed = (Some(Agreed::WHOLE_WINDOW), Some(always.to_owned()));
    assert_eq!(answered(offer, "hubbub.v1.json", only_json), agreed);
    assert_eq!(answered(offer, "hubbub.v1.proto", only_json), (None, None));
    assert_eq!(answered(None, "hubbub.v1.json", only_json), (None, None));
    assert_eq!(answered(offer, "chat", only_json), (None, None));
}

#[test]
fn a_client_with_nothing_in_common_is_connected_to_be_told() {
    let none = nothing_in_common(&good_with(&[]));
    assert_eq!(none.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert!(echoed(&none).is_empty());

    let request =
        good_with(&[("Sec-WebSocket-Protocol", "hubbub.bearer.ZXlK, hubbub.v2.proto, chat")]);
    assert_eq!(echoed(&nothing_in_common(&request)), ["hubbub.v2.proto"]);
    assert_eq!(
        offered(request.headers()).collect::<Vec<_>>(),
        ["hubbub.bearer.ZXlK", "hubbub.v2.proto", "chat"]
    );
}

#[test]
fn a_bad_key_is_a_bad_request() {
    let bad = [
        None,
        Some(""),
        Some("dGhlIHNhbXBsZQ=="),
        Some("dGhlIHNhbXBsZSBub25jZSB0b28="),
        Some("dGhlIHNhbXBsZSBub25j*Q=="),
        Some("dGhlIHNhbXBsZSBub25jZQ"),
    ];
    for key in bad {
        assert_eq!(refusal(&good_but("Sec-WebSocket-Key", key)), Refusal::InvalidKey, "{key:?}");
    }
    let twice = good_with(&[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")]);
    assert_eq!(refusal(&twice), Refusal::RepeatedHeader);
    for refusal in [Refusal::InvalidKey, Refusal::RepeatedHeader] {
        assert_eq!(refusal.status(), StatusCode::BAD_REQUEST);
    }
}

#[test]
fn another_version_is_told_which_one_is_spoken() {
    for version in [None, Some("8"), Some("0"), Some("013"), Some("13, 8")] {
        let refusal = refusal(&good_but("Sec-WebSocket-Version", version));
        assert_eq!(refusal, Refusal::UnsupportedVersion, "{version:?}");
    }
    assert_eq!(Refusal::UnsupportedVersion.status(), StatusCode::UPGRADE_REQUIRED);
    assert_eq!(Refusal::UnsupportedVersion.headers()["Sec-WebSocket-Version"], "13");
    let both = good_with(&[("Sec-WebSocket-Version", "8")]);
    assert_eq!(refusal(&both), Refusal::RepeatedHeader);
}

#[test]
fn a_request_that_asks_for_no_upgrade_is_refused() {
    for (header, value) in [
        ("Connection", None),
        ("Connection", Some("keep-alive")),
        ("Connection", Some("NotUpgrade")),
        ("Upgrade", None),
        ("Upgrade", Some("h2c")),
    ] {
        assert_eq!(refusal(&good_but(header, value)), Refusal::NoUpgrade, "{header} {value:?}");
    }
    assert_eq!(Refusal::NoUpgrade.status(), StatusCode::BAD_REQUEST);
}

#[test]
fn another_method_or_an_old_http_is_refused() {
    let mut post = good_with(&[]);
    *post.method_mut() = "POST".parse().unwrap();
    assert_eq!(refusal(&post), Refusal::NotGet);
    assert_eq!(Refusal::NotGet.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(Refusal::NotGet.headers()["Allow"], "GET");

    let mut old = good_with(&[]);
    *old.version_mut() = Version::HTTP_10;
    assert_eq!(refusal(&old), Refusal::OldHttp);
    assert_eq!(Refusal::OldHttp.status(), StatusCode::BAD_REQUEST);
}
