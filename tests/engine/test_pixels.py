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
from engine.pixels import ByPixels, by_pixels, reading
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


def coloured(shape: tuple[int, ...] = (3, 6, 6)) -> Dataset:
    rng = np.random.default_rng(0)
    return problems.dataset(rng.normal(size=(40, *shape)).astype(np.float32), rng.permutation(np.arange(40) % 10))


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_the_same_with_channels_side_by_side(channels: int) -> None:
    images = torch.randn(8, channels, 5, 6)[::2]
    laid = by_pixels(images)
    assert torch.equal(laid, images)
    assert laid.stride() == (30 * channels, 1, 6 * channels, channels)


@pytest.mark.parametrize(("make", "reads"), [(lenet5, True), (cifar_cnn, True), (resnet20, True), (mlp, False)])
@pytest.mark.parametrize("channels", [1, 3])
def test_networks_with_convolutions_read_by_pixels(make: Callable[..., nn.Module], reads: bool, channels: int) -> None:
    network = make((channels, 16, 16), 10).eval()
    assert isinstance(reading(network, torch.randn(2, channels, 16, 16)), ByPixels) is reads


@pytest.mark.parametrize("network", [Viewing, Striding])
def test_a_network_that_cannot_do_with_them_gets_images_as_they_are(network: type[nn.Module]) -> None:
    torch.manual_seed(0)
    loss = NetworkLoss(network(), coloured(), CrossEntropy())
    seen = shown(loss)
    value, grad = loss.value_and_grad(loss.initial())
    assert seen == [(108, 36, 6, 1)]
    assert torch.isfinite(value)
    assert grad.any()


@pytest.mark.parametrize(("make", "reads"), [(lenet5, True), (cifar_cnn, True), (resnet20, True), (mlp, False)])
def test_images_without_channels_are_laid_behind_the_layer_that_gives_them_one(
    make: Callable[..., nn.Module], reads: bool
) -> None:
    network, images = make((16, 16), 10).eval(), torch.randn(2, 16, 16)
    found = reading(network, images)
    assert isinstance(found, ByPixels) is reads
    torch.testing.assert_close(found(images), network(images))


def test_only_layers_in_a_row_are_entered() -> None:
    network = nn.Sequential(nn.Identity(), lenet5((16, 16), 10)).eval()
    assert reading(network, torch.randn(2, 16, 16)) is network


def shown(loss: NetworkLoss) -> list[tuple[int, ...]]:
    """Strides of the images that the first convolution gets from now on."""
    seen: list[tuple[int, ...]] = []
    first = next(layer for layer in loss.module.modules() if isinstance(layer, nn.Conv2d))
    first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].stride()))
    return seen


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 16, 16), (16, 16)])
@pytest.mark.parametrize("batch", [None, torch.arange(10)])
def test_losses_and_gradients_are_those_of_images_as_they_come(shape: tuple[int, ...], batch: Tensor | None) -> None:
    torch.manual_seed(0)
    data, plain = coloured(shape), cifar_cnn(shape, 10)
    loss = NetworkLoss(deepcopy(plain), data, CrossEntropy())
    seen = shown(loss)
    value, grad = loss.value_and_grad(loss.initial(), batch)
    rows = slice(None) if batch is None else batch.numpy()
    X, y = torch.from_numpy(data.X_train[rows]), torch.from_numpy(data.y_train[rows])
    expected = nn.functional.cross_entropy(plain(X), y)
    expected.backward()  # type: ignore[no-untyped-call]
    slopes = torch.cat([parameter.grad.reshape(-1) for parameter in plain.parameters() if parameter.grad is not None])
    channels = shape[0] if len(shape) == 3 else 1
    assert seen == [(256 * channels, 1, 16 * channels, channels)]
    torch.testing.assert_close(value, expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad, slopes, rtol=1e-4, atol=1e-6)


def test_metrics_are_found_by_pixels_too() -> None:
    torch.manual_seed(0)
    data = coloured((3, 12, 12))
    tested = replace(data, X_test=data.X_train, y_test=data.y_train)
    loss = NetworkLoss(cifar_cnn((3, 12, 12), 10), tested, CrossEntropy())
    theta, seen = loss.initial(), shown(loss)
    metrics = loss.metrics(theta)
    assert set(seen) == {(432, 1, 36, 3)}
    assert metrics["test_loss"] == pytest.approx(float(loss.value(theta)), rel=1e-6)


def test_batch_norm_counts_what_it_sees_by_pixels() -> None:
    torch.manual_seed(0)
    plain, data = resnet20((3, 16, 16), 10), coloured((3, 16, 16))
    loss = NetworkLoss(deepcopy(plain), data, CrossEntropy())
    seen = shown(loss)
    loss.calibrate(loss.initial())
    maps = plain[:2](torch.from_numpy(data.X_train))
    assert set(seen) == {(768, 1, 48, 3)}
    torch.testing.assert_close(loss.buffers["norm.running_mean"], maps.mean((0, 2, 3)).detach())
