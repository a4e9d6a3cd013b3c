//! Clients do not notice how many shards there are, and a batch crosses to each of them once.
//!
//! Everything else holds with any number of shards too: `SHARDS=3 cargo test --test server`.

use hubbub::{engine::Engine, server::cores::Shards, wire::code::CloseCode};

use crate::harness::{Heard, LOBBY, Peer, TestServer, off_runtime, publish, unsubscribe, within};

/// Their numbers are 1 to 4, so that every shard of two or three owns one.
const CHANNELS: [&str; 4] = [LOBBY, "dev", "ops", "art"];

async fn server(shards: u16) -> TestServer<impl Engine> {
    TestServer::in_memory_with(move |config| {
        config.hub.shards = Shards::Number(shards);
        config.channels.created_at_start = CHANNELS.map(str::to_owned).into();
    })
    .await
}

#[tokio::test]
async fn everybody_hears_everything_once_whoever_has_the_channel() {
    const EACH: usize = 10;
    for shards in [2, 3] {
        let mut server = server(shards).await;
        let mut peers = Vec::new();
        for number in 0..6 {
            let mut peer = Peer::login(&server, &format!("user{number}")).await;
            for channel in CHANNELS {
                peer.subscribe(channel, None).await.unwrap();
            }
            peers.push(peer);
        }
        let all = peers.len() * EACH * CHANNELS.len();
        let mut tasks = Vec::new();
        for mut peer in peers {
            tasks.push(tokio::spawn(async move {
                let mut ids = Vec::new();
                for message in 0..EACH {
                    for channel in CHANNELS {
                        ids.push(peer.send(publish(channel, &message.to_string(), 0)).await);
                    }
                }
                for id in ids {
                    peer.published(id).await.unwrap();
                }
                let mut heads = [0; CHANNELS.len()];
                for message in peer.messages(all).await {
                    let head = &mut heads[message.channel as usize - 1];
                    *head += 1;
                    assert_eq!(message.sequence, *head, "in channel {}", message.channel);
                }
                peer
            }));
        }
        let mut peers = Vec::new();
        for task in tasks {
            peers.push(within("a peer", task).await.unwrap());
        }
        let taken = server.take();
        let draining = tokio::spawn(off_runtime(move || taken.drain()));
        for mut peer in peers {
            let heard = peer.rest().await;
            assert_eq!(heard.last(), Some(&Heard::Close(CloseCode::GoingAway.number())));
            assert_eq!(heard.len(), 2, "a warning and the close: {heard:?}");
        }
        assert!(within("the drain", draining).await.unwrap(), "in time");
    }
}

#[tokio::test]
async fn a_batch_crosses_once_however_many_subscribe_there() {
    let server = server(2).await;
    // Connections go to the shards in turn.
    let mut peers = Vec::new();
    for number in 0..8 {
        peers.push(Peer::login(&server, &format!("user{number}")).await);
    }
    let (mut here, mut there): (Vec<_>, Vec<_>) =
        peers.into_iter().enumerate().partition(|(number, _)| number % 2 == 0);
    for (_, peer) in here.iter_mut().chain(&mut there) {
        peer.subscribe(LOBBY, None).await.unwrap();
    }
    for message in 0..5 {
        // One batch each, because it is waited for.
        here[0].1.publish(LOBBY, &message.to_string()).await.unwrap();
    }
    for (_, peer) in here.iter_mut().chain(&mut there) {
        peer.messages(5).await;
    }
    assert_eq!(server.counter("crossings").await, 5);
    assert_eq!(server.counter("deliveries").await, 40);

    // One of the two has the channel itself: when only its own subscribers are left, nothing crosses.
    let mut crossed = Vec::new();
    for _ in 0..2 {
        for (_, peer) in &mut here {
            peer.ask(unsubscribe(1)).await.unwrap();
        }
        let before = server.counter("crossings").await;
        there[0].1.publish(LOBBY, "again").await.unwrap();
        for (_, peer) in &mut there {
            peer.messages(1).await;
        }
        crossed.push(server.counter("crossings").await - before);
        for (_, peer) in &mut here {
            peer.subscribe(LOBBY, None).await.unwrap();
        }
        std::mem::swap(&mut here, &mut there);
    }
    crossed.sort_unstable();
    assert_eq!(crossed, [0, 1]);
}

#[tokio::test]
async fn a_connection_that_goes_is_forgotten_by_the_owner_of_its_channels() {
    let server = server(2).await;
    let mut stays = [Peer::login(&server, "ada").await, Peer::login(&server, "bob").await];
    for peer in &mut stays {
        for channel in CHANNELS {
            peer.subscribe(channel, None).await.unwrap();
        }
    }
    for _ in 0..10 {
        for _ in 0..2 {
            let mut goes = Peer::login(&server, "eve").await;
            for channel in CHANNELS {
                goes.subscribe(channel, None).await.unwrap();
            }
        }
    }
    // Its end is noticed a moment after it went.
    let forgotten = async { while server.gauge("hubbub_connections").await != 2 {} };
    within("the ends", forgotten).await;
    let before = server.counter("deliveries").await;
    for channel in CHANNELS {
        stays[0].publish(channel, "only we two").await.unwrap();
    }
    for peer in &mut stays {
        peer.messages(CHANNELS.len()).await;
    }
    assert_eq!(server.counter("deliveries").await - before, 8);
}
