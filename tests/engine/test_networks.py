"""Networks: the sizes of the literature, the shapes they take, what they refuse."""

import sys

import pytest
import torch
from torch import nn

from engine.errors import InvalidSpec, UnknownName
from engine.networks import NETWORKS, CausalSelfAttention, resolve
from engine.registry import parameters, summary
from engine.structure import joints

PUBLISHED = [
    ("linear", (4,), 3, {}, 15),
    ("mlp", (28, 28), 10, {}, 16_330),
    ("mlp", (4,), 3, {"hidden": (4, 4), "activation": "tanh"}, 55),
    ("lenet300", (28, 28), 10, {}, 266_610),
    ("lenet5", (28, 28), 10, {}, 431_080),
    ("cifar_cnn", (3, 32, 32), 10, {}, 612_778),
    ("resnet20", (3, 32, 32), 10, {}, 269_722),
]


@pytest.mark.parametrize(("name", "shape", "n_outputs", "settings", "size"), PUBLISHED)
def test_has_the_published_number_of_weights(name, shape, n_outputs, settings, size):
    network = NETWORKS[name](shape, n_outputs, **settings)
    assert sum(p.numel() for p in network.parameters()) == size
    assert network(torch.zeros(2, *shape)).shape == (2, n_outputs)


@pytest.mark.parametrize(("tied", "head"), [(False, 65 * 64 + 65), (True, 0)])
def test_transformer_has_as_many_weights_as_its_layers(tied, head):
    network = NETWORKS["char_transformer"]((32,), 65, blocks=3, tied=tied)
    blocks = 3 * (12 * 64**2 + 13 * 64)
    assert sum(p.numel() for p in network.parameters()) == (65 + 32) * 64 + blocks + 2 * 64 + head
    assert network(torch.zeros(2, 32, dtype=torch.int64)).shape == (2, 32, 65)


def test_transformer_reads_no_later_character():
    network = NETWORKS["char_transformer"]((9,), 7, width=8, heads=2)
    text = torch.arange(9)[None] % 7
    changed = text.clone()
    changed[0, 5:] = 0
    before, after = network(text)[0], network(changed)[0]
    assert torch.equal(before[:5], after[:5])
    assert not torch.isclose(before[5:], after[5:]).all(dim=1).any()


def test_attention_is_torchs():
    ours, theirs = CausalSelfAttention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    projections = (ours.query, ours.key, ours.value)
    theirs.load_state_dict(
        {
            "in_proj_weight": torch.cat([layer.weight for layer in projections]),
            "in_proj_bias": torch.cat([layer.bias for layer in projections]),
            "out_proj.weight": ours.output.weight,
            "out_proj.bias": ours.output.bias,
        }
    )
    x, later = torch.randn(2, 5, 12), torch.ones(5, 5, dtype=torch.bool).triu(1)
    torch.testing.assert_close(ours(x), theirs(x, x, x, attn_mask=later)[0])


def test_a_head_is_some_rows_of_the_projections_and_the_same_columns_of_the_output():
    attention, x = CausalSelfAttention(12, 3), torch.randn(2, 5, 12)
    with torch.no_grad():
        for layer in (attention.query, attention.key, attention.value):
            layer.weight[4:8], layer.bias[4:8] = 0, 0
        without = attention(x)
        attention.output.weight[:, 4:8] = 7
        assert torch.equal(attention(x), without)
        attention.output.weight[:, :4] = 7
    assert not torch.isclose(attention(x), without).any()


def test_the_units_of_a_transformer_are_left_alone():
    assert joints(NETWORKS["char_transformer"]((8,), 5)) == ()


@pytest.mark.parametrize("shape", [(), (0,), (8, 8)])
def test_transformer_needs_a_text(shape):
    with pytest.raises(InvalidSpec, match="it needs texts of shape"):
        NETWORKS["char_transformer"](shape, 10)


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (3, 9, 7)])
def test_resnet_takes_small_images_of_any_shape(shape):
    assert NETWORKS["resnet20"](shape, 5, width=2)(torch.zeros(3, *shape)).shape == (3, 5)


