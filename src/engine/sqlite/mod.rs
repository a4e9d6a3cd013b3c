//! The engine of one node: SQLite, one writer thread, group commit.
