//! What a user's connection receives: the upgrade's answer, frames, messages. Hot.

use std::time::Duration;

use super::{Kind, Stage, Subscription, User, login};
use crate::{
    audit::Reader,
    swarm::{
        encoding::{Encoding, to_proto},
        frame::{Frame, Opcode, next_frame, write_frame},
        http,
        scan::{Messages, ScanError, Scanned, scan},
        world::World,
    },
};

/// A longer message in several frames is none: a server of ours sends each in one.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Beyond this, pings are not answered until the server has read what waits for it.
const OUT_BYTES_MAX: usize = 64 * 1024;

impl User {
    /// What its connection received. `world.now_us` is the moment of it.
    ///
    /// This is all that a delivery costs on this side of the socket, so that it can be measured
    /// alone: see [`Receiver`](crate::swarm::receiver::Receiver).
    pub(crate) fn receive(&mut self, bytes: &[u8], world: &mut World) {
        if self.unfinished.is_empty() {
            let used = self.consume(bytes, world);
            if self.has_connection() && used < bytes.len() {
                self.unfinished.extend_from_slice(&bytes[used..]);
            }
            return;
        }
        let mut whole = std::mem::take(&mut world.scratch);
        whole.clear();
        whole.append(&mut self.unfinished);
        whole.extend_from_slice(bytes);
        let used = self.consume(&whole, world);
        if self.has_connection() && used < whole.len() {
            self.unfinished.extend_from_slice(&whole[used..]);
        } else {
            self.unfinished = Vec::new();
        }
        world.scratch = whole;
    }

    #[cfg(test)]
    pub(crate) fn memory_for_reading(&self) -> usize {
        self.unfinished.capacity() + self.parts.capacity()
    }

    pub(super) fn has_connection(&self) -> bool {
        self.is_open() || self.stage == Stage::Upgrading
    }

    /// Answers how many of the bytes were whole.
    pub(super) fn consume(&mut self, bytes: &[u8], world: &mut World) -> usize {
        let mut used = 0;
        if self.stage == Stage::Upgrading {
            used = self.upgraded(bytes, world);
        }
        while self.is_open() {
            match next_frame(&bytes[used..]) {
                Ok(Some(frame)) => {
                    used += frame.bytes;
                    self.frame(frame, world);
                }
                Ok(None) => break,
                Err(error) => self.end(&format!("the server sent {error}"), world),
            }
        }
        used
    }

    pub(super) fn upgraded(&mut self, bytes: &[u8], world: &mut World) -> usize {
        let response = match http::response(bytes) {
            Ok(Some(response)) => response,
            Ok(None) => return 0,
            Err(error) => {
                self.lost(&format!("upgrade: {error}"), None, world);
                return 0;
            }
        };
        if response.status != 101 {
            self.not_upgraded(&response, world);
        } else if response.accept != self.accept.take().as_deref() {
            self.end("the server answered the upgrade with another Sec-WebSocket-Accept", world);
        } else if world.plan.scenario.deflate && !response.agrees_on_deflate() {
            self.end("the server does not agree on permessage-deflate", world);
        } else if !world.plan.scenario.deflate && response.extensions.is_some() {
            self.end("the server agrees on an extension that was not offered", world);
        } else {
            world.books.handshake(world.now_us - self.connecting_us);
            self.stage = Stage::Greeting;
        }
        response.bytes
    }

    pub(super) fn not_upgraded(&mut self, response: &http::Response<'_>, world: &mut World) {
        let status = response.status;
        let said = login::problem(response.body);
        match status {
            401 if self.was_ready && world.has_logins() => {
                self.token = None;
                self.lost("upgrade: 401", None, world);
            }
            401 if !self.was_ready => {
                world.fail(anyhow::anyhow!("the server refuses the token: {said}"));
            }
            401 => self.end(&format!("the server refuses the token: {said}"), world),
            _ => {
                let asked_for = response.retry_after.map(Duration::from_secs);
                self.lost(&format!("upgrade: {status}"), asked_for, world);
            }
        }
    }

