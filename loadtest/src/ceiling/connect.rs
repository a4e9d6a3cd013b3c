//! One subscribed connection to a sink, made in the plainest way: this part is not measured.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use hubbub::wire::proto::{
    self, client_envelope::Command, reply, server_envelope::Envelope, subscribe,
};
use prost::Message as _;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::swarm::{
    encoding::Encoding,
    frame::{self, Opcode},
    http,
    scan::{Scanned, scan},
};

/// For each answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// A sink does not look at either.
const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAA==";
const MASK: [u8; 4] = [1, 2, 3, 4];

/// Connects, upgrades and subscribes. What the connection gives next is the first message.
///
/// That much is never read: until the last connection is subscribed, a sink writes answers only, and
/// of those one at a time.
pub(super) fn connect(address: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address).context("the sink cannot be reached")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut out = Vec::new();
    http::write_upgrade(&mut out, &address.to_string(), KEY, "none", Encoding::Proto, false);
    stream.write_all(&out)?;
    read_until(&mut stream, |bytes| {
        let Some(response) = http::response(bytes)? else { return Ok(None) };
        let accept = derive_accept_key(KEY.as_bytes());
        ensure!((response.status, response.accept) == (101, Some(&*accept)), "no upgrade");
        Ok(Some(response.bytes))
    })?;
    read_envelope(&mut stream, |envelope| matches!(envelope, Envelope::Welcome(_)))?;

    let channel = Some(subscribe::Channel::ChannelName("sink".to_owned()));
    let command = Some(Command::Subscribe(proto::Subscribe { channel, ..Default::default() }));
    let subscribe = proto::ClientEnvelope { id: 1, command };
    out.clear();
    frame::write_frame(&mut out, Opcode::Binary, MASK, |out| {
        subscribe.encode(out).expect("a vector takes every message");
    });
    stream.write_all(&out)?;
    read_envelope(&mut stream, |envelope| {
        let Envelope::Reply(reply) = envelope else { return false };
        reply.id == 1 && matches!(reply.result, Some(reply::Result::Subscribed(_)))
    })?;
    Ok(stream)
}

/// Takes the next envelope, which must be this one.
fn read_envelope(stream: &mut TcpStream, is_this: impl Fn(&Envelope) -> bool) -> Result<()> {
    read_until(stream, |bytes| {
        let Some(frame) = frame::next_frame(bytes)? else { return Ok(None) };
        match scan(frame.payload)? {
            Scanned::Other(proto::ServerEnvelope { envelope: Some(it) }) if is_this(&it) => {
                Ok(Some(frame.bytes))
            }
            other => bail!("an unexpected envelope: {other:?}"),
        }
    })
}

/// Reads until `whole` tells how many bytes it took, and takes no byte more from the stream.
fn read_until(
    stream: &mut TcpStream,
    whole: impl Fn(&[u8]) -> Result<Option<usize>>,
) -> Result<()> {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let peeked = stream.peek(&mut bytes).context("the sink does not answer")?;
        ensure!(peeked > 0, "the sink has closed the connection");
        if let Some(taken) = whole(&bytes[..peeked])? {
            return Ok(stream.read_exact(&mut bytes[..taken])?);
        }
    }
}
