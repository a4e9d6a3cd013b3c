//! RFC 6455 without I/O: bytes in, messages out, and the other way round. Pure.
//!
//! [`reader`] is stage 1, [`frame`] makes what the outboxes hold, [`handshake`] turns an HTTP
//! request into a WebSocket. Header codec, opcodes, close codes and the accept key are
//! tungstenite's. The frame loop is ours: tungstenite copies each payload into each connection's
//! buffer, where one committed batch is the same bytes for every subscriber, and its connection
//! costs an idle client a read buffer.
//!
//! permessage-deflate (RFC 7692) is absent. It would stand in three places: `handshake::answer`
//! negotiates it, `Reader::admit` lets RSV1 pass on the first frame of a message, and
//! [`frame::SharedFrame`] holds the compressed twin.

pub mod frame;
pub mod handshake;
pub mod reader;
