//! The connections of a storm: one for each open request, and those that wait for the next one from
//! their address.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read as _, Write as _},
};

use mio::{Interest, Token, net::TcpStream};

use super::{
    PATIENCE,
    login::{Request, Who},
};
use crate::swarm::{
    event_loop::{EventLoop, SOCKETS, is_later},
    http, socket,
    world::us,
};

/// All slots, of which some have a connection.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Those whose connection waits for another request from its address.
    idle: BTreeMap<Who, Vec<usize>>,
    open: usize,
}

#[derive(Debug, Default)]
struct Slot {
    stream: Option<TcpStream>,
    is_connecting: bool,
    request: Option<Request>,
    /// Whose address the connection comes from.
    who: Option<Who>,
    /// Whether it had a request before this one.
    is_used_again: bool,
    sent_us: u64,
    out: Vec<u8>,
    unfinished: Vec<u8>,
}

impl Slots {
    /// Requests without an answer.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// One whose connection waits, or one without.
    fn take(&mut self, who: Who) -> usize {
        if let Some(waiting) = self.idle.get_mut(&who)
            && let Some(slot) = waiting.pop()
        {
            return slot;
        }
        self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        })
    }

    /// The request of a slot is over. Its connection goes, unless it is kept.
    fn end(&mut self, index: usize, is_kept: bool) -> Option<Request> {
        let slot = &mut self.slots[index];
        let request = slot.request.take();
        self.open -= usize::from(request.is_some());
        slot.out.clear();
        slot.unfinished.clear();
        match request {
            Some(request) if is_kept => self.idle.entry(request.who).or_default().push(index),
            _ => {
                if let Some(stream) = slot.stream.take() {
                    socket::reset(stream);
                }
                self.free.push(index);
            }
        }
        request
    }

    /// The server has closed a connection that waited.
    fn forget(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.stream = None;
        if let Some(waiting) = slot.who.and_then(|who| self.idle.get_mut(&who)) {
            waiting.retain(|it| *it != index);
        }
        self.free.push(index);
    }
}

impl EventLoop {
    pub(super) fn send_of_storm(&mut self, request: Request) {
        let Some(tempest) = &mut self.storm else { return };
        let index = tempest.slots.take(request.who);
        tempest.slots.open += 1;
        let slot = &mut tempest.slots.slots[index];
        let target = self.world.plan.target(request.who.number());
        request.write(&target.host, &mut slot.out);
        (slot.request, slot.who) = (Some(request), Some(request.who));
        (slot.sent_us, slot.is_used_again) = (self.world.now_us, slot.stream.is_some());
        if slot.stream.is_none() {
            let token = Token(self.ports.len() + index + SOCKETS);
            let both = Interest::READABLE | Interest::WRITABLE;
            let target = target.address;
            let source = target.ip().is_loopback().then(|| request.who.source());
            let opened =
                socket::open_from(target, source, false).and_then(|(mut stream, is_open)| {
                    self.poll.registry().register(&mut stream, token, both)?;
                    Ok((stream, is_open))
                });
            match opened {
                Ok((stream, is_open)) => {
                    (slot.stream, slot.is_connecting) = (Some(stream), !is_open);
                }
                Err(error) => return self.slot_broke(index, &error),
            }
        }
        self.write_slot(index);
    }

    fn write_slot(&mut self, index: usize) {
        let Some(tempest) = &mut self.storm else { return };
        let slot = &mut tempest.slots.slots[index];
        let Slot { stream: Some(stream), is_connecting: false, out, .. } = slot else { return };
        if out.is_empty() {
            return;
        }
        match stream.write(out) {
            Ok(bytes) => drop(out.drain(..bytes)),
            Err(error) if is_later(&error) => {}
            Err(error) => self.slot_broke(index, &error),
        }
    }

    /// Something came of the socket of a slot.
    pub(in crate::swarm) fn slot_is_ready(&mut self, index: usize) {
        let Some(slot) = self.storm.as_mut().and_then(|it| it.slots.slots.get_mut(index)) else {
            return;
        };
        let Some(stream) = &slot.stream else { return };
        if slot.is_connecting {
            match stream.take_error() {
                Ok(Some(error)) | Err(error) => return self.slot_broke(index, &error),
                // An event of the socket that was here before.
                Ok(None) if stream.peer_addr().is_err() => return,
                Ok(None) => slot.is_connecting = false,
            }
        }
        self.write_slot(index);
        self.read_slot(index);
    }

    /// Reads all that there is: an answer is short.
    fn read_slot(&mut self, index: usize) {
        loop {
            let Some(tempest) = &mut self.storm else { return };
            let slot = &mut tempest.slots.slots[index];
            let Slot { stream: Some(stream), is_connecting: false, .. } = slot else { return };
            let bytes = match stream.read(&mut self.buffer) {
                Ok(0) => return self.slot_broke(index, &ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if is_later(&error) => return,
                Err(error) => return self.slot_broke(index, &error),
            };
            slot.unfinished.extend_from_slice(&self.buffer[..bytes]);
            self.read_clock();
            if self.look_for_answer(index) {
                return;
            }
        }
    }

    /// Answers whether the request is over.
    fn look_for_answer(&mut self, index: usize) -> bool {
        let Some(tempest) = &mut self.storm else { return true };
        let slot = &mut tempest.slots.slots[index];
        let whole = std::mem::take(&mut slot.unfinished);
        match http::response(&whole) {
            Ok(None) => {
                slot.unfinished = whole;
                false
            }
            Ok(Some(response)) => {
                let is_kept = tempest.plan.keep_alive && !response.closes;
                if let Some(request) = tempest.slots.end(index, is_kept) {
                    self.answered_in_storm(request, &response);
                }
                true
            }
            Err(error) => {
                if let Some(request) = tempest.slots.end(index, false) {
                    self.unanswered_in_storm(request, &error.to_string());
                }
                true
            }
        }
    }

    fn slot_broke(&mut self, index: usize, error: &std::io::Error) {
        let Some(tempest) = &mut self.storm else { return };
        if tempest.slots.slots[index].request.is_none() {
            return tempest.slots.forget(index);
        }
        // A server may close a connection that waits, and does not know that a request is coming.
        let slot = &tempest.slots.slots[index];
        let has_waited = slot.is_used_again && slot.unfinished.is_empty();
        match tempest.slots.end(index, false) {
            Some(request) if has_waited => self.send_of_storm(request),
            Some(request) => self.unanswered_in_storm(request, &socket::in_short(error)),
            None => {}
        }
    }

    /// Ends the requests that have waited long enough. Looks at all: not for every turn of the loop.
    pub(in crate::swarm) fn end_slow_slots(&mut self) {
        let Some(tempest) = &mut self.storm else { return };
        let until_us = self.world.now_us.saturating_sub(us(PATIENCE));
        let slots = tempest.slots.slots.iter();
        let is_late = |slot: &Slot| slot.request.is_some() && slot.sent_us < until_us;
        let late: Vec<_> =
            slots.enumerate().filter(|(_, slot)| is_late(slot)).map(|(index, _)| index).collect();
        for index in late {
            let Some(tempest) = &mut self.storm else { return };
            if let Some(request) = tempest.slots.end(index, false) {
                self.unanswered_in_storm(request, "no answer in 10 s");
            }
        }
    }
}
