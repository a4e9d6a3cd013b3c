//! RFC 6455 and 7692 without I/O: bytes in, messages out, and the other way round. Pure.
//!
//! [`reader`] is stage 1, [`frame`] makes what the outboxes hold, [`handshake`] turns an HTTP
//! request into a WebSocket. Header codec, opcodes, close codes and the accept key are
//! tungstenite's. The frame loop is ours: tungstenite copies each payload into each connection's
//! buffer, where one committed batch is the same bytes for every subscriber, and its connection
//! costs an idle client a read buffer.
//!
//! [`deflate`] is permessage-deflate: agreed on in the handshake, inflated in the reader, and made
//! once per message by [`frame::SharedFrame`].

pub mod deflate;
pub mod frame;
pub mod handshake;
pub mod reader;
