//! Who is logged in on the connections of a shard, and the end of those whose login is revoked.
//!
//! What a login is known by lies in a table of its own beside the connections, in their order: a look
//! through all of it reads memory in a row, and a delivery never touches it.

use std::rc::Rc;

use super::{Port, Shard};
use crate::{
    clock,
    engine::Engine,
    hub::{
        Identity,
        revoked::{Notices, Refused},
    },
    wire::code::CloseCode,
};

impl From<Refused> for CloseCode {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Revoked => Self::Forbidden,
            Refused::Stale => Self::TokenExpired,
        }
    }
}

impl<E: Engine, S: 'static> Shard<E, S> {
    /// Lets somebody in on a connection, or renews their login, unless it is revoked. From then on
    /// the connection ends when the login is.
    ///
    /// # Errors
    /// When it is revoked. Then nothing has changed.
    pub fn admit(&self, port: &Port<S>, identity: &Identity) -> Result<(), Refused> {
        // In one step with what follows: see `hub::revocations`.
        self.register.check(&identity.claim)?;
        let credentials = &mut self.state.borrow_mut().credentials;
        credentials[port.key.slot as usize] = Some(identity.claim.credential);
        Ok(())
    }

    /// Looks at so many connections, from this place on, and closes those that the notices are about.
    /// The place to go on at, if it is not the end.
    pub fn close_revoked(
        &self,
        notices: &Notices,
        from: usize,
        connections_max: usize,
    ) -> Option<usize> {
        let state = self.state.borrow();
        let mut found = Vec::new();
        let end = state.credentials.len().min(from.saturating_add(connections_max));
        for slot in from..end {
            if let Some(credential) = &state.credentials[slot]
                && let Some((refused, at_ms)) = notices.about(credential)
                && let Some(port) = state.ports.get(slot)
            {
                found.push((Rc::clone(port), refused, at_ms));
            }
        }
        let is_done = end == state.credentials.len();
        drop(state);
        for (port, refused, at_ms) in found {
            if port.closing().is_none() {
                let code = CloseCode::from(refused);
                self.close(&port, code, code.name());
                self.metrics.revoked(clock::unix_ms().saturating_sub(at_ms));
            }
        }
        (!is_done).then_some(end)
    }
}

#[cfg(test)]
mod tests;
