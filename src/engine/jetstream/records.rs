//! Records: the last message of each subject of one stream.

use bytes::Bytes;

use super::{api::Api, subject::Subjects};
use crate::engine::{Derived, Expect, RecordError, Revision, Table, Versioned};

/// The records of a cluster. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Records {
    _api: Api,
    _subjects: Subjects,
}

impl Records {
    pub(super) fn new(api: Api, subjects: Subjects) -> Self {
        Self { _api: api, _subjects: subjects }
    }

    pub(super) async fn get(
        &self,
        _table: Table,
        _key: &str,
    ) -> Result<Option<Versioned>, RecordError> {
        Err(RecordError::StorageUnavailable)
    }

    pub(super) async fn put(
        &self,
        _table: Table,
        _key: &str,
        _value: Option<Bytes>,
        _expect: Expect,
        _derived: Vec<Derived>,
    ) -> Result<Revision, RecordError> {
        Err(RecordError::StorageUnavailable)
    }

    pub(super) async fn scan(
        &self,
        _table: Table,
        _prefix: &str,
        _after: Option<&str>,
        _count_max: usize,
    ) -> Result<Vec<(String, Versioned)>, RecordError> {
        Err(RecordError::StorageUnavailable)
    }
}
