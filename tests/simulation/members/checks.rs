//! What must hold of all that the nodes do and say, by what the log allows.

use std::mem;

use bytes::Bytes;
use hubbub::{
    engine::Table,
    hub::{
        Ticket,
        channel::Effect,
        directory::records::{self, NameRecord},
        fanout::{Delivery, Subscriber},
        rights::Change,
    },
    log::{
        place::{Position, Sequence, UserId},
        settings::Visibility,
    },
    wire::{
        code::ErrorCode,
        encode::{Control, Reply},
        proto,
        record::{self, Content},
    },
};
use prost::Message as _;

use super::{
    CHANNEL, Checked, Defect, EPOCH, Members, Operation, State, USERS, Wanted, body_of, ensure,
};

impl Members {
    pub(super) fn observe(&mut self, node: usize, effect: Effect) -> Checked {
        match effect {
            Effect::FanOut(delivery) => self.fan_out(node, &delivery),
            Effect::Join(subscriber) => {
                let user = UserId(subscriber.connection.slot);
                self.nodes[node].live.push((subscriber, user));
                Ok(())
            }
            Effect::Leave(_) if self.defect == Defect::DeliversToWhoLeft => Ok(()),
            Effect::Leave(connection) => {
                let live = &mut self.nodes[node].live;
                let before = live.len();
                live.retain(|(it, _)| it.connection != connection);
                ensure(live.len() + 1 == before, || format!("{connection:?} was not live"))
            }
            Effect::Replay(Subscriber { connection, .. }, ..) => {
                let user = UserId(connection.slot);
                ensure(self.may_read(node, user), || {
                    format!("a replay for {user:?}, who may not read")
                })
            }
            Effect::Reply(ticket, reply) => self.hear(node, ticket, reply),
            Effect::Tell(_, Control::SubscriptionEnded { .. } | Control::Gap { .. })
            | Effect::Ended(_)
            | Effect::Untold
            | Effect::Learn(_)
            | Effect::ForgetMember(_)
            | Effect::Forget => Ok(()),
            effect => Err(format!("unexpected {effect:?}")),
        }
    }

    /// Who is handed an entry live might read before it.
    fn fan_out(&self, node: usize, delivery: &Delivery) -> Checked {
        let first = delivery.batch.first_sequence;
        let since = usize::try_from(first.0 - 1).unwrap();
        for (_, user) in &self.nodes[node].live {
            let may = self.states[since..].iter().any(|state| state.may_read(*user));
            ensure(may, || format!("{first} was handed to {user:?}"))?;
        }
        Ok(())
    }