    pub(super) fn frame(&mut self, frame: Frame<'_>, world: &mut World) {
        let ours = world.plan.scenario.encoding.opcode();
        match (frame.opcode, frame.is_final) {
            (opcode, true) if opcode == ours && frame.is_deflated => {
                self.deflated(frame.payload, world)
            }
            // A server of ours sends each message in one frame.
            _ if frame.is_deflated => {
                self.end(
                    "the server sent a compressed message in parts or in another encoding",
                    world,
                );
            }
            (opcode, true) if opcode == ours => self.payload(frame.payload, world),
            (opcode, false) if opcode == ours => self.parts.extend_from_slice(frame.payload),
            (Opcode::Continuation, is_final) => {
                self.parts.extend_from_slice(frame.payload);
                if self.parts.len() > MESSAGE_BYTES_MAX {
                    self.end("the server sent a message in parts that does not end", world);
                } else if is_final {
                    let parts = std::mem::take(&mut self.parts);
                    self.payload(&parts, world);
                }
            }
            (Opcode::Text, _) => self.end("the server sent a text frame", world),
            (Opcode::Binary, _) => self.end("the server sent a binary frame", world),
            // Whoever pings and does not read gets no more answers than there is room for.
            (Opcode::Ping, _) if self.out.len() > OUT_BYTES_MAX => {}
            (Opcode::Ping, _) => {
                let mask = world.mask();
                let pong = |out: &mut Vec<u8>| out.extend_from_slice(frame.payload);
                write_frame(&mut self.out, Opcode::Pong, mask, pong);
            }
            (Opcode::Pong, _) => {}
            (Opcode::Close, _) => self.closed(frame.payload, world),
        }
    }

    fn deflated(&mut self, payload: &[u8], world: &mut World) {
        if !world.plan.scenario.deflate {
            return self.end("the server sent a compressed message and may not", world);
        }
        let mut inflater = std::mem::take(&mut world.inflater);
        match inflater.inflate(payload) {
            Ok(message) => self.payload(message, world),
            Err(error) => self.end(&format!("the server sent {error}"), world),
        }
        world.inflater = inflater;
    }

    pub(super) fn payload(&mut self, payload: &[u8], world: &mut World) {
        match world.plan.scenario.encoding {
            Encoding::Proto => self.proto(payload, world),
            Encoding::Json => match to_proto(payload) {
                Ok(payload) => self.proto(&payload, world),
                Err(error) => self.end(&format!("the server sent {error}"), world),
            },
        }
    }

    fn proto(&mut self, payload: &[u8], world: &mut World) {
        let result = match scan(payload) {
            Ok(Scanned::Messages(messages)) => self.messages(messages, world),
            Ok(Scanned::Other(envelope)) => {
                self.envelope(envelope, world);
                Ok(())
            }
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            self.end(&format!("the server sent {error}"), world);
        }
    }

    pub(super) fn messages(
        &mut self,
        messages: Messages<'_>,
        world: &mut World,
    ) -> Result<(), ScanError> {
        let (channel_id, first) = (messages.channel_id, messages.first_sequence);
        let Some((channel, reader)) = self.reader(channel_id) else {
            world.books.audit.leaked(self.number, channel_id, first);
            return Ok(());
        };
        let is_slow = self.kind == Kind::Slow;
        let mut sequence = first;
        for record in messages {
            let now_us = world.now_us;
            if world.books.delivered(reader, sequence, &record?, is_slow, now_us) {
                world.witness.notice(channel, sequence);
            }
            // No range: a server may begin at the largest number.
            sequence = sequence.saturating_add(1);
        }
        Ok(())
    }

    /// The subscription to this channel. Most users have one, and most events are of the channel of
    /// the one before.
    #[inline]
    pub(super) fn reader(&mut self, channel_id: u32) -> Option<(u32, Reader)> {
        let is_it = |it: &Subscription| it.is_open && it.channel_id == channel_id;
        if !self.subscriptions.get(self.last_hit).is_some_and(is_it) {
            self.last_hit = self.subscriptions.iter().position(is_it)?;
        }
        let it = &self.subscriptions[self.last_hit];
        Some((it.channel, it.reader?))
    }
}
