"""The story from start to end: measure, deploy, ask, load, compare, write down."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlkit.load import LoadResult, closed, load_test
from mlkit.pipelines import Pipeline
from mlkit.serving import App
from tools.demo import baseline, offline, report, served, summary, table
from tools.demo.pictures import MOST_PAYLOADS, Picture, Tagged, load_payloads, refusal, sample

__all__ = ["Story"]

ROUNDS = 3
"""Blocks of each kind before the app, and as many after it."""

SHARES = (0.3, 0.6)
"""Of the saturated rate: the two rates of the open loops, the one that counts last."""

BLOG_CONCURRENCY = 16
"""Clients of the blog's graph; more only wait longer."""


class Story:
    """One run of the demo.

    Args:
        pipeline: what is shown.
        pictures: what it is shown on; those that are none are named and passed over.
        out: the folder for what is written.
        own: whether the pictures are the caller's, who then gets a table of their tags.
        seconds: length of each load test; blocks in this process take a sixth of it.
        check: called between measurements; raises to end the story.
    """

    def __init__(
        self,
        pipeline: Pipeline[..., Any],
        pictures: Sequence[Picture],
        out: Path,
        *,
        own: bool = False,
        seconds: float = 10.0,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.pipeline = pipeline
        self.pictures = pictures
        self.out = out
        self.own = own
        self.seconds = seconds
        self.check = check
        self._began = time.monotonic()

    def tell(self) -> dict[str, Any]:
        """Run it, print the tables, and return the summary as it was written.

        Raises:
            MlkitError: a part that the story cannot do without failed.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        measured = self._measure()
        figures = summary.summarise(measured)
        figures["run"] = self._settings(time.monotonic() - self._began)
        self._say("writing the report")
        self._write(measured, figures)
        self._print(measured, figures)
        return figures

    # ---- measuring --------------------------------------------------------------------------

    def _measure(self) -> summary.Measured:
        """All measurements, in an order in which none disturbs another."""
        self._say("loading the models")
        facts = summary.machine(self.pipeline)
        eager = offline.Eager()
        payloads = self._payloads()
        before = self._here(payloads, eager)
        with served.deployed(self.pipeline, self._say) as (app, started_s):
            tagged = self._tag(app)
            saturated, open_loops = self._load(app, payloads)
            self._say("stopping the app")
        after = self._here(payloads, eager)
        blog, problem = self._compare(payloads)
        return summary.Measured(
            tagged=tagged,
            offline=before[0] + after[0],
            eager=before[1] + after[1],
            saturated=saturated,
            open_loops=open_loops,
            blog=blog,
            blog_problem=problem,
            started_s=started_s,
            facts=facts,
        )

    def _payloads(self) -> list[dict[str, Any]]:
        """The pictures to measure with, in memory: the first ones that can be tagged."""
        first = [p for p in self.pictures[:MOST_PAYLOADS] if refusal(p) is None]
        self._say(f"tagging {len(first):,} pictures here")
        good = self._that_can_be_tagged(first)
        if not good:
            self._say("none of them can be tagged: measuring with the sample catalogue")
            good = sample()
        return load_payloads(good)

    def _that_can_be_tagged(self, pictures: Sequence[Picture]) -> list[Picture]:
        results = self.pipeline.map(
            [picture.arguments for picture in pictures], on_error="keep", progress=False
        )
        self.check()
        pairs = zip(pictures, results, strict=True)
        return [picture for picture, outcome in pairs if not isinstance(outcome, Exception)]

    def _here(
        self, payloads: Sequence[dict[str, Any]], eager: offline.Eager
    ) -> list[list[offline.Block]]:
        """Blocks in this process: of the pipeline, and of eager torch."""
        self._say("measuring the offline limit and eager torch, by turns")
        seconds = self.seconds / 6
        pictures = [payload["image"] for payload in payloads]
        return offline.by_turns(
            [
                lambda: offline.run_offline(self.pipeline, payloads, seconds),
                lambda: offline.run_eager(eager, pictures, seconds),
            ],
            ROUNDS,
            self.check,
        )

    def _tag(self, app: App) -> list[Tagged]:
        self._say(f"tagging {len(self.pictures):,} pictures over HTTP")
        tagged = served.tag_pictures(app, self.pictures)
        self.check()
        if self.own:  # as soon as they are there
            table.tags_csv(tagged, self.out / "tags.csv")
        return tagged

    def _load(
        self, app: App, payloads: Sequence[dict[str, Any]]
    ) -> tuple[served.Saturated, list[LoadResult]]:
        self._say("load: as much as it can take")
        concurrency = served.best_concurrency(app, payloads, self.check)
        saturated = served.saturate(app, payloads, concurrency, self.seconds)
        self.check()
        open_loops = []
        for share in SHARES:
            rate = round(max(1.0, share * saturated.result.ok_rate), 1)
            self._say(f"load: {rate:g} requests a second, at random")
            open_loops.append(served.open_loop(app, payloads, rate, self.seconds))
            self.check()
        return saturated, open_loops

    def _compare(self, payloads: Sequence[dict[str, Any]]) -> tuple[LoadResult | None, str]:
        """The blog's graph under the same load, or why there is none."""
        self._say("starting the blog's graph on plain Ray Serve")
        try:
            with baseline.running(self.out / "blog_graph.log") as url:
                self._say("load: the blog's graph, as much as it can take")
                result = load_test(
                    url,
                    baseline.requests(url, payloads),
                    closed(concurrency=BLOG_CONCURRENCY),
                    duration_s=self.seconds,
                    warmup_s=2.0,
                    progress=False,
                )
                self.check()
                self._say("stopping it")
        except baseline.BaselineError as error:
            return None, str(error)
        if not result.ok.any():
            return None, f"the blog's graph answered nothing: {result.errors}"
        return result, ""

    # ---- writing ----------------------------------------------------------------------------

    def _settings(self, took_s: float) -> dict[str, Any]:
        return {
            "pictures": len(self.pictures),
            "own_pictures": self.own,
            "load_test_s": self.seconds,
            "offline_blocks": 2 * ROUNDS,
            "offline_block_s": round(self.seconds / 6, 2),
            "took_s": round(took_s, 1),
        }

    def _write(self, measured: summary.Measured, figures: dict[str, Any]) -> None:
        (self.out / "summary.json").write_text(json.dumps(figures, indent=2) + "\n")
        written_at = time.strftime("%Y-%m-%d %H:%M")
        page = report.html(measured, figures, self.pipeline._repr_html_(), written_at)
        (self.out / "report.html").write_text(page, encoding="utf-8", errors="backslashreplace")

    def _print(self, measured: summary.Measured, figures: dict[str, Any]) -> None:
        print("\n" + table.tags_table(measured.tagged))
        print("\n" + table.loads(measured.loads))
        print("\n" + table.figures(figures, summary.TARGETS))
        for remark in (figures["busy"], measured.blog_problem):
            if remark:
                print("\n" + remark)
        names = ["report.html", "summary.json", *(["tags.csv"] if self.own else [])]
        print("\n" + "\n".join(f"{self.out / name}" for name in names))

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:5.0f} s  {text}", flush=True)
