//! What the generator itself can count: `loadtest ceiling`, in an optimised build.
//!
//! `cargo bench -p loadtest [-- --users 425 …]` hands its own arguments on. Prints, and asserts
//! only that the deliveries were the right ones: how many they are the machine decides.

use std::{
    env,
    process::{Command, ExitCode},
};

fn main() -> ExitCode {
    // Cargo gives this argument to a bench only; `cargo test --all-targets` has no time for it.
    let (mode, arguments): (Vec<_>, Vec<_>) = env::args().skip(1).partition(|it| it == "--bench");
    if mode.is_empty() {
        return ExitCode::SUCCESS;
    }
    let mut ceiling = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    let status = ceiling.arg("ceiling").args(arguments).status().expect("cargo has just built it");
    // Without a code it was ended by a signal.
    let code = status.code().and_then(|it| u8::try_from(it).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}
