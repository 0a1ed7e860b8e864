"""Plans: which steps share a process, and what each process asks for."""

import pytest

from mlkit import batched_step, pipeline, step
from mlkit.errors import DefinitionError
from mlkit.plan import plan


@step
def load(x: int) -> int:
    return x


@batched_step(max_batch_size=16, stage="models", num_cpus=0.5)
def classify(xs: list[int]) -> list[int]:
    return xs


@step(stage="models", num_cpus=0.25, ray_actor_options={"resources": {"disk": 1}})
def embed(x: int) -> int:
    return x


@step(num_gpus=0.5)
def detect(x: int) -> int:
    return x


@step
def join(a: int, b: int, c: int) -> int:
    return a + b + c


@pipeline
def shop(x: int) -> int:
    y = load(x)
    return join(classify(y), embed(y), detect(y))


def test_steps_that_ask_for_nothing_stay_in_front() -> None:
    made = plan(shop)
    assert made.front.nodes == ("load", "join")
    assert made.front.why == "answers HTTP"
    assert {s.name: s.nodes for s in made.stages[1:]} == {
        "models": ("classify", "embed"),
        "detect": ("detect",),
    }


def test_what_steps_ask_for_is_added_up() -> None:
    models = plan(shop)["models"]
    assert models.ray_actor_options == {"num_cpus": 0.75, "resources": {"disk": 1}}
    assert models.max_batch_size == {"classify": 16}


def test_each_stage_says_why() -> None:
    made = plan(shop, options={"load": {"num_replicas": 3}})
    assert [stage.why for stage in made.stages] == [
        "answers HTTP",
        "num_replicas=3",
        "stage='models'",
        "num_gpus=0.5",
    ]
    assert [s.why for s in plan(shop, layout="per_step").stages][:2] == [
        "answers HTTP, and calls the others",
        "layout='per_step'",
    ]


def test_the_layout_splits_off_every_step_that_names_no_stage() -> None:
    made = plan(shop, layout="per_step", options={"load": {"num_replicas": 3}})
    assert [(s.name, s.num_replicas) for s in made.stages] == [
        ("shop", 1),
        ("load", 3),
        ("models", 1),
        ("detect", 1),
        ("join", 1),
    ]
    assert made.hops == 4
    assert made.num_cpus == pytest.approx(0.25 + 3 * 0.1 + 0.75 + 0.1 + 0.1)


def test_options_override_without_editing_a_step() -> None:
    made = plan(shop, options={"classify": {"stage": "own", "max_batch_size": 4}})
    assert made["own"].nodes == ("classify",)
    assert made.graph["classify"].step.max_batch_size == 4
    assert shop.graph["classify"].step.max_batch_size == 16


def test_scaling_by_itself_is_a_stage() -> None:
    scaling = {"min_replicas": 0, "max_replicas": 4}
    made = plan(shop, options={"load": {"autoscaling_config": scaling}})
    assert made["load"].autoscaling_config == scaling
    assert made["load"].num_replicas is None
    assert made["load"].replicas == "0–4"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"layout": "spread"}, "unknown layout"),
        ({"options": {"lod": {"num_replicas": 2}}}, "unknown steps: 'lod'"),
        ({"options": {"load": {"replicas": 2}}}, "replicas"),
        (
            {"options": {"classify": {"num_replicas": 2}, "embed": {"num_replicas": 3}}},
            "have different num_replicas",
        ),
        (
            {
                "options": {
                    "classify": {"num_replicas": 2},
                    "embed": {"autoscaling_config": {"max_replicas": 2}},
                }
            },
            "exclude each other",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(wrong, said) -> None:
    with pytest.raises(DefinitionError, match=said):
        plan(shop, **wrong)


def test_a_plan_is_a_table_and_a_picture() -> None:
    made = plan(shop)
    frame = made.to_frame()
    assert list(frame.index) == ["shop", "models", "detect"]
    assert frame.loc["models", "num_cpus"] == 0.75
    for view in (str(made), made._repr_html_()):
        assert "models" in view
        assert "stage=" in view
