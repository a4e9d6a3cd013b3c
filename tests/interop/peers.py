"""WebSocket peers that are not ours, against the real server, with permessage-deflate off and on.

`cargo xtask test --only interop` builds the server, installs the peers under target/tools, and runs
this file. HUBBUB names the server's binary, NODE_FOLDER the folder of the npm packages, CHROMIUM the
browser; without one of the last two, the tests that need it say so and are skipped.
"""

import asyncio
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import unittest
import uuid

import aiohttp
import websockets.asyncio.client

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "python"))

import test_interop as sessions  # noqa: E402
from tap import BINARY, TEXT, Tap  # noqa: E402

# How long anything may take before a test says that it did not come. Starting a browser beside a
# busy build takes its time.
DEADLINE_S = 60

LARGE = "".join(f"line {number} of a message of sixty thousand bytes. " for number in range(1500))
BODIES = [
    "x",
    " ",
    "\u0000",
    LARGE[:60_000],
    "Kölner Dom · 東京タワー · 👩‍👩‍👧‍👦 · \U0010ffff · \u202eright to left\u202c",
    "ü" * 20_000,
    "hello",
    *(f"number {number} of a burst" for number in range(200)),
    "the end",
]

setUpModule = sessions.setUpModule
tearDownModule = sessions.tearDownModule


