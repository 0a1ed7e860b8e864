"""What `mlkit doctor` makes of a machine; nothing of the real one but where it says so."""

import json
import sys

import pytest

from mlkit.serving.control import folders
from mlkit.serving.kernel import doctor
from mlkit.serving.kernel.doctor import GIB, Examination, Finding


@pytest.mark.parametrize(
    ("found", "blocks"),
    [
        (doctor.about_python((3, 12), "linux"), []),
        (doctor.about_python((3, 10), "linux"), [True]),
        (doctor.about_python((3, 14), "darwin"), [True, True]),
        (doctor.about_packages({"ray": "2.60.1", "numpy": "2"}), []),
        (doctor.about_packages({"ray": "2.61.0", "numpy": None}), [True, False]),
        (doctor.about_packages({"torch": None, "openvino": None, "jupyterlab": None}), [False] * 2),
        (doctor.about_memory(8 * GIB), []),
        (doctor.about_memory(GIB + 1), [False]),
        (doctor.about_memory(GIB // 2), [True]),
        (doctor.about_shared_memory(GIB), []),
        (doctor.about_shared_memory(64 * 2**20), [False]),
        (doctor.about_disk(50 * GIB, 100 * GIB), []),
        (doctor.about_disk(4 * GIB, 100 * GIB), [False]),
        (doctor.about_port(8000, None), []),
        (doctor.about_port(8000, ""), [False]),
        (doctor.about_port(8000, "process 7 (nginx)"), [False]),
        (doctor.about_ray("it", {"A": "1"}, {"A": "1", "B": "2"}), []),
        (doctor.about_ray("it", {"A": "1", "B": "2"}, {"A": "0"}), [False]),
        (doctor.about_files(65536), []),
        (doctor.about_files(-1), []),
        (doctor.about_files(1024), [False]),
        (doctor.about_environment({"PATH": "/bin"}), []),
        (doctor.about_environment({"RAY_ADDRESS": "a:1", "RAY_SERVE_X": "1"}), [False, False]),
    ],
)
def test_a_value_is_in_the_way_or_not(found, blocks) -> None:
    findings = list(found)
    assert [finding.blocks for finding in findings] == blocks
    assert all(finding.what and finding.fix for finding in findings)


def test_the_process_that_has_a_port_is_named() -> None:
    import os
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert f"process {os.getpid()} (" in doctor.holder_of(port)
    assert doctor.holder_of(port) is None
    (finding,) = doctor.about_port(8000, "process 7 (nginx)")
    assert "in use by process 7 (nginx)" in finding.what


def test_findings_show_themselves_with_what_blocks_first() -> None:
    assert repr(doctor.Findings()) == "no problems"
    shown = repr(doctor.Findings([Finding("a", "b"), Finding("c", "d", blocks=True)]))
    assert shown.index("✗ c") < shown.index("! a")


def test_only_what_blocks_makes_it_unhealthy() -> None:
    warned = Examination({}, {}, (Finding("a", "b"),))
    blocked = Examination({"ray": None}, {}, (Finding("a", "b"), Finding("c", "d", blocks=True)))
    assert (warned.healthy, blocked.healthy) == (True, False)
    assert str(blocked).index("✗ c") < str(blocked).index("! a")
    assert "missing" in str(blocked)
    assert json.loads(blocked.to_json())["healthy"] is False


def test_this_machine_is_looked_at(runtime_folder, monkeypatch) -> None:
    monkeypatch.setenv("MLKIT_RUNTIME_DIR", str(runtime_folder))
    found = doctor.examine({"CUDA": "no"})
    assert found.installed["python"] == sys.version.split()[0]
    assert found.installed["haproxy"]
    assert found.machine["CUDA"] == "no"
    assert "GiB" in found.machine["memory"]


@pytest.fixture
def remains(runtime_folder, monkeypatch):
    """The folder of a session that is gone."""
    monkeypatch.setenv("MLKIT_RUNTIME_DIR", str(runtime_folder))
    folder = folders.create()
    owner = {"pid": 2**22 + 1, "started": 0.0}
    (folder / "settings.json").write_text(json.dumps({"owner": owner}))
    yield folder
    folders.remove(folder)


def test_what_a_dead_session_left_is_found_with_a_way_to_clean_up(remains) -> None:
    class Left:
        pid = 42

    (finding,) = doctor.about_session(remains, processes=lambda name: [Left()])
    assert remains.name in finding.what
    assert finding.fix == f"kill 42; rm -r {remains}"
    (finding,) = doctor.about_session(remains, processes=lambda name: [])
    assert finding.fix == f"rm -r {remains}"
    assert not finding.blocks


def test_an_unusable_folder_blocks(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MLKIT_RUNTIME_DIR", str(tmp_path / "far-too-long-for-a-socket"))
    (finding,) = doctor._about_folder()
    assert finding.blocks
    assert "MLKIT_RUNTIME_DIR" in finding.fix
