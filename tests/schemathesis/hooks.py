"""What Schemathesis sends, and what else it looks at in every answer."""

import itertools
import os

import schemathesis

numbers = itertools.count()

# Operations that nothing made up gets a success from.
UNREACHABLE = {
    "open_websocket": "wants an upgrade",
    "change_password": "wants the password that is right",
}


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
