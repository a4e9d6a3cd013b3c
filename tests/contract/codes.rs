//! Every error and close code: number, name, whether to try again.

use hubbub::wire::code::{CloseCode, ErrorCode};
use serde_json::{Value, json};

use crate::{HOW, accepting, read_json, write_json};

fn table() -> Value {
    let errors: Vec<_> = ErrorCode::ALL
        .iter()
        .map(|code| json!({ "number": code.number(), "name": code.name(), "again": code.again() }))
        .collect();
    let closes: Vec<_> = CloseCode::ALL
        .iter()
        .map(|code| json!({ "number": code.number(), "name": code.name(), "again": code.again() }))
        .collect();
    json!({ "errors": errors, "closes": closes })
}

/// What of `released` is not so any more.
fn broken(released: &Value, now: &Value) -> Vec<String> {
    let mut broken = Vec::new();
    for kind in ["errors", "closes"] {
        let codes = now[kind].as_array().unwrap();
        for code in released[kind].as_array().unwrap() {
            match codes.iter().find(|other| other["number"] == code["number"]) {
                None => broken.push(format!("{kind}: {code} is gone")),
                Some(other) if other != code => {
                    broken.push(format!("{kind}: {code} is now {other}"))
                }
                Some(_) => {}
            }
        }
    }
    broken
}

#[test]
fn no_released_code_changes_its_number_name_or_advice() {
    if accepting() {
        write_json("codes.json", &table());
    }
    let released = read_json("codes.json");
    assert_eq!(broken(&released, &table()), Vec::<String>::new());
    assert_eq!(released, table(), "codes were added; other languages read this file: run `{HOW}`");
}

#[test]
fn the_protocol_page_has_every_code_with_its_sentence() {
    let page = include_str!("../../docs/PROTOCOL.md");
    let errors = ErrorCode::ALL.iter().map(|code| (code.number(), code.name(), code.sentence()));
    let closes = CloseCode::ALL.iter().map(|code| (code.number(), code.name(), code.sentence()));
    for (number, name, sentence) in errors.chain(closes) {
        let row = format!("| {number} | `{name}` | {sentence} |");
        assert!(page.contains(&row), "docs/PROTOCOL.md does not have the row: {row}");
    }
}

#[test]
fn a_changed_or_removed_code_is_named() {
    let mut now = table();
    let errors = now["errors"].as_array_mut().unwrap();
    errors[0]["name"] = json!("bad_manners");
    errors.remove(1);
    let broken = broken(&table(), &now);
    assert_eq!(broken.len(), 2, "{broken:?}");
    assert!(broken[0].contains("bad_request") && broken[0].contains("bad_manners"));
    assert!(broken[1].contains("unknown_command") && broken[1].ends_with("is gone"));
}
