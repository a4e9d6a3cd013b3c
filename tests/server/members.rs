//! Who may do what, and that whoever may no longer gets nothing more.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use hubbub::{
    engine::Engine,
    wire::{
        code::ErrorCode,
        proto::{self, Role, client_envelope::Command, server_envelope::Envelope},
    },
};

use crate::harness::{
    Heard, Peer, TestServer,
    channels::{
        change, delete, join, leave, list_members, open, private, remove_member, set_member,
    },
    code_of, history, position, publish, subscribe, within,
};

/// Publishes until told to stop, or refused. What was accepted, and how it was refused.
async fn flood(mut peer: Peer, channel: &str, stop: &AtomicBool) -> (Vec<u64>, Option<ErrorCode>) {
    let mut accepted = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let mut ids = Vec::new();
        for _ in 0..10 {
            ids.push(peer.send(publish(channel, "flood", 0)).await);
        }
        let mut refused = None;
        for id in ids {
            match peer.published(id).await {
                Ok(published) => accepted.push(published.sequence),
                other => refused = Some(code_of(other)),
            }
        }
        if refused.is_some() {
            return (accepted, refused);
        }
    }
    (accepted, None)
}

async fn a_peer_in<E: Engine>(
    server: &TestServer<E>,
    owner: &mut Peer,
    name: &str,
    channel: &str,
) -> (Peer, u32) {
    let mut peer = Peer::login(server, name).await;
    let user = peer.number_of(name).await;
    owner.member(set_member(channel, user, Role::Member)).await.unwrap();
    peer.subscribe(channel, None).await.unwrap();
    (peer, user)
}

#[tokio::test]
async fn who_is_removed_during_a_flood_gets_nothing_after_the_removal() {
    let server = TestServer::in_memory().await;
    let mut owner = Peer::login(&server, "owner").await;
    owner.create(private("secret")).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for _ in 0..3 {
        let (peer, stop) = (Peer::login(&server, "owner").await, Arc::clone(&stop));
        tasks.push(tokio::spawn(async move { flood(peer, "secret", &stop).await }));
    }
    for round in 0..20 {
        let (mut eve, user) =
            a_peer_in(&server, &mut owner, &format!("eve{round}"), "secret").await;
        // A page and a publish of the removed are under way as well.
        let paged = eve.send(history("secret", None, 100)).await;
        let published = eve.send(publish("secret", "late", 0)).await;
        let removal = owner.member(remove_member("secret", user)).await.unwrap();
        let paged = eve.reply(paged).await;
        let published = eve.published(published).await;
        let mut before = Vec::new();
        let mut last = 0;
        loop {
            let heard = within("the end of the subscription", eve.hear()).await;
            match heard {
                Heard::Messages(messages) => last = messages.last().unwrap().sequence,
                Heard::Envelope(Envelope::SubscriptionEnded(_)) => break,
                other => before.push(other),
            }
        }
        assert_eq!(last, removal.sequence, "the removal itself is the last");
        assert!(before.is_empty(), "{before:?}");
        if let Ok(proto::reply::Result::History(page)) = paged {
            let last = page.runs.last().map(|run| run.first_sequence + run.records.len() as u64);
            assert!(last.unwrap_or(0) <= removal.sequence + 1, "a page of after the removal");
        }
        if let Ok(published) = published {
            assert!(published.sequence < removal.sequence);
        }
        assert_eq!(code_of(eve.ask(history("secret", None, 1)).await), ErrorCode::UnknownChannel);
        let since = position(1, 0);
        let again = eve.ask(subscribe("secret", since)).await;
        assert_eq!(code_of(again), ErrorCode::UnknownChannel);
        let after = eve.catch_up().await;
        assert!(after.is_empty(), "{after:?}");
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        let (accepted, refused) = within("a flood", task).await.unwrap();
        assert!(!accepted.is_empty() && refused.is_none(), "{refused:?}");
    }
}