    fn hear(&mut self, node: usize, ticket: Ticket, reply: Reply) -> Checked {
        let was_answered = mem::replace(&mut self.operations[ticket.id as usize].is_answered, true);
        ensure(!was_answered, || format!("{} is answered twice", ticket.id))?;
        let operation = &self.operations[ticket.id as usize];
        let user = operation.user;
        let reply = match reply {
            Reply::Refused(refusal) if self.defect == Defect::RefusesOtherwise => {
                let is_it = refusal.code == ErrorCode::Forbidden;
                let code = if is_it { ErrorCode::UnknownChannel } else { refusal.code };
                Reply::Refused(code.into())
            }
            Reply::Refused(refusal)
                if self.defect == Defect::HandsPagesOut
                    && refusal.code == ErrorCode::UnknownChannel
                    && matches!(operation.wanted, Wanted::History) =>
            {
                let head = Position { epoch: EPOCH, sequence: Sequence(1) };
                Reply::History { channel: CHANNEL, head, runs: Vec::new() }
            }
            reply => reply,
        };
        let place = |sequence: Sequence| self.records.get(usize::try_from(sequence.0).unwrap() - 1);
        match (&operation.wanted, reply) {
            (_, Reply::Refused(refusal)) => {
                let given = refusal.code;
                if matches!(given, ErrorCode::Busy | ErrorCode::StorageUnavailable) {
                    return Ok(());
                }
                let stored = &self.records[..operation.since];
                let is_stored = matches!(&operation.wanted, Wanted::Publish(record)
                    if is_numbered(record) && stored.iter().any(|(_, it)| it == record));
                ensure(!is_stored || given == ErrorCode::UnknownChannel, || {
                    format!("{operation:?} is in the log, and was refused with {given}")
                })?;
                // What a node has read of another's changes may be newer than what it has applied.
                let head = self.ahead_of(node, operation);
                let due: Vec<_> =
                    self.states[head..].iter().map(|state| due(state, operation, given)).collect();
                // The record and the members are two reads: one may be newer than the other.
                let ahead = &self.states[head..];
                let is_torn = given == ErrorCode::UnknownChannel
                    && ahead.iter().any(|it| it.settings.visibility == Visibility::Private)
                    && ahead.iter().any(|it| !it.members.contains_key(&user));
                ensure(is_torn || due.contains(&Some(given)), || {
                    format!("{operation:?} was refused with {given}, and {due:?} is due")
                })
            }
            (Wanted::Publish(record), Reply::Published(published)) => {
                let found = place(published.sequence);
                ensure(found.is_some_and(|(_, it)| it == record), || {
                    let at = self.records.iter().position(|(_, it)| it == record);
                    format!("{record:?} is at {at:?}, not {}: {found:?}", published.sequence)
                })
            }
            (Wanted::Change(_), Reply::Member(view)) if view.sequence == Sequence::ZERO => {
                let is_so = |state: &State| state.members.get(&view.user).copied() == view.role;
                let is_it = self.states[self.ahead_of(node, operation)..].iter().any(is_so);
                ensure(is_it, || format!("{view:?} is told, and is not so"))
            }
            (Wanted::Change(_), Reply::Member(view)) => {
                let found = place(view.sequence);
                let is_it = found.is_some_and(|(by, record)| {
                    *by == user && record::content(record) == Content::Member(view.user, view.role)
                });
                ensure(is_it, || format!("{view:?} is not in the log"))
            }
            (Wanted::Change(Change::Update(_)), Reply::Channel(view)) => {
                // A change that a catch-up finds is answered before what it finds behind it.
                let is_so = |state: &State| {
                    view.settings == state.settings
                        && view.member_count as usize == state.members.len()
                };
                ensure(self.states.iter().any(is_so), || format!("{view:?} has never been so"))
            }
            (Wanted::Change(Change::Delete), Reply::ChannelDeleted(_)) => {
                let is_it = self.states.last().is_some_and(|state| state.is_deleted);
                ensure(is_it, || "it is told to be deleted".to_owned())
            }
            (Wanted::Subscribe, Reply::Subscribed { .. }) => {
                ensure(self.may_read(node, user), || format!("{user:?} has subscribed"))
            }
            (Wanted::Unsubscribe, Reply::Unsubscribed(_)) => Ok(()),
            (Wanted::History, Reply::History { .. }) => {
                ensure(self.may_read(node, user), || format!("{user:?} was given a page"))
            }
            (_, reply) => Err(format!("unexpected {reply:?}")),
        }
    }

    /// Whether a user may read where this node has got to. What it has read of another's changes may be
    /// newer than that.
    fn may_read(&self, node: usize, user: UserId) -> bool {
        self.states[self.head_of(node)..].iter().any(|state| state.may_read(user))
    }

    /// The first state that may have been looked at for an answer.
    fn ahead_of(&self, node: usize, operation: &Operation) -> usize {
        let head = self.head_of(node);
        if self.has_nodes { head.max(operation.since) } else { head }
    }

    fn head_of(&self, node: usize) -> usize {
        usize::try_from(self.nodes[node].channel.head().sequence.0).unwrap()
    }

    /// Takes in what is new in the log: each record was allowed by what lies before it,
    /// and the records that are derived are as it makes them.
    pub(super) fn fold(&mut self) -> Checked {
        let before = self.folded;
        for entry in &self.log.entries(CHANNEL)[before..] {
            for bytes in entry.batch.records() {
                let bytes = Bytes::copy_from_slice(bytes.map_err(|error| error.to_string())?);
                let written = proto::Record::decode(bytes.clone()).map_err(|it| it.to_string())?;
                let by = UserId(written.user_id);
                let mut state = self.states.last().unwrap().clone();
                state.take(by, record::content(&bytes), written.written_at_ms != 0)?;
                self.states.push(state);
                self.records.push((by, bytes));
            }
            self.folded += 1;
        }
        if self.folded > before { self.check_records() } else { Ok(()) }
    }

