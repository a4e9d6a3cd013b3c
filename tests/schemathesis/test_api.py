"""The HTTP API against its own OpenAPI documents: Schemathesis asks what they allow and what they do not.

`cargo xtask test --only schemathesis` builds the server, sets up the virtual environment, and runs this
file with HUBBUB naming the binary. A finding prints the request as a line for curl.
"""

import copy
import json
import os
import pathlib
import queue
import re
import socket
import subprocess
import sys
import tempfile
import threading
import tomllib
import unittest
import urllib.request

from openapi_spec_validator import validate

HERE = pathlib.Path(__file__).resolve().parent
PASSWORD = "correct horse battery staple"
# The user of the examples in the document.
EXAMPLE = ("ada", "correct horse battery")
# How long anything may take before the test says that it did not come.
DEADLINE_S = 20
# A run takes some 20 s.
RUN_DEADLINE_S = 120
CONFIG_FILE = HERE / "schemathesis.toml"
# What paths name: users of the internal port, channels, webhooks.
NAMED = {
    name: dictionary["values"]
    for name, dictionary in tomllib.loads(CONFIG_FILE.read_text("utf-8"))["dictionaries"].items()
}
# Operations that are not tried, and why.
LEFT_OUT = {
    "take_profile": "samples the whole process for seconds, each time",
}
# The limits by address and by name are low by default: every answer would be a 429 soon.
CONFIGURATION = """
[log_output]
filter = "error"

[channels]
# `eve` makes her own, so that she may do everything in them.
created_at_start = []

[auth]
cost = { memory = "64KiB", passes = 1, lanes = 1 }
attempts_per_address_burst = 1000000
attempts_per_address_per_second = 1000000.0
attempts_per_account_burst = 1000000

[limits]
ephemeral_per_second = 1000000
ephemeral_burst = 1000000
"""

server = None


def setUpModule():
    global server
    server = Server()


def tearDownModule():
    server.stop()


