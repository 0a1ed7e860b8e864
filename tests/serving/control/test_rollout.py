"""From what is wanted of an app to what Serve is told; without Ray."""

from mlkit.serving.control.rollout import changes, rollout


def spec(**limits):
    stage = {
        "bundle": "bundle",
        "digest": "d1",
        "manifest": {"steps": {}, "resources": {}},
        "options": {"ray_actor_options": {"num_cpus": 1}},
    }
    return {
        "app": "tag",
        "origin": {"folder": "/", "search_path": []},
        "fresh": "",
        "workers": 2,
        "gatherer": "",
        "token": None,
        "limits": {"max_ongoing_requests": 8, "request_timeout_s": 60.0, **limits},
        "stages": [{"name": "tag", **stage}, {"name": "models", **stage}],
    }


def test_a_stage_hears_of_the_request_timeout_and_goes_on() -> None:
    before = rollout(spec(), "/logs", "/tag", None)
    after = rollout(spec(request_timeout_s=5.0), "/logs", "/tag", before)
    ((old,), (new,)) = before.stages, after.stages
    assert old.target.user_config["request_timeout_s"] == 60.0
    assert new.target.user_config["request_timeout_s"] == 5.0
    assert new.target.version == old.target.version
    actions = {change.stage: change.action for change in changes(before, after)}
    assert actions == {"tag": "new code in place", "models": "kept"}
