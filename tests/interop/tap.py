"""Stands between a peer and the server, passes every byte on, and reads the frames' headers.

So that a test sees what went over the wire, whichever library made it: most do not tell whether a
message came compressed.
"""

import contextlib
import socket
import threading
from typing import NamedTuple

HEAD_END = b"\r\n\r\n"
TEXT, BINARY = 1, 2
# How long one write of a tap's may take before it takes its peer for gone.
DEADLINE_S = 20


class Frame(NamedTuple):
    """What a frame's header says."""

    final: bool
    rsv1: bool
    opcode: int
    length: int


class Tap:
    """Listens on a port of its own, and connects to `address` for whoever connects there."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.server = (host, int(port))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        # The bytes of each connection, one way and the other.
        self.connections = []
        self.threads = []
        self._start(self._accept)

    def close(self):
        # Ends the accept, whose thread would otherwise keep the port.
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(DEADLINE_S)

    def frames(self):
        """The frames of all WebSockets so far: those of the clients, those of the server."""
        sent, received = [], []
        for upwards, downwards in self.connections:
            if downwards.startswith(b"HTTP/1.1 101 "):
                sent += parse(upwards)
                received += parse(downwards)
        return sent, received

    def extensions(self):
        """What the server answered to each handshake about extensions. Empty: nothing."""
        heads = [bytes(downwards).split(HEAD_END)[0].decode() for _, downwards in self.connections]
        answers = []
        for status, *lines in (head.split("\r\n") for head in heads):
            if status.startswith("HTTP/1.1 101 "):
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                answers.append(headers.get("sec-websocket-extensions", ""))
        return answers

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self._start(self._connect, client)

    def _connect(self, client):
        upwards, downwards = bytearray(), bytearray()
        self.connections.append((upwards, downwards))
        with client, socket.create_connection(self.server, DEADLINE_S) as server:
            down = self._start(self._pass_on, server, client, downwards)
            self._pass_on(client, server, upwards)
            down.join()

    def _start(self, function, *arguments):
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()
        return thread

    def _pass_on(self, source, target, record):
        source.settimeout(None)
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                record += data
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def parse(stream):
    """The frames behind the HTTP head of a stream, up to the first that is not all there."""
    at = stream.index(HEAD_END) + len(HEAD_END)
    frames = []
    while at + 2 <= len(stream):
        first, second = stream[at], stream[at + 1]
        length, header = second & 0x7F, 2
        if length >= 126:
            wide = 2 if length == 126 else 8
            length = int.from_bytes(stream[at + 2 : at + 2 + wide], "big")
            header += wide
        header += 4 if second & 0x80 else 0
        if at + header + length > len(stream):
            break
        frames.append(Frame(bool(first & 0x80), bool(first & 0x40), first & 0x0F, length))
        at += header + length
    return frames
