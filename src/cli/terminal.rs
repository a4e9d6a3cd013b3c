//! What may go to a terminal: text from the network without control characters, and colour.

use std::{
    borrow::Cow,
    env,
    fmt::Write as _,
    io::{self, IsTerminal as _},
};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// Makes text from the network safe for a terminal and for one line: control characters (which
/// move the cursor, retitle the window or make a second line), and the marks that turn the
/// direction of text around, are written as escapes.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            character if is_unsafe(character) => {
                // Writing to a string cannot fail.
                let _ = write!(escaped, "\\u{{{:x}}}", u32::from(character));
            }
            character => escaped.push(character),
        }
    }
    Cow::Owned(escaped)
}

fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// Whether to colour standard output, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    colours: bool,
}

impl Style {
    /// Colours on a terminal that can show them, unless `NO_COLOR` says not to.
    pub(crate) fn of_stdout() -> Self {
        let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self { colours: io::stdout().is_terminal() && !set("NO_COLOR") && !dumb }
    }

    /// Who speaks.
    pub(crate) fn name(self, text: &str) -> String {
        self.paint("1;36", text)
    }

    /// What the program says by itself.
    pub(crate) fn note(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// That it went well.
    pub(crate) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// That it did not.
    pub(crate) fn bad(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Gives the terminal back as it was: the line editor may be cut off in the middle of a line, when
/// it has the terminal to itself.
pub(crate) struct TerminalGuard {
    attributes: Option<Termios>,
}

impl TerminalGuard {
    pub(crate) fn new() -> Self {
        Self { attributes: tcgetattr(io::stdin()).ok() }
    }
}

impl Drop for TerminalGuard {
    fn drop(&mut self) {
        if let Some(attributes) = &self.attributes {
            // If this fails there is no terminal any more.
            let _ = tcsetattr(io::stdin(), OptionalActions::Drain, attributes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;

    use super::{Style, escape, is_unsafe};

    #[test]
    fn ordinary_text_passes_as_it_is() {
        for text in ["", "hello", "Grüße, 世界 👋🏽", "a\\nb", "שלום"] {
            assert!(matches!(escape(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    #[test]
    fn what_moves_the_cursor_or_makes_a_line_is_written_out() {
        assert_eq!(escape("\x1b[2Jgone"), "\\u{1b}[2Jgone");
        assert_eq!(escape("\x1b]0;title\x07"), "\\u{1b}]0;title\\u{7}");
        assert_eq!(escape("hi\nada: I owe you"), "hi\\nada: I owe you");
        assert_eq!(escape("over\rwritten\tby\u{8}"), "over\\rwritten\\tby\\u{8}");
        assert_eq!(escape("\u{9b}31m"), "\\u{9b}31m", "the control sequence of eight bits");
        assert_eq!(escape("\u{202e}txt.exe"), "\\u{202e}txt.exe");
        assert_eq!(escape("\u{2028}"), "\\u{2028}");
        assert_eq!(escape("\x7f\0"), "\\u{7f}\\u{0}");
    }

    proptest! {
        #[test]
        fn nothing_unsafe_is_left(text in any::<String>()) {
            prop_assert!(!escape(&text).contains(is_unsafe));
        }
    }

    #[test]
    fn without_colours_text_is_left_alone() {
        assert_eq!(Style { colours: false }.name("ada"), "ada");
        assert_eq!(Style { colours: true }.note("x"), "\x1b[2mx\x1b[0m");
    }
}
