use std::{collections::BTreeMap, sync::Arc};

use bytes::BytesMut;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    engine::{
        Append,
        memory::{MemoryEngine, Stage},
    },
    hub::{
        desk::tests::a_desk,
        rights::{Changed, Rights},
    },
    log::{
        batch::{Batch, put_record},
        place::{BatchId, Epoch, Head},
        settings::{Role, Settings},
    },
    wire::channels::{ChannelCommand, ListPage},
};

/// Channels with logs and members, as their shards would make them.
struct World {
    engine: Arc<MemoryEngine>,
    desk: Arc<Desk<MemoryEngine>>,
    channels: Vec<(Head, Rights)>,
}

impl World {
    async fn new(channels: usize) -> Self {
        let engine = Arc::new(MemoryEngine::default());
        let desk = a_desk(&engine);
        let mut made = Vec::new();
        for number in 0..channels {
            let settings = Settings::open(&format!("c{number}"));
            let record = desk.directory().create_channel(&settings, None, 1_700_000_000_000).await;
            let record = record.unwrap();
            let head = Head::empty(record.beginning().epoch);
            made.push((head, Rights::new(record, HashMap::new())));
        }
        Self { engine, desk, channels: made }
    }

    fn id(&self, channel: usize) -> ChannelId {
        ChannelId(self.channels[channel].1.record().id)
    }

    fn epoch(&self, channel: usize) -> u32 {
        self.channels[channel].0.epoch.0
    }

    /// Appends records, or one that makes a user what it is from here on.
    async fn append(&mut self, channel: usize, count: u16, member: Option<(UserId, Option<Role>)>) {
        let id = self.id(channel);
        let (head, rights) = &mut self.channels[channel];
        let mut records = BytesMut::new();
        (0..count).for_each(|_| put_record(&mut records, b"a record"));
        let batch = Batch {
            epoch: head.epoch,
            id: BatchId(head.batch.0 + 1),
            previous: head.batch,
            first_sequence: head.sequence.next(),
            count,
            timestamp_ms: 1,
            records: records.freeze(),
        };
        let changed = member.map(|(user, role)| Changed::Member(user, role));
        let derived = changed.as_ref().map(|it| rights.derived(it, head.sequence.next()));
        let append = Append {
            channel: id,
            after: head.cursor,
            batch: Arc::new(batch.clone()),
            keys: Vec::new(),
            derived: derived.unwrap_or_default(),
        };
        *head = batch.head(self.engine.append(append).await.unwrap());
        if let Some((user, role)) = member {
            rights.apply(crate::wire::record::Content::Member(user, role));
        }
    }

    async fn mark(
        &self,
        user: UserId,
        channel: usize,
        epoch: u32,
        to: u64,
    ) -> Result<u64, ErrorCode> {
        let to = Position { epoch: Epoch(epoch), sequence: Sequence(to) };
        let id = self.id(channel);
        match self.desk.mark_read(user, None, &ChannelRef::Id(id), to).await {
            Ok(Reply::ReadMarker(of, read)) => {
                assert_eq!((of, read.epoch.0), (id, self.epoch(channel)));
                Ok(read.sequence.0)
            }
            Ok(Reply::Refused(refusal)) => {
                assert_eq!(refusal.head, Some(self.channels[channel].0.position()));
                Err(refusal.code)
            }
            Ok(other) => panic!("{other:?} answers a mark"),
            Err(refused) => Err(refused.into()),
        }
    }

    /// By channel: what the user's list says is its head and is read.
    async fn listed(&self, user: UserId, limit: u32) -> BTreeMap<ChannelId, (u64, u64)> {
        let (mut all, mut after) = (BTreeMap::new(), String::new());
        loop {
            let page = ListPage::new(after, limit);
            match self.desk.perform(user, ChannelCommand::Memberships(page)).await {
                Reply::Channels(channels, next) => {
                    all.extend(channels.iter().map(|it| {
                        let read = it.read.unwrap();
                        (it.id, (read.head.sequence.0, read.read.0))
                    }));
                    let Some(next) = next else { return all };
                    after = next;
                }
                other => panic!("{other:?} answers a list"),
            }
        }
    }

