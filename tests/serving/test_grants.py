"""What named tokens grant, and how requests are counted: pure functions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlkit.errors import DefinitionError, DeployError
from mlkit.serving.grants import (
    Allowance,
    Grant,
    after_request,
    digest_of,
    parse_rate,
    share,
    with_grant,
    without_grant,
)

rates = st.floats(0.01, 1_000)
bursts = st.floats(1, 100)
gaps = st.lists(st.floats(0, 20), max_size=60)


@given(rates, bursts, gaps)
def test_no_more_are_admitted_than_the_burst_and_what_the_rate_adds(rate, burst, gaps) -> None:
    state, now, admitted = None, 100.0, 0
    for gap in gaps:
        now += gap
        state, wait_s = after_request(state, now, rate=rate, burst=burst)
        admitted += not wait_s
        assert 0 <= state.left <= burst
        assert admitted <= burst + rate * (now - 100.0) + 1e-6 * len(gaps)


@given(rates, bursts, gaps)
def test_a_request_after_the_wait_is_admitted_and_one_much_before_is_not(rate, burst, gaps) -> None:
    state, now = None, 100.0
    for gap in gaps:
        now += gap
        state, wait_s = after_request(state, now, rate=rate, burst=burst)
        if wait_s:
            assert after_request(state, now + wait_s, rate=rate, burst=burst)[1] == 0
            assert after_request(state, now + wait_s / 2, rate=rate, burst=burst)[1] > 0


def test_a_client_that_waits_gets_its_rate() -> None:
    state, now, admitted = None, 0.0, 0
    while now < 100:
        state, wait_s = after_request(state, now, rate=5, burst=5)
        admitted += not wait_s
        now += wait_s or 0.001
    assert 500 <= admitted <= 505


def test_a_clock_that_goes_back_gives_and_takes_nothing() -> None:
    state = Allowance(left=0.0, at=100.0)
    after, wait_s = after_request(state, 50.0, rate=1, burst=10)
    assert (after, wait_s) == (state, 1.0)


@pytest.mark.parametrize(
    ("text", "per_s"),
    [("50/s", 50), (" 0.5 / s ", 0.5), ("600/min", 10), ("36/h", 0.01), (7, 7), (0.2, 0.2)],
)
def test_a_rate_is_a_number_per_second_or_says_per_what(text, per_s) -> None:
    assert parse_rate(text) == pytest.approx(per_s)
    assert parse_rate(None) is None


@pytest.mark.parametrize(
    "text",
    ["", "50", "50/day", "-1/s", "0/s", "1e9/s", 0, -1, float("nan"), float("inf"), True, []],
)
def test_other_rates_are_refused(text) -> None:
    with pytest.raises(DefinitionError, match="invalid rate"):
        parse_rate(text)


@pytest.mark.parametrize(
    "name", ["", " ", "owner", "a b", "a\nb", "a\x1b[31m", "<b>", "ü", "-a", "a" * 65, None, 1]
)
def test_a_name_is_short_and_plain(name) -> None:
    with pytest.raises(DefinitionError, match="invalid name"):
        Grant(name=name, digest="")


@pytest.mark.parametrize("scopes", [(), ("all",), ("call", "observer"), "call", (1,)])
def test_unknown_scopes_are_refused(scopes) -> None:
    with pytest.raises(DefinitionError, match="scope"):
        Grant(name="a", digest="", scopes=scopes)


@given(st.integers(1, 50), rates, bursts)
def test_the_shares_of_all_replicas_are_the_rate(replicas, rate, burst) -> None:
    limited = Grant(name="a", digest="", rate=rate, burst=burst)
    free = Grant(name="b", digest="")
    one, other = share([limited, free], replicas)
    assert one.rate * replicas == pytest.approx(rate)
    assert one.burst >= 1
    assert other == free


def test_names_are_taken_once_and_known_when_revoked() -> None:
    first = Grant(name="mobile", digest="1")
    grants = with_grant((), first, "shop")
    with pytest.raises(DeployError, match="already"):
        with_grant(grants, Grant(name="mobile", digest="2"), "shop")
    with pytest.raises(DeployError, match="did you mean 'mobile'"):
        without_grant(grants, "mobil", "shop")
    with pytest.raises(DeployError, match="another token="):
        without_grant(grants, "owner", "shop")
    assert without_grant(grants, "mobile", "shop") == ()


def test_a_digest_is_sha_256() -> None:
    # The first test vector of FIPS 180-4's examples.
    assert digest_of(b"abc").startswith("ba7816bf8f01cfea")
