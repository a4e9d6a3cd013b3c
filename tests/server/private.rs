//! To who is no member, a private channel and a missing one are the same: in every byte, and in time.

use std::time::Instant;

use hubbub::wire::proto::{Role, UpdateChannel, Visibility, client_envelope::Command};

use crate::{
    harness::{
        Peer, TestServer,
        channels::{
            change, delete, get_channel, get_presence, join, leave, list_members, mark_read, open,
            private, remove_member, send_typing, set_member,
        },
        history, position, publish, subscribe, within,
    },
    timing::{COMPARISONS, P_MIN, same_distribution},
};

/// Of each kind, for one comparison: enough for a shift of a third of the spread. Before it was
/// levelled, the difference was twice the spread.
const SAMPLES: usize = 300;

/// All that names a channel.
fn commands(channel: &str, user: u32) -> Vec<Command> {
    let topic = UpdateChannel { topic: Some("x".into()), ..change(channel) };
    let name = UpdateChannel { new_name: Some("mine".into()), ..change(channel) };
    vec![
        subscribe(channel, None),
        subscribe(channel, position(1, 0)),
        history(channel, None, 10),
        publish(channel, "hi", 7),
        get_channel(channel),
        list_members(channel),
        get_presence(channel),
        send_typing(channel),
        join(channel),
        leave(channel),
        set_member(channel, user, Role::Owner),
        set_member(channel, 4_000_000, Role::Owner),
        remove_member(channel, user),
        Command::UpdateChannel(topic),
        Command::UpdateChannel(name),
        mark_read(channel, 1, 0),
        delete(channel),
    ]
}

#[tokio::test]
async fn an_outsider_is_answered_as_if_there_were_no_such_channel() {
    let server = TestServer::start().await;
    let mut owner = Peer::login(&server, "owner").await;
    owner.create(private("secret")).await.unwrap();
    owner.publish("secret", "hi").await.unwrap();
    let user = owner.number_of("owner").await;
    let mut eve = Peer::login(&server, "eve").await;
    let own = eve.number_of("eve").await;
    // One who has never been in, and one who was removed.
    for _ in 0..2 {
        for (there, missing) in commands("secret", user).into_iter().zip(commands("absent", user)) {
            let there_is = eve.ask(there.clone()).await.expect_err("refused");
            let there_is_not = eve.ask(missing).await.expect_err("refused");
            assert_eq!(there_is, there_is_not, "{there:?}");
        }
        assert_eq!(eve.list("s", "", 10).await.unwrap().0, Vec::<String>::new());
        assert_eq!(eve.memberships().await, Vec::<String>::new());
        owner.member(set_member("secret", own, Role::Moderator)).await.unwrap();
        eve.history("secret", None, 10).await.unwrap();
        eve.ask(get_channel("secret")).await.unwrap();
        owner.member(remove_member("secret", own)).await.unwrap();
    }
}

#[tokio::test]
async fn a_channel_that_was_public_is_hidden_at_once() {
    let server = TestServer::in_memory().await;
    let mut owner = Peer::login(&server, "owner").await;
    owner.create(open("room")).await.unwrap();
    let mut eve = Peer::login(&server, "eve").await;
    for _ in 0..3 {
        eve.subscribe("room", None).await.unwrap();
        for (visibility, is_there) in [(Visibility::Private, false), (Visibility::Public, true)] {
            let update = UpdateChannel { visibility: visibility.into(), ..change("room") };
            owner.update(update).await.unwrap();
            assert_eq!(eve.ask(get_channel("room")).await.is_ok(), is_there);
            assert_eq!(eve.history("room", None, 1).await.is_ok(), is_there);
            assert_eq!(eve.publish("room", "hi").await.is_ok(), is_there);
            let listed = eve.list("room", "", 10).await.unwrap().0;
            assert_eq!(!listed.is_empty(), is_there);
        }
        let _ = eve.catch_up().await;
    }
}

#[tokio::test]
async fn the_time_does_not_tell_whether_there_is_a_private_channel() {
    let server = TestServer::start().await;
    let mut owner = Peer::login(&server, "owner").await;
    owner.create(private("secret")).await.unwrap();
    owner.publish("secret", "hi").await.unwrap();
    let mut eve = Peer::login(&server, "eve").await;
    for kind in ["subscribe", "history", "publish", "get"] {
        let command = |channel: &str| match kind {
            "subscribe" => subscribe(channel, None),
            "history" => history(channel, None, 10),
            "publish" => publish(channel, "hi", 0),
            _ => get_channel(channel),
        };
        let mut p = Vec::new();
        for _ in 0..COMPARISONS {
            let mut latencies = [Vec::with_capacity(SAMPLES), Vec::with_capacity(SAMPLES)];
            for _ in 0..SAMPLES {
                let first = usize::from(rand::random::<bool>());
                for which in [first, 1 - first] {
                    let command = command(["secret", "absent"][which]);
                    let begun = Instant::now();
                    within("an answer", eve.ask(command)).await.expect_err("refused");
                    latencies[which].push(begun.elapsed().as_secs_f64());
                }
            }
            let [there, missing] = &mut latencies;
            p.push(same_distribution(there, missing));
            println!(
                "{kind}: p = {:.3}; medians {:.1} and {:.1} us",
                p[p.len() - 1],
                there[SAMPLES / 2] * 1e6,
                missing[SAMPLES / 2] * 1e6
            );
            if p[p.len() - 1] > P_MIN {
                break;
            }
        }
        assert!(p.iter().any(|&p| p > P_MIN), "{kind}: the time tells what is there: {p:?}");
    }
}