    async fn markers(&self) -> usize {
        self.engine.scan(Table::ReadMarkers, "", None, 100).await.unwrap().len()
    }
}

const CHANNELS: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Publish(usize, u16),
    Become(usize, UserId, Option<Role>),
    /// To this many hundredths of the head, and in the epoch this far off.
    Mark(usize, UserId, u64, i8),
}

fn step() -> impl Strategy<Value = Step> {
    let (channel, user) = (0..CHANNELS, (1..3_u32).prop_map(UserId));
    let role =
        prop_oneof![Just(Some(Role::Member)), Just(Some(Role::Moderator)), Just(None::<Role>),];
    let epoch = prop_oneof![8 => Just(0_i8), 1 => Just(-1), 1 => Just(1)];
    prop_oneof![
        (channel.clone(), 1..5_u16).prop_map(|(channel, count)| Step::Publish(channel, count)),
        (channel.clone(), user.clone(), role)
            .prop_map(|(channel, user, role)| Step::Become(channel, user, role)),
        (channel, user, 0..120_u64, epoch)
            .prop_map(|(channel, user, to, epoch)| Step::Mark(channel, user, to, epoch)),
    ]
}

async fn all_hold(steps: Vec<Step>) {
    let mut world = World::new(CHANNELS).await;
    // How far each member has read.
    let mut read = BTreeMap::<(UserId, usize), u64>::new();
    for step in steps {
        match step {
            Step::Publish(channel, count) => world.append(channel, count, None).await,
            Step::Become(channel, user, role) => {
                if world.channels[channel].1.role(user) == role {
                    continue;
                }
                world.append(channel, 1, Some((user, role))).await;
                let head = world.channels[channel].0.sequence.0;
                match role {
                    Some(_) => _ = read.entry((user, channel)).or_insert(head),
                    None => _ = read.remove(&(user, channel)),
                }
            }
            Step::Mark(channel, user, hundredths, off) => {
                let head = world.channels[channel].0.sequence.0;
                let to = head * hundredths / 100;
                let epoch = world.epoch(channel).wrapping_add_signed(off.into());
                let known = read.get_mut(&(user, channel));
                let due = match known {
                    None => Err(ErrorCode::NotAMember),
                    Some(_) if off != 0 => Err(ErrorCode::EpochChanged),
                    Some(_) if to > head => Err(ErrorCode::PositionAhead),
                    Some(read) => {
                        *read = to.max(*read);
                        Ok(*read)
                    }
                };
                assert_eq!(world.mark(user, channel, epoch, to).await, due);
            }
        }
        for user in [UserId(1), UserId(2)] {
            let own = read.iter().filter(|((of, _), _)| *of == user);
            let due = own.map(|((_, channel), read)| {
                (world.id(*channel), (world.channels[*channel].0.sequence.0, *read))
            });
            let due: BTreeMap<_, _> = due.collect();
            assert_eq!(world.listed(user, 1).await, due);
            assert_eq!(world.listed(user, 50).await, due);
        }
        assert_eq!(world.markers().await, read.len());
    }
}

