//! Several nodes over one log: what is done on one is so on the others, also what is in no log.

use std::time::Duration;

use hubbub::{
    engine::{Engine as _, Table, memory::MemoryEngine},
    limits::BANS_READ_INTERVAL,
    log::place::UserId,
    wire::{
        Encoding,
        code::{CloseCode, ErrorCode},
        proto::{Role, UpdateChannel, client_envelope::Command, server_envelope::Envelope},
    },
};
use tokio::time::{sleep, timeout};

use crate::{
    harness::{
        Heard, LOBBY, Peer, TestServer, authenticate,
        channels::{
            change, delete, get_channel, join, open, private, remove_member, send_typing,
            set_member,
        },
        code_of, subscribe, within,
    },
    presence::Guest,
};

type Node = TestServer<MemoryEngine>;

/// Two nodes, on which nobody runs into the limit on how often.
async fn two() -> [Node; 2] {
    let nodes = Node::nodes(2, |config| {
        config.limits.ephemeral_per_second = 10_000;
        config.limits.ephemeral_burst = 10_000;
    });
    nodes.await.try_into().ok().unwrap()
}

/// Asks until the answer is as it is to be: one node hears of another with some delay.
async fn until(peer: &mut Peer, command: Command, is_so: impl Fn(Option<ErrorCode>) -> bool) {
    within("what another node did", async {
        loop {
            let answer = peer.ask(command.clone()).await;
            if is_so(answer.is_err().then(|| code_of(answer))) {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

async fn until_there(peer: &mut Peer, command: Command) {
    until(peer, command, |refused| refused.is_none()).await;
}

async fn until_unknown(peer: &mut Peer, channel: &str) {
    let is_unknown = |refused| refused == Some(ErrorCode::UnknownChannel);
    until(peer, get_channel(channel), is_unknown).await;
}

/// These attend the lobby, each on its node, and know of each other.
async fn attending<const COUNT: usize>(
    guests: [(&Node, &str); COUNT],
    users: u32,
) -> [Guest; COUNT] {
    let mut attending = Vec::new();
    for (node, name) in guests {
        let mut guest = Guest::login(node, name).await;
        guest.attend(LOBBY).await;
        attending.push(guest);
    }
    for guest in &mut attending {
        guest.until((users, u32::try_from(COUNT).unwrap())).await;
    }
    attending.try_into().ok().unwrap()
}

#[tokio::test]
async fn users_are_there_once_wherever_they_are() {
    let nodes = Node::nodes(3, |_| {}).await;
    let [here, there, third] = &nodes[..] else { panic!("three nodes") };
    let guests = [(here, "ada"), (there, "ada"), (there, "bob")];
    let [mut ada, ada_there, bob] = attending(guests, 2).await;
    assert_eq!(ada.number, ada_there.number, "a user has one number");
    let mut both = vec![ada.number, bob.number];
    both.sort_unstable();
    for guest in [&ada, &ada_there, &bob] {
        assert_eq!(guest.there.as_ref(), Some(&both));
    }
    // Where nobody has asked for the channel before.
    let mut eve = Guest::login(third, "eve").await;
    within("what was told before", async {
        while eve.asks(LOBBY).await != (2, 3, Some(both.clone())) {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let seen = third.api("eve").get("/v1/channels/lobby/presence").await;
    assert_eq!(
        (&seen.is(200)["user_count"], &seen.is(200)["connection_count"]),
        (&2.into(), &3.into())
    );

    drop(ada_there);
    ada.until((2, 2)).await;
    drop(bob);
    ada.until((1, 1)).await;
    assert_eq!(ada.there, Some(vec![ada.number]));
}

#[tokio::test]
async fn what_was_lost_on_the_way_is_told_again() {
    let [here, there] = two().await;
    let [mut ada, _bob] = attending([(&here, "ada"), (&there, "bob")], 2).await;
    let engine = there.engine();
    engine.memory_bus().fail(|faults| faults.lost_casts = 4);
    let mut eve = Guest::login(&there, "eve").await;
    eve.attend(LOBBY).await;
    ada.until((3, 3)).await;
    engine.memory_bus().fail(|faults| assert_eq!(faults.lost_casts, 0, "something was lost"));
}

#[tokio::test]
async fn the_users_of_a_silent_node_leave_and_come_back_with_it() {
    let [here, there] = two().await;
    let [mut ada, mut bob] = attending([(&here, "ada"), (&there, "bob")], 2).await;
    there.engine().memory_bus().fail(|faults| faults.lost_casts = usize::MAX);
    ada.until((1, 1)).await;
    there.engine().memory_bus().fail(|faults| faults.lost_casts = 0);
    ada.until((2, 2)).await;
    drop(ada);
    bob.until((1, 1)).await;
}

#[tokio::test]
async fn who_writes_on_one_node_is_told_of_on_the_others() {
    let [here, there] = two().await;
    let [mut ada, mut bob] = attending([(&here, "ada"), (&there, "bob")], 2).await;
    ada.peer.ask(send_typing(LOBBY)).await.unwrap();
    assert_eq!(bob.typing().await, [ada.number]);
    bob.peer.ask(send_typing(LOBBY)).await.unwrap();
    assert_eq!(ada.typing().await, [bob.number], "nobody hears of oneself");
}

#[tokio::test]
async fn a_mark_on_one_node_is_told_to_the_users_connections_on_the_others() {
    let [here, there] = two().await;
    let [mut ada, mut ada_there] = attending([(&here, "ada"), (&there, "ada")], 1).await;
    ada.peer.member(join(LOBBY)).await.unwrap();
    let sent = ada.peer.publish(LOBBY, "hi").await.unwrap();
    ada.peer.mark(LOBBY, sent.epoch, sent.sequence).await.unwrap();
    within("the mark", async {
        loop {
            if let Some(Heard::Envelope(Envelope::ReadMarker(marker))) = ada_there.hear().await {
                assert_eq!(marker.position.unwrap().sequence, sent.sequence);
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_ban_holds_on_all_nodes_until_it_is_lifted_on_one() {
    let [here, there] = two().await;
    let mut ada = Peer::login(&there, "ada").await;
    let user = UserId(ada.number_of("ada").await);
    here.bans().ban(user, 1).await.unwrap();
    // Long before the nodes look without being told.
    let told = timeout(BANS_READ_INTERVAL / 3, ada.rest()).await;
    assert_eq!(told.unwrap(), [Heard::Close(CloseCode::Forbidden.number())]);
    let mut refused = Peer::anonymous(&there, Encoding::Proto).await;
    let token = there.token("ada");
    assert_eq!(code_of(refused.ask(authenticate(&token)).await), ErrorCode::Forbidden);

    here.bans().lift(user).await.unwrap();
    let lifted = timeout(BANS_READ_INTERVAL / 3, async {
        loop {
            let mut peer = Peer::anonymous(&there, Encoding::Proto).await;
            if peer.ask(authenticate(&token)).await.is_ok() {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    });
    lifted.await.expect("the ban is lifted there, too");
}

#[tokio::test]
async fn who_is_removed_on_one_node_is_out_on_the_others() {
    let [here, there] = two().await;
    let mut owner = Peer::login(&here, "owner").await;
    let mut eve = Peer::login(&there, "eve").await;
    let number = owner.number_of("eve").await;
    owner.create(private("secret")).await.unwrap();
    for is_subscribed in [false, true] {
        owner.member(set_member("secret", number, Role::Member)).await.unwrap();
        until_there(&mut eve, get_channel("secret")).await;
        if is_subscribed {
            eve.subscribe("secret", None).await.unwrap();
        }
        owner.member(remove_member("secret", number)).await.unwrap();
        until_unknown(&mut eve, "secret").await;
        assert_eq!(code_of(eve.ask(subscribe("secret", None)).await), ErrorCode::UnknownChannel);
        let heard = eve.catch_up().await;
        let is_end =
            |heard: &Heard| matches!(heard, Heard::Envelope(Envelope::SubscriptionEnded(_)));
        assert_eq!(heard.iter().any(is_end), is_subscribed, "{heard:?}");
    }
}

#[tokio::test]
async fn a_new_name_and_a_deletion_are_seen_on_all_nodes() {
    let nodes = Node::nodes(3, |_| {}).await;
    let mut owner = Peer::login(&nodes[0], "owner").await;
    owner.create(open("dev")).await.unwrap();
    let mut others = Vec::new();
    for (node, is_subscribed) in [(&nodes[1], false), (&nodes[2], true)] {
        let mut peer = Peer::login(node, "eve").await;
        until_there(&mut peer, get_channel("dev")).await;
        if is_subscribed {
            peer.subscribe("dev", None).await.unwrap();
        }
        others.push(peer);
    }
    owner.update(UpdateChannel { new_name: Some("ops".into()), ..change("dev") }).await.unwrap();
    for peer in &mut others {
        until_there(peer, get_channel("ops")).await;
        until_unknown(peer, "dev").await;
    }
    // The old name is free on every node.
    others[0].create(open("dev")).await.unwrap();
    owner.ask(delete("ops")).await.unwrap();
    for peer in &mut others {
        until_unknown(peer, "ops").await;
        peer.ask(get_channel("dev")).await.unwrap();
    }
    let heard = others[1].catch_up().await;
    let is_end = |heard: &Heard| matches!(heard, Heard::Envelope(Envelope::SubscriptionEnded(_)));
    assert!(heard.iter().any(is_end), "{heard:?}");
    // All nodes may clear up, and one thing is left by none.
    let engine = nodes[0].engine();
    within("the removal", async {
        while !engine.scan(Table::Deletions, "id:", None, 10).await.unwrap().is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let members = engine.scan(Table::Members, "", None, 10).await.unwrap();
    assert_eq!(members.len(), 1, "the owner of the new one");
}
