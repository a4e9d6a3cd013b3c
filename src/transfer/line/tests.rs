use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::*;

const BODY_MAX: usize = 64 * 1024;
const GOOD: &str = r#"{"channel":"lobby","sequence":12,"time":"2026-11-21T12:00:00.123Z","author":"ada","user":"u123","id":"17","body":"hi"}"#;

/// The entries of an object, repeated ones too.
struct Entries(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Entries;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Visit)
    }
}

/// The slow twin, for messages: `None` for whatever is no message.
fn oracle(line: &str) -> Option<Message<'static>> {
    let Entries(entries) = serde_json::from_str(line).ok()?;
    let find = |name: &str| {
        let mut found = entries.iter().filter(|(key, _)| key == name).map(|(_, value)| value);
        match (found.next(), found.next()) {
            (_, Some(_)) => Err(()),
            (found, None) => Ok(found),
        }
    };
    for name in ["member", "settings", "members", "created"] {
        find(name).ok()?;
    }
    let text = |name: &str| match find(name) {
        Ok(Some(Value::String(text))) => Some(text.clone()),
        _ => None,
    };
    let optional = |name: &str| match find(name) {
        Ok(None | Some(Value::Null)) => Some(None),
        Ok(Some(Value::String(text))) => Some(Some(text.clone())),
        Ok(Some(Value::Number(number))) if name == "id" && number.is_u64() => {
            Some(Some(number.to_string()))
        }
        _ => None,
    };
    let time_ms = match find("time").ok()?? {
        Value::Number(number) => number.as_u64().filter(|ms| time::in_range(*ms))?,
        Value::String(text) => time::rfc3339_ms(text).ok()?,
        _ => return None,
    };
    let sequence = match find("sequence").ok()? {
        None | Some(Value::Null) => None,
        Some(number) => Some(NonZeroU64::new(number.as_u64()?)?),
    };
    let (channel, author, body) = (text("channel")?, text("author")?, text("body")?);
    let (user, id) = (optional("user")?, optional("id")?);
    let fits = |text: &str, max: usize| (1..=max).contains(&text.len());
    let is_valid = is_channel_name(&channel)
        && fits(&author, 64)
        && user.as_ref().is_none_or(|user| fits(user, 128))
        && id.as_ref().is_none_or(|id| fits(id, 64))
        && fits(&body, BODY_MAX);
    is_valid.then(|| Message {
        origin: Origin {
            channel: channel.into(),
            author: author.into(),
            user: user.map(Into::into),
            time_ms,
            id: id.map(Into::into),
            sequence,
        },
        body: body.into(),
    })
}

fn message(line: &str) -> Option<Message<'_>> {
    match decode(line, BODY_MAX) {
        Ok(Line::Message(message)) => Some(message),
        _ => None,
    }
}

/// A JSON string, written in one of the ways in which programs write them.
fn quoted() -> impl Strategy<Value = String> {
    ("\\PC{0,20}|[ -~]{0,100}|[\\x00-\\x7f]{0,10}|[\u{80}-\u{10ffff}]{0,5}", any::<bool>())
        .prop_map(|(text, is_ascii)| {
            let json = serde_json::to_string(&text).unwrap();
            if !is_ascii {
                return json;
            }
            let mut escaped = String::new();
            for character in json.chars() {
                if character.is_ascii() {
                    escaped.push(character);
                } else {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        escaped.push_str(&format!("\\u{unit:04x}"));
                    }
                }
            }
            escaped
        })
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => quoted(),
        1 => "-?[0-9]{1,20}(\\.[0-9]{1,4})?([eE][+-]?[0-9]{1,3})?",
        1 => "null|true|false|nul|\\[\\]|\\{\\}|\\[1,\\{\"a\":[1e400|2]\\}\\]|\"\\\\ud800\"|\"\\\\x\"|\"\t\"",
    ]
}

