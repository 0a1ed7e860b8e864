from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from mlkit.errors import MissingExtra, require_extra


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
        "from mlkit.cli import _capabilities; print(_capabilities()['models'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == 'not installed: torch; pip install "mlkit[models]"\n'
