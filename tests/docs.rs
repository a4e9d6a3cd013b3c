//! The documents against the program: what they name must be there, as they say it is.

#![allow(clippy::unwrap_used, reason = "a document that cannot be read has failed")]

use std::{collections::HashMap, process::Command};

use clap::Args as _;
use hubbub::{
    config::{Config, Flags},
    edge::http::problem,
    wire::code::ErrorCode,
};

const README: &str = include_str!("../README.md");
const PROTOCOL: &str = include_str!("../docs/PROTOCOL.md");
const AUTH: &str = include_str!("../docs/AUTH.md");
const API: &str = include_str!("../docs/API.md");
const IMPORT: &str = include_str!("../docs/IMPORT.md");
const CLUSTER: &str = include_str!("../docs/CLUSTER.md");
const NATS: &str = include_str!("../deploy/nats/README.md");

/// What the README and the help call a default that is empty.
const NONE: &str = "none";

/// Every key with its default, as `hubbub config show` has it.
fn defaults() -> HashMap<String, String> {
    // An empty file of our own: there may be a `hubbub.toml` in the folder of whoever runs this.
    let file = tempfile::NamedTempFile::new().unwrap();
    let flags = Flags { config: Some(file.path().to_path_buf()), ..Flags::default() };
    let settings = Config::load(&flags, []).unwrap().settings;
    settings.into_iter().map(|setting| (setting.key, setting.value)).collect()
}

/// The rows of the README's table of keys: flag, key, default.
fn rows() -> Vec<[String; 3]> {
    let table = README.lines().skip_while(|line| !line.starts_with("| flag | key |")).skip(2);
    let cell = |cell: &str| cell.trim().trim_matches('`').to_owned();
    table
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let mut cells = line.trim_matches('|').split('|');
            [(); 3].map(|()| cell(cells.next().unwrap()))
        })
        .collect()
}

#[test]
fn the_readme_has_every_key_with_its_default() {
    let defaults = defaults();
    let rows = rows();
    assert!(!rows.is_empty(), "the README has no table of keys");
    for [_, key, default] in &rows {
        if let Some(section) = key.strip_suffix('*') {
            assert!(defaults.keys().any(|key| key.starts_with(section)), "no key is in {key}");
        } else {
            let real = defaults.get(key).unwrap_or_else(|| panic!("there is no key {key}"));
            let is_none = real == "\"\"" && default == NONE;
            let same = is_none || real == default || real.trim_matches('"') == default;
            assert!(same, "the default of {key} is {real}, not {default}");
        }
    }
    for key in defaults.keys() {
        let is_there = rows.iter().any(|[_, row, _]| match row.strip_suffix('*') {
            Some(section) => key.starts_with(section),
            None => row == key,
        });
        assert!(is_there, "the README does not have the key {key}");
    }
}

#[test]
fn the_readme_has_every_flag_of_serve_and_no_other() {
    let serve = Flags::augment_args(clap::Command::new("serve"));
    let mut real: Vec<_> = serve.get_arguments().filter_map(clap::Arg::get_long).collect();
    // It names the file itself, and so it has no key in it.
    real.retain(|flag| *flag != "config");
    let rows = rows();
    let mut named: Vec<_> = rows.iter().filter_map(|[flag, ..]| flag.strip_prefix("--")).collect();
    real.sort_unstable();
    named.sort_unstable();
    assert_eq!(named, real);
}

/// The `hubbub …` lines of a document's blocks of code.
fn commands(document: &'static str) -> impl Iterator<Item = &'static str> {
    let blocks = document.split("```").skip(1).step_by(2);
    blocks.flat_map(str::lines).filter_map(|line| {
        let line = line.trim_start().trim_start_matches("$ ");
        // What the program prints of itself is no command.
        line.strip_prefix("hubbub ").filter(|rest| rest.starts_with(|it: char| it.is_lowercase()))
    })
}

#[test]
fn every_command_of_the_documents_has_its_flags() {
    let mut checked = 0;
    for command in
        [README, PROTOCOL, AUTH, API, IMPORT, CLUSTER, NATS].into_iter().flat_map(commands)
    {
        let command = command.split(" #").next().unwrap();
        let words: Vec<_> = command.split_whitespace().collect();
        let is_word = |word: &&&str| word.bytes().all(|byte| byte.is_ascii_lowercase());
        let depth = match words[0] {
            "account" | "channel" | "config" => 2,
            "auth" => words.iter().take_while(is_word).count(),
            _ => 1,
        };
        let path = &words[..depth];
        let hubbub = env!("CARGO_BIN_EXE_hubbub");
        let help = Command::new(hubbub).args(path).arg("--help").output().unwrap();
        assert!(help.status.success(), "there is no `hubbub {}`", path.join(" "));
        let help = String::from_utf8(help.stdout).unwrap();
        let has = |flag: &str| help.split([' ', '\n', ',']).any(|word| word == flag);
        for flag in words.iter().filter(|word| word.starts_with("--")) {
            assert!(has(flag), "`hubbub {}` has no {flag}", path.join(" "));
        }
        checked += 1;
    }
    assert!(checked >= 5, "only {checked} commands were found");
}

/// The rows of the table that say which names a status has.
#[test]
fn the_api_document_has_the_status_of_each_code() {
    let table = API.lines().skip_while(|line| !line.starts_with("| status | names |")).skip(2);
    let mut checked = 0;
    for row in table.take_while(|line| line.starts_with('|')) {
        let (status, names) = row.trim_matches('|').split_once('|').unwrap();
        for name in names.split('`').skip(1).step_by(2) {
            let code = ErrorCode::ALL.iter().find(|code| code.name() == name);
            let code = code.unwrap_or_else(|| panic!("there is no code {name}"));
            assert_eq!(problem::status(*code).as_str(), status.trim(), "{name}");
            checked += 1;
        }
    }
    assert!(checked >= 20, "only {checked} codes were found");
}

/// The help is text; what it says of the defaults is held here.
#[test]
fn the_help_of_serve_has_the_real_defaults() {
    let defaults = defaults();
    let serve = Flags::augment_args(clap::Command::new("serve"));
    for [flag, key, _] in rows().iter().filter(|[flag, ..]| flag.starts_with("--")) {
        let argument = serve.get_arguments().find(|it| it.get_long() == flag.strip_prefix("--"));
        let help = argument.unwrap().get_help().unwrap().to_string();
        let default = Some(defaults[key].trim_matches('"')).filter(|default| !default.is_empty());
        let default = format!("[default: {}]", default.unwrap_or(NONE));
        assert!(help.contains(&default), "the help of {flag} does not say {default}");
    }
}

#[test]
fn the_rust_example_of_the_readme_is_the_one_that_is_compiled() {
    let block = README.split("```rust\n").nth(1).unwrap().split("```").next().unwrap();
    let example = include_str!("../examples/hello.rs");
    let code: Vec<_> = example.lines().skip_while(|line| line.starts_with("//!")).collect();
    assert_eq!(block.trim(), code.join("\n").trim());
}
