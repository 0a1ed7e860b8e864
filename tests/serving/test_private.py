"""What is used of others' private names: a failure here says what another version broke."""

import pytest

from mlkit.serving.kernel.doctor import about_private_names
from mlkit.serving.private import PRIVATE_NAMES, PrivateName


@pytest.mark.parametrize("name", PRIVATE_NAMES, ids=lambda name: name.name)
def test_what_is_installed_has_it(name) -> None:
    assert name.exists, f"{name.name} is gone: {name.used_for}. Without it: {name.without}"


@pytest.mark.parametrize(
    "name",
    [
        "ray.no_such_module:x",
        "ray.serve:no_such_function",
        "ray.serve:delete(no_such_parameter)",
        "ray._private.node:Node.no_such_method",
    ],
)
def test_a_name_that_is_gone_is_told_with_what_follows(name) -> None:
    gone = PrivateName(name, "used for this", "that happens")
    assert not gone.exists
    (finding,) = about_private_names([gone])
    assert name in str(finding)
    assert "that happens" in str(finding)
