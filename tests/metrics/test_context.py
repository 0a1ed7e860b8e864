"""The request that code runs for, from its headers."""

import pytest

from mlkit.metrics.context import RequestContext, context_of, current_request, entered, traceparent

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SENT = f"00-{TRACE}-{PARENT}-01"


def of(traced=False, **headers):
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return context_of(pairs, traced=traced)


def test_a_trace_is_continued_with_a_span_of_its_own() -> None:
    context = of(traceparent=SENT, x_request_id="abc-1")
    assert (context.id, context.trace_id, context.parent_id) == ("abc-1", TRACE, PARENT)
    assert context.sampled
    assert context.span_id not in ("", PARENT)
    assert context.traceparent == f"00-{TRACE}-{context.span_id}-01"


def test_whether_it_is_sampled_is_passed_on() -> None:
    context = of(traceparent=f"00-{TRACE}-{PARENT}-00", traced=True)
    assert not context.sampled
    assert context.traceparent.endswith("-00")


@pytest.mark.parametrize("more", ["", "-future"])
def test_a_later_version_is_read_as_far_as_it_is_known(more) -> None:
    assert of(traceparent=f"01-{TRACE}-{PARENT}-01{more}").trace_id == TRACE


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "x",
        SENT.upper(),
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"{SENT}-more",
        f"00-{TRACE[:-1]}-{PARENT}-01",
    ],
)
def test_what_is_malformed_begins_a_trace_if_there_are_any(sent) -> None:
    assert of(traceparent=sent).traceparent == ""
    begun = of(traceparent=sent, traced=True)
    assert begun.trace_id not in ("", TRACE)
    assert (begun.parent_id, begun.sampled) == ("", True)


@pytest.mark.parametrize("id", ["", "a" * 65, "a b", "a\n", "größe", '"'])
def test_an_id_that_is_malformed_is_replaced(id) -> None:
    assert of(x_request_id=id).id not in ("", id)


def test_code_knows_its_request_and_forgets_it() -> None:
    assert (current_request(), traceparent()) == (None, "")
    with entered(RequestContext("1")):
        assert (current_request().id, traceparent()) == ("1", "")
    assert current_request() is None
