//! The contract with every client: bytes, names, numbers. What was released stays readable.
//!
//! The files beside this one are read by the tests of every language. `cargo xtask contract
//! --accept` writes them anew from the code; what it changed is then read in the diff.

#![allow(clippy::unwrap_used, reason = "a contract that cannot be read has failed")]

mod codes;
mod comparer;
mod descriptor;
mod golden;
mod size;

use std::{fs, path::PathBuf};

/// How to refresh the committed contract.
const HOW: &str = "cargo xtask contract --accept";

/// Whether this run writes the contract instead of checking it.
fn accepting() -> bool {
    std::env::var("HUBBUB_CONTRACT").is_ok_and(|value| value == "accept")
}

/// A committed file of the contract.
fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/contract").join(name)
}

fn read_json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&fs::read(file(name)).unwrap()).unwrap()
}

fn write_json(name: &str, value: &serde_json::Value) {
    let mut text = serde_json::to_string_pretty(value).unwrap();
    text.push('\n');
    fs::write(file(name), text).unwrap();
}
