//! An export over the memory engine: what it says, what it leaves out, and how it fails.

use std::collections::HashMap;

use bytes::BytesMut;
use futures_util::{StreamExt as _, TryStreamExt as _};
use proptest::prelude::*;
use prost::encoding;
use serde_json::{Value, json};

use super::{super::csv::tests as table, *};
use crate::{
    engine::{
        Append, Caps, Derived, Expect, Table,
        memory::{MemoryEngine, MemoryLog},
    },
    hub::directory::records,
    limits::{EXPORT_CHANNELS_PER_PAGE, EXPORT_USERS_BYTES_MAX},
    log::{
        batch::{Batch, put_record},
        place::{BatchId, ClientMessageId, Durability, Sequence},
        settings::{Settings, Visibility},
    },
    wire::{encode, record as wire_record},
};

/// A server's records, and the ends of its logs.
struct Server {
    engine: Arc<MemoryEngine>,
    directory: Arc<Directory<MemoryEngine>>,
    heads: HashMap<ChannelId, Head>,
}

impl Server {
    fn new() -> Self {
        Self::over(MemoryLog::default())
    }

    fn over(log: MemoryLog) -> Self {
        let engine = Arc::new(MemoryEngine::new(log));
        let directory = Arc::new(Directory::new(Arc::clone(&engine)));
        Self { engine, directory, heads: HashMap::new() }
    }

    async fn channel(&self, name: &str) -> ChannelInfo {
        self.settle(&Settings::open(name), None).await
    }

    async fn settle(&self, settings: &Settings, owner: Option<UserId>) -> ChannelInfo {
        let made = self.directory.create_channel(settings, owner, 1_700_000_000_123).await;
        made.unwrap().info()
    }

    async fn user(&self, name: &str) -> UserId {
        self.directory.user(&format!("subject of {name}"), name).await.unwrap()
    }

    /// The batch of these records that comes next in the channel.
    fn batch(&self, channel: &ChannelInfo, records: &[Bytes]) -> (Cursor, Batch) {
        let empty = Head::empty(channel.epoch);
        let head = self.heads.get(&channel.id).copied().unwrap_or(empty);
        let mut encoded = BytesMut::new();
        for record in records {
            put_record(&mut encoded, record);
        }
        let batch = Batch {
            epoch: head.epoch,
            id: BatchId(u128::from(channel.id.0) << 64 | u128::from(head.cursor.0 + 1)),
            previous: head.batch,
            first_sequence: head.sequence.next(),
            count: records.len().try_into().unwrap(),
            timestamp_ms: head.timestamp_ms.max(1_800_000_000_000) + 1,
            records: encoded.freeze(),
        };
        (head.cursor, batch)
    }

    async fn append(&mut self, channel: &ChannelInfo, records: &[Bytes]) {
        let (after, batch) = self.batch(channel, records);
        let batch = Arc::new(batch);
        let append = Append {
            channel: channel.id,
            after,
            batch: Arc::clone(&batch),
            keys: Vec::new(),
            derived: Vec::new(),
        };
        let cursor = self.engine.append(append).await.unwrap();
        self.heads.insert(channel.id, batch.head(cursor));
    }

    async fn begin(&self, selection: Selection, format: Format) -> Export<MemoryEngine> {
        let (engine, directory) = (Arc::clone(&self.engine), Arc::clone(&self.directory));
        Export::begin(engine, directory, selection, format).await.unwrap()
    }

    async fn export(&self, selection: Selection, format: Format) -> Result<String, ExportError> {
        text_of(self.begin(selection, format).await).await
    }
}

async fn text_of(export: Export<MemoryEngine>) -> Result<String, ExportError> {
    let chunks: Vec<Bytes> = export.into_stream().try_collect().await?;
    let (last, full) = chunks.split_last().unwrap();
    assert!(full.iter().all(|chunk| chunk.len() == EXPORT_CHUNK_BYTES));
    assert!((1..=EXPORT_CHUNK_BYTES).contains(&last.len()));
    Ok(String::from_utf8(chunks.concat()).unwrap())
}

