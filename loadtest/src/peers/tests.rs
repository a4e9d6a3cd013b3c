//! The generator against the floor, both in this process.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    dialect::{Dialect, Speaker},
    floor::{Floor, Mode},
    generator::{Edge, Generator, Load, Loaded, Pace},
    *,
};

/// A floor on a thread.
struct Running {
    address: std::net::SocketAddr,
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Running {
    fn start(mode: Mode, forget: Option<u64>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let floor = Floor::new(listener, mode, forget).unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let is_over = Arc::clone(&is_over);
            move || floor.serve(&is_over)
        });
        Self { address, is_over, thread }
    }

    fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap().unwrap();
    }
}

/// Ten users for half a second.
fn loaded(mode: Mode, pace: Pace, forget: Option<u64>, body_bytes: usize) -> Loaded {
    let floor = Running::start(mode, forget);
    let host = floor.address.to_string();
    let speaker = Speaker::new(Dialect::Raw, host, Vec::new(), body_bytes);
    let mut generator = Generator::new(floor.address, speaker).unwrap();
    generator.connect(10).unwrap();
    let window = Duration::from_millis(400);
    let load = Load { pace, warm_up: Duration::from_millis(100), window, seed: 1 };
    let mut edges = Vec::new();
    let loaded = generator
        .load(load, |edge| {
            edges.push(edge);
            Ok(())
        })
        .unwrap();
    assert_eq!(edges, [Edge::Begins, Edge::Ends]);
    floor.end();
    loaded
}

const OPEN: Pace = Pace::Open { messages_per_s: 200.0 };
const CLOSED: Pace = Pace::Closed { under_way: 8 };

#[test]
fn every_message_of_the_floor_reaches_everybody_once_and_in_order() {
    for mode in [Mode::Direct, Mode::Batched] {
        for (pace, body_bytes) in [(OPEN, 96), (CLOSED, 16), (CLOSED, 2_000)] {
            let loaded = loaded(mode, pace, None, body_bytes);
            assert_eq!(loaded.findings, books::Findings::default(), "{mode:?} {pace:?}");
            assert!(loaded.deliveries > 0 && loaded.latency.count() > 0, "{mode:?} {pace:?}");
            assert!(!loaded.is_overloaded && loaded.window >= Duration::from_millis(400) - TICK);
        }
    }
}

/// Of looking at a clock twice.
const TICK: Duration = Duration::from_millis(100);

#[test]
fn a_floor_that_forgets_one_delivery_is_caught() {
    for mode in [Mode::Direct, Mode::Batched] {
        let loaded = loaded(mode, OPEN, Some(3), 96);
        // What the connection gets after the gap is not what had to be next either.
        assert!(loaded.findings.lost > 0 && loaded.findings.faults == 1, "{loaded:?}");
        assert!(loaded.findings.evidence[0].contains("connection 0"), "{loaded:?}");
    }
}

#[test]
fn the_last_delivery_that_never_comes_is_lost() {
    let floor = Running::start(Mode::Direct, Some(1));
    let speaker = Speaker::new(Dialect::Raw, String::new(), Vec::new(), 96);
    let mut generator = Generator::new(floor.address, speaker).unwrap();
    generator.connect(2).unwrap();
    let pace = Pace::Closed { under_way: 1 };
    let window = Duration::from_millis(50);
    // Nothing is sent after it, because it stays under way.
    let load = Load { pace, warm_up: Duration::ZERO, window, seed: 1 };
    let loaded = generator.load(load, |_| Ok(())).unwrap();
    assert_eq!((loaded.findings.lost, loaded.findings.faults), (1, 0), "{loaded:?}");
    floor.end();
}

#[test]
fn who_goes_away_under_load_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let goes = thread::spawn(move || drop(listener.accept().unwrap()));
    let speaker = Speaker::new(Dialect::Raw, String::new(), Vec::new(), 96);
    let error = Generator::new(address, speaker).unwrap().connect(1).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("connection 0"), "{error}");
    goes.join().unwrap();
}

/// One byte in a write.
fn dribble(stream: &mut TcpStream, bytes: &[u8]) {
    bytes.iter().for_each(|it| stream.write_all(&[*it]).unwrap());
}

