//! How far a user has read: what is unread, and that a marker never goes back or astray.

use futures_util::future::join_all;
use hubbub::{
    engine::{Engine, Table},
    wire::{
        code::ErrorCode,
        proto::{Role, client_envelope::Command, server_envelope::Envelope},
    },
};
use serde_json::json;

use crate::harness::{
    Heard, Peer, TestServer,
    channels::{change, delete, join, leave, mark_read, open, private, remove_member, set_member},
    code_of, subscribe, unsubscribe, within,
};

/// What a user is told of one of its channels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Read {
    epoch: u32,
    head: u64,
    read: u64,
    unread: u64,
}

/// The same in few words: head, read, unread.
async fn read(peer: &mut Peer, channel: &str) -> (u64, u64, u64) {
    let read = told(peer, channel).await;
    (read.head, read.read, read.unread)
}

async fn told(peer: &mut Peer, channel: &str) -> Read {
    let (channels, _) = peer.memberships_after("", 0).await;
    let found = channels.iter().find(|it| it.channel_name == channel).expect("a member");
    let head = found.head.expect("a list of memberships says where they are");
    let (read, unread) = (found.read_sequence, found.unread_count);
    Read { epoch: head.epoch, head: head.sequence, read, unread }
}

/// The sequence of the last of so many messages.
async fn publish(peer: &mut Peer, channel: &str, count: usize) -> u64 {
    let mut last = 0;
    for _ in 0..count {
        last = peer.publish(channel, "hi").await.unwrap().sequence;
    }
    last
}

async fn markers<E: Engine>(server: &TestServer<E>) -> usize {
    server.engine().scan(Table::ReadMarkers, "", None, 1_000).await.unwrap().len()
}

#[tokio::test]
async fn what_is_unread_is_told_and_marked_at_both_doors_and_outlives_a_restart() {
    let mut server = TestServer::start().await;
    let mut ada = Peer::login(&server, "ada").await;
    let mut bob = Peer::login(&server, "bob").await;
    ada.create(open("dev")).await.unwrap();
    let epoch = told(&mut ada, "dev").await.epoch;
    assert_eq!(read(&mut ada, "dev").await, (0, 0, 0), "an empty channel");
    assert_eq!(publish(&mut ada, "dev", 3).await, 3);
    assert_eq!(read(&mut ada, "dev").await, (3, 0, 3), "what one writes does not mark");
    // What was before somebody came is not unread.
    let joined = bob.member(join("dev")).await.unwrap().sequence;
    assert_eq!((joined, read(&mut bob, "dev").await), (4, (4, 4, 0)));
    publish(&mut ada, "dev", 5).await;
    assert_eq!(read(&mut bob, "dev").await, (9, 4, 5));
    assert_eq!(bob.mark("dev", epoch, 7).await, Ok(7));
    assert_eq!(read(&mut bob, "dev").await, (9, 7, 2));

    let api = server.api("bob");
    let list = api.get("/v1/me/channels").await;
    let dev = &list.is(200)["channels"][0];
    assert_eq!(dev["head"], json!({"epoch": epoch, "sequence": 9}));
    assert_eq!((&dev["read_sequence"], &dev["unread_count"]), (&json!(7), &json!(2)));
    let marked =
        api.send("PUT", "/v1/channels/dev/read", &json!({"epoch": epoch, "sequence": 8})).await;
    let marker = json!({"channel_id": dev["channel_id"], "epoch": epoch, "sequence": 8});
    assert_eq!(marked.is(200), &marker);
    // Elsewhere the reader's own state is not known.
    let shown = api.get("/v1/channels/dev").await;
    assert!(shown.is(200).get("head").is_none() && shown.body.get("unread_count").is_none());

    drop((ada, bob));
    server.restart().await;
    let mut bob = Peer::login(&server, "bob").await;
    assert_eq!(read(&mut bob, "dev").await, (9, 8, 1));
    assert_eq!(bob.mark("dev", epoch, 9).await, Ok(9));
    assert_eq!(read(&mut bob, "dev").await, (9, 9, 0));
}

#[tokio::test]
async fn a_marker_never_goes_back() {
    let server = TestServer::start().await;
    let mut ada = Peer::login(&server, "ada").await;
    ada.create(open("dev")).await.unwrap();
    publish(&mut ada, "dev", 6).await;
    let epoch = told(&mut ada, "dev").await.epoch;
    for (to, then) in [(5, 5), (3, 5), (5, 5), (0, 5), (6, 6), (1, 6)] {
        assert_eq!(ada.mark("dev", epoch, to).await, Ok(then), "{to}");
        assert_eq!(read(&mut ada, "dev").await, (6, then, 6 - then), "{to}");
    }
}

