"""What the serving engine is claimed to do, measured: ``python -m benchmarks engine``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import bare, nodes, small, trials
from benchmarks.cold import cold
from benchmarks.tail import poisson60
from mlkit.load import LoadResult, closed, compare, load_test
from mlkit.load.analysis import ratio
from mlkit.serving import App, Limits
from mlkit.serving.control.flags import free_port
from tools.demo import baseline, offline, served
from tools.demo.offline import Block

__all__ = ["PARTS", "measure"]

CORES = 2
HOISTED = (
    "cold_start_over_plain_serve",
    "poisson60",
    "fused_over_per_step",
    "per_step_over_blog",
    "served_over_bare_processes",
    "map_over_bare_processes",
)
"""Figures that stand by themselves in the file, not under the part that measures them."""


def measure(
    out: Path, parts: Sequence[str], blocks: int, seconds: float, check: Callable[[], None]
) -> dict[str, Any]:
    """Measure the parts, each written down as soon as it is there."""
    from mlkit.tagging import tag
    from tools.demo.summary import busy, machine

    path = out / "engine.json"
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    results["machine"] = facts = machine(tag)
    print(busy(facts) or f"{facts['cpu']}, {facts['cores']} cores, {facts['precision']}")
    for part in parts:
        began = time.monotonic()
        measured = PARTS[part](blocks, seconds, check)
        results |= {name: measured[name] for name in HOISTED if name in measured}
        results[part] = {name: value for name, value in measured.items() if name not in HOISTED}
        path.write_text(json.dumps(results, indent=2) + "\n")
        print(f"{part} ({time.monotonic() - began:.0f} s)")
        for name, value in measured.items():
            print(f"  {name:28} {_words(value)}")
    print(path)
    return results


def _words(value: Any) -> str:
    """A figure as a line: with its interval, or its parts one after the other."""
    if isinstance(value, dict) and {"value", "low", "high"} <= value.keys():
        return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(part)}" for name, part in value.items())
    return f"{value:.3f}" if isinstance(value, float) else f"{value}"


def _ratio(a: Sequence[float], b: Sequence[float]) -> dict[str, float]:
    measured = ratio(a, b)
    return {"value": measured.value, "low": measured.low, "high": measured.high}


def _noop(blocks: int, seconds: float, check: Callable[[], None]) -> dict[str, Any]:
    body = {"question": {"text": "x" * 970, "number": 1}}
    with served.deployed(small.echo, lambda text: None) as (app, _):
        request = app.prepare(body)
        with bare.running(free_port()) as url:
            from mlkit.load.requests import HttpRequest

            other = HttpRequest(url=url, headers=dict(request.headers), body=request.body)
            mine: list[float] = []
            theirs: list[float] = []
            for _ in range(blocks + 1):
                mine.append(_closed_rate(app, [body], seconds))
                theirs.append(_closed_rate(url, [other], seconds))
                check()
    return {
        "over_uvicorn": _ratio(mine[1:], theirs[1:]),
        "mlkit_rps": median(mine[1:]),
        "uvicorn_rps": median(theirs[1:]),
    }


def _closed_rate(target: Any, payloads: Sequence[Any], seconds: float) -> float:
    return _closed(target, payloads, seconds).ok_rate


def _closed(target: Any, payloads: Sequence[Any], seconds: float) -> LoadResult:
    return load_test(
        target,
        payloads,
        closed(concurrency=16),
        duration_s=seconds,
        warmup_s=0.3,
        progress=False,
    )


def _fused(blocks: int, seconds: float, check: Callable[[], None]) -> dict[str, Any]:
    from mlkit.tagging import tag
    from tools.demo.pictures import load_payloads, sample

    payloads = load_payloads(sample())
    offline.run_offline(tag, payloads, 1.0)
    alone = [offline.run_offline(tag, payloads, seconds).rate for _ in range(3)]
    with served.deployed(tag, lambda text: None) as (app, _):
        concurrency = served.best_concurrency(app, payloads, check)
        clients: list[float] = []
        cores: list[float] = []

        def load() -> Block:
            load = served.saturate(app, payloads, concurrency, seconds)
            clients.append(load.result.client.cores)
            cores.append(sum(load.cpu_s.values()) / load.result.duration_s)
            answered = int(load.result.ok.sum())
            return Block(answered, load.result.duration_s, sum(load.cpu_s.values()))

        mine, theirs = offline.by_turns(
            [load, lambda: offline.run_offline(tag, payloads, seconds)], blocks, check
        )
        left = [b.rate * (1 - c / CORES) for b, c in zip(theirs, clients, strict=True)]
        tail = poisson60(
            app, payloads, concurrency=concurrency, cores=CORES, blocks=blocks, check=check
        )
    pairs = zip(mine, theirs, strict=True)
    extra = sorted(a.cpu_ms - b.cpu_ms for a, b in pairs)
    return {
        "served_over_offline": _ratio([b.rate for b in mine], left),
        "overhead_cpu_ms": {"value": median(extra), "low": extra[0], "high": extra[-1]},
        "served_rps": median([b.rate for b in mine]),
        "offline_rps": median([b.rate for b in theirs]),
        "offline_alone_rps": median(alone),
        "idle_share": 1 - (median(cores) + median(clients)) / CORES,
        "client_cores": median(clients),
        "concurrency": concurrency,
        "poisson60": tail,
    }


def _limit(blocks: int, seconds: float, check: Callable[[], None]) -> dict[str, Any]:
    from benchmarks.processes import bare_processes
    from mlkit.tagging import tag
    from tools.demo.pictures import load_payloads, sample

    payloads = load_payloads(sample())
    with bare_processes([payload["image"] for payload in payloads]) as bare_steps:
        # Later blocks have the session at rest beside them; these do not.
        alone = [bare_steps.run(seconds).rate for _ in range(3)]
        with served.deployed(tag, lambda text: None) as (app, _):
            concurrency = served.best_concurrency(app, payloads, check)
            clients: list[float] = []

            def load() -> Block:
                load = served.saturate(app, payloads, concurrency, seconds)
                clients.append(load.result.client.cores)
                answered = int(load.result.ok.sum())
                return Block(answered, load.result.duration_s, sum(load.cpu_s.values()))

            work = [
                load,
                lambda: offline.run_offline(tag, payloads, seconds),
                lambda: bare_steps.run(seconds),
            ]
            over_http, mapped, bare_blocks = offline.by_turns(work, blocks, check)
    limit = [block.rate for block in bare_blocks]
    left = [rate * (1 - c / CORES) for rate, c in zip(limit, clients, strict=True)]
    return {
        "served_over_bare_processes": _ratio([block.rate for block in over_http], left),
        "map_over_bare_processes": _ratio([block.rate for block in mapped], limit),
        "served_rps": median(block.rate for block in over_http),
        "map_rps": median(block.rate for block in mapped),
        "bare_rps": median(limit),
        "bare_alone_rps": median(alone),
        "served_cpu_ms": median(block.cpu_ms for block in over_http),
        "map_cpu_ms": median(block.cpu_ms for block in mapped),
        "bare_cpu_ms": median(block.cpu_ms for block in bare_blocks),
        "client_cores": median(clients),
        "concurrency": concurrency,
    }


def _layouts(blocks: int, seconds: float, check: Callable[[], None]) -> dict[str, Any]:
    from mlkit.tagging import tag
    from tools.demo.pictures import load_payloads, sample

    payloads = load_payloads(sample())
    log = Path("build/bench/blog_graph.log")
    downloads = {"download": {"num_replicas": 3}}
    with (
        served.deployed(tag, lambda text: None) as (fused, _),
        served.deployed(tag, lambda text: None, layout="per_step", options=downloads) as (split, _),
        baseline.running(log, compiled=True) as url,
    ):
        status, placed = split.status(), split.placement()
        blog = baseline.requests(url, payloads)
        targets: dict[str, tuple[Any, Sequence[Any]]] = {
            "fused": (fused, payloads),
            "per_step": (split, payloads),
            "blog": (url, blog),
        }
        for target, inputs in targets.values():
            _closed_rate(target, inputs, 1.0)
        rates: dict[str, list[float]] = {name: [] for name in targets}
        last: dict[str, LoadResult] = {}
        for _ in range(blocks):
            for name, (target, inputs) in targets.items():
                last[name] = _closed(target, inputs, seconds)
                rates[name].append(last[name].ok_rate)
            check()
        same = [a == b for a, b in zip(_tags(fused, payloads), _tags(split, payloads), strict=True)]
    names = {"fused": "fused", "per_step": "per step", "blog": "plain Serve, @serve.batch"}
    drawn = compare({names[name]: result for name, result in last.items()}).plot()
    drawn.savefig(log.with_name("layouts.png"))
    return {
        "fused_over_per_step": _ratio(rates["fused"], rates["per_step"]),
        "per_step_over_blog": _ratio(rates["per_step"], rates["blog"]),
        "fused_rps": median(rates["fused"]),
        "per_step_rps": median(rates["per_step"]),
        "blog_rps": median(rates["blog"]),
        "same_answers": sum(same) / len(same),
        "replicas": {name: sum(states.values()) for name, states in status.stages.items()},
        "planned_cpus": split.plan.num_cpus,
        "taken_cpus": placed.taken["CPU"],
    }


def _tags(app: App, payloads: Sequence[Any]) -> list[Any]:
    return list(app.map(payloads, progress=False))


def _poison(blocks: int, seconds: float, check: Callable[[], None]) -> dict[str, Any]:
    return trials.poison()


def _disconnect(blocks: int, seconds: float, check: Callable[[], None]) -> dict[str, Any]:
    with served.deployed(small.hashes, lambda text: None) as (app, _):
        return trials.disconnect(app)


def _redeploy(blocks: int, seconds: float, check: Callable[[], None]) -> dict[str, Any]:
    from mlkit.plan import plan
    from mlkit.serving.bundle import pack
    from mlkit.serving.kernel.deployment import deploy_to

    redeployed: dict[str, dict[str, Any]] = {}
    for name in ("fused", "staged"):
        # Fused: the stages that the steps name are all the front's.
        names = {node.step.name: {"stage": small.staged.name} for node in small.staged.graph}
        options: dict[str, Any] = {"options": names} if name == "fused" else {}
        with served.deployed(small.staged, lambda text: None, **options) as (app, _):
            session = app.session

            def again(pipeline: Any, options: Any = options, session: Any = session) -> App:
                planned = plan(pipeline, **options)
                return deploy_to(session, planned, pack(planned), token="", limits=Limits())

            redeployed[name] = trials.redeploy(small.staged, again)
    code_s = {name: trial.pop("code_s") for name, trial in redeployed.items()}
    sums = {k: sum(trial[k] for trial in redeployed.values()) for k in ("requests", "failed")}
    return {"code_s": code_s, **sums, **redeployed}


def _two_nodes(blocks: int, seconds: float, check: Callable[[], None]) -> dict[str, Any]:
    return nodes.measure()


def _contract(blocks: int, seconds: float, check: Callable[[], None]) -> dict[str, Any]:
    import schemathesis

    from benchmarks.contract import fuzz
    from mlkit.tagging import tag
    from tools.demo.pictures import sample

    # Small ones: it is the contract that is looked at, and the rest takes its time.
    pictures = sorted((picture.path.read_bytes() for picture in sample()), key=len)[:5]
    with served.deployed(tag, lambda text: None) as (app, _):
        headers = dict(app.prepare("http://a.example/b.jpg").headers)
        asked = {"Authorization": headers["Authorization"]} if "Authorization" in headers else {}
        schema = schemathesis.openapi.from_url(f"{app.url}/openapi.json", headers=asked)
        return fuzz(schema, 5000, asked, pictures=pictures).to_dict()


PARTS: dict[str, Callable[[int, float, Callable[[], None]], dict[str, Any]]] = {
    "noop": _noop,
    "fused": _fused,
    "limit": _limit,
    "layouts": _layouts,
    "cold": cold,
    "poison": _poison,
    "disconnect": _disconnect,
    "redeploy": _redeploy,
    "two_nodes": _two_nodes,
    "contract": _contract,
}
"""What is measured, by name, in this order."""