class Peers:
    """The tests, for a server in one mode."""

    deflate = None

    @classmethod
    def setUpClass(cls):
        cls.server = sessions.Server("--deflate", cls.deflate)
        cls.addClassCleanup(cls.server.stop)

    def setUp(self):
        self.tap = Tap(self.server.address)
        self.addCleanup(self.tap.close)
        self.username = f"peer-{uuid.uuid4().hex[:12]}"
        self.channel = f"channel-{uuid.uuid4().hex[:12]}"

    def test_ws_of_npm(self):
        result = self.run_node("ws.mjs")
        self.assert_extension(result["extensions"])
        self.assertEqual(result["pongs"], 2, "one on each connection")
        self.assert_frames()

    def test_chromium(self):
        if "CHROMIUM" not in os.environ:
            self.skipTest("no Chromium here; Debian has it as `chromium`")
        result = self.run_node("chromium.mjs")
        self.assert_extension(result["extensions"])
        self.assert_frames()

    def test_websockets_of_pypi(self):
        async def talk():
            async with websockets.asyncio.client.connect(
                f"ws://{self.tap.address}/v1/ws",
                subprotocols=["hubbub.v1.json"],
                additional_headers={"Authorization": f"Bearer {self.token()}"},
                proxy=None,
            ) as socket:
                self.assertEqual(socket.subprotocol, "hubbub.v1.json")
                self.assert_extension(socket.response.headers.get("Sec-WebSocket-Extensions", ""))
                await self.converse(socket.send, socket.recv)
                latency_s = await (await socket.ping(b"are you there?"))
                self.assertGreater(latency_s, 0)
                await socket.send(b"binary, where text was agreed on")
                with self.assertRaises(websockets.ConnectionClosed) as closed:
                    await socket.recv()
                self.assertEqual(closed.exception.rcvd.code, 1003)

        self.run_talk(talk)
        self.assert_frames()

    def test_websockets_of_pypi_with_protobuf(self):
        options = {"additional_headers": {"Authorization": f"Bearer {self.token()}"}}
        with sessions.connect(
            f"ws://{self.tap.address}/v1/ws",
            subprotocols=["hubbub.v1.proto"],
            proxy=None,
            **options,
        ) as socket:
            session = sessions.ProtoSession(socket)
            self.assertEqual(session.event("welcome").name, self.username)
            session.command(create_channel={"channel_name": self.channel})
            session.command(subscribe={"channel_name": self.channel})
            received = []
            for number, body in enumerate(BODIES, 1):
                publish = {"channel_name": self.channel, "body": body}
                self.assertEqual(session.command(publish=publish).sequence, number)
                run = session.event("messages")
                self.assertEqual(run.first_sequence, number)
                received += [record.body for record in run.records]
            self.assertEqual(received, BODIES)
            socket.close(1000, "bye")
            self.assertEqual(socket.close_code, 1000)
        self.assert_frames(BINARY)

    def test_aiohttp(self):
        async def talk():
            async with aiohttp.ClientSession() as client:
                headers = {"Authorization": f"Bearer {self.token()}"}
                async with client.ws_connect(
                    f"http://{self.tap.address}/v1/ws",
                    protocols=["hubbub.v1.json"],
                    headers=headers,
                    compress=15,
                    autoping=False,
                ) as socket:
                    self.assertEqual(socket.protocol, "hubbub.v1.json")
                    self.assertEqual(socket.compress, 15 if self.deflate == "on" else 0)
                    await self.converse(socket.send_str, socket.receive_str)
                    await socket.ping(b"are you there?")
                    pong = await socket.receive()
                    self.assertEqual(
                        (pong.type, pong.data), (aiohttp.WSMsgType.PONG, b"are you there?")
                    )
                    self.assertTrue(await socket.close(code=1000))
                    self.assertEqual(socket.close_code, 1000)

        self.run_talk(talk)
        self.assert_frames()

    async def converse(self, send, receive):
        """The same as in conversation.mjs."""

        async def envelope():
            return json.loads(await receive())

        self.assertEqual((await envelope())["welcome"]["name"], self.username)
        await send(json.dumps({"id": 1, "createChannel": {"channelName": self.channel}}))
        self.assertIn("channel", (await envelope())["reply"])
        await send(json.dumps({"id": 2, "subscribe": {"channelName": self.channel}}))
        self.assertIn("subscribed", (await envelope())["reply"])
        for number, body in enumerate(BODIES, 3):
            publish = {"channelName": self.channel, "body": body}
            await send(json.dumps({"id": number, "publish": publish}, ensure_ascii=False))
        received, replied = [], []
        while len(received) < len(BODIES) or len(replied) < len(BODIES):
            got = await envelope()
            if "reply" in got:
                published = got["reply"]["published"]
                replied.append((got["reply"]["id"], int(published["sequence"])))
            else:
                self.assertEqual(int(got["messages"]["firstSequence"]), len(received) + 1)
                received += [record["body"] for record in got["messages"]["records"]]
        self.assertEqual(received, BODIES)
        self.assertEqual(replied, [(number + 2, number) for number in range(1, len(BODIES) + 1)])

    def token(self):
        return self.server.token(self.username)

    def run_talk(self, talk):
        asyncio.run(asyncio.wait_for(talk(), DEADLINE_S))

    def run_node(self, script):
        if "NODE_FOLDER" not in os.environ:
            self.skipTest("no node or npm here")
        settings = {
            "host": self.tap.address,
            "username": self.username,
            "password": sessions.PASSWORD,
            "channel": self.channel,
            "bodies": BODIES,
            "deadlineMs": DEADLINE_S * 1000,
        }
        # A group of its own, so that a browser goes with its driver.
        with subprocess.Popen(
            ["node", str(HERE / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as node:
            try:
                out, err = node.communicate(json.dumps(settings), timeout=DEADLINE_S)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(node.pid, 9)
                raise
        self.assertEqual(node.returncode, 0, err)
        result = json.loads(out)
        self.assertEqual(result["received"], len(BODIES))
        return result


class DeflateOff(Peers, unittest.TestCase):
    """Peers offer compression, and get none."""

    deflate = "off"

    def assert_extension(self, extensions):
        self.assertEqual(extensions, "")

    def assert_frames(self, opcode=TEXT):
        self.assertEqual(set(self.tap.extensions()), {""})
        sent, received = self.tap.frames()
        self.assertFalse([frame for frame in sent + received if frame.rsv1])
        # Nothing hides in between: the long messages came as long as they are.
        self.assertGreater(max(frame.length for frame in received), 60_000)
        self.assertEqual({frame.opcode for frame in received if frame.length > 125}, {opcode})


class DeflateOn(Peers, unittest.TestCase):
    """Peers and server compress, and neither keeps context."""

    deflate = "on"

    def assert_extension(self, extensions):
        # Some peers tell the parameters, some do not.
        self.assertEqual(extensions.split(";")[0], "permessage-deflate")

    def assert_frames(self, opcode=TEXT):
        answers = self.tap.extensions()
        self.assertTrue(answers)
        for answer in answers:
            name, *parameters = answer.split("; ")
            self.assertEqual(name, "permessage-deflate")
            self.assertIn("server_no_context_takeover", parameters)
            self.assertIn("client_no_context_takeover", parameters)
        sent, received = self.tap.frames()
        for side, frames in {"the peer": sent, "the server": received}.items():
            with self.subTest(side):
                compressed = [frame for frame in frames if frame.rsv1 and frame.opcode == opcode]
                self.assertGreaterEqual(len(compressed), 2, "the two long messages at least")
                # 60,000 bytes of repetitive English, 40,000 of one letter.
                self.assertLess(max(frame.length for frame in frames), 20_000)
                control = [frame for frame in frames if frame.opcode >= 8]
                self.assertTrue(control, "a close at least")
                self.assertFalse([frame for frame in control if frame.rsv1])
        # What is short is not worth the server's time.
        self.assertTrue([it for it in received if not it.rsv1 and it.opcode == opcode])


if __name__ == "__main__":
    unittest.main()
