"""A team with accounts of its own: PyJWT mints the tokens, hubbub only knows where the keys are.

Two issuers of this file serve their JWKS on loopback, one with Ed25519 and one with RSA; a third has a
P-256 key in a file. The server is a real one, configured with `[[trust.issuers]]`.
"""

import base64
import concurrent.futures
import http.server
import json
import pathlib
import tempfile
import threading
import time
import unittest

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from test_interop import JsonSession, Server
from websockets.exceptions import InvalidStatus

AUDIENCE = "chat.example.com"
# Tokens of an unknown key, all at once.
ATTEMPTS = 20


def number(value):
    """An RSA number as a JWK has it."""
    length = (value.bit_length() + 7) // 8
    return base64.urlsafe_b64encode(value.to_bytes(length, "big")).decode().rstrip("=")


class Issuer:
    """Another program's accounts: it has a key, mints tokens, and publishes the public half."""

    def __init__(self, algorithm, key_id):
        self.algorithm = algorithm
        self.asked = 0
        self.published = {}
        self.rotate(key_id)
        issuer = self

        class Keys(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                issuer.asked += 1
                body = json.dumps({"keys": list(issuer.published.values())}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/jwk-set+json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Keys)
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()
        self.name = f"http://127.0.0.1:{self.http.server_port}"

    def rotate(self, key_id, publish=True):
        """Signs with a new key from now on; the old one stays published."""
        self.key_id = key_id
        if self.algorithm == "EdDSA":
            self.key = ed25519.Ed25519PrivateKey.generate()
            public = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(self.key.public_key()))
        else:
            self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            numbers = self.key.public_key().public_numbers()
            public = {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e)}
        if publish:
            self.published[key_id] = {**public, "kid": key_id, "use": "sig"}

    def token(self, user, **changes):
        return mint(self.key, self.algorithm, self.name, user, {"kid": self.key_id}, **changes)

    def stop(self):
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


def mint(key, algorithm, issuer, user, headers, **changes):
    now = int(time.time())
    claims = {"iss": issuer, "aud": AUDIENCE, "iat": now, "exp": now + 300, "sub": user, **changes}
    return jwt.encode(claims, key, algorithm=algorithm, headers=headers)


class OutsideIssuers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.ed = Issuer("EdDSA", "ed-1")
        cls.addClassCleanup(cls.ed.stop)
        cls.rsa = Issuer("RS256", "rsa-1")
        cls.addClassCleanup(cls.rsa.stop)
        cls.filed = ec.generate_private_key(ec.SECP256R1())
        folder = tempfile.TemporaryDirectory(prefix="hubbub-issuers-")
        cls.addClassCleanup(folder.cleanup)
        folder = pathlib.Path(folder.name)
        (folder / "public.pem").write_bytes(
            cls.filed.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        (folder / "hubbub.toml").write_text(
            f"""
            [[trust.issuers]]
            issuer = "{cls.ed.name}"
            audience = "{AUDIENCE}"
            algorithm = "EdDSA"
            jwks_url = "{cls.ed.name}/keys"

            [[trust.issuers]]
            issuer = "{cls.rsa.name}"
            audience = "{AUDIENCE}"
            algorithm = "RS256"
            jwks_url = "{cls.rsa.name}/keys"
            user_claim = "employee"
            name_claim = "nickname"

            [[trust.issuers]]
            issuer = "https://id.example.com"
            audience = "{AUDIENCE}"
            algorithm = "ES256"
            key_file = "{folder / "public.pem"}"
            """,
            encoding="utf-8",
        )
        cls.server = Server("--config", str(folder / "hubbub.toml"))
        cls.addClassCleanup(cls.server.stop)

    def welcome(self, token):
        """The welcome that this token gets."""
        with self.server.connect("hubbub.v1.json", token) as socket:
            return JsonSession(socket).next("welcome")

    def assert_refused(self, token):
        with self.assertRaises(InvalidStatus) as refused:
            self.welcome(token)
        self.assertEqual(refused.exception.response.status_code, 401)

    def test_users_of_each_issuer_are_let_in_and_are_not_the_same(self):
        ed = self.welcome(self.ed.token("7", name="Ada"))
        again = self.welcome(self.ed.token("7", name="Ada L."))
        unnamed = self.welcome(self.ed.token("8"))
        by_rsa = self.welcome(self.rsa.token("x", employee="7", nickname="Grace"))
        by_file = self.welcome(
            mint(self.filed, "ES256", "https://id.example.com", "7", {}, name="Edsger")
        )
        self.assertEqual(ed["userId"], again["userId"])
        names = [welcome["name"] for welcome in (ed, unnamed, by_rsa, by_file)]
        self.assertEqual(names, ["Ada", "8", "Grace", "Edsger"])
        ids = {welcome["userId"] for welcome in (ed, unnamed, by_rsa, by_file)}
        self.assertEqual(len(ids), 4, "user 7 of one issuer is not user 7 of another")

    def test_what_is_not_for_us_is_refused(self):
        now = int(time.time())
        self.welcome(self.ed.token("9", aud=["somebody", AUDIENCE]))
        self.assert_refused(self.ed.token("9", aud="somebody"))
        self.assert_refused(self.ed.token("9", iss=self.rsa.name))
        self.assert_refused(self.ed.token("9", iss="https://nobody.example.com"))
        self.assert_refused(self.ed.token("9", exp=now - 1))
        self.assert_refused(self.ed.token("9", nbf=now + 3600))
        self.assert_refused(self.rsa.token("9"))
        stranger = ed25519.Ed25519PrivateKey.generate()
        forged = mint(stranger, "EdDSA", self.ed.name, "9", {"kid": self.ed.key_id})
        self.assert_refused(forged)
        public = self.filed.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        self.assert_refused(mint(public, "HS256", "https://id.example.com", "7", {}))

    def test_a_rotated_key_is_found_without_a_restart_and_unknown_ones_cause_no_flood(self):
        self.welcome(self.rsa.token("x", employee="1"))
        before = self.rsa.asked
        self.rsa.rotate("rsa-2")
        self.welcome(self.rsa.token("x", employee="1"))
        self.assertGreater(self.rsa.asked, before, "it was asked for the new key")
        settled, began = self.rsa.asked, time.monotonic()
        self.rsa.rotate("rsa-3", publish=False)
        self.addCleanup(self.rsa.rotate, "rsa-4")
        tokens = [self.rsa.token("x", employee="1", nickname=str(n)) for n in range(ATTEMPTS)]
        with concurrent.futures.ThreadPoolExecutor(ATTEMPTS) as pool:
            list(pool.map(self.assert_refused, tokens))
        seconds = time.monotonic() - began
        self.assertLessEqual(self.rsa.asked - settled, 2 + int(seconds), f"in {seconds} s")


if __name__ == "__main__":
    unittest.main()
