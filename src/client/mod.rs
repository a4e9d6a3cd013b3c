//! The Rust client: reconnects, resumes and retries by itself.
