"""A stranger at the door: no Rust, nothing but proto/ and two public libraries.

`cargo xtask test --only python` builds the server, sets up the virtual environment, and runs this
file with HUBBUB naming the binary. docs/PROTOCOL.md shows the same session as an example.
"""

import base64
import contextlib
import json
import os
import pathlib
import queue
import subprocess
import sys
import tempfile
import threading
import unittest
import urllib.error
import urllib.request

from google.protobuf import json_format
from grpc_tools import protoc
from websockets.sync.client import connect

ROOT = pathlib.Path(__file__).resolve().parents[2]
PASSWORD = "correct horse battery staple"
# How long anything may take before the test says that it did not come.
DEADLINE_S = 20

generated = None
client_pb2 = server_pb2 = None


def setUpModule():
    """Compiles the contract with Google's protoc, as anybody would."""
    global generated, client_pb2, server_pb2
    generated = tempfile.TemporaryDirectory(prefix="hubbub-proto-")
    files = sorted(str(path.relative_to(ROOT / "proto")) for path in (ROOT / "proto").rglob("*.proto"))
    failed = protoc.main(["protoc", f"-I{ROOT / 'proto'}", f"--python_out={generated.name}", *files])
    assert failed == 0, "protoc does not take proto/"
    sys.path.insert(0, generated.name)
    from hubbub.v1 import client_pb2, server_pb2


def tearDownModule():
    generated.cleanup()


