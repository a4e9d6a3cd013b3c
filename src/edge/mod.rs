//! The edge: accepts connections, answers HTTP, hands WebSockets to the hub.
