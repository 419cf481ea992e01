"""Images whose channels lie side by side: the same numbers, read so where a network can do with them."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.criteria import CrossEntropy
from engine.data import Dataset
from engine.losses import NetworkLoss
from engine.networks import cifar_cnn, lenet5, mlp, resnet20
from engine.pixels import by_pixels, reads_by_pixels
from tests.engine import problems


class Viewing(nn.Module):
    """Asks for maps that lie channel after channel."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.output = nn.Conv2d(3, 4, 3), nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.convolution(images)
        return self.output(maps.view(len(maps), -1))  # type: ignore[no-any-return]


class Striding(Viewing):
    """Goes by how the numbers lie in memory."""

    def forward(self, images: Tensor) -> Tensor:
        maps = self.convolution(images)
        return self.output(maps.as_strided((len(maps), 64), (64, 1)))  # type: ignore[no-any-return]


def coloured(n: int = 40, side: int = 6, channels: int = 3) -> Dataset:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, channels, side, side)).astype(np.float32)
    return problems.dataset(X, rng.permutation(np.arange(n) % 10))


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_the_same_with_channels_side_by_side(channels: int) -> None:
    images = torch.randn(8, channels, 5, 6)[::2]
    laid = by_pixels(images)
    assert torch.equal(laid, images)
    assert laid.stride() == (30 * channels, 1, 6 * channels, channels)


@pytest.mark.parametrize(("make", "reads"), [(lenet5, True), (cifar_cnn, True), (resnet20, True), (mlp, False)])
@pytest.mark.parametrize("channels", [1, 3])
def test_networks_with_convolutions_read_by_pixels(make: Callable[..., nn.Module], reads: bool, channels: int) -> None:
    assert reads_by_pixels(make((channels, 16, 16), 10).eval(), torch.randn(2, channels, 16, 16)) is reads


@pytest.mark.parametrize("network", [Viewing, Striding])
def test_a_network_that_cannot_do_with_them_gets_images_as_they_are(network: type[nn.Module]) -> None:
    torch.manual_seed(0)
    loss = NetworkLoss(network(), coloured(), CrossEntropy())
    seen = shown(loss)
    value, grad = loss.value_and_grad(loss.initial())
    assert seen == [(108, 36, 6, 1)]
    assert torch.isfinite(value)
    assert grad.any()


def test_samples_without_channels_stay_as_they_are() -> None:
    assert not reads_by_pixels(lenet5((16, 16), 10).eval(), torch.randn(2, 16, 16))


def shown(loss: NetworkLoss) -> list[tuple[int, ...]]:
    """Strides of the images that the first convolution gets from now on."""
    seen: list[tuple[int, ...]] = []
    first = next(layer for layer in loss.module.modules() if isinstance(layer, nn.Conv2d))
    first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].stride()))
    return seen


@pytest.mark.parametrize("batch", [None, torch.arange(10)])
def test_losses_and_gradients_are_those_of_images_as_they_come(batch: Tensor | None) -> None:
    torch.manual_seed(0)
    data, plain = coloured(side=16), cifar_cnn((3, 16, 16), 10)
    loss = NetworkLoss(deepcopy(plain), data, CrossEntropy())
    seen = shown(loss)
    value, grad = loss.value_and_grad(loss.initial(), batch)
    rows = slice(None) if batch is None else batch.numpy()
    X, y = torch.from_numpy(data.X_train[rows]), torch.from_numpy(data.y_train[rows])
    expected = nn.functional.cross_entropy(plain(X), y)
    expected.backward()  # type: ignore[no-untyped-call]
    slopes = torch.cat([parameter.grad.reshape(-1) for parameter in plain.parameters() if parameter.grad is not None])
    assert seen == [(768, 1, 48, 3)]
    torch.testing.assert_close(value, expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad, slopes, rtol=1e-4, atol=1e-6)


def test_metrics_and_hessians_read_by_pixels_too() -> None:
    torch.manual_seed(0)
    data = coloured(side=12)
    loss = NetworkLoss(
        cifar_cnn((3, 12, 12), 10), replace(data, X_test=data.X_train, y_test=data.y_train), CrossEntropy()
    )
    theta, seen = loss.initial(), shown(loss)
    metrics = loss.metrics(theta)
    product = loss.hvp(theta, torch.arange(50))(torch.ones(50))
    assert set(seen) == {(432, 1, 36, 3)}
    assert metrics["test_loss"] == pytest.approx(float(loss.value(theta)), rel=1e-6)
    assert product.shape == (50,)
