use std::{fs, net::SocketAddr};

use serde_json::{Value, json};
use testnats::Nats;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

use super::{ask::Info, *};
use crate::engine::jetstream::{
    api::Api,
    streams::{self, Plan},
    subject::Subjects,
};

fn options(servers: &[String], monitor_urls: &[String]) -> CheckOptions {
    CheckOptions {
        servers: servers.to_vec(),
        credentials: PathBuf::new(),
        prefix: "h".to_owned(),
        streams: 2,
        single: servers.len() == 1,
        accept_lossy: false,
        monitor_urls: monitor_urls.to_vec(),
    }
}

/// A server as it should be, of a cluster of three.
fn fit(id: &str) -> Seen {
    let info = Info {
        id: id.to_owned(),
        version: "2.15.1".to_owned(),
        max_payload: NATS_MAX_PAYLOAD_MIN,
        has_jetstream: true,
        client: None,
    };
    let jetstream = json!({ "config": { "sync_always": true }, "meta": { "cluster_size": 3 } });
    Seen {
        address: format!("nats://{id}"),
        answer: Answer::Info(info),
        varz: Ok(json!({ "server_id": id, "jetstream": jetstream })),
    }
}

fn info(seen: &mut Seen) -> &mut Info {
    let Answer::Info(info) = &mut seen.answer else { panic!("it answers") };
    info
}

/// The one condition that has failed, with its reason and what to do.
fn failed(conditions: &[Condition]) -> (&str, String) {
    let mut failed = conditions.iter().filter(|it| matches!(it.verdict, Verdict::Failed(_)));
    let condition = failed.next().expect("one has failed");
    assert_eq!(failed.next(), None, "one only");
    (&condition.about, condition.problem().unwrap().to_string())
}

fn is_fit(conditions: &[Condition]) -> bool {
    conditions.iter().all(|condition| condition.problem().is_none())
}

#[test]
fn each_setting_of_a_server_that_is_wrong_is_named_with_its_fix() {
    let options = options(&[], &[]);
    assert!(is_fit(&of_server(&fit("a"), &options)));
    type Change = fn(&mut Seen);
    let cases: [(&str, &str, Change); 6] = [
        ("version", "2.15 or newer", |it| info(it).version = "2.9.10".to_owned()),
        ("version", "2.15 or newer", |it| info(it).version = "2.14.9".to_owned()),
        ("max_payload", "`max_payload: 8MB`", |it| info(it).max_payload = 1024 * 1024),
        ("JetStream", "`jetstream {", |it| info(it).has_jetstream = false),
        ("sync", "`sync_interval: always`", |it| {
            let config = json!({ "sync_interval": 120_000_000_000_u64 });
            it.varz = Ok(json!({ "jetstream": { "config": config } }));
        }),
        ("sync", "jetstream.monitor_urls", |it| it.varz = Err("nobody there".to_owned())),
    ];
    for (about, fix, change) in cases {
        let mut server = fit("a");
        change(&mut server);
        let conditions = of_server(&server, &options);
        let (named, problem) = failed(&conditions);
        assert_eq!(named, format!("nats://a {about}"));
        assert!(problem.contains(fix), "{problem}");
    }
    let mut newer = fit("a");
    info(&mut newer).version = "3.0.0-RC.1".to_owned();
    assert!(is_fit(&of_server(&newer, &options)));
}

#[test]
fn what_does_not_sync_is_taken_only_by_who_says_so() {
    let mut server = fit("a");
    let config = json!({ "sync_interval": 120_000_000_000_u64 });
    server.varz = Ok(json!({ "jetstream": { "config": config } }));
    let lossy = CheckOptions { accept_lossy: true, ..options(&[], &[]) };
    let conditions = of_server(&server, &lossy);
    assert!(is_fit(&conditions));
    let said = Verdict::Ok("every 2m: a power cut loses acknowledged messages".to_owned());
    assert_eq!(conditions.last().unwrap().verdict, said);
}