class Server:
    """`hubbub serve` on free ports, with a data directory of its own and users in it."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="hubbub-api-")
        folder = pathlib.Path(self.folder.name)
        (folder / "hubbub.toml").write_text(CONFIGURATION, encoding="utf-8")
        self.process = subprocess.Popen(
            [
                os.environ["HUBBUB"], "serve",
                "--config", str(folder / "hubbub.toml"),
                "--listen", "127.0.0.1:0",
                "--internal-listen", "127.0.0.1:0",
                "--data-dir", str(folder / "data"),
                "--pin-cores", "off",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        try:
            public = self._address()
            self.internal = Port((folder / "data/admin-address").read_text().strip())
            self.internal.token = (folder / "data/admin-secret").read_text().strip()
            self.public = Port(public)
            self.public.token = self._user("eve", PASSWORD)
            self._user(*EXAMPLE)
            for name in NAMED["usernames"]:
                self._account(name, PASSWORD)
            for name in NAMED["channels"]:
                self.public.post("/v1/channels", {"name": name})
                # Whom `eve` removes, or gives another role.
                self.public.put(f"/v1/channels/{name}/members/2")
            self.public.webhook = self._webhook(NAMED["channels"][0])
        except BaseException:
            self.stop()
            raise

    def _address(self):
        """Reads up to the line that says where the server listens, then goes on draining."""
        lines = queue.Queue()

        def drain():
            for line in self.process.stdout:
                lines.put(line)
            lines.put("")

        self.reader = threading.Thread(target=drain, daemon=True)
        self.reader.start()
        while line := lines.get(timeout=DEADLINE_S):
            if "listening on http://" in line:
                return line.split("http://", 1)[1].split()[0].rstrip("/")
        raise AssertionError("the server did not say where it listens")

    def _account(self, name, password):
        self.public.post("/v1/accounts", {"username": name, "password": password})

    def _user(self, name, password):
        """A token of a user that the hub has seen, so that it has a number."""
        self._account(name, password)
        grant = {"grant_type": "password", "username": name, "password": password}
        token = self.public.post("/v1/token", grant)["access_token"]
        host, port = self.public.address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), DEADLINE_S) as stream:
            stream.sendall(
                f"GET /v1/ws HTTP/1.1\r\nHost: {self.public.address}\r\n"
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                "Sec-WebSocket-Protocol: hubbub.v1.json\r\n"
                f"Authorization: Bearer {token}\r\n\r\n".encode()
            )
            said = b""
            while b"welcome" not in said:
                more = stream.recv(4096)
                assert more, said
                said += more
        return token

    def _webhook(self, channel):
        """The id and the secret of a webhook, by the address that it is posted to."""
        made = self.public.post(f"/v1/channels/{channel}/webhooks", {"name": "ci"})
        return made["url"].split("/")[-2:]

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.reader.join(DEADLINE_S)
        self.process.stdout.close()
        self.folder.cleanup()


class Port:
    """One of the server's addresses, with the token that it takes."""

    def __init__(self, address):
        self.address = address
        self.token = None
        self.webhook = ("", "")
        self.document = self._ask(f"http://{address}/openapi.json")

    def post(self, path, body):
        return self._send("POST", path, json.dumps(body).encode())

    def put(self, path):
        return self._send("PUT", path, b"{}")

    def _send(self, method, path, body):
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        address = f"http://{self.address}{path}"
        return self._ask(urllib.request.Request(address, body, headers, method=method))

    def _ask(self, request):
        """No proxy stands between us. A refusal is an exception."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=DEADLINE_S) as answer:
            return json.load(answer)


def operations(document):
    """Every operation of a document by its id, with its path."""
    return {
        operation["operationId"]: (path, operation)
        for path, item in document["paths"].items()
        for operation in item.values()
    }


def run(port, document, *flags):
    """Schemathesis over a document of this port → exit code, what it said."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(document, file)
        file.flush()
        command = [
            pathlib.Path(sys.executable).with_name("st"),
            "--no-color", "--config-file", CONFIG_FILE,
            "run", file.name, "--url", f"http://{port.address}", *flags,
        ]  # fmt: skip
        environment = {
            **os.environ,
            "TOKEN": port.token,
            "WEBHOOK": "/".join(port.webhook),
            "NO_PROXY": "127.0.0.1",
        }
        done = subprocess.run(
            command,
            cwd=HERE,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=RUN_DEADLINE_S,
            text=True,
        )
    return done.returncode, done.stdout


class Documents(unittest.TestCase):
    def test_each_is_valid_openapi(self):
        for port in (server.public, server.internal):
            validate(port.document)

    def conforms(self, port, cases_min):
        known = operations(port.document)
        left_out = [name for name in known if name in LEFT_OUT]
        flags = [flag for name in left_out for flag in ("--exclude-operation-id", name)]
        code, said = run(port, port.document, *flags)
        self.assertEqual(code, 0, said)
        tested = re.search(r"Tested: (\d+)", said)
        self.assertEqual(int(tested[1]), len(known) - len(left_out), said)
        cases = re.search(r"(\d+) generated", said)
        self.assertGreaterEqual(int(cases[1]), cases_min, said)

    def test_the_public_port_does_what_its_document_says(self):
        self.conforms(server.public, 900)

    def test_the_internal_port_does_what_its_document_says(self):
        self.conforms(server.internal, 400)


