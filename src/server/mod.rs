//! Wires the parts together: the only module that knows all of them.

pub mod cores;
