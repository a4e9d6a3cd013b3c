//! The OpenAPI document of a hub. What single answers say is held against it in the harness.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::harness::{Api, TestServer};

/// Everything that a document refers to.
fn references<'d>(value: &'d Value, found: &mut BTreeSet<&'d str>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str));
            members.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_document_of_a_hub_is_sound() {
    let server = TestServer::start().await;
    let answer = Api::nobody(server.address()).get("/openapi.json").await;
    let document = answer.is(200);
    let mut names = BTreeSet::new();
    let mut tags = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap();
            assert!(names.insert(name), "two operations are called {name}");
            assert!(operation["summary"].is_string(), "{method} {path} has no summary");
            tags.extend(operation["tags"].as_array().unwrap().iter().filter_map(Value::as_str));
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let named: Vec<_> = parameters.filter(|it| it["in"] == "path").collect();
            assert_eq!(named.len(), path.matches('{').count(), "{method} {path}");
            for (status, response) in operation["responses"].as_object().unwrap() {
                let is_problem = response["content"]["application/problem+json"].is_object();
                let is_check = path.ends_with('z');
                assert!(
                    is_check
                        || is_problem == status.starts_with('4')
                        || status == "503"
                        || status == "500",
                    "{method} {path} {status}"
                );
            }
        }
    }
    let described: BTreeSet<_> = document["tags"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|tag| tag["name"].as_str())
        .collect();
    assert_eq!(tags, described, "each tag has a sentence, and each sentence a tag");
    let mut found = BTreeSet::new();
    references(document, &mut found);
    for reference in &found {
        let pointer = reference.strip_prefix('#').expect("of the same document");
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for name in schemas.keys() {
        let reference = format!("#/components/schemas/{name}");
        assert!(found.contains(reference.as_str()), "nothing here is made of {name}");
    }
    for rust in ["crate::", "[`", "# Errors"] {
        assert!(!answer.text.contains(rust), "{rust} is of the source, and no word for readers");
    }
}

#[tokio::test]
async fn the_document_says_what_is_sent_and_what_is_answered() {
    let server = TestServer::start().await;
    let answer = Api::nobody(server.address()).get("/openapi.json").await;
    let schemas = &answer.is(200)["components"]["schemas"];
    let fields = |schema: &str| -> BTreeMap<String, bool> {
        let required = schemas[schema]["required"].as_array().cloned().unwrap_or_default();
        let properties =
            schemas[schema]["properties"].as_object().unwrap_or_else(|| panic!("{schema}"));
        let field = |name: &String| (name.clone(), required.contains(&Value::from(name.as_str())));
        properties.keys().map(field).collect()
    };
    let expected = |fields: &[(&str, bool)]| -> BTreeMap<String, bool> {
        fields.iter().map(|(name, is_required)| ((*name).to_owned(), *is_required)).collect()
    };
    assert_eq!(fields("NewMessage"), expected(&[("body", true)]));
    let channel = [
        ("name", true),
        ("topic", false),
        ("visibility", false),
        ("posting", false),
        ("quota", false),
    ];
    assert_eq!(fields("NewChannel"), expected(&channel));
    let posted = [
        ("channel", true),
        ("channel_id", true),
        ("epoch", true),
        ("sequence", true),
        ("time", false),
        ("durability", true),
    ];
    assert_eq!(fields("Posted"), expected(&posted));
    assert_eq!(
        fields("Member"),
        expected(&[("user_id", true), ("name", false), ("role", true), ("sequence", false),])
    );
    let entry = [
        ("sequence", true),
        ("time", true),
        ("user_id", true),
        ("author", true),
        ("id", false),
        ("body", false),
        ("member", false),
        ("settings", false),
    ];
    assert_eq!(fields("Entry"), expected(&entry));
}
