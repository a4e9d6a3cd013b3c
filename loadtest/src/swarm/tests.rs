//! A swarm of one user against a server of a few lines, which does what the test needs.

use std::{
    net::{TcpListener, TcpStream},
    sync::{Condvar, Mutex},
};

use prost::Message as _;
use tokio_tungstenite::tungstenite::{
    Message as Frame, WebSocket, accept_hdr,
    handshake::server::{Request, Response},
    protocol::CloseFrame,
};

use super::*;

mod faults;

use crate::{
    Failure,
    scenario::{
        Publish, SlowReaders, Stage,
        storm::{Rate, Storm},
    },
};
use hubbub::wire::proto::{
    self, client_envelope::Command, history::From as After, reply::Result as Answer,
    server_envelope::Envelope,
};

const EPOCH: u32 = 7;

/// One channel, number 1, of a server that nobody subscribes to but the one user.
#[derive(Debug, Default)]
struct Server {
    log: Mutex<Vec<proto::Record>>,
    /// The ids of all publishes, also of those that came again.
    publishes: Mutex<Vec<u64>>,
    /// Positions that the user resumed from.
    resumed: Mutex<Vec<proto::Position>>,
    /// How many connections break at their first publish, which is stored but not answered.
    breaks: Mutex<u32>,
    /// Publishes that are refused as `busy`.
    busy: Mutex<u32>,
    /// The first subscribed connection is closed with this code.
    close_code: Mutex<Option<u16>>,
    close_reason: &'static str,
    /// Codes that clients closed with.
    closed: Mutex<Vec<u16>>,
    /// What clients answered to pings.
    pongs: Mutex<Vec<Vec<u8>>>,
    has_closed: Condvar,
    /// Whether the user has connected before.
    is_known: Mutex<bool>,
    changes_epoch: bool,
    leaks_to_witness: bool,
    loses_acknowledged: bool,
    /// What else it does wrong, or may do.
    fault: Fault,
    /// Whether history has been asked for a page, and what waited for that has happened.
    audit_began: Mutex<(bool, bool)>,
    has_begun: Condvar,
    /// A reply that is held back until the user unsubscribes.
    held_back: Mutex<Option<(u32, Answer)>>,
}

/// One more thing that the server does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Fault {
    #[default]
    None,
    /// Does not answer publishes.
    Mute,
    /// Lets nobody subscribe.
    TurnsAway,
    /// Lets nobody log in but the witness.
    AdmitsNobody,
    /// Asks whether its client is there, before it delivers.
    Pings,
    /// Acknowledges twice.
    AnswersTwice,
    /// Refuses publishes for good.
    Forbids,
    /// Stores and acknowledges, and delivers nothing.
    Undelivered,
    /// Announces a gap in place of each delivery.
    Gaps,
    /// Announces a gap in a channel that nobody is in.
    ForeignGap,
    /// Acknowledges when the user unsubscribes.
    LateAcknowledgement,
    /// Acknowledges when history is read, and does not store.
    ForgetsInAudit,
    /// Lets nobody in again who was in.
    ShutsOut,
    /// Lets the user connect once.
    Once,
    /// Numbers its messages from the largest number on.
    LargestSequence,
    /// Puts off whoever makes a channel, or asks for history.
    NoChannels,
    NoHistory,
    /// Has ever more messages.
    EndlessHistory,
    /// Sends bytes that are no envelope, in place of a delivery.
    Garbage,
    /// Closes after each answer to a login, without having said so.
    HangsUp,
}

