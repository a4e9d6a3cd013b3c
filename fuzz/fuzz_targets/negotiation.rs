//! Any header: an answer names nothing that one of the offers does not, but for what a server may
//! always say.
//!
//! Input: the values of `Sec-WebSocket-Extensions`, one a line.

#![no_main]

use hubbub_fuzz::websocket::deflate::negotiation::negotiate;
use libfuzzer_sys::fuzz_target;
use tokio_tungstenite::tungstenite::http::{
    HeaderMap, HeaderValue, header::SEC_WEBSOCKET_EXTENSIONS,
};

/// RFC 7692, 7.1.1: a server may say these to a client that said nothing of the kind.
const UNASKED: [&str; 2] = ["server_no_context_takeover", "client_no_context_takeover"];

fuzz_target!(|input: &[u8]| {
    let mut headers = HeaderMap::new();
    for line in input.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(SEC_WEBSOCKET_EXTENSIONS, value);
        }
    }
    assert!(negotiate(&headers, false).is_none(), "what is switched off is not agreed on");
    let Some((agreed, answer)) = negotiate(&headers, true) else { return };

    let answer = answer.to_str().expect("an answer is ASCII");
    let mut answered: Vec<_> = answer.split("; ").collect();
    assert_eq!(answered.remove(0), "permessage-deflate");
    for unasked in UNASKED {
        let count = answered.iter().filter(|parameter| **parameter == unasked).count();
        assert_eq!(count, 1, "{answer}");
    }
    answered.retain(|parameter| !UNASKED.contains(parameter));

    // Leaves quotes and spaces away, so that it takes some for offers that are none: an answer to
    // one of these is the unit tests' to find.
    let plain = |text: &str| text.replace(['"', '\\', ' ', '\t'], "");
    let offers = headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter();
    let offers: Vec<_> = offers.filter_map(|line| Some(plain(line.to_str().ok()?))).collect();
    let is_offered = offers.iter().flat_map(|line| line.split(',')).any(|offer| {
        let mut parameters = offer.split(';');
        parameters.next() == Some("permessage-deflate")
            && answered.iter().all(|answer| parameters.clone().any(|offered| offered == *answer))
    });
    assert!(is_offered, "{answer} to {offers:?}");

    let mut window_bits = 15;
    for parameter in &answered {
        let (name, bits) = parameter.split_once('=').expect("the others have values");
        let bits: u32 = bits.parse().expect("a number of bits");
        match name {
            "server_max_window_bits" => {
                assert!((9..=15).contains(&bits), "{answer}");
                window_bits = bits;
            }
            "client_max_window_bits" => assert!((8..=15).contains(&bits), "{answer}"),
            _ => panic!("{answer}"),
        }
    }
    // What is agreed on is what is answered.
    assert!(agreed.takes(1 << window_bits));
    assert_eq!(agreed.takes((1 << window_bits) + 1), window_bits == 15);
});