/// Pings, tells when it has been answered, and then gives back what it gets, all of it byte by byte.
/// Answers the head of the pong.
fn echo_slowly(listener: &TcpListener, ponged: &AtomicBool) -> [u8; 2] {
    let mut stream = listener.accept().unwrap().0;
    stream.set_nodelay(true).unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        request.extend(byte);
    }
    dribble(&mut stream, b"HTTP/1.1 101 Switching Protocols\r\n\r\n");
    dribble(&mut stream, &[0x89, 2, b'h', b'i']);
    let mut pong = [0; 6 + 2];
    stream.read_exact(&mut pong).unwrap();
    ponged.store(true, Ordering::Relaxed);
    // A head with a mask, and a body of nothing but the mark.
    let mut message = [0; 6 + mark::MARK_BYTES];
    while stream.read_exact(&mut message).is_ok() {
        let (mask, payload) = message[2..].split_first_chunk::<4>().unwrap();
        let payload = payload.iter().zip(mask.iter().cycle()).map(|it| it.0 ^ it.1);
        dribble(&mut stream, &[0x82, 16].into_iter().chain(payload).collect::<Vec<_>>());
    }
    [pong[0], pong[1]]
}

#[test]
fn a_ping_is_answered_and_a_frame_may_come_byte_by_byte() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let ponged = Arc::new(AtomicBool::new(false));
    let server = thread::spawn({
        let ponged = Arc::clone(&ponged);
        move || echo_slowly(&listener, &ponged)
    });
    let speaker = Speaker::new(Dialect::Raw, String::new(), Vec::new(), mark::MARK_BYTES);
    let mut generator = Generator::new(address, speaker).unwrap();
    generator.connect(1).unwrap();
    while !ponged.load(Ordering::Relaxed) {
        generator.rest(Duration::from_millis(10)).unwrap();
    }
    let pace = Pace::Closed { under_way: 1 };
    let window = Duration::from_millis(200);
    let load = Load { pace, warm_up: Duration::ZERO, window, seed: 1 };
    let loaded = generator.load(load, |_| Ok(())).unwrap();
    assert_eq!(loaded.findings, books::Findings::default());
    drop(generator);
    assert_eq!(server.join().unwrap(), [0x8A, 0x80 | 2], "a pong, masked, of two bytes");
}

fn flags(arguments: &[&str]) -> Flags {
    #[derive(clap::Parser)]
    struct Only {
        #[command(flatten)]
        flags: Flags,
    }
    let only: Only = clap::Parser::try_parse_from([&["peers"], arguments].concat()).unwrap();
    only.flags
}

#[test]
fn who_takes_part_is_who_was_named_and_every_variant() {
    let names = |arguments: &[&str]| {
        let flags = flags(arguments);
        let all = contender::all("hubbub".as_ref(), &flags.variant);
        let chosen = chosen(&flags, all).map_err(|failure| format!("{failure:?}"))?;
        Ok::<_, String>(chosen.into_iter().map(|it| it.name).collect::<Vec<_>>())
    };
    assert_eq!(names(&[]).unwrap().len(), 8);
    assert_eq!(
        names(&["--only", "floor,uws", "--variant", "off=HUBBUB__HUB__PIN_CORES=off"]).unwrap(),
        ["floor-direct", "floor-batched", "hubbub-off", "uws"]
    );
    assert!(names(&["--only", "socketio"]).unwrap_err().contains("socketio"));
    assert!(names(&["--rate", "0"]).unwrap_err().contains("--rate"));
}

#[test]
fn a_document_is_read_as_it_was_written() {
    let round = Round {
        work: Work::Capacity,
        round: 2,
        contender: "hubbub".to_owned(),
        came: Came::Reached { users: 4_000, too_many: Some(4_200), p99_ms: 181.5 },
    };
    let rounds = vec![round];
    let summaries = figures::summarise(&rounds);
    let document = Document { setting: "here".to_owned(), left_out: vec![], summaries, rounds };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("peers.json");
    std::fs::write(&path, serde_json::to_string(&document).unwrap()).unwrap();
    let again = read(&path).unwrap();
    assert_eq!((again.setting, again.rounds), (document.setting, document.rounds));
    std::fs::write(&path, "{}").unwrap();
    assert!(read(&path).unwrap_err().to_string().contains("--json"));
}
