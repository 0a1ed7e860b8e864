"""Takes turns: one server at a time, all of them in each round."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from benchmarks.peers.catalogue import OURS, QUICK, SERVERS, Server, request
from benchmarks.peers.figures import Round, Row, agreement, summary
from benchmarks.peers.measuring import (
    Effort,
    answers,
    one_round,
    reference,
    saturated,
    service_ms,
)
from benchmarks.peers.running import Running, running
from mlkit.errors import InputError, MlkitError

__all__ = ["QUICK_EFFORT", "Bench", "chosen", "measure", "take_turns"]

QUICK_EFFORT = Effort(rounds=1, seconds=2.0, point_s=4.0, shares=(0.8,))
LEAST_IMAGES = 256
ATTEMPTS = 2


class Bench(Protocol):
    """What takes time: the real one starts servers."""

    def pilot(self, server: Server) -> tuple[list[frozenset[str]], float]:
        """Start it; the tags of all images, and its saturated throughput.

        Raises:
            MlkitError, OSError, ValueError, LookupError: there is none.
        """

    def round(self, server: Server, best: float, number: int) -> Round:
        """Start it again and measure it.

        Raises:
            MlkitError, OSError: it did not come up, or could not be measured.
        """


FAILURES = (MlkitError, OSError, ValueError, LookupError, TypeError)


def take_turns(
    servers: Sequence[Server],
    bench: Bench,
    expected: Sequence[frozenset[str]],
    rounds: int,
    say: Callable[[str], None] = lambda text: None,
    keep: Callable[[Mapping[str, Row]], None] = lambda rows: None,
) -> dict[str, Row]:
    """Measure servers by turns: first a pilot of each, then round after round.

    One that does not come up in the pilot, twice, or does not agree with the reference, is a row
    with the reason and has no rounds; one that fails in a round lacks that round.

    Args:
        servers: what is measured.
        bench: measures one.
        expected: tags of all images.
        rounds: after the pilot.
        say: told what is going on.
        keep: given the rows after each server, so that nothing is lost.
    """
    rows = {server.name: Row(server.name, server.track, server.is_peer) for server in servers}
    for server in servers:
        row = rows[server.name]
        _pilot(server, row, bench, expected)
        seen = f"{row.pilot:.0f}/s, agreement {row.agreement:.2%}" if row.pilot else row.problems
        say(f"pilot: {server.name}: {seen}")
        keep(rows)
    best = max(
        (row.pilot or 0.0 for row in rows.values() if row.is_peer and row.track == "equal"),
        default=0.0,
    )
    for number in range(1, rounds + 1):
        for server in servers:
            row = rows[server.name]
            if not row.counts:
                continue
            try:
                row.rounds[number] = found = bench.round(server, best, number)
            except FAILURES as error:
                row.problems.append(f"round {number}: {_words(error)}")
                say(f"round {number}: {server.name}: {_words(error)}")
            else:
                say(f"round {number}: {server.name}: {_line(found)}")
            keep(rows)
    return rows


def _pilot(server: Server, row: Row, bench: Bench, expected: Sequence[frozenset[str]]) -> None:
    for _ in range(ATTEMPTS):
        try:
            found, row.pilot = bench.pilot(server)
        except FAILURES as error:
            row.problems.append(f"pilot: {_words(error)}")
        else:
            row.agreement = agreement(found, expected)
            if not row.counts:
                row.problems.append(f"its tags agree with the reference by {row.agreement:.2%}")
            return


def _words(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _line(found: Round) -> str:
    points = ", ".join(f"{p.rate:.0f}/s {p.p99_ms:.0f} ms" for p in found.points)
    return f"{found.saturated:.0f}/s, {found.cpu_ms:.1f} ms CPU, p99 at {points or '-'}"


def chosen(names: Sequence[str] | None, *, quick: bool) -> list[Server]:
    """The servers of these names; by default all, or those of a quick run.

    Raises:
        InputError: there is no server of that name.
    """
    known = {server.name: server for server in SERVERS}
    wanted = names or (QUICK if quick else tuple(known))
    if unknown := [name for name in wanted if name not in known]:
        raise InputError(
            "there is no such server",
            where="--servers",
            expected=", ".join(known),
            got=", ".join(unknown),
        )
    return [known[name] for name in wanted]


def measure(
    out: Path,
    servers: Sequence[Server],
    effort: Effort,
    photos: Path | None,
    check: Callable[[], None],
) -> None:
    """Measure, and write ``peers.json`` after each server, and ``peers.png`` at the end.

    Args:
        out: folder for both, and for the servers' logs.
        servers: what is measured.
        effort: how much.
        photos: folder of images; by default the sample catalogue, as often as it takes.
        check: raises where the user has interrupted.
    """
    from benchmarks.peers.drawing import plot
    from mlkit.tagging import tag
    from tools.demo.pictures import in_folder, load_payloads, sample
    from tools.demo.summary import busy, machine

    payloads = load_payloads(in_folder(photos) if photos else sample())
    images = [payload["image"] for payload in payloads]
    facts = machine(tag)
    print(busy(facts) or f"{facts['cpu']}, {facts['cores']} cores, {facts['precision']}")
    if len(images) < LEAST_IMAGES:
        print(f"{len(images)} images; a comparison that counts needs {LEAST_IMAGES}: --photos")
    s1_ms = service_ms(images)
    slo_ms = max(10 * s1_ms, 50.0)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "peers.json"

    def keep(rows: Mapping[str, Row]) -> None:
        document = {
            "s1_ms": s1_ms,
            "slo_p99_ms": slo_ms,
            "images": len(images),
            "rounds": effort.rounds,
            "ratios": summary(rows, OURS, slo_ms),
            "servers": {name: row.to_dict(slo_ms) for name, row in rows.items()},
            "machine": facts,
        }
        path.write_text(json.dumps(document, indent=2) + "\n")
        check()

    bench = _Bench(images, effort, out / "peers-logs")
    take_turns(servers, bench, reference(images), effort.rounds, print, keep)
    document: dict[str, Any] = json.loads(path.read_text())
    plot(document, out / "peers.png")
    for name, found in document["ratios"].items():
        print(f"{name}: {_ratio(found)} over {found['over']}")
    print(f"  {path}")


def _ratio(found: Mapping[str, Any]) -> str:
    if found["value"] is None:
        return "not to be had"
    return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f}, {found['interval']})"


class _Bench:
    """Starts servers and puts load on them."""

    def __init__(self, images: Sequence[bytes], effort: Effort, logs: Path) -> None:
        self._images, self._effort, self._logs = images, effort, logs

    def pilot(self, server: Server) -> tuple[list[frozenset[str]], float]:
        with self._running(server) as up:
            found = answers(up, self._images)
            requests = [request(server, up.port, image) for image in self._images]
            return found, saturated(up, requests, self._effort.seconds)[0]

    def round(self, server: Server, best: float, number: int) -> Round:
        with self._running(server) as up:
            return one_round(up, self._images, self._effort, best, number)

    def _running(self, server: Server) -> AbstractContextManager[Running]:
        return running(server, lambda port: request(server, port, self._images[0]), self._logs)
