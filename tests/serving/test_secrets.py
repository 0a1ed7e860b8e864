"""No text that an object shows of itself holds a token."""

import importlib
import inspect
import pkgutil
import re
from dataclasses import fields, is_dataclass

from pydantic import BaseModel

import mlkit.load
import mlkit.serving
from mlkit import pipeline, step
from mlkit.load.requests import HttpRequest
from mlkit.plan import plan
from mlkit.serving import App, asgi
from mlkit.serving.bundle import Origin
from mlkit.serving.control.protocol import DeployApp
from mlkit.serving.control.rollout import Environment, rollout
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


def holders(folder, record):
    """Yields objects that hold the token."""
    app = App(Session(folder), plan(echo), record)
    yield from (record, record.spec, DeployApp(spec=record.spec))
    app._sender.sent.append(app.prepare(1))
    yield from (app, app.session, app.prepare(1), app.sent, app._observed, app.plan)
    yield Calls(app._call, [{"x": 1}], 1, stop_at_failure=True)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    yield HttpRequest(url=app.url, headers=headers, body=TOKEN.encode())
    yield Shipment(app="echo", origin=Origin.here(), logs="", token=TOKEN, exact_key=TOKEN)
    rolled = rollout(record.spec, Environment("", "", "/", {"": "bundle"}), None)
    assert rolled.front.target.arguments[0].token == TOKEN
    yield from (rolled, rolled.front, rolled.front.target, rolled.front.target.arguments)
    yield asgi(echo, token=TOKEN)


def test_no_text_of_an_object_holds_the_token(tmp_path, record_of) -> None:
    for holder in holders(tmp_path, record_of(plan(echo), TOKEN)):
        ways = [repr, str, *filter(None, [getattr(type(holder), "_repr_html_", None)])]
        for show in ways:
            assert TOKEN not in str(show(holder)), (type(holder), show)


def all_fields():
    """Yields the dataclasses and pydantic models of `mlkit.serving` and `mlkit.load`."""
    for package in (mlkit.serving, mlkit.load):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(found.name)
            for _, kind in inspect.getmembers(module, inspect.isclass):
                if kind.__module__ != found.name:
                    continue
                if is_dataclass(kind):
                    yield from ((kind, field.name, field.repr) for field in fields(kind))
                elif issubclass(kind, BaseModel):
                    models = kind.model_fields.items()
                    yield from ((kind, name, field.repr) for name, field in models)


def test_no_class_shows_a_field_for_secrets() -> None:
    secret = re.compile("token|_key|header|secret|password|authorization|cookie")
    held = [(kind, name, shown) for kind, name, shown in all_fields() if secret.search(name)]
    expected = {"Shipment", "PreparedRequest", "HttpRequest", "AppSpec"}
    assert {kind.__name__ for kind, _, _ in held} >= expected
    assert [f"{kind.__name__}.{name}" for kind, name, shown in held if shown] == []
