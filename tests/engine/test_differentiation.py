"""The written-out gradient of dense layers beside torch's record, and when it is used."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from engine.criteria import FEW_CLASSES, LOSSES, MANY_SAMPLES, Criterion, CrossEntropy
from engine.differentiation import DenseChain, Recorded, differentiation
from engine.networks import ACTIVATIONS

TARGETS: dict[str, Callable[[int], Tensor]] = {
    "cross_entropy": lambda n: torch.arange(n) % 3,
    "logistic": lambda n: torch.arange(n) % 2,
    "squared_error": lambda n: torch.linspace(-1, 1, 3 * n, dtype=torch.float64).view(n, 3),
}


def network(activation: str = "tanh", n_outputs: int = 3, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    hidden = [nn.Linear(6, 5, bias), ACTIVATIONS[activation](), nn.Linear(5, 4, bias), ACTIVATIONS[activation]()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(4, n_outputs, bias)).double()


def samples(n: int = 7) -> Tensor:
    return torch.linspace(-2, 2, 6 * n, dtype=torch.float64).sin().view(n, 2, 3)


def gradient(
    way: Recorded | DenseChain, module: nn.Module, y: Tensor, share: float = 1.0, added: bool = False
) -> tuple[Tensor, ...]:
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    for part in gradients:
        part.fill_(1.0 if added else torch.nan)
    value, outputs = way.gradient_(samples(len(y)), y, share, added)
    return value, outputs, *(part.clone() for part in gradients)


def both(module: nn.Module, criterion: Criterion) -> tuple[Recorded, DenseChain]:
    way = differentiation(module, criterion, flat=False)
    assert isinstance(way, DenseChain)
    return Recorded(module, criterion), way


@pytest.mark.parametrize("added", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("name", LOSSES)
def test_dense_layers_have_the_recorded_gradient(name: str, activation: str, bias: bool, added: bool) -> None:
    module = network(activation, 1 if name == "logistic" else 3, bias)
    y = TARGETS[name](7)
    expected, found = (gradient(way, module, y, 0.3, added) for way in both(module, LOSSES[name]()))
    for part, whole in zip(found, expected, strict=True):
        torch.testing.assert_close(part, whole)


@pytest.mark.parametrize("name", LOSSES)
def test_a_gradient_is_added_or_written_over(name: str) -> None:
    module = network("relu", 1 if name == "logistic" else 3)
    for way in both(module, LOSSES[name]()):
        anew, onto = (gradient(way, module, TARGETS[name](7), 0.3, added)[2:] for added in (False, True))
        for part, more in zip(anew, onto, strict=True):
            torch.testing.assert_close(more, part + 1)


@pytest.mark.parametrize("name", LOSSES)
def test_the_value_alone_is_that_beside_the_gradient(name: str) -> None:
    module = network("relu", 1 if name == "logistic" else 3)
    for way in both(module, LOSSES[name]()):
        value, outputs, *_ = gradient(way, module, TARGETS[name](7), 0.3)
        alone = way.value(samples(7), TARGETS[name](7), 0.3)
        assert torch.equal(alone[0].detach(), value)
        assert torch.equal(alone[1].detach(), outputs)


def test_a_hook_is_obeyed_while_it_is_there() -> None:
    module, y = network(), TARGETS["cross_entropy"](7)
    recorded, chain = both(module, CrossEntropy())
    plain = gradient(chain, module, y)
    hook = module[1].register_forward_hook(lambda _module, _inputs, outputs: 2 * outputs)
    for expected, found in zip(gradient(recorded, module, y), gradient(chain, module, y), strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(chain.value(samples(7), y)[0], recorded.value(samples(7), y)[0])
    assert not torch.allclose(gradient(chain, module, y)[0], plain[0])
    hook.remove()
    torch.testing.assert_close(gradient(chain, module, y)[0], plain[0])


class Doubled(nn.Linear):
    """A layer with a forward of its own."""

    def forward(self, values: Tensor) -> Tensor:
        return 2 * super().forward(values)


shared = nn.Linear(6, 6)


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(network("gelu"), id="a derivative that its own output does not tell"),
        pytest.param(nn.Sequential(nn.Flatten(), Doubled(6, 3)), id="a layer of one's own"),
        pytest.param(nn.Sequential(nn.Flatten(), shared, nn.ReLU(), shared), id="shared layers"),
        pytest.param(nn.Sequential(nn.Linear(3, 3)), id="samples that are no vectors"),
        pytest.param(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3)), id="convolutions"),
        pytest.param(nn.Linear(6, 3), id="no sequence"),
    ],
)
def test_other_networks_are_recorded(module: nn.Module) -> None:
    assert isinstance(differentiation(module, CrossEntropy(), flat=False), Recorded)


def test_vectors_need_no_flattening() -> None:
    assert isinstance(differentiation(nn.Sequential(nn.Linear(3, 3)), CrossEntropy(), flat=True), DenseChain)


@pytest.mark.parametrize("n_classes", [3, FEW_CLASSES, FEW_CLASSES + 1])
@pytest.mark.parametrize("n_samples", [MANY_SAMPLES - 1, MANY_SAMPLES])
def test_cross_entropy_by_columns_is_that_by_rows(n_samples: int, n_classes: int) -> None:
    outputs = torch.randn(n_samples, n_classes, dtype=torch.float64).requires_grad_()
    y = torch.arange(n_samples) % n_classes
    expected = nn.functional.cross_entropy(outputs, y)
    found = CrossEntropy()(outputs, y)
    torch.testing.assert_close(found, expected)
    slopes = [torch.autograd.grad(value, outputs)[0] for value in (found, expected)]
    torch.testing.assert_close(*slopes)
