//! Channels and members in words: for people, escaped for their terminal, and as JSON.

use bytesize::ByteSize;
use hubbub::{
    log::settings::{Posting, Role, Visibility},
    wire::channels::{ChannelView, MemberView},
};
use serde_json::{Value, json};

use crate::cli::{tail::rfc3339, terminal::escape};

/// A channel in the words of the HTTP API.
pub(super) fn as_json(channel: &ChannelView) -> Value {
    let settings = &channel.settings;
    json!({
        "channel_id": channel.id.0,
        "name": &*settings.name,
        "topic": settings.topic,
        "visibility": settings.visibility,
        "posting": settings.posting,
        "archived": settings.archived,
        "quota": settings.quota,
        "used": channel.used,
        "member_count": channel.member_count,
        "role": channel.role,
        "head": channel.read.map(|read| json!({
            "epoch": read.head.epoch.0,
            "sequence": read.head.sequence.0,
        })),
        "read_sequence": channel.read.map(|read| read.read.0),
        "unread_count": channel.read.map(|read| read.unread()),
        "created": (channel.created_at_ms > 0).then(|| rfc3339(channel.created_at_ms)),
    })
}

/// A channel as a row of a list.
pub(super) fn row(channel: &ChannelView) -> Vec<String> {
    let settings = &channel.settings;
    let unread = channel.read.map(|read| read.unread()).filter(|unread| *unread > 0);
    let unread = unread.map(|unread| format!("{unread} unread"));
    let marks = [
        unread.as_deref(),
        (settings.visibility == Visibility::Private).then_some("private"),
        settings.archived.then_some("archived"),
        channel.role.map(Role::name),
    ];
    vec![
        escape(&settings.name).into_owned(),
        format!("{} members", channel.member_count),
        marks.into_iter().flatten().collect::<Vec<_>>().join(", "),
        escape(&settings.topic).into_owned(),
    ]
}

/// A member as a row of a list.
pub(super) fn member_row(member: &MemberView) -> Vec<String> {
    vec![
        format!("#{}", member.user.0),
        escape(&member.name).into_owned(),
        member.role.map_or("no member", Role::name).to_owned(),
    ]
}

/// All that there is to say of a channel.
pub(super) fn shown(channel: &ChannelView) -> String {
    let settings = &channel.settings;
    let mut rows = vec![
        vec!["channel".to_owned(), format!("{} (#{})", escape(&settings.name), channel.id.0)],
        vec!["topic".to_owned(), escape(&settings.topic).into_owned()],
    ];
    let visibility = match settings.visibility {
        Visibility::Public => "public",
        Visibility::Private => "private: members only",
    };
    rows.push(vec!["visibility".to_owned(), visibility.to_owned()]);
    let posting = match settings.posting {
        Posting::Everyone => "everyone who may read",
        Posting::Members => "members",
        Posting::Moderators => "moderators and owners",
    };
    rows.push(vec!["may write".to_owned(), posting.to_owned()]);
    if settings.archived {
        rows.push(vec!["archived".to_owned(), "takes no messages".to_owned()]);
    }
    let used = channel.used.unwrap_or_default();
    if let Some(max) = settings.quota.messages_max {
        rows.push(vec!["accepted".to_owned(), format!("{} of {max} messages", used.messages)]);
    }
    if let Some(max) = settings.quota.bytes_max {
        let accepted = format!("{} of {}", ByteSize(used.bytes), ByteSize(max.get()));
        rows.push(vec!["accepted".to_owned(), accepted]);
    }
    let you = channel.role.map_or("no member", Role::name);
    rows.push(vec!["members".to_owned(), format!("{}; you: {you}", channel.member_count)]);
    if channel.created_at_ms > 0 {
        rows.push(vec!["made".to_owned(), rfc3339(channel.created_at_ms)]);
    }
    table(rows)
}

/// Rows with their columns below each other.
pub(super) fn table(rows: Vec<Vec<String>>) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use hubbub::{
        log::{
            place::{ChannelId, Epoch, Position, Sequence},
            settings::{Quota, Settings, Usage},
        },
        wire::channels::ReadState,
    };

    use super::*;

    fn ops() -> ChannelView {
        let quota = Quota { messages_max: NonZeroU64::new(100), bytes_max: NonZeroU64::new(2_048) };
        let head = Position { epoch: Epoch(1_700_000_000), sequence: Sequence(7) };
        let settings = Settings {
            topic: "what\nbreaks\u{1b}[2J".to_owned(),
            visibility: Visibility::Private,
            archived: true,
            quota,
            ..Settings::open("ops")
        };
        ChannelView {
            id: ChannelId(4),
            settings,
            member_count: 2,
            role: Some(Role::Owner),
            created_at_ms: 1_700_000_000_123,
            used: Some(Usage { messages: 3, bytes: 1_024 }),
            read: Some(ReadState { head, read: Sequence(4) }),
        }
    }

    #[test]
    fn a_channel_is_shown_with_all_that_it_is() {
        let text = shown(&ops());
        assert_eq!(text.lines().count(), 9, "a topic makes no line: {text}");
        for words in [
            "channel     ops (#4)\n",
            "topic       what\\nbreaks\\u{1b}[2J\n",
            "visibility  private: members only\n",
            "may write   everyone who may read\n",
            "archived    takes no messages\n",
            "accepted    3 of 100 messages\n",
            "accepted    1.0 KiB of 2.0 KiB\n",
            "members     2; you: owner\n",
            "made        2023-11-14T22:13:20.123Z\n",
        ] {
            assert!(text.contains(words), "{words:?} is not in {text}");
        }
    }

    #[test]
    fn columns_stand_below_each_other() {
        let lobby = ChannelView {
            id: ChannelId(1),
            settings: Settings::open("lobby"),
            member_count: 12,
            role: None,
            created_at_ms: 0,
            used: None,
            read: None,
        };
        let text = table([&lobby, &ops()].map(row).into());
        let expected = "lobby  12 members\n\
                        ops    2 members   3 unread, private, archived, owner  what\\nbreaks\\u{1b}[2J\n";
        assert_eq!(text, expected);
        assert_eq!(table(Vec::new()), "");
    }

    #[test]
    fn as_json_a_channel_has_the_words_of_the_http_api() {
        let json = as_json(&ops());
        assert_eq!(
            (&json["visibility"], &json["posting"]),
            (&"private".into(), &"everyone".into())
        );
        assert_eq!((&json["role"], &json["used"]["messages"]), (&"owner".into(), &3.into()));
        assert_eq!(json["quota"], serde_json::json!({ "messages_max": 100, "bytes_max": 2_048 }));
        assert_eq!(json["head"], serde_json::json!({ "epoch": 1_700_000_000, "sequence": 7 }));
        assert_eq!((&json["read_sequence"], &json["unread_count"]), (&4.into(), &3.into()));
        assert_eq!(json["created"], "2023-11-14T22:13:20.123Z");
    }
}
