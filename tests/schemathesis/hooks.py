"""What Schemathesis sends, and what else it looks at in every answer."""

import itertools
import json
import os
import pathlib
import tomllib

import requests
import schemathesis
from hypothesis import strategies
from schemathesis.openapi import media_type

numbers = itertools.count()

CONFIG_FILE = pathlib.Path(__file__).with_name("schemathesis.toml")
CHANNELS = tomllib.loads(CONFIG_FILE.read_text("utf-8"))["dictionaries"]["channels"]["values"]
# Operations after which a channel is not for `eve` any more, or takes nothing.
DESTRUCTIVE = {"change_channel", "delete_channel", "leave_channel", "remove_webhook"}

# Operations that nothing made up gets a success from.
UNREACHABLE = {
    "open_websocket": "wants an upgrade",
    "change_password": "wants the password that is right",
}

# Lines of an import: messages of a channel of its own, and what is no record.
message = strategies.fixed_dictionaries(
    {
        "channel": strategies.just("imported"),
        "author": strategies.sampled_from(["ada", "bob"]),
        "time": strategies.integers(0, 253402300799999),
        "body": strategies.text(max_size=20),
    },
    optional={"id": strategies.text(max_size=70), "user": strategies.text(max_size=5)},
)
line = message.map(lambda it: json.dumps(it).encode()) | strategies.binary(max_size=20)
media_type("application/x-ndjson", strategies.lists(line, max_size=8).map(b"\n".join))


def whole(value):
    """5.0 is an integer to JSON Schema and to no parser of integers; what writes JSON writes 5."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [whole(item) for item in value]
    if isinstance(value, dict):
        return {name: whole(item) for name, item in value.items()}
    return value


@schemathesis.hook
def before_call(context, case, kwargs):
    case.body = whole(case.body)
    # The example is there already. Which others are depends on earlier runs over the same server.
    operation_id = case.operation.definition.raw["operationId"]
    creates = operation_id in ("create_account", "admin_create_account")
    if creates and isinstance(case.body, dict) and case.body.get("username") == "ada":
        case.body = {**case.body, "username": f"ada-{os.getpid()}-{next(numbers)}"}
    path = case.path_parameters
    if operation_id in DESTRUCTIVE and path.get("channel") in CHANNELS:
        path.update(doomed(case.operation.base_url))
    # Nobody guesses a secret; what else is wrong with a request is seen behind it only.
    if operation_id == "post_to_webhook" and next(numbers) % 2:
        path["webhook_id"], path["secret"] = os.environ["WEBHOOK"].split("/")
    # A cookie is good for one renewal.
    if operation_id == "renew_session" and next(numbers) % 2:
        case.cookies = {**(case.cookies or {}), **session(case.operation.base_url)}


def session(url):
    """The cookie of a session of the user of the examples."""
    ada = {"username": "ada", "password": "correct horse battery"}
    answer = requests.post(f"{url}/v1/session", json=ada, timeout=10)
    answer.raise_for_status()
    return dict(answer.cookies)


def doomed(url):
    """A channel that is there to be broken, with a webhook and an owner beside `eve`."""
    name = f"d{os.getpid()}-{next(numbers)}"

    def ask(method, path, body):
        bearer = {"Authorization": f"Bearer {os.environ['TOKEN']}"}
        answer = requests.request(
            method, f"{url}/v1/channels{path}", json=body, headers=bearer, timeout=10
        )
        answer.raise_for_status()
        return answer.json()

    ask("POST", "", {"name": name})
    ask("PUT", f"/{name}/members/2", {"role": "owner"})
    webhook = ask("POST", f"/{name}/webhooks", {"name": "ci"})
    return {"channel": name, "webhook_id": webhook["webhook_id"]}


@schemathesis.check
def refusals_say_what_the_document_says(ctx, response, case):
    """A problem has its own status, a code that the document lists, and the headers that HTTP wants."""
    assert header(response, "x-content-type-options") == "nosniff"
    assert header(response, "cache-control"), "may a cache keep it?"
    if response.status_code == 401:
        assert header(response, "www-authenticate").startswith("Bearer")
    if response.status_code == 405:
        assert header(response, "allow"), "which methods are there?"
        return
    if not header(response, "content-type").startswith("application/problem+json"):
        return
    problem = response.json()
    assert problem["status"] == response.status_code
    assert problem["type"] == f"urn:hubbub:error:{problem['name']}"
    if response.status_code in (429, 503) and problem.get("retry_after_ms"):
        assert int(header(response, "retry-after")) * 1000 >= problem["retry_after_ms"]
    described = case.operation.definition.raw["responses"].get(str(response.status_code))
    if described:
        code = f"{problem['name']} ({problem['code']})"
        assert code in described["description"], f"{code} is not described"


def header(response, name):
    return ", ".join(response.headers.get(name, []))


@schemathesis.check
class EveryOperationSucceeds:
    """What is only ever refused is not tested."""

    def __init__(self):
        self.tried = set()
        self.succeeded = set()

    def after_response(self, ctx, response, case):
        operation_id = case.operation.definition.raw["operationId"]
        self.tried.add(operation_id)
        if response.status_code < 300:
            self.succeeded.add(operation_id)

    def after_run(self, ctx):
        never = self.tried - self.succeeded - UNREACHABLE.keys()
        assert not never, f"no request of these succeeded: {', '.join(sorted(never))}"
