//! What is asked of the channels here by somebody without a connection.

use std::rc::Rc;

use bytes::Bytes;

use super::Shard;
use crate::{
    engine::Engine,
    hub::{
        Imported,
        calls::{Call, Wanted},
        sequencer::{Draft, Wish},
    },
    wire::{
        code::ErrorCode,
        encode::{self, Reply},
    },
};

impl<E: Engine, S: 'static> Shard<E, S> {
    /// Does what a call wants. This shard owns its channel.
    pub fn call(self: &Rc<Self>, call: Call) {
        let Call { channel, wanted, reply } = call;
        let refuse = |reply: tokio::sync::oneshot::Sender<Reply>, code: ErrorCode| {
            // An error means that nobody waits any more.
            let _ = reply.send(Reply::Refused(code.into()));
        };
        if self.is_draining() && !matches!(wanted, Wanted::History(..) | Wanted::Presence(_)) {
            return refuse(reply, ErrorCode::Draining);
        }
        let ticket = match self.state.borrow_mut().calls.begin(self.id, reply) {
            Ok(ticket) => ticket,
            Err(reply) => return refuse(reply, ErrorCode::Busy),
        };
        let draft = match wanted {
            Wanted::History(user, page) => {
                return self.with_known_channel(&channel, |channel, effects| {
                    channel.history(ticket, user, page, effects);
                });
            }
            Wanted::Presence(user) => {
                return self.with_known_channel(&channel, |channel, effects| {
                    channel.presence(ticket, user, effects);
                });
            }
            Wanted::Typing(user) => {
                return self.with_known_channel(&channel, |channel, effects| {
                    channel.typing(ticket, user, effects);
                });
            }
            Wanted::MarkedRead { user, read, by } => {
                // A channel that is not in memory has nobody to be told.
                self.with_channel(channel.id, |channel, effects| {
                    channel.marked_read(user, read, by, effects);
                });
                self.tell_read(channel.id, user, read);
                let told = Reply::ReadMarker(channel.id, read);
                return self.state.borrow_mut().calls.end(ticket, told);
            }
            Wanted::Publish { author, client_message_id, body } => {
                self.metrics.publishes.inc();
                Draft {
                    user: author.user(),
                    client_message_id,
                    digest: encode::digest(&body),
                    wish: Wish::Message(author, body.len()),
                    record: encode::record(author.user(), client_message_id, body),
                    ticket,
                }
            }
            Wanted::Change(user, change) => Draft {
                user,
                client_message_id: None,
                digest: 0,
                wish: Wish::Change(Box::new(change)),
                record: Bytes::new(),
                ticket,
            },
        };
        self.with_known_channel(&channel, |channel, effects| channel.publish(draft, effects));
        self.mark_ready(channel.id);
    }

    /// Tells a channel here of what was imported into it, if it is in memory.
    pub fn imported(self: &Rc<Self>, Imported { channel, after, head }: Imported) {
        self.with_channel(channel, |channel, effects| channel.imported(after, head, effects));
    }
}
