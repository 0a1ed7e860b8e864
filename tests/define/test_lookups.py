"""Global variables that steps look up as text, which are not in a replica."""

import linecache
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from mlkit.define.shippable import problems

Cell = Callable[..., dict[str, Any]]
NAMES = {
    "globals()['RATE']": ("'RATE' in globals()", "write RATE itself"),
    "'RATE' in globals()": ("'RATE' in globals()", "write RATE itself"),
    "globals()[x]": ("globals()", "write the names themselves"),
    "globals().get(x)": ("globals()", "write the names themselves"),
    "eval('RATE * 2')": ("'RATE' in eval(...)", "eval(text, {'RATE': RATE})"),
    "exec('y = RATE')": ("'RATE' in exec(...)", "exec(text, {'RATE': RATE})"),
    "eval(x)": ("whatever the text of eval(...) names", "eval(text, {'name': name}), or {}"),
    "exec(f'y = {x}')": ("whatever the text of exec(...) names", "exec(text, {'name': name})"),
    "pd.DataFrame({'a': [1]}).query('a > @RATE')": ("@RATE in query(...)", "local variable"),
    "pd.DataFrame({'a': [1]}).eval('a > @RATE')": ("@RATE in eval(...)", "local variable"),
    "__import__('sys').modules['__main__'].RATE": ("the module __main__", "the names themselves"),
    "main.RATE": ("the module __main__", "the names themselves"),
}
STATEMENTS = {
    "import __main__; return __main__.RATE": ("the module __main__", "the names themselves"),
    "from __main__ import RATE; return RATE": ("the module __main__", "the names themselves"),
}
FINE = [
    "return globals()['RATE'] + RATE",
    "return eval('x * 2')",
    "return eval('RATE', {'RATE': RATE})",
    "return eval(x, {})",
    "return eval('RATE') + RATE",
    "return model.eval()",
    "return pd.DataFrame({'a': [1]}).query('a > @x')",
    "rate = RATE; return pd.DataFrame({'a': [1]}).query('a > @rate')",
    "return locals()['x']",
    "globals = dict; return globals(a=1)",
]


@pytest.fixture
def problems_of(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Returns a function: a statement to the problems of a step with it, or of its helper."""

    def problems_with(statement: str, *, helper: bool = False) -> list[Any]:
        monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
        source = (
            "import __main__ as main\nimport pandas as pd\nfrom mlkit import pipeline, step\n"
            "RATE = 2\nmodel = pd.DataFrame()\n"
            f"def helper(x):\n    {statement}\n"
            + ("@step\ndef f(x: str) -> object:\n    return helper(x)\n" if helper else "")
            + ("" if helper else f"@step\ndef f(x: str) -> object:\n    {statement}\n")
            + "@pipeline\ndef p(x: str) -> object:\n    return f(x)\n"
        )
        file = "<cell of lookups>"
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        return list(problems(cell(source, filename=file)["p"].graph))

    return problems_with


@pytest.mark.parametrize("helper", [False, True], ids=["step", "helper"])
@pytest.mark.parametrize(
    ("statement", "what", "fix"),
    [
        *((f"return {code}", *texts) for code, texts in NAMES.items()),
        *((code, *texts) for code, texts in STATEMENTS.items()),
    ],
)
def test_a_name_as_text_is_a_problem(problems_of, statement, what, fix, helper) -> None:
    (problem,) = problems_of(statement, helper=helper)
    assert f"{'helper' if helper else 'it'} uses {what}, which does not exist" in problem.what
    assert fix in problem.fix
    assert problem.node == "f"


@pytest.mark.parametrize("statement", FINE)
def test_what_code_names_or_passes_is_none(problems_of, statement) -> None:
    assert problems_of(statement) == []


@pytest.mark.parametrize(
    "statement",
    [
        "try: return ABSENT\n    except NameError: return 0",
        "try: ABSENT\n    except (NameError, TypeError): return 0\n    return ABSENT * 2",
        "if 'ABSENT' in globals(): return ABSENT\n    return 0",
        "if 'ABSENT' not in globals(): return 0\n    return ABSENT",
        "return ABSENT if 'ABSENT' in globals() else 0",
        "import builtins; return ABSENT if hasattr(builtins, 'ABSENT') else 0",
        "import contextlib\n    with contextlib.suppress(NameError): return ABSENT",
    ],
)
def test_a_name_that_a_step_can_do_without_is_none(problems_of, statement) -> None:
    assert problems_of(statement) == []


@pytest.mark.parametrize(
    "statement",
    [
        "return ABSENT",
        "try: return ABSENT\n    except ValueError: return 0",
        "try: return x\n    except NameError: return ABSENT",
        "if 'OTHER' in globals(): return ABSENT\n    return 0",
    ],
)
def test_any_other_name_that_is_defined_nowhere_is_a_problem(problems_of, statement) -> None:
    (problem,) = problems_of(statement)
    assert "'ABSENT', which is not defined" in problem.what