fn message(user: UserId, id: u64, body: &str) -> Bytes {
    encode::record(user, (id != 0).then_some(ClientMessageId(id)), body.to_owned())
}

/// The same record, imported.
fn written_at(record: &Bytes, time_ms: u64) -> Bytes {
    let mut record = record.to_vec();
    encoding::uint64::encode(8, &time_ms, &mut record);
    record.into()
}

/// The lines of NDJSON that are of messages and events.
fn entries(text: &str) -> Vec<Value> {
    assert!(text.ends_with('\n'));
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line.get("created").is_none()).collect()
}

#[tokio::test]
async fn a_channel_is_written_line_by_line() {
    let mut server = Server::new();
    let lobby = server.channel("lobby").await;
    let (ada, bob) = (server.user("ada").await, server.user("bob \"b\"").await);
    server.append(&lobby, &[message(ada, 17, "hi\n"), message(bob, 0, "ho")]).await;
    let left = written_at(&wire_record::membership(ada, bob, None), 1_700_000_000_123);
    server.append(&lobby, &[left]).await;
    let settings = Settings { topic: "all".to_owned(), ..Settings::open("lobby") };
    server.append(&lobby, &[wire_record::settings(ada, &settings)]).await;
    server.append(&lobby, &[wire_record::membership(bob, ada, Some(Role::Owner))]).await;
    let text = server.export(Selection::One(lobby), Format::Ndjson).await.unwrap();
    let expected = r#"
{"channel":"lobby","created":"2023-11-14T22:13:20.123Z","settings":{"topic":"","visibility":"public","posting":"everyone","archived":false,"quota":{}},"members":[]}
{"channel":"lobby","sequence":1,"time":"2027-01-15T08:00:00.001Z","author":"ada","user":"subject of ada","id":"17","body":"hi\n"}
{"channel":"lobby","sequence":2,"time":"2027-01-15T08:00:00.001Z","author":"bob \"b\"","user":"subject of bob \"b\"","body":"ho"}
{"channel":"lobby","sequence":3,"time":"2023-11-14T22:13:20.123Z","author":"ada","user":"subject of ada","member":{"name":"bob \"b\"","user":"subject of bob \"b\"","role":"none"}}
{"channel":"lobby","sequence":4,"time":"2027-01-15T08:00:00.003Z","author":"ada","user":"subject of ada","settings":{"name":"lobby","topic":"all","visibility":"public","posting":"everyone","archived":false,"quota":{}}}
{"channel":"lobby","sequence":5,"time":"2027-01-15T08:00:00.004Z","author":"bob \"b\"","user":"subject of bob \"b\"","member":{"name":"ada","user":"subject of ada","role":"owner"}}
"#;
    assert_eq!(text, expected.trim_start());
}

#[tokio::test]
async fn a_table_has_the_messages_and_the_columns_that_were_asked_for() {
    let mut server = Server::new();
    let lobby = server.channel("lobby").await;
    let (ada, eve) = (server.user("ada").await, server.user("=eve").await);
    server.append(&lobby, &[message(ada, 17, "hi, \"you\""), message(eve, 0, "@all")]).await;
    server.append(&lobby, &[wire_record::membership(ada, eve, None)]).await;
    server.append(&lobby, &[message(ada, 0, "bye")]).await;
    let export = async |columns| {
        server.export(Selection::One(lobby.clone()), Format::Csv(columns)).await.unwrap()
    };
    assert_eq!(
        export(Columns::default()).await,
        "channel,sequence,time,author,user,id,body\r\n\
         lobby,1,2027-01-15T08:00:00.001Z,ada,subject of ada,17,\"hi, \"\"you\"\"\"\r\n\
         lobby,2,2027-01-15T08:00:00.001Z,'=eve,subject of =eve,,'@all\r\n\
         lobby,4,2027-01-15T08:00:00.003Z,ada,subject of ada,,bye\r\n"
    );
    assert_eq!(
        export(Columns::parse("body,sequence").unwrap()).await,
        "body,sequence\r\n\"hi, \"\"you\"\"\",1\r\n'@all,2\r\nbye,4\r\n"
    );
    assert_eq!(export(Columns::parse("id").unwrap()).await, "id\r\n17\r\n\"\"\r\n\"\"\r\n");
}

