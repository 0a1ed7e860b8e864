"""Replicas whose output cannot be kept go on, and say so once."""

import io
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from mlkit.serving.replica.output import JsonLines, _Tee


@pytest.mark.parametrize("path", ["/dev/full", "/proc/none/app.1.log.jsonl"])
def test_output_that_cannot_be_kept_is_one_warning(path, monkeypatch) -> None:
    lines, worker_log = JsonLines(Path(path)), io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", worker_log)
    # As in a replica, where errors of logging would be captured as well.
    monkeypatch.setattr(sys, "stderr", _Tee(worker_log, "err", lines))
    for number in range(3):
        print(number, file=sys.stderr)
    (warning,) = [line for line in worker_log.getvalue().splitlines() if not line.isdigit()]
    assert warning.startswith("output cannot be kept: ")
    assert path in warning
    with suppress(OSError):
        lines._handler.close()
