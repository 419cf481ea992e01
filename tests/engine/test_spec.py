"""From plain values to problems and back; what cannot work is refused by name."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.errors import InvalidSpec
from engine.spec import JobSpec, Part, build, check, example, rebuild, shorthand
from engine.tracers import Budget

TEXT = Part("markov_text", {"context": 6, "length": 900})
TRANSFORMER = Part("char_transformer", {"blocks": 1, "width": 8, "heads": 2})
SMALL = {"epochs": 1, "anchor_epochs": 2, "sweeps": 1}


def spec(**changes: object) -> JobSpec:
    values = {"network": Part("mlp", {"hidden": [6]}), "data": Part("digits", {"limit": 200}), "points": 3}
    return JobSpec(**{**values, "method": Part("continuation", SMALL), **changes})


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("mlp", Part("mlp")),
        ("mlp:20,20", Part("mlp", {"hidden": [20, 20]})),
        ("mlp:4,4,activation=tanh", Part("mlp", {"hidden": [4, 4], "activation": "tanh"})),
        ("digits:limit=200,scale=unit", Part("digits", {"limit": 200, "scale": "unit"})),
        ("../some/file.npz:limit=5", Part("../some/file.npz", {"limit": 5})),
        ("package.module:factory", Part("package.module:factory")),
        ("package.module:factory:width=3", Part("package.module:factory", {"width": 3})),
        ("group_l2:input", Part("group_l2", {"groups": "input"})),
        (
            "continuation:sweeps=3,batch=none,rate=1e-2",
            Part("continuation", {"sweeps": 3, "batch": None, "rate": 0.01}),
        ),
    ],
)
def test_shorthand(text: str, part: Part) -> None:
    assert shorthand(text) == part


def test_shorthand_refuses_values_a_part_does_not_take() -> None:
    with pytest.raises(InvalidSpec, match="takes no values"):
        shorthand("lenet5:3")


def test_spec_survives_its_dictionary() -> None:
    original = spec(budget=Budget(epochs=5), tags=("a", "b"), name="n", seed=4)
    assert JobSpec.from_dict(original.to_dict()) == original


def test_defaults_need_only_network_and_data() -> None:
    found = JobSpec.from_dict({"network": {"name": "mlp"}, "data": {"name": "digits"}})
    assert (found.penalty.name, found.method.name, found.points) == ("l1", "continuation", 40)


def test_facts_tell_what_will_be_traced() -> None:
    facts = check(spec(), {})
    assert facts["input_shape"] == [8, 8]
    assert (facts["n_outputs"], facts["loss"], facts["task"]) == (10, "cross_entropy", "classification")
    assert facts["n_params"] == 64 * 6 + 6 + 6 * 10 + 10
    assert (facts["n_train"], facts["n_validation"]) == (180, 20)
    assert facts["expected"] == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": Part("mpl")}, "'mpl'.*mlp"),
        ({"data": Part("digit")}, "'digit'.*digits"),
        ({"penalty": Part("l3")}, "'l3'.*l1"),
        ({"method": Part("continue")}, "'continue'.*continuation"),
        ({"loss": "hinge"}, "'hinge'.*cross_entropy"),
        ({"device": "tpu"}, "'tpu'.*cpu"),
        ({"points": 0}, "points 0"),
        ({"points": 10**6}, "points 1000000"),
        ({"network": Part("mlp", {"hiden": [3]})}, "'hiden'.*hidden"),
        ({"network": Part("mlp", {"hidden": [0]})}, r"hidden \[0\]"),
        ({"network": Part("mlp", {"hidden": "20"})}, "hidden '20'"),
        ({"network": Part("mlp", {"hidden": [10**8]})}, "weights; at most"),
        ({"network": Part("lenet5")}, "lenet5"),
        ({"network": Part("mlp", {"activation": "step"})}, "'step'.*relu"),
        ({"data": Part("markov_text")}, "mlp.*does not take data 'markov_text' of shape 64"),
        ({"network": Part("char_transformer")}, r"char_transformer.*does not fit samples of shape \(8, 8\)"),
        ({"network": Part("char_transformer"), "data": Part("iris")}, "does not take data 'iris'"),
        ({"data": TEXT, "network": Part("tests.engine.test_spec:one_answer")}, "12 outputs for each of 6 characters"),
        ({"loss": "squared_error"}, "squared_error.*cross_entropy"),
        ({"penalty": Part("l1", {"parameters": "conv*"})}, r"conv\*"),
        ({"method": Part("continuation", {"end": 1.5})}, "end 1.5.*at most 1"),
        ({"method": Part("continuation", {"sweeps": "two"})}, "sweeps 'two'.*whole number"),
        ({"method": Part("continuation", {"predictor": "magic"})}, "predictor 'magic'.*secant"),
        ({"method": Part("continuation", {"rate": float("nan")})}, "rate nan"),
    ],
)
def test_what_cannot_work_is_named_with_what_can(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidSpec, match=words):
        check(spec(**changes), {})


def test_a_network_that_answers_with_the_wrong_shape_is_refused() -> None:
    with pytest.raises(InvalidSpec, match=r"needs 10 outputs"):
        check(spec(network=Part("tests.engine.test_spec:two_outputs")), {})


def test_a_network_that_answers_with_no_tensor_is_refused() -> None:
    network = Part("tests.engine.test_spec:two_answers")
    with pytest.raises(InvalidSpec, match="two_answers' answers with a tuple, not with a tensor"):
        check(spec(network=network), {})


class Twice(torch.nn.Linear):
    """Answers, and repeats its answer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer = super().forward(x.flatten(1))
        return answer, answer  # type: ignore[return-value]


