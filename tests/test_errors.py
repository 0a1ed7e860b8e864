from __future__ import annotations

import importlib
import inspect
import pickle
import subprocess
import sys
import traceback
from typing import Any

import pytest

from mlkit import pipeline, step
from mlkit.errors import MissingExtra, MlkitError, StepError, entry_point, require_extra
from mlkit.load import constant, load_test
from mlkit.plan import plan
from mlkit.serving import deploy


def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    with pytest.raises(MissingExtra) as caught:
        require_extra("load", "numpy", "matplotlib", "no_such_package")
    assert str(caught.value) == (
        'not installed: matplotlib, no_such_package\n  → pip install "mlkit[load]"'
    )
    assert isinstance(caught.value, ImportError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_what_is_installed_is_not_imported() -> None:
    code = (
        "import sys; from mlkit.errors import require_extra; require_extra('models', 'torch'); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("mlkit.models", "torch", "models"),
        ("mlkit.tagging", "webcolors", "models"),
        ("mlkit.views.mpl", "matplotlib", "load"),
        ("mlkit.views.widgets", "ipywidgets", "notebook"),
    ],
)
def test_a_package_that_needs_an_extra_says_so_when_it_is_imported(
    module: str, package: str, extra: str
) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; import {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.endswith(
        f'MissingExtra: not installed: {package}\n  → pip install "mlkit[{extra}]"\n'
    )


def test_defining_drawing_and_serving_need_no_extra() -> None:
    absent = ("IPython", "ipywidgets", "matplotlib", "openvino", "torch")
    code = f"""
import sys
sys.modules.update(dict.fromkeys({absent!r}))
import mlkit, mlkit.load, mlkit.serving, mlkit.views.snapshot, mlkit.cli

@mlkit.step
def twice(x: int) -> int:
    return 2 * x

@mlkit.pipeline
def double(x: int) -> int:
    return twice(x)

assert double(2) == 4
assert "<svg" in double._repr_html_()
assert "twice" in double.run(2)._repr_html_()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_doctor_reports_that_models_are_not_installed() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; "
        "from mlkit.cli.doctor import capabilities; print(capabilities()['models'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == 'not installed: torch; pip install "mlkit[models]"\n'


# ---- tracebacks --------------------------------------------------------------------------------


@step
def fail(x: int) -> int:
    raise ValueError(x)


@pipeline
def failing(x: int) -> int:
    return fail(x)


def misuse() -> Any:
    @pipeline
    def wrong(x: int) -> int:
        return fail(x + 1)


def libraries(error: BaseException) -> list[str]:
    """Modules of the library in the tracebacks of an error and its causes."""
    modules = []
    link: BaseException | None = error
    while link is not None:
        modules += [f.f_globals["__name__"] for f, _ in traceback.walk_tb(link.__traceback__)]
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return [name for name in modules if name.startswith("mlkit")]


MISTAKES = {
    "a definition": misuse,
    "a decorator": lambda: step(num_gpu=1)(lambda x: x),
    "a pipeline's call": lambda: failing(1),
    "its arguments": lambda: failing(y=1),
    "a run": lambda: failing.run(1),
    "a map": lambda: failing.map([1], progress=False),
    "a step's call": lambda: fail(1),
    "a plan": lambda: plan(failing, layout="none"),
    "a deployment": lambda: deploy(fail),
    "a load test": lambda: load_test(fail, [1], constant(rate=1), duration_s=1),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_traceback_shows_the_users_frames_only(mistake: Any) -> None:
    with pytest.raises((MlkitError, ValueError)) as caught:
        mistake()
    assert libraries(caught.value) == []
    assert any(f.f_code.co_filename == __file__ for f, _ in traceback.walk_tb(caught.tb))


def test_the_whole_traceback_is_shown_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLKIT_FULL_TRACEBACK", "1")
    with pytest.raises(StepError) as caught:
        failing(1)
    assert "mlkit.pipelines" in libraries(caught.value)


def test_a_bug_of_the_library_keeps_its_traceback() -> None:
    library: dict[str, Any] = {"__name__": "mlkit.made_up"}
    exec("def broken(): return {}['key']", library)
    with pytest.raises(KeyError) as caught:
        entry_point(library["broken"])()
    assert "mlkit.made_up" in libraries(caught.value)


def public(package: str) -> list[Any]:
    """Functions of a package, and methods of its classes, that say what they raise."""
    module = importlib.import_module(package)
    values = [getattr(module, name) for name in module.__all__]
    methods = [
        getattr(member, "fget", member)
        for value in values
        if inspect.isclass(value) and value.__module__.startswith("mlkit")
        for name, member in vars(value).items()
        if not name.startswith("_") or name == "__call__"
    ]
    functions = [value for value in [*values, *methods] if inspect.isfunction(value)]
    return [function for function in functions if "Raises:" in (function.__doc__ or "")]


@pytest.mark.parametrize("package", ["mlkit", "mlkit.plan", "mlkit.serving", "mlkit.load"])
def test_every_public_function_that_raises_is_an_entry_point(package: str) -> None:
    bare = {f.__qualname__ for f in public(package) if not hasattr(f, "__wrapped__")}
    assert bare == set()
