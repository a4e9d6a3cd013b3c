//! A server that only writes: every subscriber gets the same frames as fast as its socket takes them.
//!
//! It shakes hands and answers what is needed to be subscribed, one connection after the other. When
//! all are subscribed it writes in rounds: one run of messages, encoded once, to each of them.

use std::{
    io::{self, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use hubbub::wire::proto::{
    self, client_envelope::Command, record::Content, reply::Result as Answer,
    server_envelope::Envelope,
};
use prost::Message as _;
use rustix::net::sockopt::{self, Timeout};
use tokio_tungstenite::tungstenite::{
    self, Message as Frame, WebSocket,
    handshake::server::{ErrorResponse, Request, Response},
    http::HeaderValue,
    protocol::frame::{
        FrameHeader,
        coding::{Data, OpCode},
    },
};

use crate::swarm::body::Bodies;

/// The one channel, and who writes all of its messages.
pub(super) const CHANNEL_ID: u32 = 1;
pub(super) const AUTHOR: u32 = 1;
/// How many messages there are, with the ids from 1: then the first one comes again, at the next
/// sequence. More than are under way at any time.
pub(super) const MESSAGES: u64 = 1 << 16;
/// For each wait of the sink, so that it ends when the other side does.
const PATIENCE: Duration = Duration::from_secs(5);
/// As many bytes as those of today.
pub(super) const TIMESTAMP_MS: u64 = 1_800_000_000_000;

/// What it writes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Every one of them gets everything.
    pub(super) users: u32,
    /// One run, which is one frame, as the server makes of one committed batch. Fewer than 2^16.
    pub(super) messages_per_write: u32,
    /// Of every message.
    pub(super) body_bytes: usize,
    /// Where its thread is to run.
    pub(super) core: Option<usize>,
}

/// A sink at work. Dropped, it ends soon.
#[derive(Debug)]
pub(super) struct Sink {
    pub(super) address: SocketAddr,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Sink {
    pub(super) fn start(plan: Plan) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("no port for the sink")?;
        // It holds for accepting too.
        sockopt::set_socket_timeout(&listener, Timeout::Recv, Some(PATIENCE))?;
        let address = listener.local_addr()?;
        let is_over = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new().name("sink".to_owned()).spawn({
            let is_over = Arc::clone(&is_over);
            move || {
                plan.core.map_or(Ok(()), super::run_on).context("the sink has no core")?;
                let connections: Result<Vec<_>> =
                    (0..plan.users).map(|_| accept(&listener)).collect();
                write_rounds(&plan, &mut connections?, &is_over)
            }
        })?;
        Ok(Self { address, is_over, thread: Some(thread) })
    }

    /// Tells it to end. It may be waiting for a reader: close the connections then.
    pub(super) fn end_soon(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Waits until it has ended, and tells what went wrong.
    pub(super) fn join(mut self) -> Result<()> {
        self.end_soon();
        let thread = self.thread.take().expect("only this takes it");
        thread.join().unwrap_or_else(|_| Err(anyhow!("the sink panicked")))
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.end_soon();
    }
}

/// The id of the message at this sequence.
pub(super) fn id_at(sequence: u64) -> u64 {
    (sequence - 1) % MESSAGES + 1
}

/// The next connection, subscribed.
fn accept(listener: &TcpListener) -> Result<TcpStream> {
    let (stream, _) = listener.accept().context("the sink was not connected to")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut connection = tungstenite::accept_hdr(stream, choose_subprotocol)
        .map_err(|error| anyhow!("no handshake with the sink: {error}"))?;
    let welcome = proto::Welcome { user_id: AUTHOR, ..Default::default() };
    send(&mut connection, Envelope::Welcome(welcome))?;
    loop {
        let command = match connection.read()? {
            Frame::Binary(payload) => proto::ClientEnvelope::decode(payload)?,
            Frame::Close(_) => bail!("a connection was closed before it was subscribed"),
            _ => continue,
        };
        let (answer, is_subscribed) = answer(command.command);
        let reply = proto::Reply { id: command.id, result: Some(answer) };
        send(&mut connection, Envelope::Reply(reply))?;
        if is_subscribed {
            return Ok(connection.into_inner());
        }
    }
}

#[expect(clippy::result_large_err, reason = "as tungstenite wants it")]
#[expect(clippy::unnecessary_wraps, reason = "as tungstenite wants it")]
fn choose_subprotocol(_: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let name = HeaderValue::from_static("hubbub.v1.proto");
    response.headers_mut().insert("Sec-WebSocket-Protocol", name);
    Ok(response)
}

fn send(connection: &mut WebSocket<TcpStream>, envelope: Envelope) -> Result<()> {
    let envelope = proto::ServerEnvelope { envelope: Some(envelope) };
    Ok(connection.send(Frame::binary(envelope.encode_to_vec()))?)
}

/// The answer, and whether it subscribes. There is one channel; it has every name.
fn answer(command: Option<Command>) -> (Answer, bool) {
    let channel_id = CHANNEL_ID;
    match command {
        Some(Command::CreateChannel(proto::CreateChannel { channel_name, .. })) => (
            Answer::Channel(proto::Channel { channel_id, channel_name, ..Default::default() }),
            false,
        ),
        Some(Command::Subscribe(_)) => {
            let subscribed =
                proto::Subscribed { channel_id, epoch: 1, head_sequence: 0, ..Default::default() };
            (Answer::Subscribed(subscribed), true)
        }
        _ => {
            let code = proto::error::Code::UnknownCommand.into();
            let message = "the sink only writes".to_owned();
            (Answer::Error(proto::Error { code, message, ..Default::default() }), false)
        }
    }
}

/// Until it is over.
fn write_rounds(plan: &Plan, connections: &mut [TcpStream], is_over: &AtomicBool) -> Result<()> {
    let mut run = Run::new(plan.messages_per_write, plan.body_bytes);
    while !is_over.load(Ordering::Relaxed) {
        let frame = run.encode_next();
        for connection in &mut *connections {
            match connection.write_all(frame) {
                Ok(()) => {}
                // The reader has closed it, as it was told to.
                Err(_) if is_over.load(Ordering::Relaxed) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    bail!("a reader of the sink took nothing for {PATIENCE:?}")
                }
                Err(error) => return Err(error).context("the sink cannot write"),
            }
        }
    }
    Ok(())
}

/// Runs of messages, one after the other, as frames.
#[derive(Debug)]
pub(super) struct Run {
    envelope: proto::ServerEnvelope,
    bodies: Bodies,
    payload: Vec<u8>,
    frame: Vec<u8>,
    next_sequence: u64,
}

impl Run {
    pub(super) fn new(messages: u32, body_bytes: usize) -> Self {
        let record = proto::Record { user_id: AUTHOR, ..Default::default() };
        let messages = proto::Messages {
            channel_id: CHANNEL_ID,
            first_sequence: 0,
            timestamp_ms: TIMESTAMP_MS,
            records: vec![record; messages as usize],
        };
        let envelope = proto::ServerEnvelope { envelope: Some(Envelope::Messages(messages)) };
        let bodies = Bodies::new(body_bytes);
        Self { envelope, bodies, payload: vec![], frame: vec![], next_sequence: 1 }
    }

    pub(super) fn encode_next(&mut self) -> &[u8] {
        let Some(Envelope::Messages(messages)) = &mut self.envelope.envelope else {
            unreachable!("it was made of messages")
        };
        messages.first_sequence = self.next_sequence;
        for (sequence, record) in (self.next_sequence..).zip(&mut messages.records) {
            if let Some(Content::Body(before)) = record.content.take() {
                self.bodies.give_back(before);
            }
            record.client_message_id = id_at(sequence);
            record.content = Some(Content::Body(self.bodies.take(record.client_message_id)));
        }
        self.next_sequence += messages.records.len() as u64;
        self.payload.clear();
        self.envelope.encode(&mut self.payload).expect("a vector takes every message");
        self.frame.clear();
        let head = FrameHeader { opcode: OpCode::Data(Data::Binary), ..FrameHeader::default() };
        head.format(self.payload.len() as u64, &mut self.frame).expect("a vector takes every head");
        self.frame.extend_from_slice(&self.payload);
        &self.frame
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::{
        ceiling::connect::connect,
        swarm::{
            frame::next_frame,
            scan::{Scanned, scan},
        },
    };

    fn plan(users: u32, messages_per_write: u32) -> Plan {
        Plan { users, messages_per_write, body_bytes: 64, core: None }
    }

    #[test]
    fn every_subscriber_gets_the_same_messages_in_consecutive_runs() {
        let sink = Sink::start(plan(2, 3)).unwrap();
        let mut connections = [connect(sink.address).unwrap(), connect(sink.address).unwrap()];
        let mut starts = Vec::new();
        for connection in &mut connections {
            let mut bytes = vec![0; 64 * 1024];
            connection.read_exact(&mut bytes).unwrap();
            let (mut rest, mut last) = (&bytes[..], 0);
            while let Some(frame) = next_frame(rest).unwrap() {
                rest = &rest[frame.bytes..];
                let Ok(Scanned::Messages(messages)) = scan(frame.payload) else {
                    panic!("it only writes messages")
                };
                assert_eq!((messages.channel_id, messages.first_sequence), (CHANNEL_ID, last + 1));
                for (sequence, record) in (last + 1..).zip(messages) {
                    let (record, body) = (record.unwrap(), Bodies::new(64).take(sequence));
                    assert_eq!((record.user_id, record.client_message_id), (AUTHOR, sequence));
                    assert_eq!(record.body, body.as_bytes());
                }
                last += 3;
            }
            assert!(last > 100, "{last}");
            starts.push(bytes);
        }
        assert!(starts[0] == starts[1], "the same bytes");
        sink.end_soon();
        drop(connections);
        sink.join().unwrap();
    }

    #[test]
    fn a_sink_ends_while_nobody_reads() {
        let sink = Sink::start(plan(1, 1_000)).unwrap();
        let connection = connect(sink.address).unwrap();
        sink.end_soon();
        drop(connection);
        sink.join().unwrap();
    }

    #[test]
    fn a_reader_that_goes_away_is_an_error() {
        let mut sink = Sink::start(plan(1, 1)).unwrap();
        drop(connect(sink.address).unwrap());
        let error = sink.thread.take().unwrap().join().unwrap().unwrap_err();
        assert_eq!(error.to_string(), "the sink cannot write");
    }

    #[test]
    fn after_the_last_message_the_first_one_comes_again() {
        let ids = [1, 2, MESSAGES, MESSAGES + 1, 2 * MESSAGES + 2].map(id_at);
        assert_eq!(ids, [1, 2, MESSAGES, 1, 2]);
    }

    #[test]
    fn what_a_sink_does_not_do_is_refused() {
        let (refused, is_subscribed) = answer(Some(Command::History(proto::History::default())));
        assert!(matches!(refused, Answer::Error(_)) && !is_subscribed);
        let create = proto::CreateChannel { channel_name: "a".to_owned(), ..Default::default() };
        let (made, is_subscribed) = answer(Some(Command::CreateChannel(create)));
        assert!(matches!(made, Answer::Channel(it) if it.channel_name == "a") && !is_subscribed);
    }
}
