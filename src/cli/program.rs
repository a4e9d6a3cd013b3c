//! What the commands that we suggest begin with. A suggestion has to work as it is pasted.

use std::{
    env,
    ffi::OsString,
    path::{Component, Path, PathBuf},
};

/// How to call this program from another terminal: by its name if the shell found it by that, else
/// by its whole path, since after `cargo run` there is no `hubbub` to be found.
pub(crate) fn program() -> String {
    called(env::args_os().next(), env::current_exe().ok())
}

fn called(name: Option<OsString>, executable: Option<PathBuf>) -> String {
    let name = name.map_or_else(|| PathBuf::from("hubbub"), PathBuf::from);
    let mut parts = name.components();
    let is_found_by_name =
        matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    let path = if is_found_by_name { name } else { executable.unwrap_or(name) };
    quoted(&path)
}

/// As one word of a shell.
fn quoted(path: &Path) -> String {
    let path = path.to_string_lossy();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+@%".contains(&byte);
    if path.bytes().all(is_plain) {
        path.into_owned()
    } else {
        format!("'{}'", path.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::called;

    fn call(name: &str, executable: &str) -> String {
        called(Some(name.into()), Some(executable.into()))
    }

    #[test]
    fn an_installed_program_is_called_by_its_name() {
        assert_eq!(call("hubbub", "/usr/local/bin/hubbub"), "hubbub");
    }

    #[test]
    fn a_program_off_the_path_is_called_by_where_it_is() {
        assert_eq!(
            call("target/release/hubbub", "/src/target/release/hubbub"),
            "/src/target/release/hubbub"
        );
        assert_eq!(call("./hubbub", "/opt/hubbub"), "/opt/hubbub");
        assert_eq!(called(None, None), "hubbub");
    }

    #[test]
    fn a_path_is_one_word() {
        assert_eq!(call("./hubbub", "/my files/ada's/hubbub"), r"'/my files/ada'\''s/hubbub'");
    }
}
