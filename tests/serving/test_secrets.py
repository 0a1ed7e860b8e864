"""No text that an object shows of itself holds a token."""

import importlib
import inspect
import pkgutil
import re
from dataclasses import asdict, fields, is_dataclass

import mlkit.load
import mlkit.serving
from mlkit import pipeline, step
from mlkit.load.requests import HttpRequest
from mlkit.plan import plan
from mlkit.serving import App, Limits, asgi
from mlkit.serving.bundle import Origin
from mlkit.serving.control.rollout import rollout
from mlkit.serving.kernel.calls import Calls
from mlkit.serving.kernel.session import Session
from mlkit.serving.replica.front import Shipment

TOKEN = "a-token-that-nobody-sees"


@step
def same(x: int) -> int:
    return x


@pipeline
def echo(x: int) -> int:
    return same(x)


def specification():
    """An app as a kernel asks a session for it."""
    stage = {"name": "echo", "digest": "d", "bundle": "b", "options": {}}
    return {
        "app": "echo",
        "stages": [{**stage, "manifest": {"steps": {}, "resources": {}}}],
        "origin": asdict(Origin.here()),
        "limits": asdict(Limits()),
        "token": TOKEN,
        "fresh": "",
        "workers": None,
        "gatherer": "",
        "watcher": "",
    }


def holders(folder):
    """Yields objects that hold the token."""
    about = {"app": "echo", "url": "http://127.0.0.1:1/echo", "base": "http://127.0.0.1:1"}
    about |= {"token": TOKEN, "since": 0.0, "limits": asdict(Limits()), "sizes": {}, "changes": []}
    app = App(Session(folder), plan(echo), about)
    app._sent.append(app.prepare(1))
    yield from (app, app.session, app.prepare(1), app.sent, app._observed, app.plan)
    yield Calls(app, [{"x": 1}], 1, "raise")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    yield HttpRequest(url=app.url, headers=headers, body=TOKEN.encode())
    yield Shipment(app="echo", origin=Origin.here(), logs="", token=TOKEN)
    rolled = rollout(specification(), "", "/", None)
    assert rolled.front.target.arguments[0].token == TOKEN
    yield from (rolled, rolled.front, rolled.front.target, rolled.front.target.arguments)
    yield asgi(echo, token=TOKEN)


def test_no_text_of_an_object_holds_the_token(tmp_path) -> None:
    for holder in holders(tmp_path):
        ways = [repr, str, *filter(None, [getattr(type(holder), "_repr_html_", None)])]
        for show in ways:
            assert TOKEN not in str(show(holder)), (type(holder), show)


def all_dataclasses():
    """Yields the dataclasses of `mlkit.serving` and `mlkit.load`."""
    for package in (mlkit.serving, mlkit.load):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(found.name)
            for _, kind in inspect.getmembers(module, inspect.isclass):
                if is_dataclass(kind) and kind.__module__ == found.name:
                    yield kind


def test_no_dataclass_shows_a_field_for_secrets() -> None:
    secret = re.compile("token|header|secret|password|authorization|cookie")
    held = [(kind, field) for kind in all_dataclasses() for field in fields(kind)]
    held = [(kind, field) for kind, field in held if secret.search(field.name)]
    assert {kind.__name__ for kind, _ in held} >= {"Shipment", "PreparedRequest", "HttpRequest"}
    assert [f"{kind.__name__}.{field.name}" for kind, field in held if field.repr] == []