class Server:
    """`hubbub serve` on free ports, with a data directory of its own and these further flags."""

    def __init__(self, *flags):
        self.folder = tempfile.TemporaryDirectory(prefix="hubbub-data-")
        self.process = subprocess.Popen(
            [
                os.environ["HUBBUB"], "serve",
                "--listen", "127.0.0.1:0",
                "--internal-listen", "127.0.0.1:0",
                "--data-dir", self.folder.name,
                "--pin-cores", "off",
                *flags,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self.address = self._address()

    def _address(self):
        """Reads up to the line that says where the server listens, then goes on draining."""
        lines = queue.Queue()

        def drain():
            for line in self.process.stdout:
                lines.put(line)
            lines.put("")

        self.reader = threading.Thread(target=drain, daemon=True)
        self.reader.start()
        said = []
        while True:
            try:
                line = lines.get(timeout=DEADLINE_S)
            except queue.Empty:
                line = ""
            if "listening on http://" in line:
                return line.split("http://", 1)[1].split()[0].rstrip("/")
            if not line:
                self.stop()
                raise AssertionError(f"the server did not say where it listens: {said}")
            said.append(line)

    def stop(self):
        self.process.terminate()
        try:
            code = self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.reader.join(DEADLINE_S)
        self.process.stdout.close()
        self.folder.cleanup()
        return code

    def post(self, path, body):
        """POST with a JSON body → status, JSON answer. No proxy stands between us."""
        request = urllib.request.Request(
            f"http://{self.address}{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=DEADLINE_S) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, json.loads(refusal.read() or b"null")

    def token(self, username):
        """A token for an account of this name, which is made if it is not there."""
        status, body = self.post("/v1/accounts", {"username": username, "password": PASSWORD})
        assert status in (201, 409), (status, body)
        status, body = self.post(
            "/v1/token", {"grant_type": "password", "username": username, "password": PASSWORD}
        )
        assert status == 200, (status, body)
        return body["access_token"]

    def connect(self, subprotocol, token=None, **options):
        headers = {"Authorization": f"Bearer {token}"} if token else None
        return connect(
            f"ws://{self.address}/v1/ws",
            subprotocols=options.pop("subprotocols", [subprotocol]),
            additional_headers=headers,
            open_timeout=DEADLINE_S,
            proxy=None,
            **options,
        )


class ProtoSession:
    """One connection that speaks protobuf. What arrives out of turn is kept."""

    def __init__(self, socket):
        self.socket = socket
        self.last_id = 0
        self.kept = []

    def command(self, **command):
        """Sends a command, and waits for its one reply."""
        self.last_id += 1
        envelope = client_pb2.ClientEnvelope(id=self.last_id, **command)
        self.socket.send(envelope.SerializeToString())
        reply = self.next(lambda got: got.HasField("reply") and got.reply.id == self.last_id).reply
        return getattr(reply, reply.WhichOneof("result"))

    def event(self, kind):
        """The next event of this kind."""
        return getattr(self.next(lambda got: got.WhichOneof("envelope") == kind), kind)

    def next(self, wanted):
        for index, envelope in enumerate(self.kept):
            if wanted(envelope):
                return self.kept.pop(index)
        while True:
            frame = self.socket.recv(timeout=DEADLINE_S)
            assert isinstance(frame, bytes), "a text frame on a binary connection"
            envelope = server_pb2.ServerEnvelope.FromString(frame)
            if wanted(envelope):
                return envelope
            self.kept.append(envelope)


class JsonSession:
    """One connection that speaks JSON, typed as a person would type it."""

    def __init__(self, socket):
        self.socket = socket
        self.kept = []

    def send(self, text):
        self.socket.send(text)

    def next(self, kind):
        for index, envelope in enumerate(self.kept):
            if kind in envelope:
                return self.kept.pop(index)[kind]
        while True:
            frame = self.socket.recv(timeout=DEADLINE_S)
            assert isinstance(frame, str), "a binary frame on a text connection"
            envelope = json.loads(frame)
            if kind in envelope:
                return envelope[kind]
            self.kept.append(envelope)


class GoldenBytes(unittest.TestCase):
    """Google's protobuf reads and writes the golden files exactly as the server does."""

    def test_every_golden_envelope_is_the_same_here(self):
        cases = json.loads((ROOT / "tests/contract/golden.json").read_text(encoding="utf-8"))
        for case in cases:
            with self.subTest(case["name"]):
                module = client_pb2 if case["type"] == "ClientEnvelope" else server_pb2
                envelope = json_format.ParseDict(case["json"], getattr(module, case["type"])())
                self.assertEqual(envelope.SerializeToString(deterministic=True).hex(), case["hex"])
                decoded = type(envelope).FromString(bytes.fromhex(case["hex"]))
                self.assertEqual(json_format.MessageToDict(decoded), case["json"])


class Sessions(unittest.TestCase):
    """Two programs in one channel, one in each subprotocol."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.addClassCleanup(cls.server.stop)

    def open(self, *arguments, **options):
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        return stack.enter_context(self.server.connect(*arguments, **options))

    def test_a_protobuf_session_from_proto_alone(self):
        socket = self.open("hubbub.v1.proto", self.server.token("ada"))
        self.assertEqual(socket.subprotocol, "hubbub.v1.proto")
        ada = ProtoSession(socket)
        self.assertEqual(ada.event("welcome").name, "ada")

        channel = ada.command(create_channel={"channel_name": "engines"})
        subscribed = ada.command(subscribe={"channel_name": "engines"})
        self.assertEqual(subscribed.channel_id, channel.channel_id)
        self.assertEqual(subscribed.head_sequence, 0)

        publish = {"channel_id": channel.channel_id, "client_message_id": 11, "body": "hello"}
        published = ada.command(publish=publish)
        self.assertEqual(published.sequence, 1)
        self.assertEqual(published.durability, server_pb2.Published.FSYNCED)
        again = ada.command(publish=publish)
        self.assertEqual(again.sequence, 1, "a retry is the same message")

        run = ada.event("messages")
        self.assertEqual((run.channel_id, run.first_sequence), (channel.channel_id, 1))
        self.assertEqual([record.body for record in run.records], ["hello"])

        page = ada.command(history={"channel_id": channel.channel_id})
        bodies = [record.body for run in page.runs for record in run.records]
        self.assertEqual((bodies, page.head_sequence), (["hello"], 1))

    def test_a_json_session_by_hand(self):
        token = self.server.token("grace")
        socket = self.open("hubbub.v1.json")
        self.assertEqual(socket.subprotocol, "hubbub.v1.json")
        grace = JsonSession(socket)
        grace.send('{"id":1,"authenticate":{"token":"%s"}}' % token)
        self.assertEqual(grace.next("welcome")["name"], "grace")
        self.assertEqual(grace.next("reply")["authenticated"]["name"], "grace")
        grace.send('{"id":2,"createChannel":{"channelName":"compilers"}}')
        self.assertIn("channel", grace.next("reply"))
        grace.send('{"id":3,"subscribe":{"channelName":"compilers"}}')
        channel = grace.next("reply")["subscribed"]["channelId"]
        grace.send('{"id":4,"publish":{"channelName":"compilers","body":"it has a bug"}}')
        self.assertEqual(grace.next("reply")["published"]["sequence"], "1")
        run = grace.next("messages")
        self.assertEqual((run["channelId"], run["firstSequence"]), (channel, "1"))
        self.assertEqual(run["records"][0]["body"], "it has a bug")
        grace.send('{"id":5,"publish":{"channelName":"nowhere","body":"hello?"}}')
        self.assertEqual(grace.next("reply")["error"]["code"], "UNKNOWN_CHANNEL")

    def test_both_subprotocols_see_the_same_message(self):
        ada = ProtoSession(self.open("hubbub.v1.proto", self.server.token("ada")))
        ada.command(create_channel={"channel_name": "both"})
        ada.command(subscribe={"channel_name": "both"})
        grace = JsonSession(self.open("hubbub.v1.json", self.server.token("grace")))
        grace.send('{"id":1,"subscribe":{"channelName":"both"}}')
        self.assertIn("subscribed", grace.next("reply"))

        grace.send('{"id":2,"publish":{"channelName":"both","clientMessageId":"5","body":"👋"}}')
        self.assertEqual(grace.next("reply")["published"]["sequence"], "1")
        seen = ada.event("messages")
        self.assertEqual(json_format.MessageToDict(seen), grace.next("messages"))
        self.assertEqual(seen.records[0].body, "👋")

    def test_a_browser_logs_in_by_its_second_subprotocol(self):
        token = base64.urlsafe_b64encode(self.server.token("ada").encode()).decode().rstrip("=")
        asked = ["hubbub.v1.json", f"hubbub.bearer.{token}"]
        socket = self.open("hubbub.v1.json", subprotocols=asked)
        self.assertEqual(socket.subprotocol, "hubbub.v1.json")
        self.assertEqual(JsonSession(socket).next("welcome")["name"], "ada")

    def test_a_wrong_password_gets_401(self):
        self.server.token("ada")
        body = {"grant_type": "password", "username": "ada", "password": "wrong password"}
        self.assertEqual(self.server.post("/v1/token", body)[0], 401)

    def test_sigterm_ends_the_server_with_code_0_and_tells_its_clients(self):
        server = Server()
        with server.connect("hubbub.v1.proto", server.token("ada")) as socket:
            ada = ProtoSession(socket)
            ada.event("welcome")
            code = []
            stopping = threading.Thread(target=lambda: code.append(server.stop()))
            stopping.start()
            ada.event("going_away")
            stopping.join(DEADLINE_S)
        self.assertEqual(code, [0])


if __name__ == "__main__":
    unittest.main()
