use std::{fs, path::Path, sync::Barrier};

use proptest::prelude::*;
use rusqlite::types::Value;

use super::*;
use crate::{
    auth::{
        Username,
        refresh_token::Presented,
        store::{
            Database, FILE_NAME, OpenError, Store, StoreError,
            accounts::{Creation, Measure, NewAccount},
            keys::{FOLDER, KeyState, KeyStore, KeyStoreError},
            sessions::{Live, NewSession, Refreshed, Rules},
            write,
        },
    },
    engine::rows::memory::{Fault, MemoryRows},
};

const NOW_S: u64 = 1_800_000_000;
const RULES: Rules = Rules { rest_max_s: 1_000, per_user_max: 50 };

/// A node: its directory, its way to the rows, and its store.
struct Node {
    dir: tempfile::TempDir,
    rows: MemoryRows,
    store: Store,
}

impl Node {
    fn new(rows: &MemoryRows) -> Self {
        let (dir, rows) = (tempfile::tempdir().unwrap(), rows.another_node());
        let store = Store::open_replica(dir.path(), Arc::new(rows.clone())).unwrap();
        Self { dir, rows, store }
    }

    fn again(self) -> Self {
        let Self { dir, rows, store } = self;
        drop(store);
        let store = Store::open_replica(dir.path(), Arc::new(rows.clone())).unwrap();
        Self { dir, rows, store }
    }

    /// Everything that the node knows, once it has caught up.
    fn all(&self) -> Vec<Row> {
        let mut rows = tables::read_all(&self.database()).unwrap();
        rows.sort_by(|one, other| (&one.table, &one.key).cmp(&(&other.table, &other.key)));
        rows
    }

    fn database(&self) -> Database {
        Database::open(self.dir.path(), Some(Arc::new(self.rows.another_node()))).unwrap()
    }

    fn keys(&self) -> KeyStore {
        let rows = Arc::new(self.rows.clone());
        KeyStore::open_replica(self.dir.path(), rows, NOW_S).unwrap()
    }

    async fn create(&self, name: &str, invite: Option<&str>) -> Result<Creation, StoreError> {
        let new = NewAccount {
            username: Username::parse(name).unwrap(),
            password_hash: "hash".to_owned(),
            invite: invite.map(str::to_owned),
            address: Some("10.0.0.1".to_owned()),
        };
        self.store.create_account(new, NOW_S).await
    }

    async fn begin(&self, name: &str) -> Live {
        let username = Username::parse(name).unwrap();
        let found = self.store.find(Some(username), String::new()).await.unwrap().unwrap();
        let new = NewSession {
            account: found.id,
            password_number: found.password_number,
            address: "::1".to_owned(),
        };
        self.store.begin_session(new, RULES, NOW_S).await.unwrap().unwrap()
    }

    async fn refresh(&self, token: &str) -> Refreshed {
        self.store.refresh(Presented::parse(token).unwrap(), RULES, NOW_S).await.unwrap()
    }

    async fn log_out(&self, name: &str) {
        let username = Username::parse(name).unwrap();
        self.store.administer(username, Measure::LogOut, NOW_S).await.unwrap().unwrap();
    }
}

