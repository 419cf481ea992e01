"""Multiply-adds against counts by hand, and against what the zeros leave out."""

import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry

from engine.errors import InvalidSpec
from engine.multiply_adds import multiply_adds, reuse, uses
from engine.networks import resolve
from engine.spec import JobSpec, Part, shorthand, weight_uses
from tests.storage.examples import a_point


def facts(*shape: int, n_outputs: int = 10, task: str = "classification") -> dict[str, object]:
    return {"input_shape": list(shape), "n_outputs": n_outputs, "task": task}


def counted(network: str, **known: object) -> dict[str, float]:
    return weight_uses(JobSpec(shorthand(network), Part("digits")), known)


def test_weights_of_dense_layers_are_used_once() -> None:
    found = counted("mlp:20,20", **facts(8, 8))
    assert {name: n for name, n in found.items() if n} == {f"{x}.weight": 1.0 for x in ("layer1", "layer2", "output")}


def test_filters_are_used_at_every_place() -> None:
    found = counted("lenet5", **facts(28, 28))
    assert [found[f"{name}.weight"] for name in ("conv1", "conv2", "dense", "output")] == [24 * 24, 8 * 8, 1, 1]


def test_resnet20_has_the_multiply_adds_of_the_literature() -> None:
    spec = JobSpec(Part("resnet20"), Part("cifar10"))
    found = weight_uses(spec, facts(3, 32, 32))
    assert found["conv.weight"] == 32 * 32
    assert found["norm.weight"] == 0
    whole = sum(n * size for n, size in zip(found.values(), sizes("resnet20", (3, 32, 32)), strict=True))
    assert whole == pytest.approx(40.8e6, rel=0.01)


@pytest.mark.parametrize(
    ("network", "shape", "products"), [("lenet300", (784,), 266_200), ("resnet20", (3, 32, 32), 40.8e6)]
)
def test_reuse_is_products_by_weights(network: str, shape: tuple[int, ...], products: float) -> None:
    found = reuse(resolve(network)(shape, 10).eval(), torch.zeros(2, *shape))
    assert found == pytest.approx(products / sum(sizes(network, shape)), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["mlp:4", "resnet20:width=1"])
def test_a_job_loads_no_compiler(network: str) -> None:
    program = f"""
import sys
from engine.spec import JobSpec, build, shorthand
method = shorthand("continuation:quality=draft,epochs=1,anchor_epochs=1")
experiment = build(JobSpec(shorthand("{network}"), shorthand("digits"), method=method, points=2), {{}})
next(experiment.tracer.trace(experiment.problem))
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_reuse_of_what_cannot_be_counted_is_that_of_dense_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    def uncounted(*_args: object, **_kwargs: object) -> int:
        raise AssertionError

    network = resolve("lenet5")((28, 28), 10).eval()
    assert reuse(network, torch.zeros(2, 28, 28)) > 5
    monkeypatch.setitem(flop_registry, torch.ops.aten.convolution, uncounted)
    assert reuse(network, torch.zeros(2, 28, 28)) == 1


def sizes(network: str, shape: tuple[int, ...]) -> list[int]:
    return [p.numel() for p in resolve(network)(shape, 10).parameters()]


@pytest.mark.parametrize("tied", [False, True])
def test_characters_are_looked_up_and_places_multiply(tied: bool) -> None:
    found = counted(f"char_transformer:1,width=8,heads=2,tied={tied}", **facts(16, n_outputs=5, task="language"))
    assert found["embedding.weight"] == (16 if tied else 0)
    assert found["position.weight"] == 0
    assert found["blocks.0.attention.query.weight"] == 16


class Halves(nn.Module):
    """Only the first half of the weights is used, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight[:2].T + x @ self.weight[:2].T


def test_views_count_for_the_tensor_they_are_of() -> None:
    assert uses(Halves(), torch.ones(7, 3)) == {"weight": 1.0}


def test_transposed_convolutions_multiply_at_every_place_they_read() -> None:
    assert uses(nn.ConvTranspose2d(2, 3, 3, bias=False), torch.ones(2, 2, 5, 5)) == {"weight": 25.0}


def test_zeros_multiply_nothing() -> None:
    point = a_point(5)
    assert multiply_adds(point, {"0.weight": 7.0, "0.bias": 0.0}) == 35.0
    assert math.isnan(multiply_adds(a_point(5, layers=()), {}))
    assert math.isnan(multiply_adds(point, {"another.weight": 1.0}))


def test_code_that_needs_values_is_refused_by_name() -> None:
    with pytest.raises(InvalidSpec, match=r"'tests\.engine\.test_multiply_adds:peeking' cannot be counted"):
        weight_uses(JobSpec(Part("tests.engine.test_multiply_adds:peeking"), Part("digits")), facts(4))


class Peeking(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum().item() > 0 else -super().forward(x)


def peeking(input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
    """Looks at its input."""
    return Peeking(input_shape[0], n_outputs)
