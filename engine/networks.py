"""Architectures by name; every factory takes the shape of one sample, the number of outputs and the user's settings.

Networks answer raw scores (no softmax); weights are torch's default initialisation under the caller's seed.
"""

import importlib
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from engine.errors import InvalidSpec, UnknownName
from engine.lassonet import lassonet
from engine.registry import extend

Shape = tuple[int, ...]
Factory = Callable[..., nn.Module]

Activation = Literal["relu", "tanh", "sigmoid", "gelu", "silu", "elu", "leaky_relu", "softplus"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "softplus": nn.Softplus,
}


EMBEDDING_DEVIATION = 0.02


def linear(input_shape: Shape, n_outputs: int, *, bias: bool = True) -> nn.Module:
    """A single linear layer on the flattened input.

    Parameters
    ----------
    bias : bool
        Whether the outputs have an intercept.
    """
    return mlp(input_shape, n_outputs, hidden=(), bias=bias)


def mlp(
    input_shape: Shape,
    n_outputs: int,
    *,
    hidden: tuple[Annotated[int, Ge(1)], ...] = (20, 20),
    activation: Activation = "relu",
    bias: bool = True,
    start: Literal["random", "identity"] = "random",
) -> nn.Module:
    """Fully connected layers on the flattened input.

    Parameters
    ----------
    hidden : tuple of int
        Units of each hidden layer; none is a linear model.
    activation : str
        Nonlinearity after each hidden layer.
    bias : bool
        Whether the layers have biases.
    start : str
        Start weights: random, or a tenth of the identity in the hidden layers and zero elsewhere, the sparse start of
        the continuation paper's iris network.
    """
    _check_shape("mlp", input_shape)
    if any(units < 1 for units in hidden):
        raise InvalidSpec(f"hidden layers {list(hidden)} must have at least one unit each, as in [20, 20]")
    if activation not in ACTIVATIONS:
        raise UnknownName("activation", activation, ACTIVATIONS)
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for i, (before, after) in enumerate(pairwise((prod(input_shape), *hidden)), 1):
        layers[f"layer{i}"] = nn.Linear(before, after, bias)
        layers[f"activation{i}"] = ACTIVATIONS[activation]()
    layers["output"] = nn.Linear((prod(input_shape), *hidden)[-1], n_outputs, bias)
    network = nn.Sequential(layers)
    return _identity_start(network) if start == "identity" else network


def _identity_start(network: nn.Sequential) -> nn.Sequential:
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    for layer in list(network)[:-1]:
        if isinstance(layer, nn.Linear):
            layer.weight.data.copy_(torch.eye(*layer.weight.shape) / 10)
    return network


def lenet300(input_shape: Shape, n_outputs: int, *, activation: Activation = "relu", bias: bool = True) -> nn.Module:
    """LeNet-300-100, fully connected: 266,610 weights on MNIST.

    Parameters
    ----------
    activation : str
        Nonlinearity after each hidden layer.
    bias : bool
        Whether the layers have biases.

    References
    ----------
    LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", Proc. IEEE, 1998.
    """
    return mlp(input_shape, n_outputs, hidden=(300, 100), activation=activation, bias=bias)