#[tokio::test]
async fn what_is_committed_later_is_not_in_it() {
    let mut server = Server::new();
    let (attic, lobby) = (server.channel("attic").await, server.channel("lobby").await);
    let ada = server.user("ada").await;
    let page = vec![message(ada, 0, &"x".repeat(60_000)); 10];
    for channel in [&lobby, &attic] {
        server.append(channel, &[message(ada, 0, "first")]).await;
        for record in &page {
            server.append(channel, std::slice::from_ref(record)).await;
        }
    }
    let export = server.begin(Selection::All, Format::Ndjson).await;
    let mut stream = std::pin::pin!(export.into_stream());
    server.append(&lobby, &[message(ada, 0, "too late")]).await;
    let mut text = stream.next().await.unwrap().unwrap().to_vec();
    server.append(&attic, &[message(ada, 0, "too late")]).await;
    while let Some(chunk) = stream.next().await {
        text.extend_from_slice(&chunk.unwrap());
        server.append(&lobby, &[message(ada, 0, "too late")]).await;
    }
    let found = entries(std::str::from_utf8(&text).unwrap());
    let places: Vec<_> =
        found.iter().map(|line| (line["channel"].clone(), line["sequence"].clone())).collect();
    let expected: Vec<_> = ["attic", "lobby"]
        .iter()
        .flat_map(|name| (1..=11).map(move |sequence| (json!(name), json!(sequence))))
        .collect();
    assert_eq!(places, expected);
}

#[tokio::test]
async fn all_channels_come_in_the_order_of_their_names() {
    let mut server = Server::new();
    let ada = server.user("ada").await;
    let count = EXPORT_CHANNELS_PER_PAGE * 2 + 3;
    let mut names: Vec<String> = (0..count).rev().map(|n| format!("channel-{n}")).collect();
    for name in &names {
        let channel = server.channel(name).await;
        // Every other one is empty.
        if channel.id.0 % 2 == 0 {
            server.append(&channel, &[message(ada, 0, name)]).await;
        }
    }
    names.sort();
    let text = server.export(Selection::All, Format::Ndjson).await.unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let begun: Vec<&str> = lines
        .iter()
        .filter(|line| line.get("created").is_some())
        .map(|line| line["channel"].as_str().unwrap())
        .collect();
    assert_eq!(begun, names);
    let bodies = lines.iter().filter(|line| line.get("body").is_some());
    assert_eq!(bodies.clone().count(), count / 2);
    assert!(bodies.clone().all(|line| line["channel"] == line["body"]));
    let rows = server.export(Selection::All, Format::Csv(Columns::default())).await.unwrap();
    assert_eq!(table::read(&rows).len(), 1 + count / 2, "one header");
}

#[tokio::test]
async fn a_channel_begins_with_what_it_is_and_who_is_in_it() {
    let server = Server::new();
    let owner = server.user("zoe").await;
    let settings = Settings {
        topic: "all".to_owned(),
        visibility: Visibility::Private,
        ..Settings::open("lobby")
    };
    let lobby = server.settle(&settings, Some(owner)).await;
    let mut names = vec!["zoe".to_owned()];
    for number in (0..EXPORT_MEMBERS_PER_LINE + 1).rev() {
        let name = format!("member {number:04}");
        let user = server.user(&name).await;
        for Derived { table, key, value } in
            records::membership(lobby.id, user, Some(Role::Member), Sequence::ZERO)
        {
            server.engine.put(table, &key, value.unwrap(), Expect::Absent).await.unwrap();
        }
        names.push(name);
    }
    let text = server.export(Selection::One(lobby.clone()), Format::Ndjson).await.unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &lines {
        assert_eq!(line["channel"], "lobby");
        assert_eq!(line["created"], "2023-11-14T22:13:20.123Z");
        assert_eq!(line["settings"]["topic"], "all");
        assert_eq!(line["settings"]["visibility"], "private");
    }
    let members: Vec<&[Value]> =
        lines.iter().map(|line| &line["members"].as_array().unwrap()[..]).collect();
    let counts: Vec<usize> = members.iter().map(|members| members.len()).collect();
    assert_eq!(counts, [EXPORT_MEMBERS_PER_LINE, 2]);
    let members = members.concat();
    let found = members.iter().map(|member| member["name"].as_str().unwrap());
    names.sort();
    assert_eq!(found.collect::<Vec<_>>(), names, "by subject, not by number");
    let expected = json!({"name": "zoe", "user": "subject of zoe", "role": "owner"});
    assert_eq!(members.last(), Some(&expected));
    let rows = server.export(Selection::One(lobby), Format::Csv(Columns::default())).await.unwrap();
    assert_eq!(table::read(&rows).len(), 1);
}

