import pytest

from mlkit.errors import MlkitError
from mlkit.models import imagenet_names, zoo


def test_there_are_a_thousand_names_in_the_order_of_the_logits():
    names = imagenet_names()
    assert len(names) == 1000
    assert (names[0], names[610], names[770], names[999]) == (
        "tench",
        "T-shirt",
        "sneaker",
        "toilet paper",
    )


def test_names_carry_no_explanations():
    assert [name for name in imagenet_names() if set("(/,") & set(name)] == []


def test_the_installed_weights_are_the_pinned_ones():
    zoo.check_sha256(zoo.lite0_weights(), zoo.LITE0_SHA256)


def test_another_weights_file_is_refused(tmp_path, monkeypatch):
    other = tmp_path / "weights.pth"
    other.write_bytes(b"not these")
    monkeypatch.setattr(zoo, "lite0_weights", lambda: other)
    with pytest.raises(MlkitError, match="checksum") as caught:
        zoo.efficientnet_lite0()
    assert caught.value.where == str(other)