def lenet5(input_shape: Shape, n_outputs: int) -> nn.Module:
    """LeNet-5 in the Caffe version (20-50-500 units, ReLU after the dense layer): 431,080 weights on MNIST.

    References
    ----------
    Bonetta, Ribero, Cancelliere, "Regularization-based pruning of irrelevant weights in deep neural
    architectures", Applied Intelligence, 2023, section 4.
    """
    channels, height, width = _image("lenet5", input_shape, smallest=16)
    side = [((n - 4) // 2 - 4) // 2 for n in (height, width)]
    return nn.Sequential(
        OrderedDict(
            channels=_channels(input_shape),
            conv1=nn.Conv2d(channels, 20, 5),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            dense=nn.Linear(50 * prod(side), 500),
            activation=nn.ReLU(),
            output=nn.Linear(500, n_outputs),
        )
    )


def cifar_cnn(input_shape: Shape, n_outputs: int) -> nn.Module:
    """The CIFAR-10 network of the continuation paper, without its log-softmax: 612,778 weights at 3 x 32 x 32.

    References
    ----------
    Amakor, Sonntag, Peitz, "A multiobjective continuation method to compute the regularization path of deep
    neural networks", Machine Learning with Applications 19, 2025.
    """
    channels, height, width = _image("cifar_cnn", input_shape, smallest=12)
    side = [((n - 2) // 2 - 3) // 2 for n in (height, width)]
    return nn.Sequential(
        OrderedDict(
            channels=_channels(input_shape),
            conv1=nn.Conv2d(channels, 32, 3),
            activation1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(32, 32, 4),
            activation2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            dense=nn.Linear(32 * prod(side), 512),
            activation3=nn.ReLU(),
            output=nn.Linear(512, n_outputs),
        )
    )


def resnet20(input_shape: Shape, n_outputs: int, *, width: Annotated[int, Ge(1)] = 16) -> nn.Module:
    """ResNet-20 for small images, with batch norm and shortcuts without weights: 269,722 weights on CIFAR-10.

    Parameters
    ----------
    width : int
        Channels of the first of the three stages; they double from stage to stage.

    References
    ----------
    He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016, section 4.2, option A.
    """
    channels, _, _ = _image("resnet20", input_shape, smallest=4)
    if width < 1:
        raise InvalidSpec(f"width {width} of resnet20 must be at least 1; the paper has 16")
    widths = (width, width, 2 * width, 4 * width)
    stages = {f"stage{i}": _stage(a, b, stride=1 if a == b else 2) for i, (a, b) in enumerate(pairwise(widths), 1)}
    return nn.Sequential(
        OrderedDict(
            channels=_channels(input_shape),
            conv=nn.Conv2d(channels, width, 3, padding=1, bias=False),
            norm=nn.BatchNorm2d(width),
            activation=nn.ReLU(),
            **stages,
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            output=nn.Linear(4 * width, n_outputs),
        )
    )


def char_transformer(
    input_shape: Shape,
    n_outputs: int,
    *,
    blocks: Annotated[int, Ge(1)] = 2,
    width: Annotated[int, Ge(1)] = 64,
    heads: Annotated[int, Ge(1)] = 4,
    activation: Activation = "relu",
    tied: bool = False,
) -> nn.Module:
    """A causal transformer that predicts every next character of a text; layers are normalised before they are read.

    Parameters
    ----------
    blocks : int
        Pairs of an attention and a feed-forward layer.
    width : int
        Numbers by which a place of the text is represented.
    heads : int
        Attention heads of each block; a divisor of the width.
    activation : str
        Nonlinearity of the feed-forward layers, which have four times the width.
    tied : bool
        Whether the outputs are read by the same weights that embed the characters.

    References
    ----------
    Vaswani et al., "Attention is all you need", NeurIPS 2017.
    Radford et al., "Language models are unsupervised multitask learners", 2019 (norms come first; embeddings start at
    a deviation of 0.02).
    """
    if len(input_shape) != 1 or input_shape[0] < 1:
        known = "texts of shape (context,)"
        raise InvalidSpec(
            f"network 'char_transformer' does not fit samples of shape {tuple(input_shape)}; it needs {known}"
        )
    if min(blocks, heads) < 1 or width % heads:
        raise InvalidSpec(f"{blocks} blocks of {heads} heads and width {width} are not possible; 2 of 4 and 64 are")
    if activation not in ACTIVATIONS:
        raise UnknownName("activation", activation, ACTIVATIONS)
    layers = [TransformerBlock(width, heads, ACTIVATIONS[activation]) for _ in range(blocks)]
    return CharTransformer(n_outputs, input_shape[0], layers, tied)


NETWORKS: dict[str, Factory] = {
    "linear": linear,
    "mlp": mlp,
    "lenet300": lenet300,
    "lenet5": lenet5,
    "cifar_cnn": cifar_cnn,
    "resnet20": resnet20,
    "char_transformer": char_transformer,
    "lassonet": lassonet,
}
extend(NETWORKS, "paretopath.networks")


def resolve(name: str) -> Factory:
    """The factory called `name`: a registered one, or ``package.module:factory`` imported.

    Importing runs the module's code: the caller decides whether names with a colon are allowed.

    Raises
    ------
    UnknownName
        If a name without a colon is not registered.
    InvalidSpec
        If the module cannot be imported or has no such factory.
    """
    if ":" in name and name not in NETWORKS:
        return _imported(name)
    if name not in NETWORKS:
        raise UnknownName("network", name, NETWORKS)
    return NETWORKS[name]


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut that drops pixels and pads channels with zeros."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.stride = stride
        self.padding = (after - before) // 2, after - before - (after - before) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Features of shape (n, after, height / stride, width / stride)."""
        inner = self.norm2(self.conv2(nn.functional.relu(self.norm1(self.conv1(x)))))
        return nn.functional.relu(inner + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            return x
        return nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.padding))


class CausalSelfAttention(nn.Module):
    """Every place of a text reads from itself and the places before it, in several heads.

    Head h has rows ``[h * head_width, (h + 1) * head_width)`` of `query`, `key` and `value`, and the same
    columns of `output`.

    Parameters
    ----------
    width : int
        Numbers by which a place is represented.
    n_heads : int
    head_width : int, optional
        Numbers that a head reads of a place; the heads share the width by default.
    """

    def __init__(self, width: int, n_heads: int, head_width: int | None = None) -> None:
        super().__init__()
        self.width, self.n_heads, self.head_width = width, n_heads, head_width or width // n_heads
        inner = n_heads * self.head_width
        self.query = nn.Linear(width, inner)
        self.key = nn.Linear(width, inner)
        self.value = nn.Linear(width, inner)
        self.output = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """What the places read, shape (n, context, width), as that of `x`."""
        query, key, value = (self._heads(layer(x)) for layer in (self.query, self.key, self.value))
        scores = query @ key.mT / math.sqrt(query.shape[-1])
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
        read = scores.masked_fill(later, -math.inf).softmax(dim=-1) @ value
        return self.output(read.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _heads(self, x: Tensor) -> Tensor:
        """From shape (n, context, n_heads * head_width) to (n, n_heads, context, head_width)."""
        return x.view(*x.shape[:2], self.n_heads, self.head_width).transpose(1, 2)


class Places(nn.Embedding):
    """Every place of a text, embedded."""

    def forward(self, characters: Tensor) -> Tensor:
        """Shape (context, width), for `characters` of shape (n, context)."""
        return self.weight[: characters.shape[1]]


class TransformerBlock(nn.Module):
    """Attention and a feed-forward layer, each added to what it reads through a norm."""

    def __init__(self, width: int, n_heads: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = CausalSelfAttention(width, n_heads)
        self.norm2 = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            OrderedDict(hidden=nn.Linear(width, 4 * width), activation=activation(), output=nn.Linear(4 * width, width))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shape (n, context, width), as that of `x`."""
        x = x + self.attention(self.norm1(x))
        return x + self.feed_forward(self.norm2(x))  # type: ignore[no-any-return]


class CharTransformer(nn.Module):
    """Characters and their places, embedded; blocks; and the scores of all characters at every place."""

    def __init__(self, n_characters: int, context: int, blocks: Sequence[TransformerBlock], tied: bool) -> None:
        super().__init__()
        width = blocks[0].norm1.normalized_shape[0]
        self.embedding = nn.Embedding(n_characters, width)
        self.position = Places(context, width)
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, n_characters, bias=not tied)
        if tied:
            self.output.weight = self.embedding.weight
        for embedding in (self.embedding, self.position):
            nn.init.normal_(embedding.weight, std=EMBEDDING_DEVIATION)

    def forward(self, characters: Tensor) -> Tensor:
        """Scores, shape (n, context, n_characters), of what follows each of `characters`, shape (n, context)."""
        x = self.embedding(characters) + self.position(characters)
        return self.output(self.norm(self.blocks(x)))  # type: ignore[no-any-return]


def _stage(before: int, after: int, stride: int) -> nn.Module:
    return nn.Sequential(BasicBlock(before, after, stride), BasicBlock(after, after, 1), BasicBlock(after, after, 1))


def _channels(input_shape: Shape) -> nn.Module:
    return nn.Identity() if len(input_shape) == 3 else nn.Unflatten(1, (1, input_shape[0]))


def _image(name: str, input_shape: Shape, smallest: int) -> tuple[int, int, int]:
    if len(input_shape) not in (2, 3) or min(input_shape[-2:]) < smallest or input_shape[0] < 1:
        known = f"(height, width) or (channels, height, width) of at least {smallest} x {smallest} pixels"
        raise InvalidSpec(f"network {name!r} does not fit samples of shape {tuple(input_shape)}; it needs {known}")
    channels, height, width = (1, *input_shape)[-3:]
    return channels, height, width


def _check_shape(name: str, input_shape: Shape) -> None:
    if not input_shape or min(input_shape) < 1:
        raise InvalidSpec(f"network {name!r} does not fit samples of shape {tuple(input_shape)}; it needs a feature")


def _imported(name: str) -> Factory:
    module, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidSpec(f"cannot import network {name!r} ({error}); expected 'package.module:factory'") from error
    if not callable(factory):
        raise InvalidSpec(f"network {name!r} is not callable; expected 'package.module:factory'")
    return factory  # type: ignore[no-any-return]