#[tokio::test]
async fn a_channel_that_is_deleted_under_load_ends_for_everybody() {
    let server = TestServer::in_memory().await;
    let mut owner = Peer::login(&server, "owner").await;
    let made = owner.create(open("short")).await.unwrap();
    let mut subscriber = Peer::login(&server, "ada").await;
    let epoch = subscriber.subscribe("short", None).await.unwrap().epoch;
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for number in 0..4 {
        let peer = Peer::login(&server, &format!("user{number}")).await;
        let stop = Arc::clone(&stop);
        tasks.push(tokio::spawn(async move { flood(peer, "short", &stop).await }));
    }
    subscriber.hear().await;
    owner.ask(delete("short")).await.unwrap();
    let mut accepted = 0;
    for task in tasks {
        let (sequences, refused) = within("a flood", task).await.unwrap();
        assert_eq!(refused, Some(ErrorCode::UnknownChannel));
        accepted = accepted.max(sequences.into_iter().max().unwrap_or(0));
    }
    let mut last = 0;
    let ended = loop {
        match within("the end", subscriber.hear()).await {
            Heard::Messages(messages) => last = messages.last().unwrap().sequence,
            Heard::Envelope(Envelope::SubscriptionEnded(ended)) => break ended,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ended.channel_id, made.channel_id);
    assert_eq!(last, accepted + 1, "all that was accepted, and the deletion");
    // The name is free, and its next life is told from this one.
    let again = owner.create(open("short")).await.unwrap();
    assert_ne!(again.channel_id, made.channel_id);
    let position = position(epoch, last);
    let resumed = subscriber.subscribe("short", position).await;
    assert_eq!(code_of(resumed), ErrorCode::EpochChanged);
    assert_eq!(owner.memberships().await, ["short"]);
}

#[tokio::test]
async fn a_channel_keeps_its_order_while_it_is_renamed() {
    let server = TestServer::in_memory().await;
    let mut owner = Peer::login(&server, "owner").await;
    let made = owner.create(open("name-0")).await.unwrap();
    let mut subscriber = Peer::login(&server, "ada").await;
    subscriber.subscribe("name-0", None).await.unwrap();
    let mut writer = Peer::login(&server, "bob").await;
    let mut accepted = Vec::new();
    for round in 0..30 {
        let old = format!("name-{round}");
        let new = format!("name-{}", round + 1);
        let ids =
            [writer.send(publish(&old, "a", 0)).await, writer.send(publish(&old, "b", 0)).await];
        let update = proto::UpdateChannel { new_name: Some(new.clone()), ..change(&old) };
        let renamed = owner.update(update).await.unwrap();
        assert_eq!((renamed.channel_id, &renamed.channel_name), (made.channel_id, &new));
        for id in ids {
            match writer.published(id).await {
                Ok(published) => accepted.push(published.sequence),
                refused => assert_eq!(code_of(refused), ErrorCode::UnknownChannel),
            }
        }
        assert_eq!(code_of(writer.publish(&old, "late").await), ErrorCode::UnknownChannel);
        accepted.push(writer.publish(&new, "now").await.unwrap().sequence);
    }
    let end = *accepted.last().unwrap();
    let mut heard = Vec::new();
    while heard.last() != Some(&end) {
        let Heard::Messages(messages) = subscriber.hear().await else { panic!() };
        heard.extend(messages.into_iter().map(|message| message.sequence));
    }
    assert_eq!(heard, (1..=end).collect::<Vec<_>>());
    assert_eq!(owner.list("name-", "", 0).await.unwrap().0, ["name-30"]);
    let taken = proto::UpdateChannel { new_name: Some("name-30".into()), ..change("lobby") };
    assert_eq!(code_of(owner.update(taken).await), ErrorCode::Forbidden);
    let other = owner.create(open("name-7")).await.unwrap();
    assert_ne!(other.channel_id, made.channel_id);
    let taken = proto::UpdateChannel { new_name: Some("name-7".into()), ..change("name-30") };
    assert_eq!(code_of(owner.update(taken).await), ErrorCode::ChannelExists);
}

#[tokio::test]
async fn each_role_is_answered_as_the_table_says() {
    use ErrorCode::{Forbidden, LastOwner, NotAMember};
    let server = TestServer::in_memory().await;
    let names = ["owner", "moderator", "member", "outsider", "target", "other"];
    let mut peers = Vec::new();
    let mut numbers = Vec::new();
    for name in names {
        let mut peer = Peer::login(&server, name).await;
        numbers.push(peer.number_of(name).await);
        peers.push(peer);
    }
    let [_, moderator, member, _, target, other] = numbers[..] else { unreachable!() };
    let posting = proto::Posting::Moderators.into();
    peers[0].create(proto::CreateChannel { posting, ..open("room") }).await.unwrap();
    for (user, role) in [(moderator, Role::Moderator), (member, Role::Member)] {
        peers[0].member(set_member("room", user, role)).await.unwrap();
    }
    let topic = || {
        Command::UpdateChannel(proto::UpdateChannel { topic: Some("x".into()), ..change("room") })
    };
    // By an owner, a moderator, a member, an outsider; in this order, so that the owner is last.
    let table: [(Command, [Option<ErrorCode>; 4]); 10] = [
        (publish("room", "hi", 0), [None, None, Some(Forbidden), Some(Forbidden)]),
        (history("room", None, 1), [None; 4]),
        (list_members("room"), [None; 4]),
        (topic(), [None, Some(Forbidden), Some(Forbidden), Some(Forbidden)]),
        (
            remove_member("room", other),
            [Some(NotAMember), Some(NotAMember), Some(Forbidden), Some(Forbidden)],
        ),
        (set_member("room", target, Role::Member), [None, None, Some(Forbidden), Some(Forbidden)]),
        (
            set_member("room", target, Role::Moderator),
            [None, Some(Forbidden), Some(Forbidden), Some(Forbidden)],
        ),
        (remove_member("room", target), [None, Some(Forbidden), Some(Forbidden), Some(Forbidden)]),
        (
            set_member("room", numbers[0], Role::Member),
            [Some(LastOwner), Some(Forbidden), Some(Forbidden), Some(Forbidden)],
        ),
        (leave("room"), [Some(LastOwner), None, None, None]),
    ];
    for (command, expected) in table {
        for place in [3, 2, 1, 0] {
            let answer = peers[place].ask(command.clone()).await;
            let code = answer.err().map(|refused| code_of::<()>(Err(refused)));
            // A moderator could not remove who was one by then, and is told so.
            assert_eq!(code, expected[place], "{command:?} by {}", names[place]);
        }
    }
    assert_eq!(code_of(peers[1].ask(delete("room")).await), Forbidden);
    peers[0].ask(delete("room")).await.unwrap();
}

#[tokio::test]
async fn an_archived_channel_is_read_and_takes_no_message() {
    let mut server = TestServer::start().await;
    let mut owner = Peer::login(&server, "owner").await;
    owner.create(open("old")).await.unwrap();
    let epoch = owner.publish("old", "hi").await.unwrap().epoch;
    let archive = |archived| proto::UpdateChannel { archived: Some(archived), ..change("old") };
    owner.update(archive(true)).await.unwrap();
    for _ in 0..2 {
        let mut ada = Peer::login(&server, "ada").await;
        let refused = ada.publish("old", "late").await;
        assert_eq!(code_of(refused), ErrorCode::ChannelArchived);
        let (messages, _) = ada.history("old", None, 10).await.unwrap();
        assert_eq!(messages[0].body, "hi");
        ada.subscribe("old", position(epoch, 0)).await.unwrap();
        assert_eq!(ada.messages(2).await[0].body, "hi");
        server.restart().await;
    }
    let mut owner = Peer::login(&server, "owner").await;
    owner.update(archive(false)).await.unwrap();
    owner.publish("old", "again").await.unwrap();
}

#[tokio::test]
async fn a_user_finds_the_own_channels_after_each_login() {
    let mut server = TestServer::start().await;
    let mut owner = Peer::login(&server, "owner").await;
    for channel in [open("first"), private("second"), open("third")] {
        owner.create(channel).await.unwrap();
    }
    let mut ada = Peer::login(&server, "ada").await;
    let user = ada.number_of("ada").await;
    ada.member(join("first")).await.unwrap();
    owner.member(set_member("second", user, Role::Member)).await.unwrap();
    owner.ask(delete("third")).await.unwrap();
    for _ in 0..2 {
        let mut ada = Peer::login(&server, "ada").await;
        assert_eq!(ada.memberships().await, ["first", "second"]);
        ada.subscribe("second", None).await.unwrap();
        let mut owner = Peer::login(&server, "owner").await;
        assert_eq!(owner.memberships().await, ["first", "second"]);
        server.restart().await;
    }
    let mut ada = Peer::login(&server, "ada").await;
    ada.member(leave("first")).await.unwrap();
    assert_eq!(ada.memberships().await, ["second"]);
}

#[tokio::test]
async fn pages_miss_none_that_was_there_and_repeat_none() {
    let server = TestServer::in_memory().await;
    let mut owner = Peer::login(&server, "owner").await;
    let before: BTreeSet<String> = (0..60).map(|n| format!("page-{:02}", n * 3)).collect();
    for name in &before {
        owner.create(open(name)).await.unwrap();
    }
    let mut reader = Peer::login(&server, "ada").await;
    let (mut seen, mut after, mut made) = (Vec::new(), String::new(), 0);
    loop {
        let (names, next) = reader.list("page-", &after, 7).await.unwrap();
        assert!(names.len() <= 7);
        seen.extend(names);
        for _ in 0..3 {
            made += 1;
            owner.create(open(&format!("page-{:02}x", (made * 37) % 180))).await.unwrap();
        }
        if next.is_empty() {
            break;
        }
        after = next;
    }
    assert!(seen.is_sorted() && seen.windows(2).all(|pair| pair[0] != pair[1]), "{seen:?}");
    let seen: BTreeSet<String> = seen.into_iter().collect();
    assert!(before.is_subset(&seen), "{:?} are missing", before.difference(&seen));
}

#[tokio::test]
async fn a_cursor_is_good_where_it_was_given_and_unchanged() {
    let server = TestServer::in_memory().await;
    let mut owner = Peer::login(&server, "owner").await;
    for number in 0..3 {
        owner.create(open(&format!("page-{number}"))).await.unwrap();
    }
    let (_, next) = owner.list("page-", "", 1).await.unwrap();
    assert_eq!(owner.list("page-", &next, 1).await.unwrap().0, ["page-1"]);
    assert_eq!(code_of(owner.list("", &next, 1).await), ErrorCode::BadRequest);
    for at in 0..next.len() {
        let mut changed = next.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert_eq!(code_of(owner.list("page-", &changed, 1).await), ErrorCode::BadRequest, "{at}");
    }
    for wrong in ["page-1", "A", "==", &"A".repeat(5_000)] {
        assert_eq!(code_of(owner.list("page-", wrong, 1).await), ErrorCode::BadRequest);
    }
    let list = proto::ListMemberships { after: next, limit: 1 };
    let other_list = owner.ask(Command::ListMemberships(list)).await;
    assert_eq!(code_of(other_list), ErrorCode::BadRequest);
}

#[tokio::test]
async fn a_name_that_only_looks_like_another_is_none() {
    let server = TestServer::in_memory().await;
    let mut owner = Peer::login(&server, "owner").await;
    owner.create(open("general")).await.unwrap();
    let long = "a".repeat(256);
    let names = [
        "General",
        "gen\u{435}ral",
        "gene\u{200b}ral",
        "\u{202e}general",
        "general.",
        "general ",
        " general",
        "gene\u{301}ral",
        "ｇeneral",
        "general\0",
        "general\n",
        "",
        &long,
        "a/b",
        "..",
    ];
    for name in names {
        let refused = owner.create(open(name)).await;
        assert_eq!(code_of(refused), ErrorCode::InvalidChannelName, "{name:?}");
        let rename = proto::UpdateChannel { new_name: Some(name.to_owned()), ..change("general") };
        assert_eq!(code_of(owner.update(rename).await), ErrorCode::InvalidChannelName, "{name:?}");
    }
    assert_eq!(code_of(owner.create(open("general")).await), ErrorCode::ChannelExists);
}
