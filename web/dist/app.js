document.body.append("This is hubbub, a realtime chat server. The HTTP API can be tried out at /docs.");
