use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use testnats::{MISSING, Nats, Options};
use tokio::time::{Instant, sleep};

use super::*;
use crate::engine::jetstream::{Inner, JetStreamOptions, start_up};

/// A server with JetStream, if there is the program.
pub(in crate::engine::jetstream) fn nats() -> Option<Nats> {
    if testnats::program().is_none() {
        println!("{MISSING}");
        return None;
    }
    // Nothing here cuts the power.
    Some(Nats::start(&Options { sync_always: false, ..Options::new(1) }).unwrap())
}

/// A node, on this test's runtime.
pub(in crate::engine::jetstream) async fn node(nats: &Nats) -> Arc<Inner> {
    let options = JetStreamOptions {
        servers: nats.url().split(',').map(str::to_owned).collect(),
        credentials: None,
        prefix: "hubbub".to_owned(),
        streams: 2,
        single: true,
        ack_timeout: Duration::from_secs(30),
        on_thread_start: Arc::new(|| {}),
    };
    start_up(&options).await.unwrap()
}

pub(in crate::engine::jetstream) fn derived(key: &str, value: Option<&str>) -> Derived {
    let value = value.map(|value| Bytes::copy_from_slice(value.as_bytes()));
    Derived { table: Table::Channels, key: key.to_owned(), value }
}

impl Records {
    /// What a record says.
    pub(in crate::engine::jetstream) async fn text(&self, key: &str) -> Option<String> {
        let found = self.get(Table::Channels, key).await.unwrap()?;
        Some(String::from_utf8(found.value.to_vec()).unwrap())
    }

    /// Writes a record as it is expected.
    pub(in crate::engine::jetstream) async fn write_text(
        &self,
        key: &str,
        value: Option<&str>,
        expect: Expect,
    ) -> Result<Revision, RecordError> {
        let value = value.map(|value| Bytes::copy_from_slice(value.as_bytes()));
        self.put(Table::Channels, key, value, expect, Vec::new()).await
    }
}

#[tokio::test]
async fn of_those_that_write_a_record_at_once_on_two_nodes_one_wins() {
    const WRITERS: usize = 8;
    let Some(nats) = nats() else { return };
    let nodes = [node(&nats).await, node(&nats).await];
    let race = async |round: usize, key: &str, expect| {
        let writers = (0..WRITERS).map(|n| {
            let (records, value) = (&nodes[n % 2].records, format!("{round} {n}"));
            async move { (records.write_text(key, Some(&value), expect).await, value) }
        });
        let mut won = None;
        for (written, value) in join_all(writers).await {
            match written {
                Ok(revision) => assert_eq!(won.replace((revision, value)), None, "round {round}"),
                Err(error) => assert_eq!(error, RecordError::Conflict, "round {round}"),
            }
        }
        let (revision, value) = won.expect("one wins");
        assert_eq!(nodes[0].records.text(key).await, Some(value));
        revision
    };
    let mut revision = Revision(0);
    for round in 0..300 {
        revision = race(round, &format!("new {round}"), Expect::Absent).await;
    }
    for round in 0..500 {
        let next = race(round, "new 299", Expect::Revision(revision)).await;
        assert!(next > revision);
        revision = next;
    }
}

#[tokio::test]
async fn a_list_has_what_another_node_has_just_written() {
    let Some(nats) = nats() else { return };
    let [writer, reader] = [node(&nats).await.records.clone(), node(&nats).await.records.clone()];
    let listed = async || {
        let found = reader.scan(Table::Channels, "", None, usize::MAX).await.unwrap();
        found.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
    };
    for n in 0..200 {
        let key = format!("{n:03}");
        let revision = writer.write_text(&key, Some("x"), Expect::Absent).await.unwrap();
        assert_eq!(listed().await, std::slice::from_ref(&key));
        writer.write_text(&key, None, Expect::Revision(revision)).await.unwrap();
        assert_eq!(listed().await, [""; 0]);
    }
}

#[tokio::test]
async fn who_derives_the_same_record_from_different_ones_does_not_get_in_the_way() {
    let Some(nats) = nats() else { return };
    let nodes = [node(&nats).await, node(&nats).await];
    for round in 0..20 {
        let writers = (0..8).map(|n| {
            let derived = vec![derived("shared", Some("x")), derived("gone", None)];
            let (key, value) = (format!("{round} {n}"), Some(Bytes::from_static(b"y")));
            let records = &nodes[n % 2].records;
            async move { records.put(Table::Channels, &key, value, Expect::Absent, derived).await }
        });
        for written in join_all(writers).await {
            written.unwrap();
        }
    }
    let found = nodes[1].records.scan(Table::Channels, "", None, usize::MAX).await.unwrap();
    assert_eq!(found.len(), 20 * 8 + 1);
}

#[tokio::test]
async fn what_is_too_much_for_one_step_is_written_whole_and_only_as_expected() {
    const DERIVED: usize = 2_500;
    let Some(nats) = nats() else { return };
    let records = node(&nats).await.records.clone();
    let put = async |value, expect| {
        let derived = (0..DERIVED).map(|n| derived(&format!("d{n}"), Some(value))).collect();
        let value = Some(Bytes::from_static(b"own"));
        records.put(Table::Users, "own", value, expect, derived).await
    };
    let with = async |value: &str| {
        let found = records.scan(Table::Channels, "d", None, usize::MAX).await.unwrap();
        found.iter().filter(|(_, found)| found.value == value.as_bytes()).count()
    };
    let revision = put("1", Expect::Absent).await.unwrap();
    assert_eq!(with("1").await, DERIVED);
    assert_eq!(put("2", Expect::Absent).await, Err(RecordError::Conflict));
    assert_eq!(with("1").await, DERIVED);
    assert!(put("3", Expect::Revision(revision)).await.unwrap() > revision);
    assert_eq!(with("3").await, DERIVED);

    let large = Bytes::from(vec![0; records.api.client().max_payload()]);
    let put = records.put(Table::Users, "large", Some(large), Expect::Absent, Vec::new());
    assert_eq!(put.await, Err(RecordError::TooLarge));
}

#[tokio::test]
async fn a_node_lists_all_after_its_servers_were_gone() {
    let Some(mut nats) = nats() else { return };
    let [writer, reader] = [node(&nats).await.records.clone(), node(&nats).await.records.clone()];
    let write = async |key: &str| {
        let end = Instant::now() + Duration::from_secs(20);
        // A put whose answer was lost may have happened.
        while let Err(error) = writer.write_text(key, Some("x"), Expect::Absent).await {
            assert!(Instant::now() < end, "{error}");
            if matches!(writer.get(Table::Channels, key).await, Ok(Some(_))) {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    write("before").await;
    nats.kill(0).unwrap();
    let down = reader.scan(Table::Channels, "", None, 9).await;
    assert_eq!(down, Err(RecordError::StorageUnavailable));
    nats.launch(0).unwrap();
    nats.wait(0).unwrap();
    for n in 0..50 {
        write(&format!("after {n}")).await;
    }
    // The other node may find the server a little later.
    let end = Instant::now() + Duration::from_secs(20);
    let found = loop {
        match reader.scan(Table::Channels, "", None, usize::MAX).await {
            Ok(found) => break found,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(found.len(), 51, "whenever it answers, it answers all");
}
