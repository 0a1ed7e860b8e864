"""Named tokens and the audit log as a notebook sees them."""

from __future__ import annotations

import json

import pytest

from mlkit import pipeline, step
from mlkit.errors import DefinitionError, DeployError
from mlkit.plan import plan
from mlkit.serving.control.audit import AUDIT
from mlkit.serving.grants import Grant, digest_of
from mlkit.serving.kernel.app import App

from .test_swap import FakeSession


@step
def look(x: int) -> int:
    return x


@pipeline
def shop(x: int) -> int:
    return look(x)


class Session(FakeSession):
    def about(self):
        return self

    @property
    def apps(self):
        return {self.record.app: self.record}


@pytest.fixture
def app(record_of, tmp_path) -> App:
    session = Session(record_of(plan(shop)))
    session.folder = tmp_path
    return App(session, plan(shop), session.record)


def test_a_token_is_returned_once_and_its_digest_is_sent(app) -> None:
    secret = app.tokens.create("mobile", rate="600/min")
    (call,) = app.session.calls
    assert call.grant.digest == digest_of(secret.encode())
    assert (call.grant.scopes, call.grant.rate, call.grant.burst) == (("call",), 10.0, 10.0)
    assert secret not in call.model_dump_json()
    assert secret not in repr(call)
    assert len(secret) >= 32
    assert app.tokens.create("other") != secret


def test_a_cell_does_not_display_the_token_but_code_gets_it(app) -> None:
    secret = app.tokens.create("mobile")
    assert secret not in repr(secret)
    assert f"Bearer {secret}" == "Bearer " + str(secret)
    assert json.loads(json.dumps({"token": secret}))["token"] == secret


def test_one_scope_needs_no_list(app) -> None:
    app.tokens.create("grafana", scopes="observe")
    assert app.session.calls[0].grant.scopes == ("observe",)


@pytest.mark.parametrize(
    "arguments", [{"name": "a b"}, {"scopes": ["admin"]}, {"scopes": []}, {"rate": "fast"}]
)
def test_a_mistake_is_told_before_anything_is_sent(app, arguments) -> None:
    with pytest.raises(DefinitionError):
        app.tokens.create(**{"name": "mobile", **arguments})
    assert app.session.calls == []


def test_an_app_without_a_token_has_no_named_ones(record_of, tmp_path) -> None:
    session = Session(record_of(plan(shop), None))
    session.folder = tmp_path
    app = App(session, plan(shop), session.record)
    with pytest.raises(DeployError, match="needs no token"):
        app.tokens.create("mobile")
    assert len(app.tokens.to_frame()) == 0


def test_revoking_sends_the_name(app) -> None:
    app.tokens.revoke("mobile")
    assert app.session.calls[0].name == "mobile"


def test_the_tokens_are_a_table_without_secrets(app) -> None:
    grants = (
        Grant(name="mobile", digest="digest-1", rate=50.0, created=1.7e9),
        Grant(name="grafana", digest="digest-2", scopes=("observe",), created=1.7e9),
    )
    app.session.record = app.session.record.model_copy(update={"grants": grants})
    frame = app.tokens.to_frame()
    assert list(frame.index) == ["owner", "mobile", "grafana"]
    assert list(frame["scopes"]) == ["call, observe, control", "call", "observe"]
    assert frame["rate_per_s"]["mobile"] == 50.0
    assert list(app.tokens) == ["mobile", "grafana"]
    assert len(app.tokens) == 2
    for text in (repr(app.tokens), app.tokens._repr_html_()):
        assert "mobile" in text
        assert "NaN" not in text
        assert "None" not in text
        assert "digest" not in text
        assert "secret-token" not in text


def test_the_audit_log_is_a_table_of_the_app(app, tmp_path) -> None:
    assert list(app.audit().columns) == ["time", "action", "by", "detail", "outcome"]
    assert len(app.audit()) == 0
    line = {"time": 1.7e9, "action": "scale", "by": "x", "detail": "", "outcome": "done"}
    lines = [json.dumps({**line, "app": name}) for name in ("shop", "other", "shop")]
    (tmp_path / AUDIT).write_text("\n".join([*lines, '{"time": 1']))
    assert list(app.audit()["action"]) == ["scale", "scale"]
    assert app.audit()["time"][0].timestamp() == 1.7e9
