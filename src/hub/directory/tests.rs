use std::collections::BTreeSet;

use tokio::task::JoinSet;

use super::*;
use crate::engine::memory::{MemoryEngine, MemoryLog};

fn engine() -> MemoryEngine {
    MemoryEngine::new(MemoryLog::default())
}

#[tokio::test]
async fn a_channel_is_found_by_name_and_by_number_also_by_others() {
    let engine = engine();
    let there = Directory::new(Arc::new(engine.another_node()));
    let here = Directory::new(Arc::new(engine));
    let lobby = Settings::open("lobby");
    let made = here.create_channel(&lobby, None, 1_700_000_000_000).await.unwrap().info();
    assert_eq!(there.cached_channel_by_name("lobby"), None);
    assert_eq!(there.channel_by_name("lobby").await, Ok(made.clone()));
    assert_eq!(there.channel(made.id).await, Ok(made.clone()));
    assert_eq!(there.cached_channel(made.id), Some(made.clone()));
    assert_eq!(made.epoch, Epoch(1_700_000_000));
}

#[tokio::test]
async fn nobody_is_given_a_channel_that_is_not_there() {
    let directory = Directory::new(Arc::new(engine()));
    assert_eq!(directory.channel_by_name("lobby").await, Err(DirectoryError::UnknownChannel));
    assert_eq!(directory.channel(ChannelId(1)).await, Err(DirectoryError::UnknownChannel));
    let long = "a".repeat(CHANNEL_NAME_BYTES_MAX + 1);
    assert_eq!(directory.channel_by_name(&long).await, Err(DirectoryError::UnknownChannel));
}

#[tokio::test]
async fn of_many_who_make_the_same_channel_one_does() {
    let engine = engine();
    let directories = [(); 4].map(|()| Arc::new(Directory::new(Arc::new(engine.another_node()))));
    let mut tries = JoinSet::new();
    for attempt in 0..40 {
        let directory = Arc::clone(&directories[attempt % 4]);
        tries.spawn(async move {
            let lobby = Settings::open("lobby");
            directory.create_channel(&lobby, None, 1_000).await.map(|made| made.info())
        });
    }
    let outcomes = tries.join_all().await;
    let made: Vec<ChannelInfo> = outcomes.iter().flatten().cloned().collect();
    assert_eq!(made.len(), 1, "{outcomes:?}");
    for directory in &directories {
        assert_eq!(directory.channel_by_name("lobby").await.as_ref(), Ok(&made[0]));
    }
    // The numbers of the tries that lost lead nowhere.
    for number in 1..400 {
        let found = directories[0].channel(ChannelId(number)).await;
        assert_eq!(found.is_ok(), ChannelId(number) == made[0].id, "{number}");
    }
}

#[tokio::test]
async fn a_user_has_one_number_however_many_log_in_at_once() {
    let engine = engine();
    let directories = [(); 3].map(|()| Arc::new(Directory::new(Arc::new(engine.another_node()))));
    let mut logins = JoinSet::new();
    for login in 0..120 {
        let directory = Arc::clone(&directories[login % 3]);
        let subject = format!("subject {}", login % 20);
        logins.spawn(async move {
            let id = directory.user(&subject, "name").await.unwrap();
            (subject, id)
        });
    }
    let pairs: BTreeSet<(String, UserId)> = logins.join_all().await.into_iter().collect();
    let numbers: BTreeSet<UserId> = pairs.iter().map(|(_, id)| *id).collect();
    assert_eq!((pairs.len(), numbers.len()), (20, 20));
}

#[tokio::test]
async fn a_name_follows_the_latest_login() {
    let engine = engine();
    let there = Directory::new(Arc::new(engine.another_node()));
    let here = Directory::new(Arc::new(engine));
    let id = here.user("subject", "Ada").await.unwrap();
    assert_eq!(there.user_name(id).await.unwrap().as_deref(), Some("Ada"));
    assert_eq!(here.user("subject", "Ada Lovelace").await, Ok(id));
    assert_eq!(here.user_name(id).await.unwrap().as_deref(), Some("Ada Lovelace"));
    assert_eq!(here.user_name(UserId(999)).await, Ok(None));
}

#[tokio::test]
async fn a_new_name_is_told_to_other_nodes_which_look_it_up_anew() {
    let engine = engine();
    let other = engine.another_node();
    let mut inbox = other.bus().unwrap().inbox();
    let there = Directory::new(Arc::new(other));
    let here = Directory::new(Arc::new(engine));
    let id = here.user("subject", "Ada").await.unwrap();
    assert_eq!(there.user_name(id).await.unwrap().as_deref(), Some("Ada"));
    here.user("subject", "Ada Lovelace").await.unwrap();
    let told = inbox.try_recv().unwrap().message;
    assert_eq!(told, cluster::changed(What::NameOf(id.0)));
    there.forget_name(id);
    assert_eq!(there.user_name(id).await.unwrap().as_deref(), Some("Ada Lovelace"));
    assert!(inbox.try_recv().is_err(), "who is new is known to nobody");
}

