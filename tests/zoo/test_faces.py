"""Every type has a form on the playground, and is a tensor of the Open Inference Protocol."""

import pytest
from starlette.testclient import TestClient

from mlkit.serving import Limits
from mlkit.serving.http.ingress import create_app
from tests.zoo.catalog import ENTRIES
from tests.zoo.ways import ADDRESS, Entry, _pipeline

pytestmark = pytest.mark.filterwarnings("ignore")  # of pandas and pydantic, about odd types

ACCEPTED = [entry for entry in ENTRIES if not entry.refused]


@pytest.mark.parametrize("entry", ACCEPTED, ids=[entry.name for entry in ACCEPTED])
def test_a_type_has_a_form_and_is_a_tensor(entry: Entry) -> None:
    pipe, _ = _pipeline(entry)
    client = TestClient(create_app(pipe.graph, lambda: None, Limits(), None), base_url=ADDRESS)
    page = client.get("/try")
    assert page.status_code == 200
    assert page.text.count('data-name="x"') == 1
    metadata = client.get("/v2/models/echo").json()
    assert [given["name"] for given in metadata["inputs"]] == ["x"]
    for described in (*metadata["inputs"], *metadata["outputs"]):
        assert described["parameters"]["content_type"]
        assert described["datatype"]
