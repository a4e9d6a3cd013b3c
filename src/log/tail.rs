//! The ring of recent batches that answers most resumes. Pure.
