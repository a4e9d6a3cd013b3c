//! What an answer's time tells a stranger: not whether a user exists.
//!
//! Two samples of latencies, taken in turns, are compared by the two-sample test of Kolmogorov and
//! Smirnov, which asks how likely two sets of numbers of one distribution differ so much. Chance alone
//! refuses one comparison in a hundred, so a difference counts when several in a row find it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use bytesize::ByteSize;
use hubbub::auth::password::Cost;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::harness::{TestServer, within};

/// Of each kind, for one comparison.
const SAMPLES: usize = 2_000;
/// Below this probability two samples are of two distributions.
pub(crate) const P_MIN: f64 = 0.01;
/// Comparisons that chance does not refuse all: at most once in a million runs.
pub(crate) const COMPARISONS: u32 = 3;

/// Where nobody has logged in before.
const STRANGER: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 9, 9, 9), 0);

const KNOWN: &str =
    r#"{"grant_type":"password","username":"ada","password":"wrong horse battery"}"#;
const UNKNOWN: &str =
    r#"{"grant_type":"password","username":"eve","password":"wrong horse battery"}"#;

/// A connection that asks for tokens, one after another.
struct Asker {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Asker {
    /// The whole answer to this request, and how long it took.
    async fn ask(&mut self, request: &[u8]) -> (String, Duration) {
        let begun = Instant::now();
        self.stream.write_all(request).await.unwrap();
        self.answer.clear();
        while !is_whole(&self.answer) {
            let read = self.stream.read_buf(&mut self.answer).await.unwrap();
            assert!(read > 0, "hung up: {}", String::from_utf8_lossy(&self.answer));
        }
        (String::from_utf8_lossy(&self.answer).into_owned(), begun.elapsed())
    }
}

fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    body.len() == length.expect("an answer has a length").parse::<usize>().unwrap()
}

fn without_date(answer: &str) -> String {
    answer.lines().filter(|line| !line.starts_with("date: ")).collect::<Vec<_>>().join("\n")
}

/// A server whose buckets do not run dry, and a user `ada`. Hashing costs enough to be what takes
/// the time, and little enough for thousands.
async fn server_with_ada() -> TestServer<hubbub::engine::any::AnyEngine> {
    let server = TestServer::start_with(|config| {
        config.auth.cost = Cost { memory: ByteSize::mib(1), passes: 1, lanes: 1 };
        config.auth.attempts_per_address_burst = 1_000_000;
        config.auth.attempts_per_account_burst = 1_000_000;
    });
    let server = server.await;
    server.accounts().create("ada", "correct horse battery").await.unwrap();
    server
}

#[tokio::test]
async fn an_unknown_user_is_answered_as_a_wrong_password_is() {
    let server = server_with_ada().await;
    let address = server.address();
    let request = |body: &str| {
        format!(
            "POST /v1/token HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let (known, unknown) = (request(KNOWN), request(UNKNOWN));
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(STRANGER)).unwrap();
    let stream = socket.connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut asker = Asker { stream, answer: Vec::new() };

    let (expected, _) = asker.ask(known.as_bytes()).await;
    assert!(expected.starts_with("HTTP/1.1 401 "), "{expected}");
    let expected = without_date(&expected);
    let mut p = Vec::new();
    for _ in 0..COMPARISONS {
        let mut latencies = [Vec::with_capacity(SAMPLES), Vec::with_capacity(SAMPLES)];
        for _ in 0..SAMPLES {
            // In an order that no slow drift and no alternation of the machine's can follow.
            let first = usize::from(rand::random::<bool>());
            for kind in [first, 1 - first] {
                let request = if kind == 0 { &known } else { &unknown };
                let asked = asker.ask(request.as_bytes());
                let (answer, latency) = within("an answer", asked).await;
                assert_eq!(without_date(&answer), expected, "status, head and body are the same");
                latencies[kind].push(latency.as_secs_f64());
            }
        }
        let [known, unknown] = &mut latencies;
        p.push(same_distribution(known, unknown));
        println!(
            "p = {:.3}; medians {:.0} and {:.0} us",
            p[p.len() - 1],
            known[SAMPLES / 2] * 1e6,
            unknown[SAMPLES / 2] * 1e6
        );
        if p.iter().any(|&p| p > P_MIN) {
            return;
        }
    }
    panic!("the time tells who exists: p = {p:?}");
}

/// How probable it is that two samples of one distribution differ by as much as these. Sorts them.
pub(crate) fn same_distribution(one: &mut [f64], other: &mut [f64]) -> f64 {
    one.sort_unstable_by(f64::total_cmp);
    other.sort_unstable_by(f64::total_cmp);
    let (n, m) = (one.len() as f64, other.len() as f64);
    let (mut i, mut j, mut distance) = (0, 0, 0.0_f64);
    while i < one.len() && j < other.len() {
        let value = one[i].min(other[j]);
        while i < one.len() && one[i] <= value {
            i += 1;
        }
        while j < other.len() && other[j] <= value {
            j += 1;
        }
        distance = distance.max((i as f64 / n - j as f64 / m).abs());
    }
    let size = (n * m / (n + m)).sqrt();
    let lambda = (size + 0.12 + 0.11 / size) * distance;
    let term = |k: i32| (-1.0_f64).powi(k - 1) * (-2.0 * f64::from(k * k) * lambda * lambda).exp();
    (2.0 * (1..=100).map(term).sum::<f64>()).clamp(0.0, 1.0)
}

#[test]
fn the_comparison_finds_a_small_shift_and_no_more() {
    let mut seed = 1_u64;
    let mut noise = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 40) as f64 / (1 << 24) as f64
    };
    let mut sample = |shift: f64| -> Vec<f64> { (0..SAMPLES).map(|_| noise() + shift).collect() };
    let p = same_distribution(&mut sample(0.0), &mut sample(0.0));
    assert!(p > P_MIN, "{p}");
    let p = same_distribution(&mut sample(0.0), &mut sample(0.1));
    assert!(p < P_MIN, "{p}");
    // The statistic's published values: a D of 1.63 / sqrt(n/2) has p = 0.01.
    let (mut one, mut other): (Vec<f64>, Vec<f64>) =
        (0..2_000).map(|i| (f64::from(i), f64::from(i + 103))).unzip();
    let p = same_distribution(&mut one, &mut other);
    assert!((0.005..0.02).contains(&p), "{p}");
}
