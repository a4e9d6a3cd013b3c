//! Names and subjects of users, written once as the format has them. Bounded.

use std::{collections::HashMap, sync::Arc};

use futures_util::future::try_join_all;

use super::{ExportError, Format, is_busy, patiently};
use crate::{
    engine::Engine,
    hub::directory::Directory,
    limits::{EXPORT_USERS_BYTES_MAX, EXPORT_USERS_PER_READ},
    log::place::UserId,
    transfer::{csv, ndjson},
};

/// Who has been seen, as the format has it.
#[derive(Default)]
pub(super) struct Users {
    pub(super) known: HashMap<UserId, User>,
    pub(super) bytes: usize,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct User {
    pub(super) subject: Arc<[u8]>,
    pub(super) name: Arc<[u8]>,
}

impl Users {
    /// Sees to it that all of these are known.
    pub(super) async fn read<E: Engine>(
        &mut self,
        directory: &Directory<E>,
        format: &Format,
        users: impl Iterator<Item = UserId>,
    ) -> Result<(), ExportError> {
        if self.bytes > EXPORT_USERS_BYTES_MAX {
            *self = Self::default();
        }
        let is_unknown = |user: &UserId| !self.known.contains_key(user);
        let mut unknown: Vec<UserId> = users.filter(is_unknown).collect();
        unknown.sort_unstable();
        unknown.dedup();
        for users in unknown.chunks(EXPORT_USERS_PER_READ) {
            let reads = users.iter().map(|user| patiently(|| directory.person(*user), is_busy));
            for (user, found) in users.iter().zip(try_join_all(reads).await?) {
                let person = found.ok_or(ExportError::UnknownUser(*user))?;
                let [name, subject]: [Arc<[u8]>; 2] = [person.name, person.subject].map(|text| {
                    let mut written = Vec::new();
                    match format {
                        Format::Ndjson => ndjson::string(&mut written, &text),
                        Format::Csv(_) => csv::cell(&mut written, &text),
                    }
                    Arc::from(written)
                });
                // A table that has just grown has twice the places that it needs.
                self.bytes += name.len() + subject.len() + 2 * size_of::<(UserId, User)>();
                self.known.insert(*user, User { name, subject });
            }
        }
        Ok(())
    }

    pub(super) fn known(&self, user: UserId) -> &User {
        self.known.get(&user).expect("users are read before they are written")
    }
}