#[tokio::test]
async fn a_place_that_the_channel_does_not_have_is_refused_with_where_it_is() {
    let server = TestServer::start().await;
    let mut ada = Peer::login(&server, "ada").await;
    ada.create(open("dev")).await.unwrap();
    let epoch = told(&mut ada, "dev").await.epoch;
    let api = server.api("ada");
    for head in [0, 1] {
        let cases = [
            (epoch, head + 1, ErrorCode::PositionAhead, 409),
            (epoch, u64::MAX, ErrorCode::PositionAhead, 409),
            (epoch - 1, head, ErrorCode::EpochChanged, 410),
            (epoch + 1, 0, ErrorCode::EpochChanged, 410),
        ];
        for (epoch_of, sequence, code, status) in cases {
            let refused = ada.mark("dev", epoch_of, sequence).await.unwrap_err();
            let at = refused.head.expect("where it is");
            assert_eq!((at.epoch, at.sequence), (epoch, head));
            assert_eq!(code_of::<u64>(Err(refused)), code);
            let place = json!({"epoch": epoch_of, "sequence": sequence});
            let refused = api.send("PUT", "/v1/channels/dev/read", &place).await;
            refused.is_refused(status, code.name());
            let detail = format!("the channel is at epoch {epoch}, sequence {head}");
            assert_eq!(refused.body["detail"], detail);
        }
        assert_eq!(read(&mut ada, "dev").await, (head, 0, head));
        publish(&mut ada, "dev", 1).await;
    }
}

#[tokio::test]
async fn only_a_member_has_a_marker_and_an_outsider_learns_nothing() {
    let server = TestServer::start().await;
    let mut ada = Peer::login(&server, "ada").await;
    let mut eve = Peer::login(&server, "eve").await;
    ada.create(open("dev")).await.unwrap();
    ada.create(private("secret")).await.unwrap();
    publish(&mut ada, "dev", 1).await;
    let epoch = told(&mut ada, "dev").await.epoch;
    let strangers = [
        ("dev", ErrorCode::NotAMember),
        ("secret", ErrorCode::UnknownChannel),
        ("absent", ErrorCode::UnknownChannel),
    ];
    for (channel, code) in strangers {
        // Also with a place that is not there.
        for sequence in [0, 1, 99] {
            assert_eq!(code_of(eve.mark(channel, epoch, sequence).await), code, "{channel}");
        }
        let path = format!("/v1/channels/{channel}/read");
        let place = json!({"epoch": epoch, "sequence": 1});
        server.api("eve").send("PUT", &path, &place).await.is_refused(404, code.name());
    }
    assert_eq!(markers(&server).await, 2, "those of the owner");
    for body in [json!({}), json!({"epoch": 1}), json!({"epoch": 1, "sequence": -1})] {
        let refused = server.api("ada").send("PUT", "/v1/channels/dev/read", &body).await;
        refused.is_refused(400, "bad_request");
    }
}

#[tokio::test]
async fn of_many_that_mark_at_once_the_furthest_stays() {
    const CONNECTIONS: u64 = 20;
    let server = TestServer::start().await;
    let mut ada = Peer::login(&server, "ada").await;
    ada.create(open("dev")).await.unwrap();
    publish(&mut ada, "dev", 25).await;
    let epoch = told(&mut ada, "dev").await.epoch;
    let mut peers = Vec::new();
    for _ in 0..CONNECTIONS {
        peers.push(Peer::login(&server, "ada").await);
    }
    let marks = (0..CONNECTIONS).zip(peers).map(|(number, mut peer)| async move {
        // Each another place, in no order: 1 to 20.
        let to = number * 7 % CONNECTIONS + 1;
        let then = peer.mark("dev", epoch, to).await.unwrap();
        assert!((to..=CONNECTIONS).contains(&then), "{then} answers {to}");
    });
    within("all marks", join_all(marks)).await;
    assert_eq!(read(&mut ada, "dev").await, (25, CONNECTIONS, 5));
}

