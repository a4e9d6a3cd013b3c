//! `hubbub channel …` as people type it.

use std::{io::Write as _, path::Path, process::Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::{Running, add_account, failure, hubbub, run, serve, success};

/// A server, and two users who have logged in.
struct Place<'a> {
    home: &'a Path,
    address: String,
    _server: Running,
}

impl<'a> Place<'a> {
    fn new(home: &'a Path) -> Self {
        let (server, address) = serve(home);
        let place = Self { home, address, _server: server };
        for name in ["ada", "bob"] {
            add_account(home, &place.address, name);
            success(&place.run(&["send", "lobby", "hello"], name));
        }
        place
    }

    fn run(&self, words: &[&str], user: &str) -> std::process::Output {
        run(self.home, &[words, &["--as", user, "--server", &self.address]].concat())
    }

    #[track_caller]
    fn done(&self, words: &[&str], user: &str) -> String {
        success(&self.run(&[&["channel"], words].concat(), user))
    }

    #[track_caller]
    fn refused(&self, words: &[&str], user: &str) -> String {
        failure(&self.run(&[&["channel"], words].concat(), user))
    }
}

#[test]
fn a_private_channel_from_its_making_to_its_end() {
    let home = TempDir::new().unwrap();
    let place = Place::new(home.path());
    let create = ["create", "ops", "--private", "--topic", "what breaks", "--quota-messages", "2"];
    assert_eq!(place.done(&create, "ada"), "channel ops is made\n");
    let unknown = place.refused(&["show", "ops"], "bob");
    assert!(unknown.starts_with("there is no channel ops, or it is not for bob"), "{unknown}");
    assert!(!place.done(&["list"], "bob").contains("ops"));
    assert_eq!(place.done(&["list", "--mine"], "bob"), "");
    let mine = place.done(&["list", "--mine"], "ada");
    assert_eq!(mine, "ops  1 members  private, owner  what breaks\n");
    assert!(place.refused(&["leave", "ops"], "ada").contains("needs an owner"));

    assert_eq!(place.done(&["invite", "ops", "bob"], "ada"), "bob is in ops: member\n");
    let members = place.done(&["members", "ops"], "bob");
    let members: Vec<Vec<_>> =
        members.lines().map(|line| line.split_whitespace().collect()).collect();
    let names: Vec<_> = members.iter().map(|member| &member[1..]).collect();
    assert_eq!(names, [["ada", "owner"], ["bob", "member"]]);
    assert!(place.refused(&["invite", "ops", "ada"], "bob").contains("may not do that"));
    assert!(place.refused(&["invite", "ops", "nobody"], "ada").contains("no user nobody here"));
    assert!(place.refused(&["invite", "ops", "#x"], "ada").contains("such a one looks like #7"));

    success(&place.run(&["send", "ops", "one"], "bob"));
    let shown = place.done(&["show", "ops"], "bob");
    for words in ["private: members only", "1 of 2 messages", "2; you: member"] {
        assert!(shown.contains(words), "{words:?} is not in {shown}");
    }
    success(&place.run(&["send", "ops", "two"], "bob"));
    let exhausted = failure(&place.run(&["send", "ops", "three"], "bob"));
    assert!(exhausted.contains("quota_exhausted"), "{exhausted}");
    place.done(&["update", "ops", "--quota-messages", "9", "--name", "ops-2"], "ada");
    success(&place.run(&["send", "ops-2", "three"], "bob"));

    let number = members[1][0];
    let removed = place.done(&["remove", "ops-2", number], "ada");
    assert_eq!(removed, format!("{number} is no member of ops-2 any more\n"));
    assert!(place.refused(&["show", "ops-2"], "bob").contains("no channel ops-2"));

    let tail = ["tail", "ops-2", "--since", "0", "--as", "ada", "--server", &place.address];
    let lines = Running::start(hubbub(place.home, &tail));
    let said: Vec<_> = (0..6).map(|_| lines.line()).collect();
    assert!(said[0].contains("-- ada has made bob a member --"), "{said:?}");
    assert!(said[1].ends_with(" bob: one"), "{said:?}");
    assert!(said[3].contains("-- ada has changed the channel: ops-2, private"), "{said:?}");
    assert!(said[5].ends_with("-- ada has removed bob --"), "{said:?}");

    assert!(place.refused(&["delete", "ops-2"], "ada").contains("without --yes"));
    assert_eq!(place.done(&["delete", "ops-2", "--yes"], "ada"), "channel ops-2 is removed\n");
    assert!(place.refused(&["show", "ops-2"], "ada").contains("no channel ops-2"));
    assert!(lines.line().ends_with("-- ada has deleted the channel --"));
}

#[test]
fn a_public_channel_is_joined_left_archived_and_found() {
    let home = TempDir::new().unwrap();
    let place = Place::new(home.path());
    place.done(&["create", "team-a", "--posting", "members"], "ada");
    place.done(&["create", "team-b"], "ada");
    assert!(failure(&place.run(&["send", "team-a", "x"], "bob")).contains("forbidden"));
    assert_eq!(place.done(&["join", "team-a"], "bob"), "you are in team-a: member\n");
    success(&place.run(&["send", "team-a", "x"], "bob"));
    let teams = place.done(&["list", "--prefix", "team-", "--json"], "bob");
    let teams: Vec<Value> = teams.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(teams.len(), 2);
    assert_eq!((&teams[0]["name"], &teams[0]["posting"]), (&"team-a".into(), &"members".into()));
    assert_eq!(teams[0]["member_count"], 2);

    assert_eq!(place.done(&["leave", "team-a"], "bob"), "you have left team-a\n");
    assert_eq!(place.done(&["leave", "team-a"], "bob"), "you were no member of team-a\n");
    let archived = place.done(&["archive", "team-b"], "ada");
    assert_eq!(archived, "channel team-b is archived, and takes no messages\n");
    assert!(failure(&place.run(&["send", "team-b", "x"], "ada")).contains("is archived"));
    place.done(&["unarchive", "team-b"], "ada");
    success(&place.run(&["send", "team-b", "x"], "ada"));

    assert!(place.refused(&["update", "team-b"], "ada").contains("name what is to change"));
    let name = place.refused(&["update", "team-b", "--name", "Team B"], "ada");
    assert!(name.contains("cannot be a channel's name"), "{name}");
    let taken = place.refused(&["update", "team-b", "--name", "team-a"], "ada");
    assert!(taken.contains("channel_exists"), "{taken}");

    // Whoever has no terminal cannot be asked, whatever they type.
    let delete = ["channel", "delete", "team-b", "--as", "ada", "--server", &place.address];
    let mut delete = hubbub(place.home, &delete).stdin(Stdio::piped()).spawn().unwrap();
    // It does not wait for an answer, so there may be nobody to read it.
    let _ = delete.stdin.take().unwrap().write_all(b"team-b\n");
    assert!(failure(&delete.wait_with_output().unwrap()).contains("without --yes"));
    place.done(&["show", "team-b"], "bob");
}