fn entry() -> impl Strategy<Value = String> {
    let name =
        "channel|author|user|time|id|sequence|body|member|created|other|b\\\\u006fdy|[a-z]{1,9}";
    let value = prop_oneof![
        value(),
        "\"[a-z]{1,8}\"",
        Just("\"2026-11-21T12:00:00.123Z\"".to_owned()),
        "[1-9][0-9]{0,16}",
    ];
    (name, value).prop_map(|(name, value)| format!("\"{name}\":{value}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_message_is_what_another_parser_takes_it_for(
        body in quoted(),
        others in prop::collection::vec(entry(), 0..4),
        space in " ?",
    ) {
        let mut entries = vec![
            r#""channel":"lobby""#.to_owned(),
            r#""time":1795262400123"#.to_owned(),
            r#""author":"ada""#.to_owned(),
            format!("\"body\":{space}{body}"),
        ];
        for (place, entry) in others.into_iter().enumerate() {
            entries.insert(place * 7 % (entries.len() + 1), entry);
        }
        let line = format!("{{{}{space}}}", entries.join(&format!(",{space}")));
        prop_assert_eq!(message(&line), oracle(&line), "{}", line);
    }

    #[test]
    fn lines_of_any_entries_are_messages_to_both_or_to_none(
        entries in prop::collection::vec(entry(), 0..6)
    ) {
        let line = format!("{{{}}}", entries.join(","));
        prop_assert_eq!(message(&line), oracle(&line), "{}", line);
    }

    #[test]
    fn a_damaged_line_is_a_message_to_both_or_to_none(at in 0..GOOD.len(), byte in any::<u8>()) {
        let mut line = GOOD.as_bytes().to_vec();
        line[at] = byte;
        if let Ok(line) = std::str::from_utf8(&line) {
            prop_assert_eq!(message(line), oracle(line), "{}", line);
        }
        let cut = &GOOD[..at];
        prop_assert_eq!(message(cut), oracle(cut), "{}", cut);
    }

    #[test]
    fn any_text_is_a_line_or_not_but_never_a_panic(text in "\\PC{0,60}|[\\[\\]{}\",:\\\\0-9a-z]{0,60}") {
        let _ = decode(&text, BODY_MAX);
    }
}

#[test]
fn a_message_has_what_its_line_says() {
    let message = message(GOOD).unwrap();
    assert_eq!(message.body, "hi");
    assert!(matches!(message.body, Cow::Borrowed(_)), "nothing was copied");
    assert_eq!(
        message.origin,
        Origin {
            channel: "lobby".into(),
            author: "ada".into(),
            user: Some("u123".into()),
            time_ms: 1_795_262_400_123,
            id: Some("17".into()),
            sequence: NonZeroU64::new(12),
        }
    );
}

#[test]
fn events_and_channels_are_told_from_messages() {
    let line = r#"{"channel":"lobby","sequence":3,"time":5,"author":"ada","member":{"name":"bob","user":"u456","role":"none"}}"#;
    let Ok(Line::Event(event)) = decode(line, BODY_MAX) else { panic!("no event") };
    let bob = Member { name: "bob".into(), user: Some("u456".into()), role: None };
    assert_eq!(event.change, Change::Member(bob.clone()));

    let line = r#"{"channel":"lobby","time":5,"author":"ada","settings":{"topic":"t","visibility":"private","posting":"members","archived":true,"quota":{"messages_max":5}}}"#;
    let Ok(Line::Event(event)) = decode(line, BODY_MAX) else { panic!("no event") };
    let settings = Settings {
        name: None,
        topic: "t".into(),
        visibility: Visibility::Private,
        posting: Posting::Members,
        archived: true,
        quota: Quota { messages_max: NonZeroU64::new(5), bytes_max: None },
    };
    assert_eq!(event.change, Change::Settings(settings.clone()));

    let line = r#"{"channel":"lobby","created":"2026-11-21T12:00:00Z","settings":{"topic":"t","visibility":"private","posting":"members","archived":true,"quota":{"messages_max":5}},"members":[{"name":"bob","user":"u456","role":"none"}]}"#;
    let Ok(Line::Channel(channel)) = decode(line, BODY_MAX) else { panic!("no channel") };
    assert_eq!(
        *channel,
        ChannelLine {
            channel: "lobby".into(),
            created_ms: 1_795_262_400_000,
            settings,
            members: vec![bob],
        }
    );

    let line =
        r#"{"channel":"lobby","time":5,"author":"ada","body":"hi","created":7,"members":[]}"#;
    assert!(message(line).is_some(), "a body makes a message of it");
}

#[test]
fn each_mistake_has_a_reason_that_people_understand() {
    let with = |entries: &str| format!(r#"{{"channel":"lobby",{entries}}}"#);
    let (long_id, long_author) = ("1".repeat(65), "a".repeat(65));
    for (line, reason) in [
        ("", "not JSON: column 1"),
        ("hello", "not JSON: column 1"),
        ("[1]", "not an object"),
        ("{}", "channel is missing"),
        ("{\"channel\":\"lobby\"} x", "not JSON: column 21"),
        ("\u{feff}{}", "begins with a byte order mark"),
        (
            r#"{"channel":"Lobby"}"#,
            "channel is no channel name: lower-case letters, digits, and . _ - between them",
        ),
        (r#"{"channel":7}"#, "channel is not a string"),
        (&with(r#""time":5,"body":"hi""#), "author is missing"),
        (&with(r#""author":"ada","body":"hi""#), "time is missing"),
        (&with(r#""author":"ada","time":5"#), "body is missing"),
        (&with(r#""author":"","time":5,"body":"hi""#), "author is empty"),
        (&with(r#""author":"ada","time":5,"body":"""#), "body is empty"),
        (&with(r#""author":null,"time":5,"body":"hi""#), "author is not a string"),
        (
            &with(r#""author":"ada","time":"noon","body":"hi""#),
            "time is not a time: RFC 3339, or a whole number of milliseconds since 1970",
        ),
        (
            &with(r#""author":"ada","time":1e400,"body":"hi""#),
            "time is not a time: RFC 3339, or a whole number of milliseconds since 1970",
        ),
        (&with(r#""author":"ada","time":0,"body":"hi""#), "time is not between 1970 and 9999"),
        (&with(r#""author":"ada","time":5,"body":"hi","body":"ho""#), "body is given twice"),
        (&with(r#""author":"ada","time":5,"body":"hi","b\u006fdy":"ho""#), "body is given twice"),
        (&with(r#""author":"ada","time":5,"body":"\ud800""#), "not JSON: column 58"),
        (&with("\"author\":\"ada\",\"time\":5,\"body\":\"a\0b\""), "not JSON: column 53"),
        (&with(r#""sequence":-1"#), "sequence is not a whole number from 1 on"),
        (&with(r#""id":1.5"#), "id is not a string or a whole number"),
        (
            &with(&format!(r#""author":"ada","time":5,"body":"hi","id":"{long_id}""#)),
            "id has more than 64 bytes",
        ),
        (
            &with(&format!(r#""author":"{long_author}","time":5,"body":"hi""#)),
            "author has more than 64 bytes",
        ),
        (
            &with(r#""author":"ada","time":5,"member":{"name":"bob"}"#),
            "member is not as in an export: name, user and role",
        ),
        (
            &with(r#""author":"ada","time":5,"settings":{"topic":1}"#),
            "settings are not as in an export",
        ),
        (
            &with(r#""created":"noon""#),
            "created is not a time: RFC 3339, or a whole number of milliseconds since 1970",
        ),
        (&with(r#""other":1e400"#), "not JSON: column 32"),
    ] {
        let error = decode(line, BODY_MAX).unwrap_err();
        assert_eq!(error.to_string(), reason, "{line}");
    }
    assert!(size_of::<LineError>() <= 24, "an error is passed in registers or nearly so");
}

#[test]
fn what_is_made_to_be_slow_is_refused_soon() {
    let nested = |open: &str, count| format!(r#"{{"channel":"lobby","x":{}"#, open.repeat(count));
    let prefix = r#"{"channel":"lobby","author":"ada","time":5,"body":""#;
    let too_long = format!("{prefix}{}\"}}", "a".repeat(import_line_bytes_max(BODY_MAX)));
    let deep = format!(r#"{{"channel":"lobby","x":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    for (line, error) in [
        (deep, LineError::TooDeep),
        (nested("[", 100_000), LineError::TooDeep),
        (nested("{\"a\":", 60_000), LineError::TooDeep),
        (
            format!("{prefix}{}\"}}", "a".repeat(BODY_MAX + 1)),
            LineError::TooLarge(Field::Body, BODY_MAX),
        ),
        (
            format!("{prefix}{}\"}}", "\\u0041".repeat(BODY_MAX + 1)),
            LineError::TooLarge(Field::Body, BODY_MAX),
        ),
        (too_long, LineError::TooLong(import_line_bytes_max(BODY_MAX))),
        (nested(&"0".repeat(300_000), 1), LineError::NotJson(25)),
        (nested("\"\\", 1), LineError::NotJson(27)),
    ] {
        // Work that grows with the square of a line this long takes minutes, even at its fastest.
        let fastest = (0..5)
            .map(|_| {
                let started = Instant::now();
                assert_eq!(decode(&line, BODY_MAX), Err(error), "{}…", &line[..40.min(line.len())]);
                started.elapsed()
            })
            .min();
        assert!(fastest < Some(Duration::from_secs(1)), "{fastest:?} for {error}");
    }
    let longest = format!("{prefix}{}\"}}", "\\n".repeat(BODY_MAX));
    assert_eq!(message(&longest).unwrap().body.len(), BODY_MAX);
}
