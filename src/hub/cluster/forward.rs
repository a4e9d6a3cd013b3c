//! A forward, on both sides: how it is asked for, and how the owner does it, as calls.

use bytes::Bytes;
use prost::Message as _;

use super::{Parts, encode};
use crate::{
    engine::Engine,
    hub::{
        Hub,
        calls::Wanted,
        directory::DirectoryError,
        rights::Author,
        sequencer::{Answered, ForwardedPublish},
    },
    limits::BATCH_MESSAGES_MAX,
    log::place::{ChannelId, ClientMessageId, Epoch, Sequence, UserId},
    wire::{
        cluster::{self as wire, Forward, ForwardOutcome, ForwardReply, node_message::Message},
        code::ErrorCode,
        encode::Reply,
    },
};

/// The question to the owner of a channel.
pub(crate) fn question(channel: ChannelId, publishes: &[ForwardedPublish]) -> Bytes {
    let publish = |it: &ForwardedPublish| wire::ForwardedPublish {
        user_id: it.user.0,
        client_message_id: it.client_message_id.0,
        body: it.body.clone(),
    };
    let publishes = publishes.iter().map(publish).collect();
    encode(Message::Forward(Forward { channel_id: channel.0, publishes }))
}

/// What the owner's answer says, and of which epoch. Nothing, if it is none.
pub(crate) fn answer(reply: Bytes) -> (Epoch, Vec<Answered>) {
    let reply = ForwardReply::decode(reply).unwrap_or_default();
    let answered = |it: ForwardOutcome| match it.sequence {
        0 => {
            let code = u16::try_from(it.code).ok().and_then(ErrorCode::from_number);
            Answered::Refused(code.unwrap_or(ErrorCode::Internal))
        }
        sequence => Answered::Stored(Sequence(sequence), it.timestamp_ms),
    };
    (Epoch(reply.epoch), reply.outcomes.into_iter().map(answered).collect())
}

/// Does what a forward wants, and writes the answer. That nothing was taken is an answer, too.
pub(super) async fn take<E: Engine>(
    parts: &Parts<E>,
    hub: Hub,
    forward: Forward,
    is_draining: bool,
) -> Bytes {
    let reply = if is_draining { None } else { publish(parts, hub, forward).await };
    reply.unwrap_or_default().encode_to_vec().into()
}

async fn publish<E: Engine>(
    parts: &Parts<E>,
    hub: Hub,
    Forward { channel_id, publishes }: Forward,
) -> Option<ForwardReply> {
    if publishes.len() > BATCH_MESSAGES_MAX {
        return None;
    }
    let count = publishes.len();
    let mut wanted = Vec::with_capacity(count);
    for publish in publishes {
        let body = String::from_utf8(publish.body.into()).ok().filter(|body| !body.is_empty())?;
        wanted.push(Wanted::Publish {
            author: Author::User(UserId(publish.user_id)),
            client_message_id: Some(ClientMessageId(publish.client_message_id)),
            body,
        });
    }
    let refuse_all = |code: ErrorCode| ForwardReply {
        outcomes: vec![refused(code); count],
        ..ForwardReply::default()
    };
    let channel = match parts.directory.channel(ChannelId(channel_id)).await {
        Ok(channel) => channel,
        Err(DirectoryError::UnknownChannel) => return Some(refuse_all(ErrorCode::UnknownChannel)),
        // The other node may reach the records.
        Err(_) => return None,
    };
    let mut answer = ForwardReply::default();
    for reply in hub.call_each(&channel, wanted).await {
        answer.outcomes.push(match reply {
            Reply::Published(published) => {
                answer.epoch = published.epoch.0;
                ForwardOutcome {
                    sequence: published.sequence.0,
                    code: 0,
                    timestamp_ms: published.timestamp_ms,
                }
            }
            Reply::Refused(refusal) => refused(refusal.code),
            _ => refused(ErrorCode::Internal),
        });
    }
    Some(answer)
}

fn refused(code: ErrorCode) -> ForwardOutcome {
    ForwardOutcome { sequence: 0, code: code.number().into(), timestamp_ms: 0 }
}
