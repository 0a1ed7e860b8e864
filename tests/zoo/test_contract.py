"""Answers are as the document declares; `make contract` asks more."""

import pytest

from tests.zoo.contract import PIPELINES, ask


@pytest.mark.parametrize("pipe", PIPELINES, ids=lambda pipe: pipe.name)
def test_no_answer_is_a_500_or_undeclared(pipe) -> None:
    findings = ask(pipe, 12)
    assert findings.wrong == []
    assert findings.cases >= 12
    assert 200 in findings.statuses
