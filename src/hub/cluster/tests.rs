//! Two nodes of one shard each, over one log in memory, as the server puts them together.

use std::{rc::Rc, time::Duration};

use tokio::{
    runtime::{Builder, LocalOptions},
    task::spawn_local,
    time::{sleep, timeout},
};

use super::*;
use crate::{
    engine::memory::{MemoryEngine, Stage},
    hub::{
        Format, ShardInput,
        calls::Wanted,
        crossing::borders,
        desk::Desk,
        directory::ChannelInfo,
        list_cursor::ListCursors,
        revocations::{Register, Revoker},
        rights::{Author, Change},
        shard::{Port, Publish, Shard},
    },
    limits::{FORWARD_TIMEOUT, LANDING_TIMEOUT, Limits, REVOCATION_KEPT, SUSPECT_FOR},
    log::{
        place::ClientMessageId,
        settings::{Posting, Role, Settings, Visibility},
    },
    metrics::Metrics,
    wire::{
        Encoding,
        channels::Update,
        code::ErrorCode,
        decode::{Page, PageFrom},
        encode::Reply,
    },
};

struct TestNode {
    engine: Arc<MemoryEngine>,
    shard: Rc<Shard<MemoryEngine, ()>>,
    port: Rc<Port<()>>,
    directory: Arc<Directory<MemoryEngine>>,
    cluster: Cluster,
    hub: Hub,
}

impl TestNode {
    async fn start(engine: MemoryEngine) -> Self {
        let engine = Arc::new(engine);
        let directory = Arc::new(Directory::new(Arc::clone(&engine)));
        let (inputs, mut mailbox) = mpsc::channel(64);
        let hub = Hub::new(vec![inputs]);
        let register = Arc::new(Register::new(REVOCATION_KEPT));
        let (revoker, _) = Revoker::new(Arc::clone(&register), 1);
        let bans = Bans::load(Arc::clone(&engine), Arc::clone(&directory), revoker).await.unwrap();
        let cursors = ListCursors::new(b"secret");
        let desk = Desk::new(Arc::clone(&engine), Arc::clone(&directory), &hub, cursors);
        let (borders, arrivals) = borders(1).pop().unwrap();
        let (limits, metrics) = (Arc::new(Limits::default()), Arc::new(Metrics::default()));
        let counters = Arc::clone(&metrics);
        let shard =
            Shard::new(borders, Arc::clone(&engine), Arc::new(desk), register, limits, metrics);
        shard.take_arrivals(arrivals);
        spawn_local({
            let shard = Rc::clone(&shard);
            async move {
                while let Some(input) = mailbox.recv().await {
                    match input {
                        ShardInput::Calls(calls) => {
                            calls.into_iter().for_each(|call| shard.call(call));
                        }
                        ShardInput::News(news) => shard.news(news),
                        input => panic!("{input:?}"),
                    }
                }
            }
        });
        spawn_local({
            let shard = Rc::clone(&shard);
            async move {
                loop {
                    shard.turn().await;
                    shard.form_batches();
                }
            }
        });
        let parts = Parts {
            engine: Arc::clone(&engine),
            hub: hub.downgrade(),
            directory: Arc::clone(&directory),
            bans: Arc::new(bans),
            metrics: counters,
        };
        let cluster = Cluster::start(parts, &Handle::current()).expect("there are others");
        let port = shard.connect(Format::plain(Encoding::Proto), ());
        Self { engine, shard, port, directory, cluster, hub }
    }

    fn publish(&self, number: u32, channel: &ChannelInfo) {
        let publish = Publish {
            id: number,
            user: UserId(1),
            client_message_id: Some(ClientMessageId(number.into())),
            body: format!("message {number}"),
        };
        self.shard.publish(&self.port, publish, channel);
    }

    async fn ask(&self, channel: &ChannelInfo, wanted: Wanted) -> Reply {
        self.hub.clone().call(channel.clone(), wanted).await
    }

    /// Throws away what the client was told.
    fn clear(&self) {
        let mut outbox = self.port.outbox.borrow_mut();
        while !outbox.is_empty() {
            let mut slices = [std::io::IoSlice::new(&[]); 8];
            let used = outbox.slices(&mut slices);
            let bytes = slices[..used].iter().map(|slice| slice.len()).sum();
            outbox.advance(bytes);
        }
    }