#[tokio::test]
async fn a_channel_that_is_renamed_meanwhile_comes_once() {
    let server = Server::new();
    for name in ["b", "c", "d"] {
        server.channel(name).await;
    }
    let directory = &server.directory;
    let mut queue = Queue::new(Selection::All);
    let mut seen = vec![queue.next(directory).await.unwrap().unwrap()];
    // The one that has come goes to the end, and the last one to the beginning.
    for (from, to) in [("b", "e"), ("d", "a")] {
        let channel = directory.channel_by_name(from).await.unwrap();
        let mut record = directory.record(channel.id).await.unwrap();
        directory.claim_name(to, channel.id, 1_700_000_001).await.unwrap();
        record.name = to.to_owned();
        let key = records::channel_key(channel.id);
        let found = server.engine.get(Table::Channels, &key).await.unwrap().unwrap();
        let expect = Expect::Revision(found.revision);
        let value = records::format(&record);
        server.engine.put(Table::Channels, &key, value, expect).await.unwrap();
        directory.learn(record.info());
    }
    while let Some(channel) = queue.next(directory).await.unwrap() {
        seen.push(channel);
    }
    let names: Vec<&str> = seen.iter().map(|channel| &*channel.name).collect();
    assert_eq!(names, ["b", "c", "a"]);
}

#[tokio::test]
async fn the_end_of_a_channel_has_no_line() {
    let mut server = Server::new();
    let lobby = server.channel("lobby").await;
    let ada = server.user("ada").await;
    server.append(&lobby, &[message(ada, 0, "hi")]).await;
    server.append(&lobby, &[wire_record::deletion(ada)]).await;
    let text = server.export(Selection::One(lobby), Format::Ndjson).await.unwrap();
    assert_eq!(entries(&text).len(), 1);
}

#[tokio::test]
async fn an_export_of_nothing_is_whole() {
    let server = Server::new();
    let export = server.begin(Selection::All, Format::Ndjson).await;
    let chunks: Vec<Bytes> = export.into_stream().try_collect().await.unwrap();
    assert!(chunks.is_empty());
    let rows = server.export(Selection::All, Format::Csv(Columns::default())).await.unwrap();
    assert_eq!(rows, "channel,sequence,time,author,user,id,body\r\n");
}

#[tokio::test]
async fn a_message_of_any_size_is_cut_into_chunks() {
    let mut server = Server::new();
    let lobby = server.channel("lobby").await;
    let ada = server.user("ada").await;
    let bodies = ["\u{1}".repeat(300_000), "x".repeat(3 * EXPORT_CHUNK_BYTES), "y".to_owned()];
    for body in &bodies {
        server.append(&lobby, &[message(ada, 0, body)]).await;
    }
    let text = server.export(Selection::One(lobby), Format::Ndjson).await.unwrap();
    let found = entries(&text);
    assert!(found.iter().map(|line| &line["body"]).eq(bodies.iter()));
}

/// What the stream answers: the number of chunks before the error.
async fn failure(export: Export<MemoryEngine>) -> (usize, ExportError) {
    let answers: Vec<_> = export.into_stream().collect().await;
    let (last, chunks) = answers.split_last().unwrap();
    assert!(chunks.iter().all(Result::is_ok));
    (chunks.len(), last.clone().unwrap_err())
}

