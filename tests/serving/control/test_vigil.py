"""Which replicas hold their interpreter: by their signs of life, in made-up time."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlkit.serving.control.vigil import EVERY_S, Sign, Vigil, signs
from mlkit.serving.replica.pulse import Pulse

SILENCE_S = 3.0


class Process:
    """A replica whose threads run, or do not, and which computes, or does not."""

    def __init__(self, silence_s=SILENCE_S) -> None:
        self.beat, self.cpu_s, self.silence_s = 0.0, 7.0, silence_s

    def live(self, now, beats, share) -> None:
        self.cpu_s += share * EVERY_S
        if beats:
            self.beat = now

    @property
    def sign(self) -> Sign:
        return Sign(self.beat, self.silence_s, self.cpu_s)


class Machine:
    def __init__(self, **processes) -> None:
        self.processes = {int(name[1:]): process for name, process in processes.items()}
        self.now, self.killed = 100.0, {}
        self.vigil = Vigil(
            lambda: {pid: each.sign for pid, each in self.processes.items()},
            self.kill,
            lambda: self.now,
        )

    def kill(self, pid) -> None:
        self.killed[pid] = self.now
        del self.processes[pid]

    def pass_by(self, seconds, beats=True, share=0.1) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += EVERY_S
            for process in self.processes.values():
                process.live(self.now, beats, share)
            self.vigil.look()


@pytest.mark.parametrize("share", [0.8, 1.0, 2.0, 16.0])
def test_what_computes_in_silence_is_killed_when_no_request_could_still_be_in_time(share) -> None:
    machine = Machine(p1=Process())
    machine.pass_by(60.0)
    assert not machine.killed
    held_at = machine.now
    machine.pass_by(20.0, beats=False, share=share)
    assert SILENCE_S < machine.killed[1] - held_at <= SILENCE_S + 3 * EVERY_S


@pytest.mark.parametrize("share", [0.0, 0.001])
def test_what_is_paused_or_gets_no_cpu_lives(share) -> None:
    machine = Machine(p1=Process())
    machine.pass_by(2.0)
    machine.pass_by(600.0, beats=False, share=share)
    machine.pass_by(60.0)
    assert not machine.killed


def test_what_starves_while_it_holds_the_interpreter_is_killed_later() -> None:
    machine = Machine(p1=Process())
    machine.pass_by(2.0)
    held_at = machine.now
    machine.pass_by(60.0, beats=False, share=0.1)
    assert 10.0 < machine.killed[1] - held_at < 20.0


def test_a_longer_request_timeout_allows_a_longer_silence() -> None:
    machine = Machine(p1=Process(), p2=Process(silence_s=31.0))
    machine.pass_by(10.0, beats=False, share=1.0)
    assert list(machine.killed) == [1]
    machine.pass_by(30.0, beats=False, share=1.0)
    assert list(machine.killed) == [1, 2]


@given(st.lists(st.tuples(st.floats(0.5, 2.5), st.floats(0.0, 64.0)), max_size=30))
def test_nobody_whose_silences_are_short_enough_is_killed(silences) -> None:
    machine = Machine(p1=Process())
    for seconds, share in silences:
        machine.pass_by(seconds, beats=False, share=share)
        machine.pass_by(EVERY_S)
    assert not machine.killed


def test_one_whose_sign_is_gone_for_a_while_starts_afresh() -> None:
    machine = Machine(p1=Process())
    machine.pass_by(2.5, beats=False, share=1.0)
    loading = machine.processes.pop(1)
    machine.pass_by(60.0)
    machine.processes[1] = loading
    machine.pass_by(2.5, beats=False, share=1.0)
    assert not machine.killed


# ---- the files ----------------------------------------------------------------------------------


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Pulse of this process, and a function that reads the signs of the session that it is of."""
    import psutil

    monkeypatch.setattr(psutil.Process, "environ", lambda process: {"MLKIT_SESSION": "abc"})
    return Pulse(tmp_path), lambda session="abc": signs(tmp_path, session)


def test_a_sign_says_what_is_expected_and_computed(mine) -> None:
    pulse, read = mine
    assert read() == {}
    pulse.expect(31.0)
    (sign,) = read().values()
    assert sign.silence_s == 31.0
    assert 0 < sign.cpu_s <= sum(os.times()[:2])
    assert list(read()) == [os.getpid()]


def test_each_beat_is_a_new_one(mine) -> None:
    pulse, read = mine
    pulse.expect(3.0)
    os.utime(pulse._path, (5.0, 5.0))
    assert read()[os.getpid()].beat == 5.0
    pulse.beat()
    assert read()[os.getpid()].beat > 5.0


def test_there_is_no_sign_while_something_is_loaded(mine) -> None:
    pulse, read = mine
    with pulse.paused():
        pulse.expect(3.0)
        with pulse.paused():
            pass
        pulse.beat()
        assert read() == {}
    assert read()


def test_a_stopped_pulse_leaves_nothing(mine) -> None:
    pulse, read = mine
    pulse.expect(3.0)
    pulse.stop()
    pulse.beat()
    assert read() == {}


def test_signs_of_the_dead_are_deleted_and_those_of_strangers_not_counted(mine, tmp_path) -> None:
    pulse, read = mine
    pulse.expect(3.0)
    dead = tmp_path / str(2**22 - 1)
    dead.write_text("3.0")
    assert read("another") == {}
    assert list(read()) == [os.getpid()]
    assert not dead.exists()


@pytest.mark.parametrize("text", ["", "soon"])
def test_a_file_that_is_being_written_is_left_alone(mine, text) -> None:
    pulse, read = mine
    pulse.expect(3.0)
    pulse._path.write_text(text)
    assert read() == {}
    assert pulse._path.exists()


def test_where_there_is_no_folder_nothing_is_written(tmp_path) -> None:
    pulse = Pulse(tmp_path / "none")
    pulse.start()
    pulse.expect(3.0)
    assert not list(tmp_path.iterdir())
