"""Whether a server keeps to what its ``/openapi.json`` says, asked with made-up requests.

Schemathesis makes the requests from the document, half of them after it and half against it.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from mlkit.serving.http import problem

if TYPE_CHECKING:
    from schemathesis.schemas import APIOperation, BaseSchema

    Operation: TypeAlias = APIOperation[Any, Any, Any, Any]

__all__ = ["Findings", "fuzz"]

_SHOWN = 10


@dataclass
class Findings:
    """What was asked, and which answers were not as they should be.

    Attributes:
        cases: requests sent.
        statuses: answers by status.
        server_errors: answers of 500.
        undeclared: answers with a status that the document does not name.
        not_problems: errors whose body is no ``application/problem+json``.
        other_forms: answers with a content type or a body that the document does not describe.
        wrong: the first of all these, in words.
    """

    cases: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    server_errors: int = 0
    undeclared: int = 0
    not_problems: int = 0
    other_forms: int = 0
    wrong: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "cases": self.cases,
            "server_errors": self.server_errors,
            "undeclared": self.undeclared,
            "not_problems": self.not_problems,
            "other_forms": self.other_forms,
            "statuses": {str(status): n for status, n in sorted(self.statuses.items())},
            "wrong": self.wrong,
        }

    def take(self, operation: Operation, response: Any, case: Any) -> None:
        """Look at one answer."""
        self.cases += 1
        self.statuses[response.status_code] += 1
        kind = (response.headers.get("content-type") or [""])[0].partition(";")[0]
        wrong = []
        if response.status_code == 500:
            self.server_errors += 1
            wrong.append("500")
        if str(response.status_code) not in operation.definition.raw["responses"]:
            self.undeclared += 1
            wrong.append("not declared")
        if response.status_code >= 400 and not (
            kind == problem.MEDIA_TYPE and _is_problem(response)
        ):
            self.not_problems += 1
            wrong.append(f"an error as {kind or 'nothing'}")
        form = _other_form(operation, response, kind)
        if form:
            self.other_forms += 1
            wrong.append(form)
        if wrong and len(self.wrong) < _SHOWN:
            response_line = f"{operation.method.upper()} {operation.path}: {response.status_code}"
            self.wrong.append(
                f"{response_line}, {', '.join(wrong)}: {case.as_curl_command()[:500]}"
            )


def _other_form(operation: Operation, response: Any, kind: str) -> str:
    """How an answer differs from the content types and schemas of the document; "" if it does not.

    Schemathesis itself cannot read ``prefixItems`` in a response.
    """
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

    declared = operation.definition.raw["responses"].get(str(response.status_code), {})
    contents = declared.get("content", {})
    if kind not in contents:
        return f"{kind or 'nothing'} is not declared" if contents else ""
    if not kind.endswith("json"):
        return ""
    components = operation.schema.raw_schema.get("components", {})
    schema = {**contents[kind].get("schema", {}), "components": components}
    checker = Draft202012Validator.FORMAT_CHECKER
    validator = Draft202012Validator(schema, format_checker=checker)
    error = next(validator.iter_errors(response.json()), None)
    return f"its body: {error.message[:300]}" if error else ""


def _is_problem(response: Any) -> bool:
    document = response.json()
    needed = set(problem.SCHEMA["required"])
    return needed <= document.keys() and bool(document["status"] == response.status_code)


def fuzz(
    schema: BaseSchema,
    cases: int,
    headers: Mapping[str, str],
    *,
    pictures: Sequence[bytes] = (),
) -> Findings:
    """Send made-up requests, the same each time.

    Args:
        schema: from ``schemathesis.openapi``, of a server or of an application in this process.
        cases: so many of each operation that takes a body; others have nothing to vary.
        headers: that go with every one.
        pictures: contents of uploads, beside random ones: chance draws no picture.
    """
    from schemathesis import GenerationMode

    _register(pictures)
    findings = Findings()
    for result in schema.get_all_operations():
        operation: Operation = result.ok()  # type: ignore[union-attr]  # else it raises
        if operation.body:
            _fuzz(operation, GenerationMode.POSITIVE, cases // 2, headers, findings)
            _fuzz(operation, GenerationMode.NEGATIVE, cases - cases // 2, headers, findings)
        else:
            _fuzz(operation, GenerationMode.POSITIVE, 1, headers, findings)
    return findings


def _register(pictures: Sequence[bytes]) -> None:
    """Have uploads, and the URLs in their place, hold pictures, and what is none."""
    import schemathesis
    from hypothesis import strategies

    urls = [f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}" for picture in pictures]
    broken = ["data:,", "data:image/png;base64,AAAA", "data:x", "http://127.0.0.1:1/a.png"]
    texts = strategies.text().map("data:image/png;base64,".__add__)
    schemathesis.openapi.format("uri", strategies.sampled_from([*urls, *broken]) | texts)
    some = strategies.binary()
    schemathesis.openapi.format(
        "binary", strategies.sampled_from(pictures) | some if pictures else some
    )


def _fuzz(
    operation: Operation,
    mode: Any,
    cases: int,
    headers: Mapping[str, str],
    findings: Findings,
) -> None:
    import hypothesis

    enough = findings.cases + cases

    @hypothesis.seed(0)
    @hypothesis.settings(
        # Some are thrown away, as the document's words cannot all be met by chance.
        max_examples=cases,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
        verbosity=hypothesis.Verbosity.quiet,
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        if findings.cases < enough:
            findings.take(operation, case.call(headers=dict(headers)), case)

    ask()
