//! What is not in the logs, on other nodes: who is there, who is writing, what was read.

use std::rc::Rc;

use super::Shard;
use crate::{
    engine::Engine,
    hub::cluster::presence::Told,
    log::place::{ChannelId, Position, UserId},
};

impl<E: Engine, S: 'static> Shard<E, S> {
    /// Other nodes tell who is there, or are gone.
    pub(super) fn hear_presence(self: &Rc<Self>, _: Vec<Told>) {}

    /// Users are writing on another node.
    pub(super) fn typing_elsewhere(self: &Rc<Self>, _: ChannelId, _: Vec<UserId>) {}

    /// A user has read so far on another node.
    pub(super) fn read_elsewhere(self: &Rc<Self>, _: ChannelId, _: UserId, _: Position) {}

    /// A node wants to know who is in the channels here.
    pub(super) fn begin_round(&self) {}
}
