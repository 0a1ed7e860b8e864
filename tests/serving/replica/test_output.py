"""Lines as they are recorded from what a step prints."""

import contextlib
import faulthandler
import io
import logging
import queue
import sys
import tempfile
from collections.abc import Iterator

import pytest
from tqdm import tqdm

from mlkit.define.step import inside
from mlkit.metrics.context import RequestContext, entered
from mlkit.serving.replica import output
from mlkit.serving.replica.levels import levels_here, set_levels
from mlkit.serving.replica.output import MAX_LINE, _display, _Logging, _Tee


@pytest.fixture
def tee():
    """Returns a stream, and the texts that were recorded from it."""
    records: list[dict] = []
    return _Tee(io.StringIO(), "out", records.append), records


def texts(records) -> list[str]:
    return [record["text"] for record in records]


def partial(stream) -> str:
    return "".join(text for text, _ in stream._partial.values())


def test_a_line_is_recorded_when_it_is_complete(tee) -> None:
    stream, records = tee
    stream.write("a ")
    assert texts(records) == []
    stream.write("b\nc\n")
    assert texts(records) == ["a b", "c"]


def test_a_line_names_the_request_that_it_was_written_for(tee) -> None:
    stream, records = tee
    stream.write("before\n")
    with entered(RequestContext("abc-1")):
        stream.write("within\n")
    assert [record["request"] for record in records] == [None, "abc-1"]


def test_a_progress_bar_is_its_last_state(tee) -> None:
    stream, records = tee
    for percent in range(1000):
        stream.write(f"\r{percent / 10}%")
    assert len(partial(stream)) < 10
    stream.write("\rdone\n")
    assert texts(records) == ["done"]


def test_a_line_that_ends_as_on_windows_is_kept(tee) -> None:
    stream, records = tee
    stream.write("hello\r\n")
    stream.write("world\r")
    stream.write("\n")
    assert texts(records) == ["hello", "world"]


def test_a_line_that_never_ends_is_bounded(tee) -> None:
    stream, records = tee
    for _ in range(10):
        stream.write("x" * MAX_LINE)
    assert sum(map(len, texts(records))) + len(partial(stream)) == 10 * MAX_LINE
    assert len(partial(stream)) <= MAX_LINE


def test_a_line_without_an_end_is_recorded_with_its_step_and_request(tee, monkeypatch) -> None:
    stream, records = tee
    for name in ("load", "look"):
        with inside(name), entered(RequestContext(f"of {name}")):
            stream.write("...")
    stream.record_partial()
    assert records == []  # the rest may follow
    monkeypatch.setattr(output, "PARTIAL_S", 0.0)
    stream.record_partial()
    assert [(r["step"], r["request"], r["text"]) for r in records] == [
        ("load", "of load", "..."),
        ("look", "of look", "..."),
    ]
    stream.write("done\n")
    assert texts(records)[2:] == ["done"]


def test_a_line_without_an_end_is_recorded_by_itself(monkeypatch) -> None:
    monkeypatch.setattr(output, "PARTIAL_S", 0.01)
    records: queue.Queue[dict] = queue.Queue()
    stream = _Tee(io.StringIO(), "out", records.put)
    stream.write("name? ")
    assert records.get(timeout=30)["text"] == "name? "


# ---- what libraries expect of a stream ----------------------------------------------------------


@pytest.mark.parametrize(
    "use",
    [
        lambda stream: print("x", file=stream),
        lambda stream: stream.writelines(["x", "\n"]),
        lambda stream: stream.buffer.write(b"x\n"),
        lambda stream: (stream.buffer.write(b"x"), stream.buffer.flush(), stream.write("\n")),
        lambda stream: contextlib.redirect_stdout(stream).__enter__().write("x\n"),
        lambda stream: logging.StreamHandler(stream).handle(
            logging.makeLogRecord({"msg": "x", "levelno": logging.INFO})
        ),
    ],
    ids=["print", "writelines", "bytes", "bytes then text", "redirect_stdout", "handler"],
)
def test_whatever_writes_to_a_stream_is_recorded(tee, monkeypatch, use) -> None:
    stream, records = tee
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # `redirect_stdout` above does not leave
    use(stream)
    assert texts(records) == ["x"]


