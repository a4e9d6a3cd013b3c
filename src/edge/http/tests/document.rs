//! The OpenAPI documents against the routers.

use std::collections::BTreeSet;

use super::*;

const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];

async fn document(router: &Site) -> Value {
    let request = ask(Method::GET, "/openapi.json").body(Body::empty()).unwrap();
    let answered = answer_to(router, request).await;
    assert_eq!(answered.headers["content-type"], JSON);
    answered.body
}

/// Every path of a document, with its methods in upper case.
fn operations(document: &Value) -> Vec<(String, BTreeSet<String>)> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .map(|(path, item)| {
            let methods = METHODS.iter().filter(|method| item.get(**method).is_some());
            (path.clone(), methods.map(|method| method.to_uppercase()).collect())
        })
        .collect()
}

#[tokio::test]
async fn the_document_has_the_paths_of_the_port() {
    let api = Api::start();
    let paths = |document: &Value| {
        operations(document).into_iter().map(|(path, _)| path).collect::<Vec<_>>()
    };
    let public = paths(&document(&api.public).await);
    let expected = [
        "/.well-known/jwks.json",
        "/livez",
        "/readyz",
        "/v1/accounts",
        "/v1/me",
        "/v1/password",
        "/v1/revocations",
        "/v1/session",
        "/v1/session/renew",
        "/v1/token",
        "/v1/token/revoke",
    ];
    assert_eq!(public, expected);
    let internal = paths(&document(&api.internal).await);
    let expected = [
        "/debug/profile",
        "/livez",
        "/metrics",
        "/readyz",
        "/v1/admin/accounts",
        "/v1/admin/accounts/{username}",
        "/v1/admin/accounts/{username}/disable",
        "/v1/admin/accounts/{username}/enable",
        "/v1/admin/accounts/{username}/logout",
        "/v1/admin/invites",
    ];
    assert_eq!(internal, expected);
}

#[tokio::test]
async fn router_and_document_have_the_same_methods_at_each_path() {
    let api = Api::start();
    for router in [&api.public, &api.internal] {
        for (path, mut documented) in operations(&document(router).await) {
            // A method that nothing has: the answer names those that there are.
            let path = path.replace("{username}", "anna");
            let method = Method::from_bytes(b"PURGE").unwrap();
            let refused = answer_to(router, ask(method, &path).body(Body::empty()).unwrap()).await;
            is_problem(&refused, 405, "method_not_allowed");
            let allowed = refused.headers["allow"].to_str().unwrap();
            let allowed: BTreeSet<_> = allowed.split(',').map(|it| it.trim().to_owned()).collect();
            if documented.contains("GET") {
                documented.insert("HEAD".to_owned());
            }
            assert_eq!(allowed, documented, "{path}");
        }
    }
}

#[tokio::test]
async fn the_documents_are_sound() {
    let api = Api::start();
    for router in [&api.public, &api.internal] {
        let document = document(router).await;
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1."), "{document}");
        assert!(document["info"]["description"].as_str().unwrap().starts_with("The "));
        assert_eq!(document["servers"], json!([{"url": "/"}]));
        let mut names = BTreeSet::new();
        let mut tags = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let name = operation["operationId"].as_str().unwrap();
                assert!(names.insert(name), "two operations are called {name}");
                assert!(operation["summary"].is_string(), "{method} {path} has no summary");
                let [tag] = operation["tags"].as_array().unwrap().as_slice() else {
                    panic!("{method} {path} is of one kind: {operation}")
                };
                tags.insert(tag.as_str().unwrap());
                let named = path.matches('{').count();
                let parameters = operation["parameters"].as_array().into_iter().flatten();
                assert_eq!(parameters.filter(|it| it["in"] == "path").count(), named, "{path}");
                for (status, response) in operation["responses"].as_object().unwrap() {
                    // A check that fails says why in words.
                    let is_unwell = status == "503" && path.ends_with('z');
                    let is_answer = status.starts_with(['1', '2']) || is_unwell;
                    let is_problem = response["content"]["application/problem+json"].is_object();
                    assert!(is_answer != is_problem, "{method} {path} {status}");
                    assert!(!response["description"].as_str().unwrap().is_empty());
                }
            }
        }
        let described = document["tags"].as_array().unwrap().iter();
        let described = described.inspect(|tag| assert!(tag["description"].is_string(), "{tag}"));
        let described: BTreeSet<_> = described.map(|tag| tag["name"].as_str().unwrap()).collect();
        assert_eq!(tags, described, "each tag has a sentence, and each sentence a tag");
        let text = document.to_string();
        for rust in ["crate::", "[`", "# Errors"] {
            assert!(!text.contains(rust), "{rust} is of the source, and no word for readers");
        }
        let mut found = 0;
        visit(&document, &mut |reference| {
            let pointer = reference.strip_prefix('#').expect("of the same document");
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
            found += 1;
        });
        assert!(found > 10, "{found}");
        let text = document.to_string();
        for name in document["components"]["schemas"].as_object().unwrap().keys() {
            let reference = format!("\"#/components/schemas/{name}\"");
            assert!(text.contains(&reference), "nothing here is made of {name}");
        }
        for (scheme, _) in security(&document) {
            assert!(document["components"]["securitySchemes"][&scheme].is_object(), "{scheme}");
        }
    }
}

fn visit(value: &Value, with: &mut impl FnMut(&str)) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get("$ref") {
                with(reference);
            }
            members.values().for_each(|value| visit(value, with));
        }
        Value::Array(items) => items.iter().for_each(|value| visit(value, with)),
        _ => {}
    }
}

/// The schemes that operations name, with the paths.
fn security(document: &Value) -> Vec<(String, String)> {
    let mut named = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for operation in item.as_object().unwrap().values() {
            for requirement in operation["security"].as_array().into_iter().flatten() {
                let schemes = requirement.as_object().unwrap().keys();
                named.extend(schemes.map(|scheme| (scheme.clone(), path.clone())));
            }
        }
    }
    named
}

#[tokio::test]
async fn a_number_of_32_bits_is_described_up_to_its_end() {
    let api = Api::start();
    let schemas = document(&api.internal).await["components"]["schemas"].take();
    let uses = &schemas["Invited"]["properties"]["uses"];
    assert_eq!(uses["minimum"], 0);
    assert_eq!(uses["maximum"], u32::MAX);
    assert_eq!(uses["format"], "int64", "an int32 ends at half of that");
    let uses = &schemas["Invite"]["properties"]["uses"];
    assert_eq!(uses["maximum"], 10_000, "a bound of its own stays");
}

#[tokio::test]
async fn a_refusal_for_want_of_a_token_is_described_with_its_challenge() {
    let api = Api::start();
    let document = document(&api.public).await;
    let refusal = &document["paths"]["/v1/me"]["get"]["responses"]["401"];
    assert!(refusal["headers"]["WWW-Authenticate"].is_object(), "{refusal}");
    let answered = api.get("/v1/me").await;
    assert_eq!(answered.headers["www-authenticate"], "Bearer");
}