#[test]
fn a_cluster_has_three_servers_or_is_said_to_be_single() {
    let strict = CheckOptions { single: false, ..options(&[], &[]) };
    let three = || ["a", "b", "c"].map(fit);
    assert!(is_fit(&of_all(&three(), &strict)));

    let one = [fit("a")];
    assert!(failed(&of_all(&one, &strict)).1.contains("--engine-single"));
    assert!(is_fit(&of_all(&one, &CheckOptions { single: true, ..strict.clone() })));
    let twice = ["a", "b", "a"].map(fit);
    assert!(failed(&of_all(&twice, &strict)).1.contains("the same as nats://a"));
    // Three that do not know each other, and a part of five.
    let mut apart = three();
    apart.iter_mut().for_each(|it| it.varz = Ok(json!({ "jetstream": {} })));
    assert!(failed(&of_all(&apart, &strict)).1.contains("`cluster`"));
    let mut part = three();
    let meta = json!({ "cluster_size": 5 });
    part[2].varz = Ok(json!({ "jetstream": { "meta": meta } }));
    assert!(failed(&of_all(&part, &strict)).1.contains("not checked"));
}

#[test]
fn one_server_of_three_may_be_down_and_two_are_waited_for() {
    let strict = options(&[], &[]);
    let mut servers = ["a", "b", "c"].map(fit);
    servers[0].answer = Answer::Nothing("it does not answer".to_owned());
    assert!(matches!(of_server(&servers[0], &strict)[0].verdict, Verdict::Down(_)));
    assert!(is_fit(&of_all(&servers, &strict)));
    servers[1].answer = Answer::Nothing("it does not answer".to_owned());
    let conditions = of_all(&servers, &strict);
    assert!(matches!(conditions[0].verdict, Verdict::NotYet(_)), "{conditions:?}");
}

/// A server that says this of itself, to clients and on its monitoring port.
async fn fake(info: Value, varz: Value) -> (SocketAddr, SocketAddr) {
    let clients = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let monitor = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = (clients.local_addr().unwrap(), monitor.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = clients.accept().await {
            tokio::spawn(greet(stream, info.clone()));
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = monitor.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let body = varz.to_string();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = stream.write_all((head + &body).as_bytes()).await;
        }
    });
    addresses
}

async fn greet(stream: TcpStream, info: Value) {
    let (read, mut write) = stream.into_split();
    let _ = write.write_all(format!("INFO {info}\r\n").as_bytes()).await;
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if line.starts_with("PING") {
            let _ = write.write_all(b"PONG\r\n").await;
        }
    }
}

#[tokio::test]
async fn an_old_server_is_refused_with_every_reason() {
    let info = json!({
        "server_id": "OLD", "server_name": "OLD", "version": "2.9.10", "go": "go1.19", "host": "h",
        "port": 4222, "proto": 1, "headers": true, "max_payload": 1_048_576, "jetstream": false,
    });
    let (clients, monitor) = fake(info, json!({ "server_id": "OLD", "jetstream": {} })).await;
    let options = options(&[format!("nats://{clients}")], &[format!("http://{monitor}")]);
    let refused = wait_until_fit(&options).await.unwrap_err().to_string();
    for reason in ["it is 2.9.10", "messages of 1.0 MiB", "it is off"] {
        assert!(refused.contains(reason), "{refused}");
    }
}

#[tokio::test]
async fn a_monitoring_port_of_another_server_proves_nothing() {
    let info = json!({
        "server_id": "MINE", "server_name": "MINE", "version": "2.15.1", "go": "go1.27", "host": "h",
        "port": 4222, "proto": 1, "headers": true, "max_payload": 8_388_608, "jetstream": true,
    });
    let config = json!({ "config": { "sync_always": true } });
    let (clients, monitor) = fake(info, json!({ "server_id": "OTHER", "jetstream": config })).await;
    let options = options(&[format!("nats://{clients}")], &[format!("http://{monitor}")]);
    let seen = ask::servers(&options).await.unwrap();
    let conditions = of_server(&seen[0], &options);
    assert!(failed(&conditions).1.contains("monitor_urls is its"), "{conditions:?}");
}

