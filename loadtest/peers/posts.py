"""Posts in the reference report's manner: uvicorn, one writer, an append-only log.

    POSTS_KEY=SECRET python posts.py HOST PORT LOG

`POST /v1/channels/NAME/messages {"body": …}` with a token (HS256) is answered with the message's
sequence in its channel when the message is on the disk. One process. All posts that wait are one
write and one `fdatasync`, made on a thread, so that the loop reads the next posts meanwhile.
"""

import asyncio
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import jwt
import uvicorn
import uvloop

PATH = ("/v1/channels/", "/messages")
JSON = [(b"content-type", b"application/json")]


class Refusal(Exception):
    """The status of the answer, and why."""


class Log:
    """Messages, a line of JSON each; their sequences, by channel."""

    def __init__(self, path):
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.sequences = {}
        self.waiting = []
        self.has_work = asyncio.Event()

    async def append(self, channel, user, body):
        """The sequence of this message, when it is on the disk."""
        committed = asyncio.get_running_loop().create_future()
        self.waiting.append((channel, user, body, committed))
        self.has_work.set()
        return await committed

    async def write(self):
        """The only writer."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(max_workers=1) as disk:
            while True:
                await self.has_work.wait()
                self.has_work.clear()
                batch, self.waiting = self.waiting, []
                lines, answers = [], []
                for channel, user, body, committed in batch:
                    sequence = self.sequences.get(channel, 0) + 1
                    self.sequences[channel] = sequence
                    message = {"channel": channel, "sequence": sequence, "user": user, "body": body}
                    lines.append(json.dumps(message))
                    answers.append((committed, sequence))
                data = ("\n".join(lines) + "\n").encode()
                await loop.run_in_executor(disk, self.commit, data)
                for committed, sequence in answers:
                    # Who has hung up is not answered.
                    if not committed.done():
                        committed.set_result(sequence)

    def commit(self, data):
        written = os.write(self.file, data)
        if written != len(data):
            raise OSError(f"{written} of {len(data)} bytes were written")
        os.fdatasync(self.file)


class Application:
    """What uvicorn calls for each request."""

    def __init__(self, key, log):
        self.key = key
        self.log = log
        self.users = {}

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return
        try:
            status, answer = 201, await self.post(scope, receive)
        except Refusal as refusal:
            status, answer = refusal.args[0], {"title": refusal.args[1]}
        body = json.dumps(answer).encode()
        headers = [*JSON, (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def post(self, scope, receive):
        path = scope["path"]
        if scope["method"] != "POST" or not (path.startswith(PATH[0]) and path.endswith(PATH[1])):
            raise Refusal(404, "Nothing is here.")
        channel = path[len(PATH[0]) : -len(PATH[1])]
        user = self.user(scope["headers"])
        try:
            body = json.loads(await self.content(receive))["body"]
        except (ValueError, TypeError, KeyError):
            raise Refusal(400, "That is no message.") from None
        if not isinstance(body, str) or not body:
            raise Refusal(400, "A message has a body.")
        return {"channel": channel, "sequence": await self.log.append(channel, user, body)}

    async def content(self, receive):
        content = b""
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                raise Refusal(400, "The request has no end.")
            content += event["body"]
            if not event.get("more_body"):
                return content

    def user(self, headers):
        """Who shows this token. A token is verified once."""
        for name, value in headers:
            if name == b"authorization":
                if user := self.users.get(value):
                    return user
                try:
                    claims = jwt.decode(value.removeprefix(b"Bearer "), self.key, ["HS256"])
                    user = self.users[value] = claims["sub"]
                except (jwt.InvalidTokenError, KeyError):
                    break
                return user
        raise Refusal(401, "A token is needed.")


async def main(host, port, path):
    log = Log(path)
    settings = uvicorn.Config(
        Application(os.environ["POSTS_KEY"], log),
        host=host,
        port=int(port),
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        backlog=4096,
    )
    serving = asyncio.ensure_future(uvicorn.Server(settings).serve())
    writing = asyncio.ensure_future(log.write())
    # A writer that fails ends the process: nobody is to wait for it.
    await asyncio.wait([serving, writing], return_when=asyncio.FIRST_COMPLETED)
    if writing.done():
        writing.result()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