impl Server {
    /// Serves on a port of its own, as long as the test's process lives.
    fn start(self) -> (SocketAddr, Arc<Self>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = Arc::new(self);
        let it = Arc::clone(&server);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let it = Arc::clone(&it);
                thread::spawn(move || it.connection(stream));
            }
        });
        (address, server)
    }

    fn connection(&self, mut stream: TcpStream) {
        let mut begin = [0; 4];
        let is_login = stream.peek(&mut begin).is_ok() && begin == *b"POST";
        if is_login {
            return self.log_in(&mut stream);
        }
        let mut user_id = 0;
        #[expect(clippy::result_large_err, reason = "the signature is tungstenite's")]
        let who = |request: &Request, response: Response| {
            let token = request.headers()["authorization"].to_str().unwrap();
            user_id = if token == "Bearer witness" { 2 } else { 1 };
            Ok(response)
        };
        let Ok(mut socket) = accept_hdr(stream, who) else { return };
        if user_id == 1 && self.fault == Fault::ShutsOut && self.resumes() {
            return;
        }
        let is_first = || !std::mem::replace(&mut *self.is_known.lock().unwrap(), true);
        if user_id == 1 && self.fault == Fault::Once && !is_first() {
            return;
        }
        let server_version = "fake".to_owned();
        let welcome = proto::Welcome { user_id, server_version, ..proto::Welcome::default() };
        send(&mut socket, Envelope::Welcome(welcome));
        while let Ok(frame) = socket.read() {
            if let Frame::Close(Some(close)) = &frame {
                self.closed.lock().unwrap().push(close.code.into());
                self.has_closed.notify_all();
            }
            if let Frame::Pong(bytes) = &frame {
                self.pongs.lock().unwrap().push(bytes.to_vec());
                self.has_closed.notify_all();
            }
            let Frame::Binary(bytes) = frame else { continue };
            let envelope = proto::ClientEnvelope::decode(bytes).unwrap();
            if !self.command(&mut socket, user_id, envelope.id, envelope.command.unwrap()) {
                return;
            }
        }
    }

    /// Answers whether the connection goes on.
    fn command(
        &self,
        socket: &mut WebSocket<TcpStream>,
        user_id: u32,
        id: u32,
        command: Command,
    ) -> bool {
        let mut log = self.log.lock().unwrap();
        let head_sequence = log.len() as u64;
        let (channel_id, epoch) = (1, EPOCH);
        let is_refused = match &command {
            Command::CreateChannel(_) => self.fault == Fault::NoChannels,
            Command::History(_) => self.fault == Fault::NoHistory,
            _ => false,
        };
        if is_refused {
            let code = proto::error::Code::Busy.into();
            let error = proto::Error { code, retry_after_ms: 20, ..proto::Error::default() };
            reply(socket, id, Answer::Error(error));
            return true;
        }
        let answer = match command {
            Command::CreateChannel(create) => {
                if self.leaks_to_witness {
                    send(socket, run(1, &[proto::Record::default()]));
                }
                Answer::Channel(proto::Channel {
                    channel_id,
                    channel_name: create.channel_name,
                    ..Default::default()
                })
            }
            Command::Subscribe(_) if self.fault == Fault::TurnsAway => {
                let code = proto::error::Code::Forbidden.into();
                Answer::Error(proto::Error { code, ..proto::Error::default() })
            }
            Command::Subscribe(subscribe) => {
                if let Some(since) = subscribe.since {
                    self.resumed.lock().unwrap().push(since);
                    if self.changes_epoch && since.epoch == EPOCH {
                        let head = Some(proto::Position { epoch: EPOCH + 1, sequence: 1 });
                        let code = proto::error::Code::EpochChanged.into();
                        let error = proto::Error { code, head, ..proto::Error::default() };
                        reply(socket, id, Answer::Error(error));
                        return true;
                    }
                }
                let channel_name = String::new();
                let it = proto::Subscribed { channel_id, channel_name, epoch, head_sequence };
                reply(socket, id, Answer::Subscribed(it));
                if let Some(since) = subscribe.since {
                    send(socket, run(since.sequence + 1, &log[since.sequence as usize..]));
                }
                drop(log);
                let close_code = self.close_code.lock().unwrap().take();
                if let Some(code) = close_code {
                    let (code, reason) = (code.into(), self.close_reason.into());
                    socket.close(Some(CloseFrame { code, reason })).unwrap();
                    // Until the client has answered, or is gone.
                    while socket.read().is_ok() {}
                }
                return close_code.is_none();
            }
            Command::Unsubscribe(_) => {
                if let Some((id, answer)) = self.held_back.lock().unwrap().take() {
                    reply(socket, id, answer);
                }
                Answer::Unsubscribed(proto::Unsubscribed { channel_id })
            }
            Command::Publish(publish) => {
                let client_message_id = publish.client_message_id;
                self.publishes.lock().unwrap().push(client_message_id);
                if take_one(&self.busy) {
                    let code = proto::error::Code::Busy.into();
                    let retry_after_ms = 1;
                    let error = proto::Error { code, retry_after_ms, ..proto::Error::default() };
                    reply(socket, id, Answer::Error(error));
                    return true;
                }
                match self.fault {
                    Fault::Mute => return true,
                    Fault::Forbids => {
                        let code = proto::error::Code::Forbidden.into();
                        let error = proto::Error { code, ..proto::Error::default() };
                        reply(socket, id, Answer::Error(error));
                        return true;
                    }
                    Fault::ForgetsInAudit => {
                        drop(log);
                        let published = proto::Published { sequence: 1, ..published() };
                        self.acknowledge_in_audit(socket, id, published);
                        return true;
                    }
                    _ => {}
                }
                let stored = log.iter().position(|it| it.client_message_id == client_message_id);
                let content = Some(proto::record::Content::Body(publish.body));
                let record =
                    proto::Record { user_id, client_message_id, content, written_at_ms: 0 };
                let sequence = stored.map_or(head_sequence, |it| it as u64) + 1;
                if stored.is_none() {
                    log.push(record.clone());
                }
                if take_one(&self.breaks) {
                    return false;
                }
                if stored.is_none() {
                    self.deliver(socket, sequence, record);
                }
                let answer = Answer::Published(proto::Published { sequence, ..published() });
                if self.fault == Fault::AnswersTwice {
                    reply(socket, id, answer.clone());
                }
                if self.fault == Fault::LateAcknowledgement {
                    *self.held_back.lock().unwrap() = Some((id, answer));
                    return true;
                }
                answer
            }
            Command::History(history) => {
                let Some(After::AfterSequence(after)) = history.from else { panic!("{history:?}") };
                let lost = self.loses_acknowledged && history.limit > 1;
                let head_sequence = if lost { 0 } else { head_sequence };
                let records = &log[(after as usize).min(head_sequence as usize)..];
                let count = records.len().min(history.limit as usize);
                let count = if lost { 0 } else { count };
                let Envelope::Messages(messages) = run(after + 1, &records[..count]) else {
                    unreachable!()
                };
                if history.limit > 1 {
                    self.wait_for_acknowledgement();
                }
                if self.fault == Fault::EndlessHistory && history.limit > 1 {
                    let Envelope::Messages(run) = run(after + 1, &vec![record(77); 200]) else {
                        unreachable!()
                    };
                    let (runs, head_sequence) = (vec![run], u64::MAX);
                    let page = proto::HistoryPage { channel_id, epoch, runs, head_sequence };
                    reply(socket, id, Answer::History(page));
                    return true;
                }
                let runs = if count == 0 { Vec::new() } else { vec![messages] };
                Answer::History(proto::HistoryPage { channel_id, epoch, runs, head_sequence })
            }
            other => panic!("{other:?}"),
        };
        reply(socket, id, answer);
        true
    }
}