#[tokio::test]
async fn credentials_are_of_one_of_three_forms() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("credentials");
    let refusal = async |text: &str| {
        fs::write(&path, text).unwrap();
        let options = CheckOptions { credentials: path.clone(), ..options(&[], &[]) };
        ask::servers(&options).await.err().map(|error| error.to_string())
    };
    assert_eq!(refusal("hub:secret\n").await, None);
    assert_eq!(refusal("SUAM6VOZTKZ4WZTSGUYW2CKLYDFDRFGNRFVHDOLH5KZ3OQDBDRDSRTVFXU\n").await, None);
    for wrong in ["", ":secret", "secret", "-----BEGIN NATS USER JWT-----\n"] {
        let refusal = refusal(wrong).await.expect("it has no such form");
        assert!(refusal.contains("neither") && !refusal.contains("secret\n"), "{refusal}");
    }
    let gone = CheckOptions { credentials: folder.path().join("gone"), ..options(&[], &[]) };
    let error = ask::servers(&gone).await.unwrap_err();
    assert!(matches!(error, CheckError::Credentials(CredentialsError::Unreadable { .. })));
}

/// A server or three of them, and the options that name them. `None`: there is no program here.
fn started(servers: usize, sync_always: bool) -> Option<(Nats, CheckOptions)> {
    if testnats::program().is_none() {
        println!("{}", testnats::MISSING);
        return None;
    }
    let nats = testnats::Options { sync_always, ..testnats::Options::new(servers) };
    let nats = Nats::start(&nats).unwrap();
    let names = nats.servers().iter().map(testnats::Server::url).collect::<Vec<_>>();
    let monitors = nats.servers().iter().map(testnats::Server::monitor_url).collect::<Vec<_>>();
    Some((nats, options(&names, &monitors)))
}

#[tokio::test]
async fn three_real_servers_are_fit_also_when_one_is_down() {
    let Some((mut nats, options)) = started(3, true) else { return };
    wait_until_fit(&options).await.unwrap();
    assert!(is_fit(&check(&options).await.unwrap()));
    nats.kill(2).unwrap();
    wait_until_fit(&options).await.unwrap();
    let conditions = check(&options).await.unwrap();
    let down = conditions.iter().filter_map(Condition::problem).count();
    assert_eq!(down, 1, "{conditions:?}");
}

#[tokio::test]
async fn a_real_server_that_syncs_every_two_minutes_is_refused() {
    let Some((_nats, options)) = started(1, false) else { return };
    let refused = wait_until_fit(&options).await.unwrap_err().to_string();
    assert!(refused.contains("it syncs its disk every 2m"), "{refused}");
    assert!(refused.contains("`sync_interval: always`"), "{refused}");
    let lossy = CheckOptions { accept_lossy: true, ..options };
    wait_until_fit(&lossy).await.unwrap();
}

#[tokio::test]
async fn one_real_server_is_refused_without_the_flag() {
    let Some((_nats, options)) = started(1, true) else { return };
    wait_until_fit(&options).await.unwrap();
    let strict = CheckOptions { single: false, ..options };
    let refused = wait_until_fit(&strict).await.unwrap_err().to_string();
    assert!(refused.contains("--engine-single"), "{refused}");
}

#[tokio::test]
async fn a_stream_that_somebody_changed_is_named_with_its_fix() {
    let Some((_nats, options)) = started(1, true) else { return };
    let api = Api::new(async_nats::connect(&options.servers[0]).await.unwrap());
    let subjects = Subjects::new(&options.prefix);
    let plan = Plan { subjects: &subjects, logs: options.streams, single: true };
    streams::make(&api, plan).await.unwrap();
    assert!(is_fit(&check(&options).await.unwrap()));
    let other = CheckOptions { streams: 3, ..options.clone() };
    let refused = wait_until_fit(&other).await.unwrap_err().to_string();
    assert!(refused.contains("set jetstream.streams to 2"), "{refused}");

    let (stream, mut changed) = plan.streams().pop().unwrap();
    changed["max_age"] = json!(Duration::from_secs(3_600).as_nanos() as u64);
    let subject = format!("$JS.API.STREAM.UPDATE.{stream}");
    let answer = api.client().request(subject, changed.to_string().into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(answer["error"], Value::Null, "{answer}");
    let conditions = check(&options).await.unwrap();
    let (named, problem) = failed(&conditions);
    assert_eq!(named, stream);
    assert!(problem.contains("max_age") && problem.contains("nats stream edit"), "{problem}");
}
