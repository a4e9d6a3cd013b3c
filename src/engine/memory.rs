//! The engine for tests: in memory, with faults on demand.
