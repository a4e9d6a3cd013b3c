//! Flags → configuration → the chosen command → exit code.

fn main() {}
