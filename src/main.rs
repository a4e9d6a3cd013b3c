//! Flags → configuration → the chosen command → exit code.

use std::{error::Error, process::ExitCode};

use clap::Parser as _;

mod cli;

fn main() -> ExitCode {
    // Usage errors end here, with exit code 2.
    let arguments = cli::Arguments::parse();
    match cli::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has what they wanted.
        Err(error) if error.is_closed_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hubbub: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes, in one line.
fn sentence(error: &dyn Error) -> String {
    let mut sentence = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let clause = error.to_string();
        // A transparent error repeats the words of its cause.
        if !sentence.ends_with(&clause) {
            sentence.push_str(": ");
            sentence.push_str(&clause);
        }
        cause = error.source();
    }
    // Some of it may be the server's words.
    cli::terminal::escape(&sentence).into_owned()
}