#[tokio::test]
async fn a_marker_lasts_as_long_as_the_membership() {
    let server = TestServer::in_memory().await;
    let mut ada = Peer::login(&server, "ada").await;
    let mut bob = Peer::login(&server, "bob").await;
    let user = bob.number_of("bob").await;
    ada.create(open("dev")).await.unwrap();
    bob.member(join("dev")).await.unwrap();
    publish(&mut ada, "dev", 3).await;
    let epoch = told(&mut bob, "dev").await.epoch;
    assert_eq!(bob.mark("dev", epoch, 2).await, Ok(2));
    // Another role and another name change nothing about it, but are entries of the log.
    ada.member(set_member("dev", user, Role::Moderator)).await.unwrap();
    let mut renamed = change("dev");
    renamed.new_name = Some("ops".into());
    ada.update(renamed).await.unwrap();
    assert_eq!(read(&mut bob, "ops").await, (6, 2, 4));
    // Who comes again begins anew.
    bob.member(leave("ops")).await.unwrap();
    assert_eq!(markers(&server).await, 1, "the owner's");
    publish(&mut ada, "ops", 2).await;
    bob.member(join("ops")).await.unwrap();
    assert_eq!(read(&mut bob, "ops").await, (10, 10, 0));
    ada.ask(delete("ops")).await.unwrap();
    within("the end of the records", async {
        while markers(&server).await > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(code_of(bob.mark("ops", epoch, 1).await), ErrorCode::UnknownChannel);
    // The next one of that name has a numbering of its own.
    ada.create(open("ops")).await.unwrap();
    let next = told(&mut ada, "ops").await;
    assert!(next.epoch > epoch && (next.head, next.read) == (0, 0), "{next:?}");
    assert_eq!(code_of(ada.mark("ops", epoch, 0).await), ErrorCode::EpochChanged);
}

#[tokio::test]
async fn who_marks_while_being_removed_leaves_nothing_behind() {
    let server = TestServer::start().await;
    let mut ada = Peer::login(&server, "ada").await;
    let mut bob = Peer::login(&server, "bob").await;
    let user = bob.number_of("bob").await;
    ada.create(private("dev")).await.unwrap();
    let epoch = told(&mut ada, "dev").await.epoch;
    for _ in 0..20 {
        ada.member(set_member("dev", user, Role::Member)).await.unwrap();
        let last = publish(&mut ada, "dev", 1).await;
        let (marked, removed) =
            tokio::join!(bob.mark("dev", epoch, last), ada.member(remove_member("dev", user)),);
        removed.unwrap();
        match marked {
            Ok(then) => assert_eq!(then, last),
            Err(refused) => assert_eq!(code_of::<u64>(Err(refused)), ErrorCode::UnknownChannel),
        }
        assert_eq!(markers(&server).await, 1, "the owner's");
    }
}

#[tokio::test]
async fn each_channel_of_a_page_has_its_own_state() {
    const CHANNELS: u64 = 30;
    let mut server = TestServer::start().await;
    let mut ada = Peer::login(&server, "ada").await;
    for number in 0..CHANNELS {
        let name = format!("c{number:02}");
        ada.create(open(&name)).await.unwrap();
        publish(&mut ada, &name, usize::try_from(number % 4).unwrap()).await;
    }
    for number in (3..CHANNELS).step_by(4) {
        let name = format!("c{number:02}");
        let epoch = told(&mut ada, &name).await.epoch;
        ada.mark(&name, epoch, 2).await.unwrap();
    }
    drop(ada);
    // Nothing of it is in memory then.
    server.restart().await;
    let mut ada = Peer::login(&server, "ada").await;
    for limit in [7, 200] {
        let (mut listed, mut after) = (Vec::new(), String::new());
        loop {
            let (page, next) = ada.memberships_after(&after, limit).await;
            listed.extend(page);
            if next.is_empty() {
                break;
            }
            after = next;
        }
        let told: Vec<_> = listed
            .iter()
            .map(|it| (it.head.unwrap().sequence, it.read_sequence, it.unread_count))
            .collect();
        let due: Vec<_> = (0..CHANNELS)
            .map(|number| match number % 4 {
                3 => (3, 2, 1),
                head => (head, 0, head),
            })
            .collect();
        assert_eq!(told, due, "{limit}");
    }
}

/// Subscribes to what is not in the log as well.
async fn attend(peer: &mut Peer, channel: &str) {
    let Command::Subscribe(mut command) = subscribe(channel, None) else { unreachable!() };
    command.ephemeral = true;
    peer.ask(Command::Subscribe(command)).await.unwrap();
}

/// The markers that a connection is told of before the next message.
async fn told_before_message(peer: &mut Peer) -> Vec<u64> {
    let mut told = Vec::new();
    loop {
        match within("a message", peer.hear()).await {
            Heard::Messages(_) => return told,
            Heard::Envelope(Envelope::ReadMarker(marker)) => {
                told.push(marker.position.unwrap().sequence);
            }
            Heard::Envelope(Envelope::Presence(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_users_other_connections_are_told_if_they_asked_and_nobody_else() {
    let server = TestServer::start().await;
    let mut writer = Peer::login(&server, "writer").await;
    writer.create(open("dev")).await.unwrap();
    let mut marking = Peer::login(&server, "ada").await;
    let joined = marking.member(join("dev")).await.unwrap().sequence;
    let mut other = Peer::login(&server, "ada").await;
    let mut without = Peer::login(&server, "ada").await;
    let mut bob = Peer::login(&server, "bob").await;
    bob.member(join("dev")).await.unwrap();
    for peer in [&mut marking, &mut other, &mut bob] {
        attend(peer, "dev").await;
    }
    let id = without.subscribe("dev", None).await.unwrap().channel_id;
    let epoch = told(&mut marking, "dev").await.epoch;
    let api = server.api("ada");
    let mut all = [marking, other, without, bob];

    // A message follows each mark, so that what comes before it is all that comes of the mark.
    let mut last = publish(&mut writer, "dev", 1).await;
    for peer in &mut all {
        assert_eq!(told_before_message(peer).await, [0; 0]);
    }
    assert_eq!(all[0].mark("dev", epoch, last).await, Ok(last));
    // What moves nothing is not told.
    assert_eq!(all[0].mark("dev", epoch, joined).await, Ok(last));
    let before = last;
    last = publish(&mut writer, "dev", 1).await;
    let dues: [&[u64]; 4] = [&[], &[before], &[], &[]];
    for (peer, due) in all.iter_mut().zip(dues) {
        assert_eq!(told_before_message(peer).await, due);
    }
    // Over HTTP nobody knows it already. Who has unsubscribed is not told.
    let place = json!({"epoch": epoch, "sequence": last});
    api.send("PUT", "/v1/channels/dev/read", &place).await.is(200);
    let before = last;
    last = publish(&mut writer, "dev", 1).await;
    let dues: [&[u64]; 4] = [&[before], &[before], &[], &[]];
    for (peer, due) in all.iter_mut().zip(dues) {
        assert_eq!(told_before_message(peer).await, due);
    }
    all[1].ask(unsubscribe(id)).await.unwrap();
    let place = json!({"epoch": epoch, "sequence": last});
    api.send("PUT", "/v1/channels/dev/read", &place).await.is(200);
    publish(&mut writer, "dev", 1).await;
    assert_eq!(told_before_message(&mut all[0]).await, [last]);
    assert!(all[1].catch_up().await.is_empty());
}

#[tokio::test]
async fn who_marks_too_often_is_told_when_to_come_back_at_both_doors() {
    let server = TestServer::start().await;
    let mut ada = Peer::login(&server, "ada").await;
    ada.create(open("dev")).await.unwrap();
    let epoch = told(&mut ada, "dev").await.epoch;
    let mut marks = Vec::new();
    for _ in 0..60 {
        marks.push(ada.send(mark_read("dev", epoch, 0)).await);
    }
    let mut refused = Vec::new();
    for mark in marks {
        refused.extend(ada.reply(mark).await.err());
    }
    let last = refused.pop().expect("60 at once are too many");
    assert!((1..=200).contains(&last.retry_after_ms), "{last:?}");
    assert!(refused.len() >= 20, "{refused:?}");
    assert_eq!(code_of::<u64>(Err(last)), ErrorCode::RateLimited);
    let api = server.api("ada");
    let place = json!({"epoch": epoch, "sequence": 0});
    // One more may have been earned since, or two.
    let mut answers = Vec::new();
    for _ in 0..5 {
        answers.push(api.send("PUT", "/v1/channels/dev/read", &place).await.status);
    }
    assert!(answers.contains(&429), "{answers:?}");
    // Lists, and other users, are none of it.
    assert_eq!(read(&mut ada, "dev").await, (0, 0, 0));
    let mut bob = Peer::login(&server, "bob").await;
    bob.member(join("dev")).await.unwrap();
    assert_eq!(bob.mark("dev", epoch, 1).await, Ok(1));
}