#[tokio::test]
async fn damage_ends_the_stream_with_an_error() {
    let mut server = Server::new();
    let lobby = server.channel("lobby").await;
    let ada = server.user("ada").await;
    for _ in 0..20 {
        server.append(&lobby, &[message(ada, 0, &"x".repeat(60_000))]).await;
    }
    server.engine.with_log(|log| log.damage(Cursor(18)));
    let export = server.begin(Selection::All, Format::Ndjson).await;
    let (chunks, error) = failure(export).await;
    assert!(chunks > 8, "what lies before it was sent");
    assert!(
        matches!(error, ExportError::Log(ReadError::Damaged { cursor: Cursor(18), .. })),
        "{error}"
    );
}

#[tokio::test]
async fn a_hole_between_two_pages_ends_the_stream_with_an_error() {
    let mut server = Server::new();
    let lobby = server.channel("lobby").await;
    let ada = server.user("ada").await;
    for _ in 0..20 {
        server.append(&lobby, &[message(ada, 0, &"x".repeat(60_000))]).await;
    }
    let export = server.begin(Selection::All, Format::Ndjson).await;
    let mut stream = std::pin::pin!(export.into_stream());
    assert!(stream.next().await.unwrap().is_ok());
    server.engine.trim(lobby.id, Sequence(15)).await.unwrap();
    let rest: Vec<_> = stream.collect().await;
    let error = rest.into_iter().find_map(Result::err);
    assert_eq!(error, Some(ExportError::BrokenChain(Cursor(15))));

    // What was trimmed before is no hole.
    let text = server.export(Selection::All, Format::Ndjson).await.unwrap();
    assert_eq!(entries(&text)[0]["sequence"], 15);
}

#[tokio::test]
async fn an_entry_that_extends_no_chain_is_junk_or_damage() {
    for junk_possible in [true, false] {
        let caps = Caps { durability: Durability::Quorum, junk_possible };
        let mut server = Server::over(MemoryLog::new(caps));
        let lobby = server.channel("lobby").await;
        let ada = server.user("ada").await;
        server.append(&lobby, &[message(ada, 0, "a")]).await;
        let (_, rival) = server.batch(&lobby, &[message(ada, 0, "junk")]);
        let rival = Batch { id: BatchId(1 << 100), previous: BatchId(7), ..rival };
        let junk = server.engine.with_log(|log| log.place(lobby.id, rival));
        server.heads.get_mut(&lobby.id).unwrap().cursor = junk;
        if junk_possible {
            server.append(&lobby, &[message(ada, 0, "b")]).await;
            let text = server.export(Selection::All, Format::Ndjson).await.unwrap();
            let bodies: Vec<_> = entries(&text).iter().map(|line| line["body"].clone()).collect();
            assert_eq!(bodies, ["a", "b"]);
        } else {
            let error = server.export(Selection::All, Format::Ndjson).await;
            assert_eq!(error, Err(ExportError::BrokenChain(junk)));
        }
    }
}

