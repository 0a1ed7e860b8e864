"""What clients send can forge no line of a log, and makes a terminal do nothing."""

import json
import logging
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlkit.errors import InputError, MlkitError, RequestError, StepError, printable
from mlkit.media.preview import words
from mlkit.serving.control.audit import read_audit
from mlkit.serving.http.problem import Failures
from mlkit.serving.kernel.status import Logs
from mlkit.serving.replica.output import JsonLines, LogLine, _Logging, read_logs

REVERSED = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
HOSTILE = st.text(
    st.sampled_from("a\n\r\t\x00\x07\x08\x1b[2J]0;m\x7f\x85\x9b\u2028\u2029\u202e\u2066")
)


def acts_on_a_terminal(text: str) -> bool:
    return any(
        (unicodedata.category(c) in ("Cc", "Zl", "Zp") and c not in "\n\t")
        or unicodedata.bidirectional(c) in REVERSED
        for c in text
    )


@given(HOSTILE | st.text())
@example("\x1b]0;title\x07\x1b[8mhidden\r\x9b2J")
def test_no_text_that_is_shown_has_control_characters(text) -> None:
    failure = Failures().record(ValueError(text))
    shown = [
        printable(text),
        str(MlkitError(text, where=text, expected=text, got=text, fix=text)),
        str(InputError(text)),
        str(RequestError(text, http_status=422)),
        str(StepError(text, step="s", pipeline="p")),
        str(failure),
        str(LogLine(0.0, 1, "step", "log", text)),
        words({"title": text, "more": [text]}),
    ]
    assert not [one for one in shown if acts_on_a_terminal(one)]


@given(st.text(st.characters(exclude_categories=("Cc", "Cf", "Zl", "Zp", "Cs"))))
def test_other_text_stays_as_it_is(text) -> None:
    assert printable(text) == text


def test_colours_are_left_out_and_the_rest_is_shown_escaped() -> None:
    assert printable("\x1b[1;31mred\x1b[0m\r\x1b[2J\n\tnext\u202e") == (
        r"red\r\x1b[2J" "\n\tnext" r"\u202e"
    )


@given(HOSTILE)
def test_a_message_is_one_entry_of_the_log(text) -> None:
    forged = f"{text}\n12:00:00 -            INFO app: all is well"
    lines = str(Logs([LogLine(0.0, 1, "step", "log", forged)])).split("\n")
    assert all(line.startswith(" " * 22) for line in lines[1:])


@pytest.mark.parametrize("text", ["two\nlines", '"}\n{"time": 1}', "\u2028", "\ud800"])
def test_a_message_is_one_record_of_the_file(tmp_path, text) -> None:
    lines = JsonLines(tmp_path / "app.1.log.jsonl")
    _Logging(lines).emit(logging.LogRecord("app", logging.INFO, "", 0, "%s", (text,), None))
    lines._handler.close()
    (line,) = read_logs(tmp_path, "app")
    assert line.text == f"INFO app: {text}"


def test_a_torn_record_of_the_audit_log_hides_no_other(tmp_path) -> None:
    entries = [{"app": "a\nb", "by": "x\u2028y"}, {"app": "c"}]
    text = json.dumps(entries[0]) + '\n{"torn": \n' + json.dumps(entries[1]) + "\n"
    (tmp_path / "audit.jsonl").write_text(text)
    assert read_audit(tmp_path) == entries