    /// The channels hold what the log makes.
    pub(super) fn check(&self) -> Checked {
        let state = self.states.last().unwrap();
        let end = Sequence(self.states.len() as u64 - 1);
        for node in &self.nodes {
            let Some(rights) = node.channel.rights() else { continue };
            if node.channel.head().sequence == end && !state.is_deleted {
                let record = rights.record();
                let roles = (1..=USERS).map(|user| rights.role(UserId(user)));
                let members = (1..=USERS).map(|user| state.members.get(&UserId(user)).copied());
                let is_it = record.settings() == state.settings
                    && record.usage == state.usage
                    && record.member_count as usize == state.members.len()
                    && roles.eq(members);
                ensure(is_it, || format!("memory has {rights:?}, the log makes {state:?}"))?;
            }
        }
        Ok(())
    }

    /// The records say what the log makes.
    fn check_records(&self) -> Checked {
        let state = self.states.last().unwrap();
        let Some(record) = self.record() else {
            return ensure(state.is_deleted, || "its record is gone".to_owned());
        };
        ensure(!state.is_deleted, || "its record is still there".to_owned())?;
        let is_it = record.settings() == state.settings
            && record.usage == state.usage
            && record.member_count as usize == state.members.len()
            && self.members() == state.members;
        ensure(is_it, || format!("the records have {record:?}, the log makes {state:?}"))?;
        let listed = self.log.scan(Table::PublicChannels, "", None, 10);
        let listed: Vec<_> = listed.iter().map(|(name, it)| (name.as_str(), &it.value)).collect();
        let value = records::format(&record);
        let due = [(record.name.as_str(), &value)];
        let is_public = state.settings.visibility == Visibility::Public;
        ensure(listed == due[..usize::from(is_public)], || format!("{listed:?} are listed"))?;
        let by_user = self.log.scan(Table::Memberships, "", None, 100).len();
        ensure(by_user == state.members.len(), || format!("{by_user} memberships"))?;
        let markers = self.log.scan(Table::ReadMarkers, "", None, 100);
        let joined = state.joined.iter().map(|(user, sequence)| {
            let position = Position { epoch: EPOCH, sequence: Sequence(*sequence) };
            let due = records::read_marker(CHANNEL, *user, Some(position));
            (due.key, due.value)
        });
        let is_it =
            markers.iter().map(|(key, it)| (key.clone(), Some(it.value.clone()))).eq(joined);
        ensure(is_it, || format!("the markers are {markers:?}, the log makes {state:?}"))?;
        let names = self.log.scan(Table::Channels, "name:", None, usize::MAX);
        let owned: Vec<_> = names
            .iter()
            .filter(|(_, it)| records::parse::<NameRecord>(it).unwrap().id == CHANNEL.0)
            .map(|(key, _)| key.clone())
            .collect();
        ensure(owned == [records::name_key(&record.name)], || format!("it owns {owned:?}"))
    }
}

/// The code that an operation is to be refused with, where it was refused with `given`.
fn due(state: &State, operation: &Operation, given: ErrorCode) -> Option<ErrorCode> {
    let is_about_place = matches!(given, ErrorCode::NotSubscribed | ErrorCode::PositionAhead);
    match &operation.wanted {
        Wanted::Publish(record) => {
            let record = proto::Record::decode(record.clone()).unwrap();
            state.publish(operation.user, body_of(&record).len()).err()
        }
        Wanted::Change(change) => state.change(operation.user, change).err(),
        Wanted::Unsubscribe => Some(ErrorCode::NotSubscribed),
        Wanted::Subscribe if is_about_place => Some(given),
        Wanted::Subscribe | Wanted::History => {
            (!state.may_read(operation.user)).then_some(ErrorCode::UnknownChannel)
        }
    }
}

/// Whether a retry of it is told from another message.
fn is_numbered(record: &Bytes) -> bool {
    proto::Record::decode(record.clone()).unwrap().client_message_id != 0
}
