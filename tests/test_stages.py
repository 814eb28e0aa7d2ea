"""Networks whose classifier reads earlier stages: what they read, and where there are none."""

import re

import numpy as np
import pytest
import torch
from conftest import TEXTURE_PX, write_textures

from geoclass import backbones
from geoclass.errors import BundleError
from geoclass.learning import finetune
from geoclass.stages import LEAST_VARIANCE, plain
from geoclass.train import Method, train


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(3))


def test_it_reads_the_last_features_and_means_and_deviations_of_two_stages(images):
    whole = backbones.build("efficientnet_lite0", classes=2)
    seen = {}
    for at in (2, 4):  # at an 8th and a 16th of the side
        whole.blocks[at].register_forward_hook(lambda _, __, out, at=at: seen.update({at: out.numpy()}))
    with torch.inference_mode():
        last = backbones.feature_network(whole)(images).numpy()
        whole(images)
        found = backbones.feature_network(backbones.build("efficientnet_lite0+stages", classes=2))(images).numpy()
    wanted = [last]
    for at, channels in ((2, 40), (4, 112)):
        assert seen[at].shape[1:] == (channels, 96 // (4 * at), 96 // (4 * at))
        wanted += [seen[at].mean(axis=(2, 3)), np.sqrt(seen[at].var(axis=(2, 3)) + LEAST_VARIANCE)]
    assert found.shape == (2, 1280 + 2 * (40 + 112))
    assert np.allclose(found, np.concatenate(wanted, axis=1), atol=1e-4)


def test_folding_leaves_its_answers(images):
    network = backbones.build("efficientnet_lite0+stages", classes=5, weights=None)
    folded = backbones.fuse(network, images)
    assert folded is not network and not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    with torch.inference_mode():
        assert torch.allclose(folded(images), network(images), atol=1e-3)


@pytest.mark.parametrize("name", ["regnetx_002", "mobilenetv3_small_050", "convnext_atto"])
def test_other_networks_of_timm(name, images):
    network = backbones.build(f"{name}+stages", classes=4, weights=None)
    with torch.inference_mode():
        assert network(images).shape == (2, 4)
    assert backbones.classifier_name(network) == "classifier"


@pytest.mark.parametrize("name", ["resnet18", "alexnet", "vit_tiny_patch16_224"])
def test_networks_without_such_stages_are_refused(name):
    with pytest.raises(BundleError, match=rf"{name}\+stages has no stages .*leave \+stages out"):
        backbones.build(f"{name}+stages", classes=4, weights=None)


def test_heads_on_packaged_backbones_read_them_and_nothing_else_does():
    assert Method().settled(224).backbone == "efficientnet_lite0+stages"
    assert Method().settled(224).settled(224) == Method().settled(224)
    assert Method(head="finetune").settled(224).backbone == "efficientnet_lite0"
    assert Method(backbone="resnet18").settled(224).backbone == "resnet18"
    assert plain("efficientnet_lite0+stages") == plain("efficientnet_lite0") == "efficientnet_lite0"


def test_fine_tuning_knows_the_stages_within():
    whole, plain_one = (
        backbones.build(name, classes=3, weights=None) for name in ("efficientnet_lite0+stages", "efficientnet_lite0")
    )
    assert [len(names) for names in finetune.stages(whole)] == [len(names) for names in finetune.stages(plain_one)]
    finetune._freeze(whole, finetune.Recipe(layers="last"))
    finetune._freeze(plain_one, finetune.Recipe(layers="last"))
    trained = {name.removeprefix("network.") for name, p in whole.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in plain_one.named_parameters() if p.requires_grad}
    assert "conv_stem.weight" not in trained


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite0+stages"])
def test_weights_of_a_network_with_stages_begin_another(name, tmp_path):
    first = backbones.build("efficientnet_lite0+stages", classes=3, weights=None, seed=7)
    torch.save(first.state_dict(), tmp_path / "w.pth")
    other = backbones.build(name, classes=5, weights=tmp_path / "w.pth").state_dict()
    own = {key.removeprefix("network."): tensor for key, tensor in first.state_dict().items()}
    found = {key.removeprefix("network."): tensor for key, tensor in other.items()}
    assert found.keys() == own.keys() and found["classifier.weight"].shape[0] == 5
    assert all(torch.equal(found[key], own[key]) for key in own if not key.startswith("classifier."))


@pytest.mark.parametrize("name", ["mobileone_s0", "mobileone_s0+stages"])
def test_features_that_overflow_are_refused(name, tmp_path):
    """With random weights its answers are of the order of 1e15."""
    tiles = write_textures(tmp_path / "t", 2)
    with pytest.raises(BundleError, match=re.escape(f"{name} gives features that are too large")):
        train(tiles, size_px=TEXTURE_PX, backbone=name, weights=None, cache=False)