/// What the cluster keeps, without markers and the news of removed rows.
fn kept(rows: &MemoryRows) -> Vec<Row> {
    rows.all().into_iter().filter(|row| !row.is_passing).collect()
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => Just(Fault::None),
        1 => Just(Fault::Moved),
        1 => Just(Fault::Unknown),
        1 => Just(Fault::Lost),
        1 => Just(Fault::Late),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// All at once on all nodes, each with faults of its own: what is scarce is given out once.
    #[test]
    fn nodes_that_race_give_out_each_name_use_and_number_once(
        faults in proptest::collection::vec(proptest::collection::vec(fault(), 0..20), 3),
        uses in 1..6_u32,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let rows = MemoryRows::default();
        let nodes = [(); 3].map(|()| Node::new(&rows));
        let invite = runtime.block_on(nodes[0].store.create_invite(uses, NOW_S + 9)).unwrap();
        runtime.block_on(nodes[0].create("zoe", None)).unwrap();
        let barrier = Barrier::new(nodes.len());
        let race = |(node, faults): (&Node, Vec<Fault>)| {
            node.rows.fail(faults);
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            barrier.wait();
            runtime.block_on(async {
                let mut created = Vec::new();
                for at in 0..4 {
                    let name = format!("user{at}");
                    let done = node.create(&name, Some(&invite.code)).await.unwrap();
                    if let Creation::Created(account) = done {
                        created.push(account.username.as_str().to_owned());
                    }
                    node.log_out("zoe").await;
                }
                created
            })
        };
        let created = std::thread::scope(|scope| {
            let race = &race;
            let racing: Vec<_> = nodes
                .iter()
                .zip(faults)
                .map(|it| scope.spawn(move || race(it)))
                .collect();
            racing.into_iter().flat_map(|it| it.join().unwrap()).collect::<Vec<_>>()
        });
        let mut names = created.clone();
        names.sort();
        names.dedup();
        prop_assert_eq!(names.len(), created.len(), "a name was given out twice: {:?}", created);
        prop_assert_eq!(created.len(), 4.min(uses as usize));

        for node in &nodes {
            let page = runtime.block_on(node.store.revocations(0)).unwrap();
            let numbers: Vec<_> = page.revocations.iter().map(|it| it.number).collect();
            prop_assert_eq!(numbers, (1..=12).collect::<Vec<u64>>());
            prop_assert_eq!(node.all(), kept(&rows));
        }
        prop_assert_eq!(Node::new(&rows).all(), kept(&rows), "who joins late knows less or more");
    }

    /// In turn on any node: each is where the last one was.
    #[test]
    fn each_node_goes_on_where_another_one_was(
        steps in proptest::collection::vec((0..3_usize, 0..6_usize, fault()), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let rows = MemoryRows::default();
        let mut nodes = Some([(); 3].map(|()| Node::new(&rows)));
        runtime.block_on(async {
            let mut tokens: Vec<String> = Vec::new();
            let mut former: Option<String> = None;
            for (number, (at, step, fault)) in steps.into_iter().enumerate() {
                if number % 8 == 7 {
                    nodes = nodes.take().map(|nodes| nodes.map(Node::again));
                }
                let node = &nodes.as_ref().unwrap()[at];
                node.rows.fail([fault]);
                match (step, tokens.pop()) {
                    (0 | 1, token) => {
                        node.create("anna", None).await.unwrap();
                        tokens.extend(token);
                        tokens.push(node.begin("anna").await.refresh_token);
                    }
                    (2 | 3, Some(token)) => {
                        let Refreshed::Rotated(live) = node.refresh(&token).await else {
                            panic!("the newest token of a session is not good");
                        };
                        tokens.push(live.refresh_token);
                        former = Some(token);
                    }
                    (4, Some(token)) => {
                        // The one before it, if that was of this session: both are over.
                        if let Some(former) = former.take()
                            && former[..40] == token[..40]
                        {
                            let replayed = node.refresh(&former).await;
                            assert!(matches!(replayed, Refreshed::Replayed { .. }), "{replayed:?}");
                            let other = &nodes.as_ref().unwrap()[(at + 1) % 3];
                            assert!(matches!(other.refresh(&token).await, Refreshed::Refused));
                        } else {
                            tokens.push(token);
                        }
                    }
                    (5, Some(_)) => {
                        node.log_out("anna").await;
                        tokens.clear();
                    }
                    (_, token) => tokens.extend(token),
                }
            }
        });
        for node in nodes.as_ref().unwrap() {
            prop_assert_eq!(node.all(), kept(&rows));
        }
    }
}

#[tokio::test]
async fn what_a_crash_kept_out_of_the_copy_comes_back() {
    let rows = MemoryRows::default();
    let node = Node::new(&rows);
    node.create("anna", None).await.unwrap();
    let Node { dir, rows: way, store } = node;
    drop(store);
    // The last connection to a file takes its write-ahead log in.
    let file = dir.path().join(FILE_NAME);
    let before = fs::read(&file).unwrap();
    let node = Node {
        store: Store::open_replica(dir.path(), Arc::new(way.clone())).unwrap(),
        dir,
        rows: way,
    };
    node.create("bert", None).await.unwrap();
    let Node { dir, rows: way, store } = node;
    drop(store);
    fs::write(&file, before).unwrap();
    let store = Store::open_replica(dir.path(), Arc::new(way.clone())).unwrap();
    let node = Node { dir, rows: way, store };
    assert_eq!(node.create("bert", None).await.unwrap(), Creation::Taken);
    assert_eq!(node.all(), kept(&rows));
}

#[tokio::test]
async fn without_the_cluster_nothing_is_answered_and_all_goes_on_behind_it() {
    let rows = MemoryRows::default();
    let node = Node::new(&rows);
    node.create("anna", None).await.unwrap();
    rows.set_down(true);
    assert!(matches!(node.create("bert", None).await, Err(StoreError::Busy)));
    assert!(matches!(node.store.revocations(0).await, Err(StoreError::Busy)));
    rows.set_down(false);
    node.rows.fail([Fault::Unavailable]);
    assert!(matches!(node.create("bert", None).await, Err(StoreError::Busy)));
    assert!(matches!(node.create("bert", None).await, Ok(Creation::Created(_))));
    assert_eq!(node.all(), kept(&rows));
}

#[tokio::test]
async fn a_request_ends_in_time_however_others_race() {
    let rows = MemoryRows::default();
    let node = Node::new(&rows);
    node.rows.fail([Fault::Moved; 1_000]);
    let begun = Instant::now();
    assert!(matches!(node.create("anna", None).await, Err(StoreError::Busy)));
    assert!(begun.elapsed() < limits::ACCOUNTS_WAIT_MAX);
    assert_eq!(kept(&rows), []);
}

#[test]
fn a_change_that_is_too_large_changes_nothing() {
    let rows = MemoryRows::default();
    let node = Node::new(&rows);
    let mut database = node.database();
    database.begin(Instant::now()).unwrap();
    let many = write(&mut database, |transaction| {
        for name in 0..limits::ACCOUNT_ROWS_PER_COMMIT_MAX {
            transaction.execute("INSERT INTO facts VALUES (?1, 1)", [name.to_string()])?;
        }
        Ok::<_, StoreError>(())
    });
    assert!(matches!(many, Err(StoreError::Replica(ReplicaError::TooLarge(_)))), "{many:?}");
    assert_eq!(node.all(), []);
}

/// While nodes are upgraded one after the other.
#[tokio::test]
async fn a_column_of_a_newer_node_outlives_the_changes_of_an_older_one() {
    let rows = MemoryRows::default();
    let node = Node::new(&rows);
    node.create("anna", None).await.unwrap();
    let account = |rows: &MemoryRows| {
        rows.all().into_iter().find(|row| row.table == "accounts" && !row.is_passing).unwrap()
    };
    let mut newer = account(&rows);
    let mut columns = row::decode(&newer.value).unwrap();
    columns.push(("colour".to_owned(), Value::Text("red".to_owned())));
    newer.value = row::encode(&columns).into();
    let mut of_new_table = newer.clone();
    of_new_table.table = "colours".to_owned();
    let soon = Instant::now();
    rows.another_node().commit(vec![newer, of_new_table], rows.end(), soon).unwrap();

    node.log_out("anna").await;
    let columns = row::decode(&account(&rows).value).unwrap();
    let find = |name: &str| columns.iter().find(|column| column.0 == name).map(|it| it.1.clone());
    assert_eq!(find("colour"), Some(Value::Text("red".to_owned())));
    assert_eq!(find("generation"), Some(Value::Integer(2)));

    // What a row of an older node does not name is left as it is by a newer one, or gets its default.
    let columns: Vec<_> = columns.into_iter().filter(|it| it.0 != "disabled_at_s").collect();
    let older = Row { value: row::encode(&columns).into(), ..account(&rows) };
    rows.another_node().commit(vec![older], rows.end(), soon).unwrap();
    let found = node.store.find(Some(Username::parse("anna").unwrap()), String::new()).await;
    assert!(!found.unwrap().unwrap().disabled);
}

#[tokio::test]
async fn a_copy_that_was_away_for_too_long_or_has_another_schema_begins_anew() {
    let rows = MemoryRows::default();
    for spoil in ["at_end_s = 5", "schema = 1"] {
        let node = Node::new(&rows);
        node.create("anna", None).await.unwrap();
        let live = node.begin("anna").await;
        let Node { dir, rows: way, store } = node;
        drop(store);
        let other = Node::new(&rows);
        other.log_out("anna").await;
        rows.forget_removed();
        let file = Connection::open(dir.path().join(FILE_NAME)).unwrap();
        file.execute(&format!("UPDATE replica SET {spoil}"), []).unwrap();
        drop(file);
        let store = Store::open_replica(dir.path(), Arc::new(way.clone())).unwrap();
        let node = Node { dir, rows: way, store };
        assert!(matches!(node.refresh(&live.refresh_token).await, Refreshed::Refused));
        assert_eq!(node.all(), kept(&rows));
    }
}

#[tokio::test]
async fn a_copy_of_what_is_lost_is_refused_and_left_alone() {
    let rows = MemoryRows::default();
    let node = Node::new(&rows);
    node.create("anna", None).await.unwrap();
    rows.lose_all();
    let asked = node.store.revocations(0).await;
    assert!(matches!(asked, Err(StoreError::Replica(ReplicaError::Foreign))), "{asked:?}");
    let Node { dir, rows: way, store } = node;
    drop(store);
    let open = || Store::open_replica(dir.path(), Arc::new(way.clone()));
    let Err(OpenError::Replica(ReplicaOpenError::Replica(ReplicaError::Foreign))) = open() else {
        panic!("it was opened");
    };
    let file = Connection::open(dir.path().join(FILE_NAME)).unwrap();
    assert!(tables::is_in_use(&file).unwrap());
}

#[test]
fn a_file_is_a_single_nodes_or_a_copy_and_not_both() {
    let rows = MemoryRows::default();
    let single = tempfile::tempdir().unwrap();
    drop(KeyStore::open(single.path(), NOW_S).unwrap());
    let opened = Store::open_replica(single.path(), Arc::new(rows.clone()));
    assert!(matches!(opened, Err(OpenError::Replica(ReplicaOpenError::NotACopy))));
    drop(KeyStore::open(single.path(), NOW_S).unwrap());

    let node = Node::new(&rows);
    let opened = KeyStore::open(node.dir.path(), NOW_S);
    assert!(matches!(opened, Err(KeyStoreError::Open(OpenError::IsACopy))));
}

#[test]
fn keys_are_the_same_on_all_nodes_and_in_no_file() {
    let rows = MemoryRows::default();
    let nodes = [(); 2].map(|()| Node::new(&rows));
    let mut keys = nodes.each_ref().map(Node::keys);
    let first = keys[0].published(NOW_S).unwrap();
    assert_eq!(keys[1].list(NOW_S).unwrap().len(), 1);
    assert_eq!(keys[1].published(NOW_S).unwrap(), first);

    // A rotation that has to be tried again leaves no second key.
    nodes[1].rows.fail([Fault::Moved, Fault::Lost, Fault::Late, Fault::Unknown]);
    let second = keys[1].rotate(Duration::from_secs(60), NOW_S).unwrap();
    let listed = keys[0].list(NOW_S).unwrap();
    assert_eq!((listed.len(), listed[0].state), (2, KeyState::Next));
    assert_eq!(keys[0].load(&second).unwrap().key_id(), second);

    nodes[0].rows.fail([Fault::Unknown]);
    let third = keys[0].revoke(&first[0], NOW_S).unwrap().expect("it signed");
    assert!(matches!(keys[1].revoke(&first[0], NOW_S), Err(KeyStoreError::Unknown)));
    assert_eq!(keys[1].published(NOW_S).unwrap(), [third, second]);
    assert!(keys[1].load(&first[0]).is_err(), "a revoked key is nowhere");
    for node in &nodes {
        assert!(!Path::exists(&node.dir.path().join(FOLDER)));
        assert_eq!(node.all(), kept(&rows));
    }
}