impl Server {
    /// Gives the witness an account and a token, and others as well unless they are put off.
    fn log_in(&self, stream: &mut TcpStream) {
        use std::io::{Read as _, Write as _};
        let mut request = [0; 4096];
        while let Ok(bytes @ 1..) = stream.read(&mut request) {
            let text = String::from_utf8_lossy(&request[..bytes]);
            let is_witness = text.contains("test-witness");
            let who = if is_witness { "witness" } else { "user" };
            let is_busy = || self.fault == Fault::AdmitsNobody || take_one(&self.busy);
            let (status, body) = match text.contains("/v1/accounts") {
                _ if !is_witness && is_busy() => ("503 Busy\r\nRetry-After: 2", String::new()),
                true => ("201 Created", String::new()),
                false => ("200 OK", format!(r#"{{"access_token":"{who}"}}"#)),
            };
            let length = body.len();
            write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
            if self.fault == Fault::HangsUp {
                return;
            }
        }
    }

    /// Whether the user was subscribed before.
    fn resumes(&self) -> bool {
        self.close_code.lock().unwrap().is_none()
    }

    fn deliver(&self, socket: &mut WebSocket<TcpStream>, sequence: u64, record: proto::Record) {
        let gap = |channel_id| {
            let (from_sequence, to_sequence) = (sequence, sequence);
            Envelope::Gap(proto::Gap { channel_id, from_sequence, to_sequence })
        };
        match self.fault {
            Fault::Undelivered => {}
            Fault::Pings => {
                let _ = socket.send(Frame::Ping("there?".into()));
                send(socket, run(sequence, &[record]));
            }
            Fault::Gaps => send(socket, gap(1)),
            Fault::ForeignGap => {
                send(socket, gap(9));
                send(socket, run(sequence, &[record]));
            }
            Fault::LargestSequence => send(socket, run(u64::MAX, &[record.clone(), record])),
            Fault::Garbage => {
                let _ = socket.send(Frame::Binary(vec![0xFF; 9].into()));
            }
            _ => send(socket, run(sequence, &[record])),
        }
    }

    fn acknowledge_in_audit(
        &self,
        socket: &mut WebSocket<TcpStream>,
        id: u32,
        published: proto::Published,
    ) {
        let began = self.audit_began.lock().unwrap();
        let mut began = self.has_begun.wait_while(began, |it| !it.0).unwrap();
        reply(socket, id, Answer::Published(published));
        began.1 = true;
        self.has_begun.notify_all();
    }

    fn wait_for_acknowledgement(&self) {
        if self.fault == Fault::ForgetsInAudit {
            let mut began = self.audit_began.lock().unwrap();
            began.0 = true;
            self.has_begun.notify_all();
            drop(self.has_begun.wait_while(began, |it| !it.1).unwrap());
        }
    }
}

fn published() -> proto::Published {
    proto::Published { channel_id: 1, epoch: EPOCH, ..proto::Published::default() }
}

fn record(client_message_id: u64) -> proto::Record {
    let content = Some(proto::record::Content::Body("made up".to_owned()));
    proto::Record { user_id: 1, client_message_id, content, written_at_ms: 0 }
}

fn take_one(count: &Mutex<u32>) -> bool {
    let mut count = count.lock().unwrap();
    let is_left = *count > 0;
    *count = count.saturating_sub(1);
    is_left
}

fn run(first_sequence: u64, records: &[proto::Record]) -> Envelope {
    let records = records.to_vec();
    Envelope::Messages(proto::Messages { channel_id: 1, first_sequence, timestamp_ms: 1, records })
}

fn reply(socket: &mut WebSocket<TcpStream>, id: u32, result: Answer) {
    send(socket, Envelope::Reply(proto::Reply { id, result: Some(result) }));
}

fn send(socket: &mut WebSocket<TcpStream>, envelope: Envelope) {
    let envelope = proto::ServerEnvelope { envelope: Some(envelope) };
    // The other side may be gone, which is its right.
    let _ = socket.send(Frame::Binary(envelope.encode_to_vec().into()));
}

/// One user who publishes one message and stays for this long.
fn plan(address: SocketAddr, stay_ms: u64) -> Plan {
    let stage = |ms| Stage { duration: Duration::from_millis(ms), target: 1 };
    let scenario = Scenario {
        users: 1,
        stages: vec![stage(0), stage(stay_ms)],
        login: Login::None,
        idle: Duration::ZERO,
        publish: Publish::Closed { think_time: Duration::from_secs(3_600) },
        ..Scenario::default()
    };
    let tokens = Some(vec!["user".to_owned(), "witness".to_owned()]);
    let targets = vec![Target { address, host: address.to_string() }];
    Plan { scenario, targets, run: "test".to_owned(), tokens }
}

/// The last event of the run.
fn outcome(plan: Plan) -> Event {
    let (sender, mut events) = mpsc::channel(64);
    let swarm = spawn(plan, sender).unwrap();
    let last = std::iter::from_fn(|| events.blocking_recv()).last().unwrap();
    swarm.join();
    last
}

fn harvest(plan: Plan) -> Box<Harvest> {
    match outcome(plan) {
        Event::Over(harvest) => harvest,
        other => panic!("{other:?}"),
    }
}

fn failure(plan: Plan) -> String {
    match outcome(plan) {
        Event::Failed(Failure::Aborted(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_message_is_acknowledged_delivered_probed_and_read_again() {
    let (address, _) = Server::default().start();
    let harvest = harvest(plan(address, 200));
    let Totals { messages, acks, deliveries, reconnects, .. } = harvest.totals;
    assert_eq!((messages, acks, deliveries, reconnects), (1, 1, 1, 0));
    assert_eq!((harvest.findings.violations, harvest.findings.probed), (0, 1), "{harvest:?}");
    assert_eq!(harvest.latencies.deliver.count(), 1);
    assert_eq!(harvest.server_version.as_deref(), Some("fake"));
}

#[test]
fn what_was_not_acknowledged_is_sent_again_after_a_reconnect() {
    let (address, server) = Server { breaks: Mutex::new(1), ..Server::default() }.start();
    let harvest = harvest(plan(address, 200));
    assert_eq!(*server.publishes.lock().unwrap(), [1, 1], "the same id twice");
    let from_the_start = proto::Position { epoch: EPOCH, sequence: 0 };
    assert_eq!(*server.resumed.lock().unwrap(), [from_the_start]);
    let Totals { messages, acks, deliveries, reconnects, .. } = harvest.totals;
    assert_eq!((messages, acks, deliveries, reconnects), (1, 1, 1, 1));
    assert_eq!(harvest.findings.violations, 0, "{harvest:?}");
}

#[test]
fn a_publish_that_is_refused_for_a_while_is_sent_again() {
    let (address, server) = Server { busy: Mutex::new(2), ..Server::default() }.start();
    let harvest = harvest(plan(address, 200));
    assert_eq!(*server.publishes.lock().unwrap(), [1, 1, 1]);
    assert_eq!((harvest.totals.acks, harvest.findings.violations), (1, 0), "{harvest:?}");
    assert_eq!(harvest.errors["publish: 500 busy"], 2);
}

#[test]
fn what_the_witness_receives_is_a_leak() {
    let (address, _) = Server { leaks_to_witness: true, ..Server::default() }.start();
    let harvest = harvest(plan(address, 100));
    assert_eq!(harvest.findings.violations, 1, "{harvest:?}");
}

#[test]
fn an_acknowledged_message_that_history_lost_is_found() {
    let (address, _) = Server { loses_acknowledged: true, ..Server::default() }.start();
    let harvest = harvest(plan(address, 100));
    assert_eq!(harvest.findings.acknowledged_lost, 1, "{harvest:?}");
}

#[test]
fn a_reader_whose_channel_began_anew_starts_over_and_that_is_found() {
    let breaks = Mutex::new(1);
    let (address, server) = Server { breaks, changes_epoch: true, ..Server::default() }.start();
    let harvest = harvest(plan(address, 200));
    let position = |epoch| proto::Position { epoch, sequence: 0 };
    assert_eq!(*server.resumed.lock().unwrap(), [position(EPOCH), position(EPOCH + 1)]);
    assert_eq!(harvest.findings.violations, 1, "{harvest:?}");
    assert_eq!(harvest.totals.deliveries, 1);
}

#[test]
fn who_leaves_unsubscribes_and_closes() {
    let (address, server) = Server::default().start();
    let mut plan = plan(address, 100);
    plan.scenario.stages.push(Stage { duration: Duration::from_millis(50), target: 0 });
    let harvest = harvest(plan);
    assert_eq!((harvest.totals.acks, harvest.findings.violations), (1, 0), "{harvest:?}");
    let (closed, patience) = (server.closed.lock().unwrap(), Duration::from_secs(10));
    let closed = server.has_closed.wait_timeout_while(closed, patience, |it| it.is_empty());
    assert_eq!(*closed.unwrap().0, [1000]);
}

#[test]
fn a_close_that_asks_for_it_is_followed_by_a_reconnect() {
    let close_code = Mutex::new(Some(4001));
    let (address, _) = Server { close_code, ..Server::default() }.start();
    let harvest = harvest(plan(address, 200));
    assert_eq!((harvest.totals.reconnects, harvest.totals.acks), (1, 1), "{harvest:?}");
    assert_eq!((harvest.findings.violations, harvest.errors["closed: 4001"]), (0, 1));
}

#[test]
fn a_close_for_good_is_a_violation() {
    let close_code = Mutex::new(Some(4503));
    let (address, server) = Server { close_code, ..Server::default() }.start();
    let harvest = harvest(plan(address, 100));
    assert_eq!(harvest.findings.violations, 1, "{harvest:?}");
    assert_eq!(*server.resumed.lock().unwrap(), [], "it does not come back");
}

#[test]
fn a_slow_reader_that_is_closed_is_given_up_and_nothing_is_wrong() {
    let close_code = Mutex::new(Some(4008));
    let (address, server) = Server { close_code, ..Server::default() }.start();
    let mut plan = plan(address, 100);
    plan.scenario.slow_readers = SlowReaders { users: 1, bytes_per_second: 1_000 };
    let harvest = harvest(plan);
    assert_eq!((harvest.totals.slow_closed, harvest.findings.violations), (1, 0), "{harvest:?}");
    assert_eq!((harvest.errors["closed: 4008"], harvest.totals.messages), (1, 0));
    assert_eq!(*server.resumed.lock().unwrap(), [], "it does not come back");
}

#[test]
fn a_server_that_is_not_there_is_told_in_one_sentence() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let said = failure(plan(address, 100));
    assert_eq!(said, format!("no server answers at {address}: connection refused"));
}

#[test]
fn a_token_that_is_refused_ends_the_run_with_what_the_server_said() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut stream, _) = listener.accept().unwrap();
        assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
        let body = r#"{"code":201,"name":"invalid_token","title":"The token is not one."}"#;
        let head = "HTTP/1.1 401 Unauthorized\r\nContent-Length:";
        write!(stream, "{head} {}\r\n\r\n{body}", body.len()).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    });
    let said = failure(plan(address, 100));
    assert_eq!(said, "the server refuses the token: invalid_token: The token is not one.");
    server.join().unwrap();
}

#[test]
fn an_abort_ends_the_thread_without_a_verdict() {
    let (address, _) = Server::default().start();
    let (sender, mut events) = mpsc::channel(64);
    let swarm = spawn(plan(address, 3_600_000), sender).unwrap();
    assert!(matches!(events.blocking_recv(), Some(Event::Phase(..))));
    swarm.order(Order::Abort);
    let last = std::iter::from_fn(|| events.blocking_recv()).last();
    assert!(!matches!(last, Some(Event::Over(_) | Event::Failed(_))), "{last:?}");
    swarm.join();
}

#[test]
fn nobody_who_listens_is_the_end_of_the_thread() {
    let (address, _) = Server::default().start();
    let (sender, events) = mpsc::channel(64);
    let swarm = spawn(plan(address, 3_600_000), sender).unwrap();
    drop(events);
    swarm.join();
}
