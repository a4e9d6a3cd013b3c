//! `hubbub explain`: the code tables, for people.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

use clap::Args;
use hubbub::wire::code::{CloseCode, ErrorCode};

use super::CliError;

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The number or the name of an error or close code. Absent: list all
    #[arg(value_name = "CODE")]
    code: Option<String>,
}

pub(crate) fn run(args: &ExplainArgs) -> Result<(), CliError> {
    let text = match &args.code {
        Some(code) => explain(code).ok_or_else(|| CliError::UnknownCode(code.clone()))?,
        None => list(),
    };
    io::stdout().write_all(text.as_bytes()).map_err(CliError::Output)
}

/// What a number or name means. A name may be both an error and a close code.
fn explain(code: &str) -> Option<String> {
    let number = code.parse::<u16>().ok();
    let mut text = String::new();
    for error in ErrorCode::ALL {
        if number == Some(error.number()) || code == error.name() {
            let again = if error.again() {
                "Trying again, unchanged, may help."
            } else {
                "Trying again, unchanged, does not help."
            };
            entry(&mut text, "error code", error.number(), error.name(), error.sentence(), again);
        }
    }
    for close in CloseCode::ALL {
        if number == Some(close.number()) || code == close.name() {
            let again =
                if close.again() { "Clients reconnect." } else { "Clients do not reconnect." };
            entry(&mut text, "close code", close.number(), close.name(), close.sentence(), again);
        }
    }
    (!text.is_empty()).then_some(text)
}

fn entry(text: &mut String, kind: &str, number: u16, name: &str, sentence: &str, again: &str) {
    let gap = if text.is_empty() { "" } else { "\n" };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{gap}{number} {name} ({kind})\n{sentence}\n{again}");
}

fn list() -> String {
    let errors = ErrorCode::ALL.iter().map(|code| (code.number(), code.name(), code.sentence()));
    let closes = CloseCode::ALL.iter().map(|code| (code.number(), code.name(), code.sentence()));
    let mut text = String::new();
    for (number, name, sentence) in errors.chain(closes) {
        let _ = writeln!(text, "{number:>4}  {name:<23}  {sentence}");
    }
    text
}

#[cfg(test)]
mod tests {
    use hubbub::wire::code::{CloseCode, ErrorCode};

    use super::{explain, list};

    #[test]
    fn an_error_code_is_explained_by_number_and_by_name() {
        let text = "300 unknown_channel (error code)\n\
                    There is no such channel, or it is not for this user.\n\
                    Trying again, unchanged, does not help.\n";
        assert_eq!(explain("300").as_deref(), Some(text));
        assert_eq!(explain("unknown_channel").as_deref(), Some(text));
    }

    #[test]
    fn a_close_code_says_whether_to_reconnect() {
        assert!(explain("4008").unwrap().contains("Clients reconnect."));
        assert!(explain("4500").unwrap().contains("Clients do not reconnect."));
    }

    #[test]
    fn a_name_of_two_codes_gets_both() {
        let text = explain("forbidden").unwrap();
        assert!(text.contains("203 forbidden (error code)"), "{text}");
        assert!(text.contains("4503 forbidden (close code)"), "{text}");
    }

    #[test]
    fn an_unknown_code_is_not_explained() {
        for code in ["0", "299", "65536", "-1", "", "Forbidden"] {
            assert_eq!(explain(code), None, "{code}");
        }
    }

    #[test]
    fn the_list_has_a_line_for_each_code() {
        assert_eq!(list().lines().count(), ErrorCode::ALL.len() + CloseCode::ALL.len());
    }
}
