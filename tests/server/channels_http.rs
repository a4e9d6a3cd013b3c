//! Channels and members over HTTP.