proptest! {
    #[test]
    fn what_is_read_is_what_was_marked_in_this_membership(steps in vec(step(), 0..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(all_hold(steps));
    }
}

#[tokio::test]
async fn who_is_removed_while_marking_leaves_no_marker_and_who_is_back_has_its_new_one() {
    for comes_back in [false, true] {
        let ada = UserId(1);
        let mut world = World::new(1).await;
        world.append(0, 1, Some((ada, Some(Role::Member)))).await;
        world.append(0, 3, None).await;
        let engine = Arc::clone(&world.engine);
        let held = engine.faults().hold(Stage::Read);
        let (desk, id, epoch) = (Arc::clone(&world.desk), world.id(0), world.epoch(0));
        let to = Position { epoch: Epoch(epoch), sequence: Sequence(3) };
        let marking =
            tokio::spawn(async move { desk.mark_read(ada, None, &ChannelRef::Id(id), to).await });
        held.waiting(1).await;
        world.append(0, 1, Some((ada, None))).await;
        if comes_back {
            world.append(0, 1, Some((ada, Some(Role::Member)))).await;
        }
        drop(held);
        let marked = marking.await.unwrap();
        assert_eq!(world.markers().await, usize::from(comes_back));
        match marked {
            Ok(Reply::ReadMarker(_, read)) if comes_back => assert_eq!(read.sequence, Sequence(6)),
            Err(refused) if !comes_back => {
                assert_eq!(ErrorCode::from(refused), ErrorCode::NotAMember);
            }
            _ => panic!("{comes_back}: another answer"),
        }
    }
}

#[tokio::test]
async fn a_membership_of_before_markers_counts_from_its_own_record() {
    let ada = UserId(1);
    let mut world = World::new(1).await;
    world.append(0, 4, None).await;
    world.append(0, 1, Some((ada, Some(Role::Member)))).await;
    world.append(0, 2, None).await;
    let key = membership_key(ada, world.id(0));
    let marker = world.engine.get(Table::ReadMarkers, &key).await.unwrap().unwrap();
    world.engine.remove(Table::ReadMarkers, &key, marker.revision).await.unwrap();
    assert_eq!(world.listed(ada, 50).await[&world.id(0)], (7, 5));
    assert_eq!(world.mark(ada, 0, world.epoch(0), 2).await, Ok(5));
    assert_eq!(world.markers().await, 0);
    assert_eq!(world.mark(ada, 0, world.epoch(0), 6).await, Ok(6));
    assert_eq!(world.listed(ada, 50).await[&world.id(0)], (7, 6));
}

#[tokio::test]
async fn markers_that_a_crash_has_left_behind_hide_no_other() {
    let ada = UserId(1);
    let mut world = World::new(5).await;
    for channel in [3, 4] {
        world.append(channel, 1, Some((ada, Some(Role::Member)))).await;
        world.append(channel, 2, None).await;
    }
    let stale = records::format(&ReadRecord { epoch: world.epoch(0), sequence: 9 });
    for channel in 0..3 {
        let key = membership_key(ada, world.id(channel));
        world.engine.put(Table::ReadMarkers, &key, stale.clone(), Expect::Absent).await.unwrap();
    }
    assert_eq!(world.mark(ada, 4, world.epoch(4), 2).await, Ok(2));
    let due = BTreeMap::from([(world.id(3), (3, 1)), (world.id(4), (3, 2))]);
    for limit in [1, 2, 50] {
        assert_eq!(world.listed(ada, limit).await, due, "{limit}");
    }
    // Nor does one count that a new membership finds.
    world.append(0, 1, Some((ada, Some(Role::Member)))).await;
    assert_eq!(world.listed(ada, 50).await[&world.id(0)], (1, 1));
}

#[tokio::test]
async fn a_channel_whose_log_is_damaged_is_listed_without_a_state() {
    let ada = UserId(1);
    let mut world = World::new(2).await;
    for channel in 0..2 {
        world.append(channel, 1, Some((ada, Some(Role::Member)))).await;
    }
    let damaged = world.channels[0].0.cursor;
    world.engine.with_log(|log| log.damage(damaged));
    let page = ListPage::new(String::new(), 50);
    let reply = world.desk.perform(ada, ChannelCommand::Memberships(page)).await;
    let Reply::Channels(channels, None) = reply else { panic!("{reply:?}") };
    let are_told: Vec<_> = channels.iter().map(|it| it.read.is_some()).collect();
    assert_eq!(are_told, [false, true]);
    let code = world.mark(ada, 0, world.epoch(0), 1).await;
    assert_eq!(code, Err(ErrorCode::ChannelSealed));
}