#[tokio::test]
async fn what_cannot_be_written_is_an_error_and_never_left_out() {
    let nobody = UserId(99);
    let unknown = |source| ExportError::Record { cursor: Cursor(1), source };
    let ada = UserId(1);
    let cases = [
        (message(nobody, 0, "hi"), ExportError::UnknownUser(nobody)),
        (wire_record::membership(ada, nobody, None), ExportError::UnknownUser(nobody)),
        (Bytes::from_static(b"\x08\x01\x3a\x00"), unknown(RecordFormatError::UnknownContent)),
        (
            Bytes::from_static(b"\x08\x01\x22\x04\x08\x01\x10\x09"),
            unknown(RecordFormatError::UnknownContent),
        ),
        (Bytes::from_static(b"\x1a\x01\xff"), unknown(RecordFormatError::Malformed)),
    ];
    for (record, expected) in cases {
        let mut server = Server::new();
        let lobby = server.channel("lobby").await;
        assert_eq!(server.user("ada").await, ada);
        server.append(&lobby, &[record]).await;
        assert_eq!(server.export(Selection::All, Format::Ndjson).await, Err(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn an_export_waits_for_its_turn_but_not_for_ever() {
    let mut server = Server::new();
    let lobby = server.channel("lobby").await;
    let ada = server.user("ada").await;
    server.append(&lobby, &[message(ada, 0, "hi")]).await;
    let whole = server.export(Selection::All, Format::Ndjson).await.unwrap();
    let faults = server.engine.faults();
    for _ in 0..5 {
        faults.fail_next_read(ReadError::Busy);
        faults.fail_next_record(RecordError::Busy);
    }
    assert_eq!(server.export(Selection::All, Format::Ndjson).await.as_ref(), Ok(&whole));

    let export = server.begin(Selection::All, Format::Ndjson).await;
    for _ in 0..EXPORT_TRIES_MAX {
        faults.fail_next_read(ReadError::Busy);
    }
    assert_eq!(text_of(export).await, Err(ExportError::Log(ReadError::Busy)));
    let export = server.begin(Selection::All, Format::Ndjson).await;
    faults.fail_next_read(ReadError::StorageUnavailable);
    let unavailable = ExportError::Log(ReadError::StorageUnavailable);
    assert_eq!(text_of(export).await, Err(unavailable));
}

#[tokio::test]
async fn users_are_forgotten_before_they_are_too_many() {
    let server = Server::new();
    let (ada, bob) = (server.user("ada").await, server.user("bob").await);
    let mut users = Users::default();
    let directory = &server.directory;
    users.read(directory, &Format::Ndjson, [ada, bob].into_iter()).await.unwrap();
    assert_eq!(&*users.known(bob).name, b"\"bob\"");
    assert!(users.bytes > 2 * size_of::<User>());
    users.bytes = EXPORT_USERS_BYTES_MAX + 1;
    users.read(directory, &Format::Ndjson, [ada].into_iter()).await.unwrap();
    assert!(!users.known.contains_key(&bob));
    assert!(users.bytes < EXPORT_USERS_BYTES_MAX);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_was_written_is_read_back_from_both_formats(
        messages in prop::collection::vec(
            (0_usize..3, any::<u64>(), prop_oneof![any::<String>(), "[=+@\t\r\n\"',a\\\\-]{0,9}"]), 1..40,
        ),
        names in prop::array::uniform3("\\PC{1,12}"),
        batch in 1_usize..9,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut server = Server::new();
            let lobby = server.channel("lobby").await;
            let mut users = Vec::new();
            for (number, name) in names.iter().enumerate() {
                users.push(server.directory.user(&number.to_string(), name).await.unwrap());
            }
            for messages in messages.chunks(batch) {
                let records: Vec<Bytes> =
                    messages.iter().map(|(user, id, body)| message(users[*user], *id, body)).collect();
                server.append(&lobby, &records).await;
            }
            let text = server.export(Selection::One(lobby.clone()), Format::Ndjson).await.unwrap();
            let lines = entries(&text);
            let csv = Format::Csv(Columns::parse("sequence,author,user,id,body").unwrap());
            let rows = table::read(&server.export(Selection::One(lobby), csv).await.unwrap());
            prop_assert_eq!(lines.len(), messages.len());
            prop_assert_eq!(rows.len(), messages.len() + 1);
            for (at, (user, id, body)) in messages.iter().enumerate() {
                let id = (*id != 0).then(|| id.to_string());
                let line = &lines[at];
                prop_assert_eq!(&line["sequence"], &json!(at + 1));
                prop_assert_eq!(&line["author"], &json!(names[*user]));
                prop_assert_eq!(&line["user"], &json!(user.to_string()));
                prop_assert_eq!(line.get("id").map(|id| id.as_str().unwrap()), id.as_deref());
                prop_assert_eq!(&line["body"], &json!(body));
                let row = [
                    (at + 1).to_string(),
                    table::guarded(&names[*user]),
                    user.to_string(),
                    id.unwrap_or_default(),
                    table::guarded(body),
                ];
                prop_assert_eq!(&rows[at + 1][..], &row[..]);
            }
            Ok(())
        })?;
    }
}
