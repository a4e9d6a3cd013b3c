//! A profile names what the server does, while the server goes on doing it.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Mutex,
};

use crate::harness::{LOBBY, TestServer, get, within};

/// The servers of all tests are in one process, and it has one profiler.
static TURN: Mutex<()> = Mutex::const_new(());

/// Publishes one message after the other, until it is dropped.
fn keep_busy(server: &TestServer<hubbub::engine::any::AnyEngine>) -> tokio::task::JoinSet<()> {
    let client = server.client("anna");
    let mut busy = tokio::task::JoinSet::new();
    busy.spawn(async move {
        loop {
            client.publish(LOBBY, "hello").await.unwrap();
        }
    });
    busy
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn one_profile_at_a_time_names_the_threads_of_a_busy_server_and_nobody_waits_for_it() {
    let _turn = TURN.lock().await;
    let server = TestServer::start().await;
    let internal = server.internal_address();
    let _busy = keep_busy(&server);
    let ask = async move || get(internal, "/debug/profile?seconds=3&hz=250").await;
    let profiles = tokio::spawn(async move { tokio::join!(ask(), ask()) });
    let mut asked_meanwhile = 0;
    while !profiles.is_finished() {
        assert_eq!(get(internal, "/livez").await.0, 200);
        assert_eq!(get(internal, "/metrics").await.0, 200);
        asked_meanwhile += 1;
    }
    assert!(asked_meanwhile > 10, "the profile held up the internal port");
    let (one, other) = profiles.await.unwrap();
    let ((status, stacks), (refused, problem)) =
        if one.0 == 200 { (one, other) } else { (other, one) };
    assert_eq!(status, 200, "{stacks}");
    assert_eq!(refused, 503, "{problem}");
    assert!(problem.contains("\"busy\""), "{problem}");
    for thread in ["hub;", "log-writer;"] {
        assert!(stacks.lines().any(|line| line.starts_with(thread)), "no {thread} in {stacks}");
    }
    let is_folded = |line: &str| {
        let count = line.rsplit_once(' ').map(|(_, count)| count.parse::<u64>());
        matches!(count, Some(Ok(1..)))
    };
    assert!(stacks.lines().all(is_folded), "{stacks}");
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_profile() {
    let _turn = TURN.lock().await;
    let server = TestServer::start().await;
    let internal = server.internal_address();
    let ask = async || get(internal, "/debug/profile?seconds=1").await.0;
    let at_work = within("the first profile", async {
        loop {
            let mut first = TcpStream::connect(internal).await.unwrap();
            let request = b"GET /debug/profile?seconds=60 HTTP/1.1\r\nHost: x\r\n\r\n";
            first.write_all(request).await.unwrap();
            // Whoever of the two came later is refused. It is to be this one.
            if ask().await == 503 {
                return first;
            }
        }
    });
    drop(at_work.await);
    within("a profile after the one that was given up", async { while ask().await != 200 {} })
        .await;
}

#[tokio::test]
async fn a_profile_that_is_asked_for_wrongly_is_a_problem() {
    let server = TestServer::start().await;
    let mut stream = TcpStream::connect(server.internal_address()).await.unwrap();
    let request = b"GET /debug/profile?hz=1000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    within("a refusal", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("application/problem+json"), "{answer}");
    assert!(answer.contains("hz must be 1 to 999"), "{answer}");
    // Not to be had where everybody can ask.
    assert_eq!(get(server.address(), "/debug/profile").await.0, 404);
}