def two_answers(input_shape: tuple[int, ...], n_outputs: int) -> torch.nn.Module:
    return Twice(math.prod(input_shape), n_outputs)


def one_answer(input_shape: tuple[int, ...], n_outputs: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Embedding(n_outputs, 4), torch.nn.Flatten(), torch.nn.Linear(24, n_outputs))


def two_outputs(input_shape: tuple[int, ...], n_outputs: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))


@pytest.mark.slow
@pytest.mark.parametrize("network", [Part("mlp"), Part("linear"), Part("tests.engine.test_spec:with_norm")])
def test_a_rebuilt_network_answers_as_the_traced_one(network: Part) -> None:
    job = spec(network=network)
    experiment = build(job, {})
    waypoint = list(experiment.tracer.trace(experiment.problem))[-1]
    module = rebuild(job, check(job, {}), waypoint)
    with torch.no_grad():
        answers = module(torch.from_numpy(experiment.dataset.X_test)).argmax(1).numpy()
    accuracy = (answers == experiment.dataset.y_test).mean()
    assert accuracy == waypoint.point.metrics["test_accuracy"]
    assert sum(int(p.count_nonzero()) for p in module.parameters()) == waypoint.point.n_nonzero


def with_norm(input_shape: tuple[int, ...], n_outputs: int) -> torch.nn.Module:
    layers = (
        torch.nn.Flatten(),
        torch.nn.Linear(64, 8),
        torch.nn.BatchNorm1d(8),
        torch.nn.ReLU(),
        torch.nn.Linear(8, n_outputs),
    )
    return torch.nn.Sequential(*layers)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_a_text_is_traced_and_its_networks_rebuilt(tied: bool) -> None:
    job = spec(network=replace(TRANSFORMER, params={**TRANSFORMER.params, "tied": tied}), data=TEXT)
    facts, experiment = check(job, {}), build(job, {})
    assert (facts["task"], facts["loss"], facts["input_shape"], facts["n_outputs"]) == (
        "language",
        "cross_entropy",
        [6],
        12,
    )
    waypoint = list(experiment.tracer.trace(experiment.problem))[-1]
    module = rebuild(job, facts, waypoint)
    with torch.no_grad():
        answers = module(torch.from_numpy(experiment.dataset.X_test)).argmax(-1).numpy()
        assert module(example(facts)).shape == (2, 6, 12)
    assert (answers == experiment.dataset.y_test).mean() == waypoint.point.metrics["test_accuracy"]
    assert sum(int(p.count_nonzero()) for p in module.parameters()) == waypoint.point.n_nonzero


def test_building_does_not_touch_the_global_random_state() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    build(spec(), {})
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.slow
def test_regression_and_two_class_losses_build() -> None:
    for data, loss in (("diabetes", "auto"), ("breast_cancer", "logistic")):
        experiment = build(spec(network=Part("linear"), data=Part(data), loss=loss), {})
        waypoints = list(experiment.tracer.trace(experiment.problem))
        assert np.isfinite([w.point.loss for w in waypoints]).all()
