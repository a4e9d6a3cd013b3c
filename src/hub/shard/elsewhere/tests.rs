use tokio::runtime::{Builder, LocalOptions};

use super::*;
use crate::{
    engine::{bus::NodeId, memory::MemoryEngine},
    hub::{
        calls::{Call, Wanted},
        cluster::News,
        crossing::borders,
        desk::tests::a_desk,
        directory::ChannelInfo,
        revocations::Register,
    },
    limits::{IDLE_CHANNELS_LOADED_MAX, Limits, REVOCATION_KEPT},
    log::{place::Epoch, settings::Access},
    metrics::Metrics,
    wire::{channels::Named, encode::Reply},
};

type TestShard = Rc<Shard<MemoryEngine, ()>>;

const TELLER: Teller = Teller { node: NodeId(7), shard: 2 };

/// A shard of a node that has another one beside it.
fn shard() -> TestShard {
    let engine = MemoryEngine::default();
    let _there = engine.another_node();
    let engine = Arc::new(engine);
    let desk = a_desk(&engine);
    let register = Arc::new(Register::new(REVOCATION_KEPT));
    let (borders, _) = borders(1).pop().unwrap();
    Shard::new(
        borders,
        engine,
        desk,
        register,
        Arc::new(Limits::default()),
        Arc::new(Metrics::default()),
    )
}

fn tell(shard: &TestShard, channel: u32, users: &[(u32, u32)]) {
    let users = users.iter().map(|(user, connections)| (UserId(*user), *connections)).collect();
    shard.news(News::Told(vec![Told::Users(TELLER, 1, ChannelId(channel), users)]));
}

fn bytes(shard: &TestShard) -> usize {
    shard.state.borrow().elsewhere.as_ref().unwrap().bytes
}

/// Who is there, as who asks is told.
async fn there(shard: &TestShard, channel: u32) -> (u32, u32, Vec<u32>) {
    let info = ChannelInfo {
        id: ChannelId(channel),
        name: "lobby".into(),
        epoch: Epoch(1),
        access: Access::Open,
    };
    let (reply, answer) = tokio::sync::oneshot::channel();
    shard.call(Call { channel: info, wanted: Wanted::Presence(UserId(1)), reply });
    let Reply::Presence(view) = answer.await.unwrap() else { panic!("another reply") };
    let Named::Everyone(users) = view.named else { panic!("{view:?}") };
    (view.users, view.connections, users.into_iter().map(|user| user.0).collect())
}

fn run(test: impl AsyncFnOnce(TestShard)) {
    let runtime =
        Builder::new_current_thread().enable_time().build_local(LocalOptions::default()).unwrap();
    runtime.block_on(test(shard()));
}

#[test]
fn what_was_told_of_a_channel_is_there_when_it_is_needed_and_after_it_was_let_go() {
    run(async |shard| {
        tell(&shard, 1, &[(5, 2), (6, 1)]);
        assert_eq!(there(&shard, 1).await, (2, 3, vec![5, 6]));
        tell(&shard, 1, &[(6, 0), (8, 1)]);
        assert_eq!(there(&shard, 1).await, (2, 3, vec![5, 8]));
        let before = bytes(&shard);
        shard.state.borrow_mut().channels_before_eviction = 0;
        shard.form_batches();
        assert!(shard.state.borrow().channels.is_empty());
        assert!(shard.state.borrow().channels_before_eviction >= IDLE_CHANNELS_LOADED_MAX);
        assert_eq!(bytes(&shard), before);
        assert_eq!(there(&shard, 1).await, (2, 3, vec![5, 8]));
        tell(&shard, 1, &[(5, 0), (8, 0)]);
        assert_eq!((there(&shard, 1).await, bytes(&shard)), ((0, 0, vec![]), 0));
    });
}

#[test]
fn a_round_and_the_end_of_a_node_concern_all_channels_in_memory_or_not() {
    run(async |shard| {
        for channel in 1..=4 {
            tell(&shard, channel, &[(5, 1), (6, 1)]);
        }
        there(&shard, 1).await;
        let users = vec![(UserId(6), 1)];
        for channel in [1, 3] {
            let channel = ChannelId(channel);
            shard.news(News::Told(vec![Told::Users(TELLER, 2, channel, users.clone())]));
        }
        shard.news(News::Told(vec![Told::RoundOver(TELLER, 2)]));
        for (channel, is_there) in [(1, true), (2, false), (3, true), (4, false)] {
            let expected = if is_there { (1, 1, vec![6]) } else { (0, 0, vec![]) };
            assert_eq!(there(&shard, channel).await, expected, "{channel}");
        }
        shard.news(News::Told(vec![Told::Gone(NodeId(8))]));
        assert_eq!(there(&shard, 1).await.0, 1, "another one");
        shard.news(News::Told(vec![Told::Gone(TELLER.node)]));
        assert_eq!((there(&shard, 1).await.0, there(&shard, 3).await.0, bytes(&shard)), (0, 0, 0));
    });
}

#[test]
fn who_comes_elsewhere_when_there_is_no_room_is_not_counted_and_a_metric_says_so() {
    run(async |shard| {
        tell(&shard, 1, &[(5, 1)]);
        let spare = PRESENCE_ELSEWHERE_BYTES_MAX - bytes(&shard);
        shard.state.borrow_mut().elsewhere.as_mut().unwrap().bytes += spare;
        for is_loaded in [false, true] {
            tell(&shard, 1, &[(5, 3), (6, 1)]);
            tell(&shard, 2, &[(5, 1)]);
            assert_eq!(shard.metrics.presence_dropped.get(), if is_loaded { 4 } else { 2 });
            assert_eq!(there(&shard, 1).await, (1, 3, vec![5]), "who was known still is");
            assert_eq!(there(&shard, 2).await, (0, 0, vec![]));
        }
        // Whoever leaves makes room.
        tell(&shard, 1, &[(5, 0)]);
        tell(&shard, 1, &[(6, 1)]);
        assert_eq!(there(&shard, 1).await, (1, 1, vec![6]));
    });
}