@pytest.mark.parametrize("name", ["lenet5", "cifar_cnn"])
def test_smallest_image_fits(name):
    side = 16 if name == "lenet5" else 12
    assert NETWORKS[name]((side, side + 1), 2)(torch.zeros(1, side, side + 1)).shape == (1, 2)


@pytest.mark.parametrize("name", ["lenet5", "cifar_cnn", "resnet20"])
@pytest.mark.parametrize("shape", [(4,), (3, 3), (0, 32, 32), (1, 3, 32, 32), ()])
def test_image_networks_refuse_other_shapes(name, shape):
    with pytest.raises(InvalidSpec, match="does not fit samples of shape"):
        NETWORKS[name](shape, 10)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_mlp_needs_a_feature(shape):
    with pytest.raises(InvalidSpec, match="does not fit"):
        NETWORKS["mlp"](shape, 2)


def test_refuses_wrong_settings():
    with pytest.raises(InvalidSpec, match=r"hidden layers \[20, 0\]"):
        NETWORKS["mlp"]((4,), 2, hidden=(20, 0))
    with pytest.raises(UnknownName, match=r"unknown activation 'swish'; known: .*relu"):
        NETWORKS["mlp"]((4,), 2, activation="swish")
    with pytest.raises(InvalidSpec, match="width 0"):
        NETWORKS["resnet20"]((8, 8), 2, width=0)
    with pytest.raises(InvalidSpec, match="3 heads and width 64 are not possible"):
        NETWORKS["char_transformer"]((8,), 2, heads=3)
    with pytest.raises(UnknownName, match="unknown activation 'swish'"):
        NETWORKS["char_transformer"]((8,), 2, activation="swish")


def test_bias_can_be_left_out():
    assert [name for name, _ in NETWORKS["mlp"]((4,), 2, hidden=(3,), bias=False).named_parameters()] == [
        "layer1.weight",
        "output.weight",
    ]


def test_same_seed_same_weights():
    torch.manual_seed(3)
    first = NETWORKS["resnet20"]((8, 8), 2, width=2).state_dict()
    torch.manual_seed(3)
    second = NETWORKS["resnet20"]((8, 8), 2, width=2).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", NETWORKS)
def test_settings_are_described(name):
    assert summary(NETWORKS[name]).endswith(".")
    assert all(p.description and not p.required for p in parameters(NETWORKS[name]))


def test_shortcut_keeps_pixels_and_pads_channels():
    block = NETWORKS["resnet20"]((8, 8), 2, width=2).stage2[0].eval()
    nn.init.zeros_(block.norm2.weight)
    x = torch.rand(1, 2, 4, 4)
    padded = block(x)
    assert torch.equal(padded[:, 1:3], x[:, :, ::2, ::2])
    assert not padded[:, [0, 3]].any()


def test_resolves_registered_names_and_import_paths(tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text(
        "from torch import nn\n\nsize = 3\n\ndef tiny(input_shape, n_outputs, *, bias=True):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[0], n_outputs, bias))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve("mlp") is NETWORKS["mlp"]
    assert resolve("my_networks:tiny")((4,), 2, bias=False)(torch.ones(1, 4)).shape == (1, 2)
    with pytest.raises(InvalidSpec, match="is not callable"):
        resolve("my_networks:size")
    with pytest.raises(InvalidSpec, match="no attribute 'big'"):
        resolve("my_networks:big")
    sys.modules.pop("my_networks")


@pytest.mark.parametrize("name", ["no_such_module:net", ":net", "torch:", "torch.nn:"])
def test_refuses_import_paths_that_lead_nowhere(name):
    with pytest.raises(InvalidSpec, match=r"package\.module:factory"):
        resolve(name)


def test_unknown_name_lists_the_known():
    with pytest.raises(UnknownName, match=r"unknown network 'vgg'; known: char_transformer, .*resnet20"):
        resolve("vgg")