#[tokio::test]
async fn a_failing_store_is_an_error_and_no_answer() {
    let engine = engine();
    engine.faults().fail_next_record(RecordError::StorageUnavailable);
    let directory = Directory::new(Arc::new(engine));
    let failed = directory.channel_by_name("lobby").await.unwrap_err();
    assert_eq!(failed, DirectoryError::Records(RecordError::StorageUnavailable));
    assert_eq!(ErrorCode::from(&failed), ErrorCode::StorageUnavailable);
}

#[tokio::test]
async fn numbers_are_reserved_in_blocks_and_never_twice() {
    let engine = engine();
    let mut numbers = BTreeSet::new();
    for _ in 0..3 {
        let directory = Directory::new(Arc::new(engine.another_node()));
        for _ in 0..NUMBER_BLOCK + 1 {
            let number = directory.next_number(&directory.user_numbers).await.unwrap();
            assert!(numbers.insert(number), "{number} twice");
        }
    }
    assert_eq!(numbers.first(), Some(&1));
}

#[tokio::test]
async fn what_an_older_version_knows_by_number_is_listed_by_name() {
    let engine = engine();
    for (table, key, value) in [
        (Table::Channels, "id:1", r#"{"name":"lobby","epoch":7}"#),
        (Table::Channels, "id:2", r#"{"name":"lobby","epoch":8}"#),
        (Table::Channels, "name:lobby", r#"{"id":2}"#),
        (Table::Users, "id:5", r#"{"subject":"u5","name":"ada"}"#),
    ] {
        engine.put(table, key, value.into(), Expect::Absent).await.unwrap();
    }
    let directory = Directory::new(Arc::new(engine.clone()));
    for _ in 0..2 {
        directory.index_older().await.unwrap();
        let listed = engine.scan(Table::PublicChannels, "", None, 9).await.unwrap();
        let [(name, record)] = &listed[..] else { panic!("{listed:?}") };
        let record: ChannelRecord = parse(record).unwrap();
        assert_eq!((name.as_str(), record.id, record.epoch), ("lobby", 2, 8));
        assert_eq!(directory.users_named("ada").await, Ok(vec![UserId(5)]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_that_start_together_list_what_is_older_without_getting_in_each_others_way() {
    let engine = engine();
    for number in 1..=3 * SCAN_STEP {
        let (key, record) = (format!("id:{number}"), r#"{"subject":"u","name":"ada"}"#);
        engine.put(Table::Users, &key, record.into(), Expect::Absent).await.unwrap();
    }
    let mut nodes = JoinSet::new();
    for _ in 0..4 {
        let directory = Directory::new(Arc::new(engine.another_node()));
        nodes.spawn(async move { directory.index_older().await });
    }
    assert_eq!(nodes.join_all().await, [const { Ok(()) }; 4]);
    let listed = engine.scan(Table::UserNames, "ada", None, 4 * SCAN_STEP).await.unwrap();
    assert_eq!(listed.len(), 3 * SCAN_STEP);
}

#[test]
fn what_is_read_in_the_place_of_a_missing_record_is_one() {
    assert!(decoy::<NameRecord>(DECOY_NAME).is_some());
    assert!(decoy::<ChannelRecord>(DECOY_CHANNEL).is_some());
}

#[tokio::test]
async fn what_was_read_before_a_change_is_not_remembered_after_it() {
    let directory = Directory::new(Arc::new(engine()));
    let made = directory.create_channel(&Settings::open("lobby"), None, 1_000).await.unwrap();
    let before = made.info();
    let after = ChannelInfo { name: "hall".into(), access: Access::Private, ..before.clone() };
    let reading = directory.changes();
    directory.learn(after.clone());
    directory.keep(reading, &before);
    assert_eq!(directory.cached_channel(before.id), Some(after.clone()));
    assert_eq!(directory.cached_channel_by_name("lobby"), None);
    assert_eq!(directory.cached_channel_by_name("hall"), Some(after.clone()));
    let reading = directory.changes();
    directory.forget(before.id);
    directory.keep(reading, &after);
    assert_eq!(directory.cached_channel(before.id), None);
    assert_eq!(directory.cached_channel_by_name("hall"), None);
    let user = UserId(1);
    let member = ChannelRef::Id(after.id);
    directory.keep(directory.changes(), &after);
    let reading = directory.changes();
    directory.forget_member(after.id, user);
    directory.keep_member(reading, after.id, user);
    assert_eq!(directory.cached_channel_for(user, &member), None);
    directory.keep_member(directory.changes(), after.id, user);
    assert_eq!(directory.cached_channel_for(user, &member), Some(after));
}