def test_a_stream_has_what_libraries_ask_it_for(tee) -> None:
    stream, _ = tee
    assert stream.write("one") == 3
    assert (stream.encoding, stream.writable(), stream.readable(), stream.closed) == (
        "utf-8",
        True,
        False,
        False,
    )
    assert stream.isatty() is False
    assert stream.errors == "backslashreplace"
    stream.flush()
    with pytest.raises(TypeError, match="must be str"):
        stream.write(b"bytes")


def test_bytes_of_one_character_may_come_one_by_one(tee) -> None:
    stream, records = tee
    for byte in "é\n".encode():
        stream.buffer.write(bytes([byte]))
    assert texts(records) == ["é"]


def test_the_file_of_a_stream_is_that_of_the_process() -> None:
    with tempfile.TemporaryFile("w") as file:
        stream = _Tee(file, "err", lambda record: None)
        assert stream.fileno() == file.fileno()
        faulthandler.dump_traceback(file=stream)
        assert file.tell() > 0 or file.seek(0, io.SEEK_END) > 0


def test_a_stream_without_a_file_says_so(tee) -> None:
    stream, _ = tee
    with pytest.raises(io.UnsupportedOperation):
        stream.fileno()


def test_a_progress_bar_of_a_step_is_recorded(tee) -> None:
    stream, records = tee
    with tqdm(total=2, file=stream, desc="items") as bar:
        bar.update(2)
    assert len(records) == 1
    assert "items: 100%" in records[0]["text"]


def test_display_writes_the_text_form(tee, monkeypatch) -> None:
    stream, records = tee
    monkeypatch.setattr(sys, "stdout", stream)
    _display({"a": 1}, "text", metadata={}, display_id="x")
    assert texts(records) == ["{'a': 1}", "'text'"]


# ---- logging ------------------------------------------------------------------------------------


@pytest.fixture
def root(monkeypatch) -> Iterator[list[dict]]:
    """Returns what is recorded from the loggers of this process; their levels are restored."""
    records: list[dict] = []
    handler, before = _Logging(records.append), levels_here()
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.WARNING)
    # Servers that other tests run disable the loggers that are there.
    monkeypatch.setattr(logging.getLogger("shop"), "disabled", False)
    yield records
    logging.getLogger().removeHandler(handler)
    set_levels(before, before=levels_here())


def test_a_log_record_has_its_level_its_logger_and_its_step(root) -> None:
    with inside("classify"):
        logging.getLogger("shop").warning("looked at %s", 3)
    assert [(line["step"], line["text"]) for line in root] == [
        ("classify", "WARNING shop: looked at 3")
    ]


def test_levels_are_those_of_the_notebook(root) -> None:
    logger = logging.getLogger("shop.levels")
    levels = {"": logging.WARNING, "shop.levels": logging.DEBUG}
    logger.debug("before")
    set_levels(levels, before={})
    logger.debug("now")
    logging.getLogger("shop.others").info("not of this level")
    set_levels({"": logging.INFO}, before=levels)
    logger.debug("after")
    logging.getLogger("shop.others").info("of this level")
    assert texts(root) == ["DEBUG shop.levels: now", "INFO shop.others: of this level"]


def test_levels_here_are_those_that_were_set(root) -> None:
    logging.getLogger("shop.set").setLevel(logging.ERROR)
    logging.getLogger("shop.unset").setLevel(logging.NOTSET)
    logging.getLogger("uvicorn.error").setLevel(logging.INFO)
    levels = levels_here()
    assert levels["shop.set"] == logging.ERROR
    assert not {"shop.unset", "uvicorn.error"} & levels.keys()
    assert levels[""] == logging.getLogger().level


def test_servers_do_not_follow_the_level_of_the_root_logger(root) -> None:
    for name in ("ray", "ray.serve"):  # they have levels where Ray is imported
        logging.getLogger(name).setLevel(logging.NOTSET)
    set_levels({"": logging.DEBUG}, before={})
    assert not logging.getLogger("ray.serve").isEnabledFor(logging.INFO)


def test_a_record_with_a_traceback_keeps_it(root) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("shop").exception("it failed")
    assert "ERROR shop: it failed\nTraceback" in root[0]["text"]
    assert "ValueError: broken" in root[0]["text"]


def test_a_record_whose_arguments_do_not_fit_does_not_fail_the_step(capsys) -> None:
    _Logging(print).handle(logging.makeLogRecord({"msg": "%d", "args": ("three",), "name": "shop"}))
    assert "Logging error" in capsys.readouterr().err
