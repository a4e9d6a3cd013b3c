//! Accounts and tokens.
