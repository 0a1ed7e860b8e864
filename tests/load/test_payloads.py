"""Which payload each request carries."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit.errors import LoadError
from mlkit.load import constant, mix, part, poisson, sampled, steered, template
from mlkit.load.options import Settings
from mlkit.load.payloads import CYCLE, select
from mlkit.load.preparation import prepare
from mlkit.load.requests import HttpRequest

LETTERS = list("abcdefgh")


def drawn(payloads, needed, seed=0):
    """The payloads in the order of sending."""
    chosen = select(payloads, needed, seed)
    return [chosen.payloads[index] for index in chosen.order]


def numbers(rng):
    yield from itertools.count()


SPECS = {
    "in turn": LETTERS,
    "sampled": sampled(LETTERS),
    "weighted": sampled(LETTERS, weights=range(8)),
    "once": sampled(list(range(100)), replace=False),
    "template": template("{a} {b}", a=["x", "y", "z"], b=lambda rng: rng.integers(9)),
    "mix": mix(a=part(LETTERS, share=1), b=part(sampled([1, 2, 3]), share=2)),
}


@pytest.mark.parametrize("payloads", SPECS.values(), ids=SPECS)
def test_the_same_seed_sends_the_same_and_another_one_does_not(payloads):
    assert drawn(payloads, 60) == drawn(payloads, 60)
    assert drawn(payloads, 60) != drawn(payloads, 60, seed=1)


@pytest.mark.parametrize("needed", [1, 7, 60, None])
@pytest.mark.parametrize("name", [name for name in SPECS if name != "once"])
def test_every_index_is_that_of_a_payload(name, needed):
    chosen = select(SPECS[name], needed, 0)
    assert 0 <= chosen.order.min() <= chosen.order.max() < len(chosen.payloads)
    assert len(chosen.targets) == len(chosen.payloads)


def test_weights_are_followed():
    sent = drawn(sampled(LETTERS[:3], weights=[1, 0, 3]), 10_000)
    assert "b" not in sent
    assert sent.count("c") / len(sent) == pytest.approx(0.75, abs=0.02)


def test_a_column_of_weights_is_not_sent():
    table = pd.DataFrame({"title": ["a", "b"], "views": [0, 5]})
    assert drawn(sampled(table, weights="views"), 3) == [{"title": "b"}] * 3


@settings(deadline=None)
@given(needed=st.integers(1, 50), seed=st.integers(0, 9))
def test_without_replacement_nothing_is_sent_twice(needed, seed):
    sent = drawn(sampled(range(50), replace=False), needed, seed)
    assert len(set(sent)) == len(sent) == needed


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: sampled([]), "no payload"),
        (lambda: sampled("abc"), "must be a list"),
        (lambda: sampled(LETTERS, weights=[1, 2]), "2 weights for 8 payloads"),
        (lambda: sampled([1, 2], weights=[1, -1]), "negative"),
        (lambda: sampled([1, 2], weights=[1, None]), "missing"),
        (lambda: sampled([1, 2], weights=[0, 0]), "only zeros"),
        (lambda: sampled([1, 2], weights=["much", "more"]), "do not fit"),
        (lambda: sampled([1, 2], weights="views"), "no such column"),
        (lambda: select(sampled(LETTERS, replace=False), 9, 0), "at least 9(.|\n)*got 8"),
        (lambda: select(sampled([1, 2], weights=[0, 1], replace=False), 2, 0), "run out"),
        (lambda: select(sampled(LETTERS, replace=False), None, 0), "known number"),
        (lambda: mix(), "needs parts"),
        (lambda: mix(a=LETTERS), r"mix\(a=...\)(.|\n)*part\("),
        (lambda: part(LETTERS, share=0), "invalid share"),
        (lambda: part(LETTERS, share=float("nan")), "invalid share"),
        (lambda: template("{a}"), "needs placeholders"),
        (lambda: template("{b}", a=[1]), "not in the payload"),
        (lambda: template("{a}", a=[]), "cannot be used"),
        (lambda: template("{a}", a="abc"), "cannot be used"),
        (lambda: template("{a}", a=iter([1, 2])), "generator function"),
        (lambda: template("{a}", a=[1], distinct=0), "distinct"),
    ],
)
def test_payloads_that_cannot_be_are_told(make, words):
    with pytest.raises(LoadError, match=words):
        make()


def test_values_that_run_out_are_told():
    def three(rng):
        yield from "xyz"

    with pytest.raises(LoadError, match="run out after 3"):
        select(template("{a}", a=three), 4, 0)
    assert drawn(template("{a}", a=three), 3) == ["x", "y", "z"]


def test_a_template_fills_in_texts_wherever_they_are():
    payload = {"title": "{colour} shoe {n}", "price": "{n}", "tags": ["{colour}", "{other}"]}
    sent = drawn(template(payload, colour=["red"], n=numbers), 3)
    assert sent[2] == {"title": "red shoe 2", "price": 2, "tags": ["red", "{other}"]}
    assert payload["price"] == "{n}"


def test_a_template_fills_in_bytes_and_requests():
    assert drawn(template(b"\xff{a}", a=["é"]), 1) == ["\xff".encode("latin-1") + "é".encode()]
    request = HttpRequest(url="http://h/items/{n}", headers={"X-Id": "{n}"}, body=b'{"n": {n}}')
    (sent,) = drawn(template(request, n=[7]), 1)
    assert (sent.url, sent.headers, sent.body) == ("http://h/items/7", {"X-Id": 7}, b'{"n": 7}')


def test_drawn_numbers_can_be_sent_as_json():
    (sent,) = drawn(template({"n": "{n}"}, n=lambda rng: rng.integers(5)), 1)
    assert json.dumps(sent)


def test_a_template_makes_only_so_many_payloads():
    assert len(select(template("{n}", n=numbers, distinct=5), None, 0).order) == 5
    assert len(select(template("{n}", n=numbers, distinct=5), 3, 0).order) == 3


@pytest.mark.parametrize("needed", [9_000, None])
def test_a_mix_has_its_shares_and_each_part_its_own_order(needed):
    chosen = select(mix(a=part(LETTERS, share=8), b=part([1, 2], share=2)), needed, 0)
    sent = [chosen.payloads[index] for index in chosen.order]
    letters = [one for one in sent if one in LETTERS]
    assert len(sent) == (needed or CYCLE)
    assert len(letters) / len(sent) == pytest.approx(0.8, abs=0.02)
    assert letters[:8] == letters[8:16]
    assert sorted(letters[:8]) == LETTERS
    assert chosen.parts == {"a": 8, "b": 2}


def plan_of(payloads, arrivals=None, target="http://h:1/a"):
    run = Settings(duration_s=1.0, warmup_s=0.5, timeout_s=1.0, slo_ms=None, seed=3)
    return prepare(target, payloads, arrivals or constant(rate=40), run, None)


def test_a_mix_sends_each_part_to_its_target():
    plan, (_, _, order, *requests) = plan_of(
        mix(a=part([{"x": 1}], share=1), b=part([{"y": 2}], share=1, target="http://h:1/b"))
    )
    assert {one.split(b" ")[1] for one in requests} == {b"/a", b"/b"}
    assert len(np.frombuffer(order, np.uint32)) == 60 == len(plan.order)


def test_a_mix_of_servers_is_refused():
    with pytest.raises(LoadError, match="one target server"):
        plan_of(mix(a=part([1], share=1), b=part([2], share=1, target="http://other/")))


def test_the_warm_up_uses_payloads_up_too():
    with pytest.raises(LoadError, match="at least 60"):
        plan_of(sampled(range(59), replace=False))
    plan_of(sampled(range(60), replace=False))


def test_payloads_without_replacement_need_a_schedule():
    with pytest.raises(LoadError, match="known number"):
        plan_of(sampled(range(1000), replace=False), steered(rate=10))


def test_only_what_is_drawn_is_encoded():
    _, (_, _, order, *requests) = plan_of(sampled(range(10_000)), poisson(rate=20))
    assert len(requests) == len(np.unique(np.frombuffer(order, np.uint32))) <= 40


def test_the_frame_names_the_part(make_result):
    result = make_result([1.0] * 8, parts={"a": 1, "b": 3})  # payloads 0, 1, 2, 3, over and over
    assert result.to_frame()["part"].tolist() == ["a", "b", "b", "b"] * 2
