//! File, environment and flags → one validated, immutable configuration.
