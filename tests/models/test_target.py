import pytest

from mlkit.errors import DefinitionError
from mlkit.models import target
from mlkit.models.target import choose


@pytest.fixture
def machine(monkeypatch):
    """Say what this machine has."""

    def describe(*, cuda=False, cpu_bf16=False, cuda_bf16=False, cpus=4):
        monkeypatch.setattr(target, "cuda_available", lambda: cuda)
        monkeypatch.setattr(target, "cpu_has_bf16", lambda: cpu_bf16)
        monkeypatch.setattr(target, "cuda_has_bf16", lambda: cuda_bf16)
        monkeypatch.setattr(target, "cpu_count", lambda: cpus)

    return describe


def test_a_plain_cpu_gets_openvino_in_fp32(machine):
    machine()
    chosen = choose()
    assert (chosen.engine, chosen.device, chosen.precision) == ("openvino", "cpu", "fp32")


def test_a_cpu_with_bf16_computes_in_it(machine):
    machine(cpu_bf16=True)
    assert choose().precision == "bf16"
    assert choose(precision="fp32").precision == "fp32"


def test_torch_on_the_cpu_stays_in_fp32(machine):
    machine(cpu_bf16=True)
    assert choose(engine="torch").precision == "fp32"


def test_a_cuda_device_is_taken_where_there_is_one(machine):
    machine(cuda=True, cuda_bf16=True)
    chosen = choose()
    assert (chosen.engine, chosen.device, chosen.precision) == ("torch", "cuda", "bf16")


def test_fp16_is_for_those_who_ask_for_it(machine):
    machine(cuda=True)
    assert choose().precision == "fp32"
    assert choose(precision="fp16").precision == "fp16"


def test_openvino_on_request_stays_on_the_cpu(machine):
    machine(cuda=True)
    assert choose(engine="openvino").device == "cpu"


def test_there_are_as_many_workers_as_cpus_unless_told_otherwise(machine):
    machine(cpus=3)
    assert (choose().workers, choose().threads) == (3, 3)
    assert (choose(workers=1).workers, choose(workers=1).threads) == (1, 3)


def test_the_environment_limits_the_threads(monkeypatch):
    monkeypatch.setenv("MLKIT_THREADS", "5")
    assert target.cpu_count() == 5


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"engine": "tensorrt"}, "engine="),
        ({"precision": "int4"}, "precision="),
        ({"precision": "fp16"}, "fp16 is for CUDA"),
        ({"device": "tpu"}, "device"),
        ({"device": "cuda"}, "no CUDA device"),
        ({"device": "cuda", "engine": "openvino"}, "OpenVINO does not run on CUDA"),
        ({"workers": 0}, "workers="),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused(machine, wish, words):
    machine()
    with pytest.raises(DefinitionError, match=words):
        choose(**wish)


def test_hidden_cuda_devices_are_not_asked_for(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not target.cuda_available()