    /// Waits until the client is told something.
    async fn told(&self, within: Duration) -> bool {
        let told = async {
            while self.port.outbox.borrow().is_empty() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let is_told = timeout(within, told).await.is_ok();
        self.clear();
        is_told
    }

    fn messages(&self, channel: ChannelId) -> u64 {
        self.engine.with_log(|log| {
            log.entries(channel).last().map_or(0, |entry| entry.batch.last_sequence().0)
        })
    }
}

/// Lets a test use two nodes, and a channel that the second owns.
fn in_a_cluster(test: impl AsyncFnOnce(&TestNode, &TestNode, ChannelInfo)) {
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build_local(LocalOptions::default());
    runtime.unwrap().block_on(async {
        let engine = MemoryEngine::default();
        let other = engine.another_node();
        let (here, owner) = (TestNode::start(engine).await, TestNode::start(other).await);
        sleep(2 * ALIVE_INTERVAL).await;
        assert_eq!((here.cluster.others(), owner.cluster.others()), (1, 1));
        let mut members = Members::new(here.engine.memory_bus().node());
        members.hear(owner.engine.memory_bus().node(), false, Duration::ZERO);
        let owners = members.owners();
        let mut made = 0;
        let channel = loop {
            made += 1;
            let settings = Settings::open(&format!("channel-{made}"));
            let record = here.directory.create_channel(&settings, None, 1).await.unwrap();
            if owners.elsewhere(record.info().id).is_some() {
                break record.info();
            }
        };
        test(&here, &owner, channel).await;
    });
}

#[test]
fn the_owner_writes_and_the_sender_is_told_when_its_node_has_it() {
    in_a_cluster(async |here, owner, channel| {
        // What is told can only have come from the owner.
        let _hold = here.engine.faults().hold(Stage::Commit);
        here.publish(1, &channel);
        assert!(here.told(FORWARD_TIMEOUT).await);
        assert_eq!(owner.messages(channel.id), 1);
        // The feed loses it: then it is looked for.
        here.engine.faults().drop_feed(1);
        here.publish(2, &channel);
        assert!(!here.told(LANDING_TIMEOUT / 2).await);
        assert!(here.told(LANDING_TIMEOUT).await);
        assert_eq!(owner.messages(channel.id), 2);
    });
}

#[test]
fn without_an_answer_the_node_writes_itself_and_nothing_is_there_twice() {
    in_a_cluster(async |here, owner, channel| {
        here.engine.memory_bus().fail(|faults| faults.lost_calls = 1);
        here.publish(1, &channel);
        assert!(here.told(2 * FORWARD_TIMEOUT).await);
        // Nothing is forwarded to who did not answer.
        let hold = owner.engine.faults().hold(Stage::Commit);
        here.publish(2, &channel);
        assert!(here.told(FORWARD_TIMEOUT / 2).await);
        drop(hold);
        sleep(SUSPECT_FOR).await;
        here.engine.memory_bus().fail(|faults| faults.lost_answers = 1);
        here.publish(3, &channel);
        assert!(here.told(2 * FORWARD_TIMEOUT).await);
        assert_eq!(owner.messages(channel.id), 3);
    });
}

#[test]
fn a_node_that_drains_is_asked_for_nothing() {
    in_a_cluster(async |here, owner, channel| {
        owner.cluster.drain();
        owner.shard.drain(|| 1);
        // As it would be asked before that is known.
        here.publish(1, &channel);
        assert!(here.told(FORWARD_TIMEOUT / 2).await);
        assert_eq!(here.messages(channel.id), 1);
    });
}

#[test]
fn subscribers_on_every_node_are_handed_what_any_of_them_writes() {
    in_a_cluster(async |here, owner, channel| {
        for node in [here, owner] {
            node.shard.subscribe(&node.port, 1, UserId(1), &channel, None, false);
            assert!(node.told(FORWARD_TIMEOUT).await);
        }
        owner.publish(2, &channel);
        assert!(here.told(FORWARD_TIMEOUT).await);
        assert!(owner.told(FORWARD_TIMEOUT).await);
        here.publish(3, &channel);
        assert!(owner.told(FORWARD_TIMEOUT).await);
    });
}

#[test]
fn a_channel_that_another_node_deletes_is_found_no_more() {
    in_a_cluster(async |here, owner, _| {
        let settings = Settings::open("short-lived");
        let made = here.directory.create_channel(&settings, Some(UserId(1)), 1).await.unwrap();
        let channel = made.info();
        let delete = Wanted::Change(UserId(1), Change::Delete);
        let reply = owner.hub.clone().call(channel.clone(), delete).await;
        assert!(matches!(reply, Reply::ChannelDeleted(_)), "{reply:?}");
        sleep(Duration::from_millis(10)).await;
        assert_eq!(here.directory.cached_channel(channel.id), None);
    });
}

/// Lets a test use two nodes, of which the first has just read the rights of a channel, and a user who is no
/// member of it.
fn with_an_outsider(settings: Settings, test: impl AsyncFnOnce(&TestNode, &TestNode, ChannelInfo)) {
    in_a_cluster(async |here, other, _| {
        let made = here.directory.create_channel(&settings, Some(UserId(1)), 1).await.unwrap();
        let channel = made.info();
        let again = Change::SetMember(UserId(1), Role::Owner);
        let reply = here.ask(&channel, Wanted::Change(UserId(1), again)).await;
        assert!(matches!(reply, Reply::Member(_)), "{reply:?}");
        test(here, other, channel).await;
    });
}

fn publish_as(user: u32) -> Wanted {
    let author = Author::User(UserId(user));
    Wanted::Publish { author, client_message_id: None, body: "hi".to_owned() }
}

#[test]
fn who_has_joined_on_one_node_is_in_at_once_on_another() {
    let page = Page { from: PageFrom::Newest, limit: 1 };
    let private = Settings { visibility: Visibility::Private, ..Settings::open("private") };
    let for_members = Settings { posting: Posting::Members, ..Settings::open("members") };
    for settings in [private, for_members] {
        let is_private = settings.visibility == Visibility::Private;
        with_an_outsider(settings, async |here, other, channel| {
            let refused = here.ask(&channel, publish_as(2)).await;
            assert!(matches!(refused, Reply::Refused(_)), "{refused:?}");
            for is_member in [true, false] {
                // The news are lost here, and nothing tells that.
                here.engine.faults().drop_feed(usize::MAX / 4);
                let change = if is_member {
                    Change::SetMember(UserId(2), Role::Member)
                } else {
                    Change::RemoveMember(UserId(2))
                };
                let changed = other.ask(&channel, Wanted::Change(UserId(1), change)).await;
                assert!(matches!(changed, Reply::Member(_)), "{changed:?}");
                if is_member {
                    let read = here.ask(&channel, Wanted::History(UserId(2), page)).await;
                    assert!(matches!(read, Reply::History { .. }), "{read:?}");
                    let sent = here.ask(&channel, publish_as(2)).await;
                    assert!(matches!(sent, Reply::Published(_)), "{sent:?}");
                } else {
                    // Nothing is written by a right that is gone, and nobody waits for long.
                    let sent = here.ask(&channel, publish_as(2)).await;
                    let due =
                        if is_private { ErrorCode::UnknownChannel } else { ErrorCode::Forbidden };
                    assert!(matches!(&sent, Reply::Refused(it) if it.code == due), "{sent:?}");
                }
            }
        });
    }
}

#[test]
fn what_one_node_allows_is_allowed_at_once_on_another() {
    let archived = Settings { archived: true, ..Settings::open("archived") };
    with_an_outsider(archived, async |here, other, channel| {
        let refused = here.ask(&channel, publish_as(2)).await;
        assert!(matches!(refused, Reply::Refused(_)), "{refused:?}");
        here.engine.faults().drop_feed(1);
        let update = Update { archived: Some(false), ..Update::default() };
        let changed = other.ask(&channel, Wanted::Change(UserId(1), Change::Update(update))).await;
        assert!(matches!(changed, Reply::Channel(_)), "{changed:?}");
        let sent = here.ask(&channel, publish_as(2)).await;
        assert!(matches!(sent, Reply::Published(_)), "{sent:?}");
    });
}

#[test]
fn members_that_are_imported_on_one_node_are_so_on_the_others() {
    let private = Settings { visibility: Visibility::Private, ..Settings::open("private") };
    in_a_cluster(async |here, other, _| {
        let members = vec![(UserId(1), Role::Owner)];
        let made = other.directory.import_channel(&private, members, 1, 1).await.unwrap();
        let channel = made.info();
        let page = Page { from: PageFrom::Newest, limit: 1 };
        let wanted = |user| Wanted::History(UserId(user), page);
        assert!(matches!(here.ask(&channel, wanted(1)).await, Reply::History { .. }));
        assert!(matches!(here.ask(&channel, wanted(2)).await, Reply::Refused(_)));
        let more = vec![(UserId(2), Role::Member)];
        assert!(other.directory.import_members(channel.id, more, 1).await.unwrap());
        sleep(Duration::from_millis(10)).await;
        let reply = here.ask(&channel, wanted(2)).await;
        assert!(matches!(reply, Reply::History { .. }), "{reply:?}");
    });
}

#[test]
fn what_was_asked_for_before_a_standstill_is_not_done_after_it() {
    let mut awake = Awake::default();
    let mut now = Duration::ZERO;
    for _ in 0..5 {
        now += ALIVE_INTERVAL;
        assert!(!awake.is_late(now));
    }
    now += STANDSTILL + Duration::from_millis(1);
    assert!(awake.is_late(now));
    assert!(awake.is_late(now + ALIVE_INTERVAL / 2), "the next one may have waited as well");
    assert!(!awake.is_late(now + ALIVE_INTERVAL));
}
