//! What must hold of all that the nodes of a cluster tell their clients.

use std::{collections::HashMap, sync::Arc};

use hubbub::{
    hub::{
        ConnectionKey, Ticket,
        channel::Effect,
        fanout::{Delivery, Subscriber},
    },
    log::{batch::Entry, place::Sequence},
    wire::{
        code::ErrorCode,
        encode::{self, Control, Reply},
    },
};

use super::{CHANNEL, Chain, Checked, Cluster, Publish, Subscription, ensure, user};

impl Cluster {
    pub(super) fn observe(&mut self, node: usize, effect: Effect) -> Checked {
        match effect {
            Effect::FanOut(delivery) => {
                for subscriber in self.nodes[node].live.clone() {
                    self.deliver(node, subscriber, &delivery, None)?;
                }
            }
            Effect::Join(subscriber) => self.nodes[node].live.push(subscriber),
            Effect::Leave(connection) => {
                self.nodes[node].live.retain(|it| it.connection != connection);
            }
            Effect::Replay(subscriber, delivery, after) => {
                self.deliver(node, subscriber, &delivery, Some(after))?;
            }
            Effect::Reply(ticket, reply) => self.hear(node, ticket, reply)?,
            Effect::Tell(connection, Control::Gap { from, to, .. }) => {
                if let Some(client) = self.client(node, connection) {
                    let position = self.clients[client].position.unwrap_or_default();
                    ensure(from == position.next(), || format!("gap from {from:?}"))?;
                    self.clients[client].position = Some(to);
                }
            }
            Effect::Ended(connection) => {
                if let Some(client) = self.client(node, connection) {
                    self.clients[client].subscription = Subscription::None;
                }
            }
            effect => return Err(format!("unexpected {effect:?}")),
        }
        Ok(())
    }

    fn client(&self, node: usize, connection: ConnectionKey) -> Option<usize> {
        let slot = connection.slot as usize;
        let client = &self.clients[slot];
        (client.connection == connection && client.node == node).then_some(slot)
    }

    fn deliver(
        &mut self,
        node: usize,
        subscriber: Subscriber,
        delivery: &Arc<Delivery>,
        after: Option<Sequence>,
    ) -> Checked {
        let Some(client) = self.client(node, subscriber.connection) else {
            return Err("a delivery to a connection that is gone".into());
        };
        let batch = &delivery.batch;
        let first = after.map_or(batch.first_sequence, |it| batch.first_sequence.max(it.next()));
        let found = self.holding(batch.first_sequence);
        let committed = found.is_some_and(|entry| entry.batch == **batch);
        ensure(committed, || format!("{first:?} was delivered before its commit"))?;
        let client = &mut self.clients[client];
        ensure(client.subscription == Subscription::Live, || {
            "a delivery before the subscribe was answered".into()
        })?;
        let position = client.position.unwrap_or_default();
        ensure(first == position.next(), || format!("{first:?} delivered after {position:?}"))?;
        client.position = Some(batch.last_sequence());
        Ok(())
    }

    fn hear(&mut self, node: usize, ticket: Ticket, reply: Reply) -> Checked {
        let Some(client) = self.client(node, ticket.connection) else { return Ok(()) };
        match reply {
            Reply::Subscribed { head, .. } => {
                let client = &mut self.clients[client];
                ensure(client.subscription == Subscription::Asked(ticket.id), || {
                    "an answer to no subscribe".into()
                })?;
                client.subscription = Subscription::Live;
                client.position.get_or_insert(head.sequence);
                Ok(())
            }
            Reply::Published(published) => {
                // Commit, fan-out, reply: also of what another node has written.
                let head = self.nodes[node].channel.head().sequence;
                let sequence = published.sequence;
                ensure(sequence <= head, || format!("{sequence:?} is told at {head:?}"))?;
                self.acknowledge(ticket, sequence)
            }
            Reply::Refused(refusal) => match refusal.code {
                ErrorCode::Busy | ErrorCode::StorageUnavailable | ErrorCode::NotSubscribed => {
                    if let Some(publish) = self.publishes.get_mut(ticket.id as usize) {
                        publish.ticket = None;
                    }
                    Ok(())
                }
                code => Err(format!("refused with {code}")),
            },
            reply => Err(format!("unexpected {reply:?}")),
        }
    }

    fn acknowledge(&mut self, ticket: Ticket, sequence: Sequence) -> Checked {
        let publish = &mut self.publishes[ticket.id as usize];
        let before = *publish.acknowledged.get_or_insert(sequence);
        ensure(before == sequence, || format!("acknowledged at {before:?}, then {sequence:?}"))?;
        let after = publish.after;
        ensure(sequence > after, || format!("{sequence:?} was sent when {after:?} was known"))?;
        let wanted = record(publish);
        let committed = self.holding(sequence).is_some_and(|entry| {
            let place = sequence.0 - entry.batch.first_sequence.0;
            let record = entry.batch.records().nth(usize::try_from(place).unwrap());
            record.is_some_and(|record| record == Ok(&*wanted))
        });
        ensure(committed, || format!("acknowledged at {sequence:?}, which the log does not hold"))?;
        self.told = self.told.max(sequence);
        Ok(())
    }

    pub(super) const fn end(&self) -> Sequence {
        self.chain.head.sequence
    }

    /// Takes in what is new in the log.
    pub(super) fn fold(&mut self) {
        let Chain { head, entries, seen } = &mut self.chain;
        for entry in &self.log.entries(CHANNEL)[*seen..] {
            if entry.batch.extends(head) {
                *head = entry.batch.head(entry.at);
                entries.push(entry.clone());
            }
            *seen += 1;
        }
    }

    /// The entry of the chain that holds this sequence.
    fn holding(&self, sequence: Sequence) -> Option<&Entry> {
        let entries = &self.chain.entries;
        let place = entries.partition_point(|entry| entry.batch.last_sequence() < sequence);
        entries.get(place).filter(|entry| entry.batch.first_sequence <= sequence)
    }

    pub(super) fn check_log(&self) -> Checked {
        let mut found = HashMap::new();
        let mut next = Sequence(1);
        for entry in &self.chain.entries {
            ensure(entry.batch.first_sequence == next, || format!("a hole before {next:?}"))?;
            for record in entry.batch.records() {
                let record = record.map_err(|error| error.to_string())?.to_vec();
                ensure(found.insert(record, next).is_none(), || {
                    "a message is in the log twice".into()
                })?;
                next = next.next();
            }
        }
        for publish in &self.publishes {
            let found = found.get(&*record(publish)).copied();
            // Who sent it without a number and lost the connection does not know.
            let is_known = publish.key.is_some() || publish.acknowledged.is_some();
            ensure(!is_known || found == publish.acknowledged, || {
                let told = publish.acknowledged;
                format!("{:?} acknowledged at {told:?}, found at {found:?}", publish.body)
            })?;
        }
        Ok(())
    }
}

fn record(publish: &Publish) -> bytes::Bytes {
    encode::record(user(publish.client), publish.key, publish.body.clone())
}