class Control(unittest.TestCase):
    """Documents that are wrong are caught: without this nobody would know whether the others could fail.

    Each document is wrong in several places, at most one for each operation.
    """

    @classmethod
    def setUpClass(cls):
        cls.findings = {}
        for port, spoil in ((server.public, spoil_public), (server.internal, spoil_internal)):
            document = copy.deepcopy(port.document)
            spoiled = spoil(document, {name: it for name, (_, it) in operations(document).items()})
            only = [flag for name in spoiled for flag in ("--include-operation-id", name)]
            code, said = run(port, document, *only, "--max-examples", "15")
            assert code == 1, said
            # `___ GET /v1/me ___`, and what was found there.
            _, *parts = re.split(r"^_+ (.+?) _+$", said, flags=re.MULTILINE)
            cls.findings.update(zip(parts[::2], parts[1::2]))

    def found(self, where, what):
        self.assertIn(what, self.findings.get(where, ""), self.findings)

    def test_an_answer_that_is_not_described(self):
        self.found("GET /readyz", "ST103 Undocumented status code")

    def test_a_refusal_that_is_not_described(self):
        self.found("POST /v1/accounts", "ST103 Undocumented status code")

    def test_a_code_that_is_not_described(self):
        self.found("POST /v1/token", "bad_request (100) is not described")

    def test_an_answer_of_another_type(self):
        self.found("GET /.well-known/jwks.json", "ST105 Undocumented Content-Type")

    def test_an_answer_of_another_shape(self):
        self.found("GET /v1/me", "ST108 Response violates schema")

    def test_an_answer_of_the_chat_of_another_shape(self):
        self.found("GET /v1/channels/{channel}/messages", "ST108 Response violates schema")

    def test_a_header_of_another_shape(self):
        self.found("POST /v1/password", "ST108 Response header does not conform")

    def test_a_token_that_is_not_asked_for(self):
        self.found("GET /livez", "ST401 API accepts requests without authentication")

    def test_a_bound_that_is_none(self):
        self.found("GET /v1/revocations", "ST201 Schema-violating request accepted")

    def test_a_bound_that_is_missing(self):
        self.found("GET /v1/admin/bans", "ST202 Schema-valid request rejected")

    def test_a_method_that_is_not_described(self):
        self.found("OPTIONS /v1/admin/users/{user}/ban", "ST205 Allow header mismatch")

    def test_an_operation_that_is_only_ever_refused(self):
        self.found("Run checks", "no request of these succeeded: admin_create_account")


def spoil_public(document, named):
    schemas = document["components"]["schemas"]
    del named["check_ready"]["responses"]["200"]
    del named["create_account"]["responses"]["415"]
    named["issue_token"]["responses"]["400"]["description"] = "Not now."
    keys = named["get_keys"]["responses"]["200"]["content"]
    keys["application/yaml"] = keys.pop("application/json")
    schemas["Me"]["required"].append("email")
    schemas["MessageList"]["required"].append("next")
    challenge = named["change_password"]["responses"]["401"]["headers"]["WWW-Authenticate"]
    challenge["schema"] = {"type": "integer"}
    named["check_live"]["security"] = [{"bearer": []}]
    named["list_revocations"]["parameters"][0]["schema"]["maximum"] = 100
    return (
        "check_ready", "create_account", "issue_token", "get_keys", "get_me", "change_password",
        "check_live", "list_revocations", "read_messages",
    )  # fmt: skip


def spoil_internal(document, named):
    named["list_bans"]["parameters"][0]["schema"] = {"type": "string"}
    del document["paths"]["/v1/admin/users/{user}/ban"]["delete"]
    account = document["components"]["schemas"]["NewAccount"]
    del account["examples"]
    account["properties"]["password"] = {"type": "string", "enum": ["short"]}
    return ("list_bans", "ban_user", "admin_create_account")


class Page(unittest.TestCase):
    """The page at /docs in a browser that is real."""

    def test_it_shows_every_operation_and_its_policy_refuses_nothing(self):
        chromium = os.environ.get("CHROMIUM")
        if not chromium:
            self.skipTest("no Chromium here")
        with tempfile.TemporaryDirectory(prefix="hubbub-chromium-") as profile:
            done = subprocess.run(
                [
                    chromium, "--headless=new", "--no-sandbox", "--disable-gpu",
                    f"--user-data-dir={profile}", "--no-proxy-server",
                    "--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom",
                    f"http://{server.public.address}/docs",
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                timeout=RUN_DEADLINE_S,
                text=True,
            )  # fmt: skip
        for operation_id, (_, operation) in operations(server.public.document).items():
            shown = f'id="operations-{operation["tags"][0]}-{operation_id}"'
            self.assertIn(shown, done.stdout, done.stderr)
        # What a script throws, or the policy refuses, is said on the console.
        console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        self.assertEqual(console, [])


if __name__ == "__main__":
    unittest.main()
