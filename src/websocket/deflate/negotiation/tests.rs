use proptest::prelude::*;

use super::*;

fn answer_to(lines: &[&str]) -> Option<(u8, String)> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let value = HeaderValue::from_bytes(line.as_bytes()).unwrap();
        headers.append(SEC_WEBSOCKET_EXTENSIONS, value);
    }
    assert_eq!(negotiate(&headers, false), None, "it is off");
    let (agreed, value) = negotiate(&headers, true)?;
    Some((agreed.server_window_bits, value.to_str().unwrap().to_owned()))
}

/// What follows the two parameters that every answer has.
#[track_caller]
fn agreed(lines: &[&str]) -> (u8, String) {
    let (bits, answer) = answer_to(lines).unwrap();
    let always = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    (bits, answer.strip_prefix(always).unwrap().to_owned())
}

#[test]
fn every_answer_says_that_no_context_is_kept() {
    for offer in [
        "permessage-deflate",
        "permessage-deflate; client_no_context_takeover",
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        "permessage-deflate;client_max_window_bits",
        "\tpermessage-deflate ;  client_max_window_bits ",
        ", permessage-deflate, ,",
    ] {
        assert_eq!(agreed(&[offer]), (15, String::new()), "{offer}");
    }
}

#[test]
fn a_window_is_answered_only_to_whom_offered_it() {
    let of = |parameters: &str| agreed(&[&format!("permessage-deflate; {parameters}")]);
    for bits in 9..=15 {
        let parameter = format!("server_max_window_bits={bits}");
        assert_eq!(of(&parameter), (bits, format!("; {parameter}")));
        assert_eq!(of(&format!("server_max_window_bits=\"{bits}\"")).0, bits, "in quotes");
    }
    for bits in 8..=15 {
        let parameter = format!("client_max_window_bits={bits}");
        assert_eq!(of(&parameter), (15, format!("; {parameter}")));
    }
    let both = "; server_max_window_bits=10; client_max_window_bits=12";
    assert_eq!(of("client_max_window_bits = 12 ; server_max_window_bits = 10"), (10, both.into()));
}

#[test]
fn an_offer_that_cannot_be_taken_is_passed_over() {
    for parameters in [
        "server_max_window_bits",
        "server_max_window_bits=8",
        "server_max_window_bits=16",
        "server_max_window_bits=010",
        "server_max_window_bits=+9",
        "server_max_window_bits=999999999999999999999",
        "server_max_window_bits=ten",
        "client_max_window_bits=7",
        "client_max_window_bits=16",
        "client_max_window_bits=0",
        "client_max_window_bits=-9",
        "server_no_context_takeover=true",
        "client_no_context_takeover=1",
        "client_no_context_takeover; client_no_context_takeover",
        "server_no_context_takeover; server_no_context_takeover",
        "server_max_window_bits=10; server_max_window_bits=10",
        "client_max_window_bits; client_max_window_bits=10",
        "client_max_window_bits; client_max_window_bits",
        "window=15",
        "Server_max_window_bits=15",
    ] {
        let offer = format!("permessage-deflate; {parameters}");
        assert_eq!(answer_to(&[&offer]), None, "{offer}");
        let next = "permessage-deflate; server_max_window_bits=11";
        assert_eq!(agreed(&[&format!("{offer}, {next}")]).0, 11, "{offer}");
        assert_eq!(agreed(&[&offer, next]).0, 11, "{offer}");
        assert_eq!(agreed(&[next, &offer]).0, 11, "the first is taken");
    }
}

#[test]
fn other_extensions_are_passed_over() {
    assert_eq!(answer_to(&[]), None);
    assert_eq!(answer_to(&["permessage-bzip2; x=1", "x-webkit-deflate-frame"]), None);
    assert_eq!(agreed(&["foo; a=\"b\"; c, bar, permessage-deflate"]).0, 15);
}

#[test]
fn a_broken_header_declines() {
    for broken in [
        "",
        ";",
        "=",
        ";permessage-deflate",
        "permessage-deflate;",
        "permessage-deflate; =10",
        "permessage-deflate; server_max_window_bits=",
        "permessage-deflate; server_max_window_bits=\"10",
        "permessage-deflate; server_max_window_bits=\"\"",
        "permessage-deflate; server_max_window_bits=\"1 0\"",
        "permessage-deflate; server_max_window_bits=10 10",
        "permessage-deflate server_max_window_bits=10",
        "\"permessage-deflate\"",
        "foo bar, permessage-deflate",
        "permessage-deflate\u{e9}",
    ] {
        assert_eq!(answer_to(&[broken]), None, "{broken}");
        // It spoils its own line only.
        assert_eq!(agreed(&[broken, "permessage-deflate"]).0, 15, "{broken}");
    }
}

proptest! {
    #[test]
    fn no_header_makes_it_panic_and_what_it_answers_it_may(
        lines in prop::collection::vec(
            prop_oneof![
                "[ -~\\t]{0,60}",
                "(permessage-deflate|; ?|, ?|=|\"|[a-z]+_max_window_bits|1[0-6]|[0-9]){0,12}",
            ],
            0..4,
        ),
    ) {
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        if let Some((bits, _)) = answer_to(&lines) {
            prop_assert!((9..=15).contains(&bits));
            prop_assert!(lines.concat().contains("permessage-deflate"));
        }
    }
}
