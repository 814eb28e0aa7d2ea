"""Bundles: what is written comes back, and everything else is refused with its reason before it can do harm."""

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import torchvision

from geoclass import backbones
from geoclass.bundle import (
    Bundle,
    BundleMeta,
    digest_of,
    import_state_dict,
    import_to_file,
    load_bundle,
    save_bundle,
)
from geoclass.errors import BundleError, ConfigError, OutputError
from geoclass.schemes import load_scheme
from geoclass.sensors import load_sensor

CLASSES = ("Field", "Forest", "RiverLake")


def meta(**changes: object) -> BundleMeta:
    norm = backbones.normalisation("resnet18")
    values = {
        "backbone": "resnet18", "scheme": load_scheme("rsscn7").subset(CLASSES), "sensor": load_sensor("naip"),
        "bands": ("red", "green", "blue"), "size_px": 224, "gsd_m": 0.6, "mean": norm.mean, "std": norm.std,
        "brightness": ((1 / 32,) * 32,) * 3, "temperature": 1.25, "training": {"tiles": 12, "seed": 0},
        "created": "2024-05-01T10:00:00+00:00", "geoclass_version": "0.1.0",
    }  # fmt: skip
    return BundleMeta(**{**values, **changes})


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return dict(backbones.build("resnet18", classes=3, weights=None).state_dict())


@pytest.fixture
def path(tmp_path: Path, state: dict[str, torch.Tensor]) -> Path:
    save_bundle(tmp_path / "m.pt", meta(), state)
    return tmp_path / "m.pt"


def rewrite(path: Path, seal: bool = False, **changes: object) -> None:
    """Put other parts into a bundle; `seal` writes a digest that fits them, as a forger would."""
    contents = {**torch.load(path, weights_only=True), **changes}
    if seal:
        contents["digest"] = digest_of(BundleMeta.model_validate_json(contents["meta"]), contents["state"])
    torch.save(contents, path)


def refused(path: Path, *words: str) -> str:
    """The refusal, which must be one line, name the file and hold every word."""
    with pytest.raises(BundleError) as caught:
        load_bundle(path)
    said = str(caught.value)
    assert "\n" not in said and str(path) in said
    for word in words:
        assert word in said, said
    return said


class TestRoundTrip:
    def test_everything_comes_back(self, path, state):
        bundle = load_bundle(path)
        assert bundle.meta == meta()
        assert list(bundle.state) == list(state)
        assert all(torch.equal(bundle.state[name], state[name]) for name in state)
        assert bundle.digest == digest_of(meta(), state)

    def test_the_network_computes_the_same(self, path, state):
        original = backbones.build("resnet18", classes=3, weights=None)
        original.load_state_dict(state)
        x = torch.randn(2, 3, 64, 64)
        with torch.inference_mode():
            assert torch.equal(load_bundle(path).network()(x), original(x))

    def test_networks_are_apart_from_the_bundle_and_each_other(self, path):
        bundle = load_bundle(path)
        first, second = bundle.network(), bundle.network()
        with torch.no_grad():
            first.fc.weight.zero_()
        assert second.fc.weight.abs().sum() > 0 and bundle.state["fc.weight"].abs().sum() > 0
        assert digest_of(bundle.meta, bundle.state) == bundle.digest

    def test_half_precision_is_kept_and_computed_in_float32(self, tmp_path, state):
        half = {name: t.half() if t.is_floating_point() else t for name, t in state.items()}
        save_bundle(tmp_path / "h.pt", meta(), half)
        bundle = load_bundle(tmp_path / "h.pt")
        assert bundle.state["fc.weight"].dtype == torch.float16
        network = bundle.network()
        assert not network.training and {p.dtype for p in network.parameters()} == {torch.float32}

    def test_a_network_with_tables_of_its_own(self, tmp_path):
        """Swin keeps its position index out of its state: the loaded network must have it all the same."""
        name = "swin_tiny_patch4_window7_224"
        swin = backbones.build(name, classes=3, weights=None)
        save_bundle(tmp_path / "s.pt", meta(backbone=name), swin.state_dict())
        x = torch.randn(1, 3, 224, 224)
        with torch.inference_mode():
            assert torch.allclose(load_bundle(tmp_path / "s.pt").network()(x), swin(x), atol=1e-5)

    def test_the_digest_sees_every_part(self, state):
        one = digest_of(meta(), state)
        assert digest_of(meta(), {name: state[name] for name in reversed(state)}) == one
        assert digest_of(meta(gsd_m=1.0), state) != one
        nudged = {**state, "bn1.bias": state["bn1.bias"] + 1e-6}
        assert digest_of(meta(), nudged) != one
        assert digest_of(meta(), {**state, "bn1.bias": state["bn1.bias"].view(8, 8)}) != one

    def test_an_existing_file_is_kept(self, path, state):
        before = path.read_bytes()
        with pytest.raises(OutputError, match="--overwrite"):
            save_bundle(path, meta(gsd_m=2.0), state)
        assert path.read_bytes() == before
        save_bundle(path, meta(gsd_m=2.0), state, overwrite=True)
        assert load_bundle(path).meta.gsd_m == 2.0

    def test_a_failed_write_leaves_nothing(self, tmp_path, state):
        program = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from test_bundle import Path, backbones, meta, save_bundle
from geoclass.errors import OutputError
state = backbones.build("resnet18", classes=3, weights=None).state_dict()
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    save_bundle(Path({str(tmp_path / "m.pt")!r}), meta(), state)
except OutputError as error:
    sys.exit(7 if "m.pt" in str(error) else 1)
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.returncode == 7, done.stderr
        assert list(tmp_path.iterdir()) == []


class TestRefusals:
    def test_missing_file_and_folder(self, tmp_path):
        refused(tmp_path / "none.pt", "no such model bundle", "geoclass train")
        refused(tmp_path, "folder")

    @pytest.mark.parametrize("content", [b"", b"II*\x00" + bytes(500), "äöü text\n".encode() * 50])
    def test_not_a_bundle_at_all(self, tmp_path, content):
        (tmp_path / "m.pt").write_bytes(content)
        refused(tmp_path / "m.pt", "not a model bundle")

    def test_another_zip(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
            archive.writestr("readme.txt", "hello")
        refused(tmp_path / "m.pt", "not a model bundle")

    @pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.9999])
    def test_truncated(self, path, share):
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        refused(path, "truncated", "fetch it again")

    def test_a_flipped_bit(self, path):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        refused(path, "damaged", "fetch it again")

    def test_compressed(self, path):
        source = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in source.namelist():
                archive.writestr(name, source.read(name))
        refused(path, "compressed")

    def test_a_zip_that_claims_more_than_it_holds(self, path):
        """The directory's sizes of one stored member are raised to 2 GiB."""
        content = bytearray(path.read_bytes())
        entry = content.rfind(b"PK\x01\x02")
        content[entry + 20 : entry + 28] = struct.pack("<II", 1 << 31, 1 << 31)
        path.write_bytes(content)
        refused(path, "refused")

    @pytest.mark.parametrize("place", ["meta", "state", "top"])
    def test_code_is_never_executed(self, path, place):
        class Evil:
            def __reduce__(self):
                return Path.touch, (path.parent / "executed",)

        contents = torch.load(path, weights_only=True)
        if place == "state":
            contents["state"]["fc.bias"] = Evil()
        else:
            contents["meta" if place == "meta" else "more"] = Evil()
        torch.save(contents, path)
        refused(path, "refused", "code", "executed")
        assert not (path.parent / "executed").exists()
        torch.load(path, weights_only=False)  # the file is as evil as it was meant to be
        assert (path.parent / "executed").exists()

    def test_a_bare_pickle_is_never_executed(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return Path.touch, (tmp_path / "executed",)

        (tmp_path / "m.pt").write_bytes(pickle.dumps(Evil()))
        refused(tmp_path / "m.pt", "refused", "pickle")
        assert not (tmp_path / "executed").exists()

    def test_a_whole_network_is_refused(self, tmp_path):
        torch.save(torch.nn.Linear(2, 2), tmp_path / "m.pt")
        refused(tmp_path / "m.pt", "refused", "code")

    def test_a_plain_state_dict_tells_how_to_wrap_it(self, tmp_path, state):
        torch.save(state, tmp_path / "m.pt")
        refused(tmp_path / "m.pt", "plain state dict", "geoclass models import", "--arch", "--classes")

    @pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], "text", {"meta": "{}"}])
    def test_other_plain_values(self, tmp_path, content):
        torch.save(content, tmp_path / "m.pt")
        refused(tmp_path / "m.pt")

    def test_another_version_names_itself(self, path):
        values = {**json.loads(meta().model_dump_json()), "version": 2}
        rewrite(path, meta=json.dumps(values))
        refused(path, "version 2", "reads version 1")

    @pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000, 7, None])
    def test_metadata_that_is_no_json_object(self, path, text):
        rewrite(path, meta=text)
        refused(path, "metadata")

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("extra", 1), ("size_px", 0), ("size_px", "large"), ("gsd_m", -1), ("gsd_m", float("inf")), ("std", [1, 1, 0]),
            ("mean", [1, 1]), ("mean", [1, 1, float("nan")]), ("temperature", 0), ("bands", []), ("format", "other"),
            ("bands", ["red", "green", "thermal"]), ("brightness", [[1.0]] * 3), ("scheme", {"name": "x", "classes": []}),
        ],
    )  # fmt: skip
    def test_metadata_that_fails_the_schema(self, path, field, value):
        rewrite(path, meta=json.dumps({**json.loads(meta().model_dump_json()), field: value}))
        refused(path, field if field != "bands" else "band")

    @pytest.mark.parametrize("name", ["resnet51", "hf-hub:someone/net", "../../etc/passwd"])
    def test_an_unknown_backbone(self, path, name):
        rewrite(path, seal=True, meta=meta(backbone=name).model_dump_json())
        with pytest.raises(BundleError, match="unknown backbone"):
            load_bundle(path)

    def test_classes_and_classifier_differ(self, path):
        six = load_scheme("rsscn7").subset(load_scheme("rsscn7").names[:6])
        rewrite(path, seal=True, meta=meta(scheme=six).model_dump_json())
        refused(path, "'fc.bias' declares shape (3,)", "(6,)")

    def test_a_tensor_too_few_and_one_too_many(self, path, state):
        rewrite(path, seal=True, state={name: t for name, t in state.items() if name != "bn1.weight"})
        refused(path, "lacks", "'bn1.weight'")
        rewrite(path, seal=True, state={**state, "more": torch.zeros(1)})
        refused(path, "unknown", "'more'")

    @pytest.mark.parametrize("value", [3, "text", None, [1.0]])
    def test_a_state_of_other_things(self, path, state, value):
        rewrite(path, state={**state, "bn1.weight": value})
        refused(path, "more than tensors")

    @pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.bool])
    def test_tensors_of_another_kind(self, path, state, dtype):
        rewrite(path, state={**state, "bn1.weight": torch.ones(64).to(dtype)})
        refused(path, "'bn1.weight' is of", str(dtype))

    def test_tensors_that_are_not_stored_whole(self, path, state):
        rewrite(path, state={**state, "layer1.0.conv1.weight": torch.zeros(1).expand(64, 64, 3, 3)})
        refused(path, "not stored whole")
        rewrite(path, state={**state, "fc.weight": torch.zeros(3, 512).to_sparse()})
        refused(path, "fc.weight")
        rewrite(path, state={**state, "fc.weight": torch.empty(3, 512, device="meta")})
        refused(path, "no data")

    def test_one_storage_cannot_stand_for_many(self, path, state):
        """Each tensor's shape fits, but all are one piece of the file: together more than the file holds."""
        largest = torch.zeros(max(tensor.numel() for tensor in state.values()))
        shared = {n: largest[: t.numel()].view(t.shape) if t.is_floating_point() else t for n, t in state.items()}
        rewrite(path, state=shared)
        refused(path, "more data than the file")

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_weights_that_are_not_finite(self, path, state, value):
        broken = {**state, "layer3.0.bn1.weight": torch.full_like(state["layer3.0.bn1.weight"], value)}
        rewrite(path, seal=True, state=broken)
        refused(path, "'layer3.0.bn1.weight'", "NaN")

    def test_changed_weights_or_metadata(self, path, state):
        rewrite(path, state={**state, "fc.bias": state["fc.bias"] + 1})
        refused(path, "hash")
        rewrite(path, state=state)
        load_bundle(path)
        rewrite(path, meta=meta(gsd_m=30.0).model_dump_json())
        refused(path, "hash")


def test_a_huge_declared_shape_allocates_nothing(tmp_path, path):
    """64 GiB are declared, of a storage and of a tensor. The reader may take 3 GiB of address space beyond its start."""
    content = torch.load(path, weights_only=True)
    content["state"]["fc.weight"] = torch.zeros(1).expand(1 << 17, 1 << 17)
    torch.save(content, path)
    said = refused(path, "'fc.weight' declares shape (131072, 131072)")
    program = f"""
import resource, sys
import torch, geoclass.bundle as b
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (3 << 30),) * 2)
try:
    b.load_bundle({str(path)!r})
except b.BundleError as error:
    sys.exit(0 if str(error) == {said!r} else str(error))
sys.exit("accepted")
"""
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs Linux's /proc to bound the memory")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class TestImport:
    @pytest.fixture
    def weights(self, tmp_path: Path) -> Path:
        torch.save(torchvision.models.resnet18(num_classes=3).state_dict(), tmp_path / "w.pth")
        return tmp_path / "w.pth"

    def test_becomes_a_bundle_in_the_order_of_the_outputs(self, tmp_path, weights):
        order = ["River Lake", "field", "Forest"]
        made = import_to_file(weights, tmp_path / "m.pt", arch="resnet18", classes=order, sensor="naip", gsd_m=1.0)
        bundle = load_bundle(tmp_path / "m.pt")
        assert isinstance(made, Bundle) and made.digest == bundle.digest
        assert bundle.meta.scheme.names == ("RiverLake", "Field", "Forest")
        known = load_scheme("rsscn7")
        assert [c.colour for c in bundle.meta.scheme.classes] == [
            known.classes[known.index(name)].colour for name in bundle.meta.scheme.names
        ]
        assert bundle.meta.sensor.name == "naip" and bundle.meta.training["imported_from"] == "w.pth"
        own = torch.load(weights, weights_only=True)
        assert all(torch.equal(bundle.state[name], own[name]) for name in own)

    def test_names_of_no_scheme_keep_their_order(self, weights):
        made, _ = import_state_dict(weights, "resnet18", classes=["zebra", "Ä", "apple"])
        assert made.scheme.names == ("zebra", "Ä", "apple")
        assert len(set(made.scheme.ids)) == 3

    def test_a_shipped_scheme(self, tmp_path):
        torch.save(torchvision.models.resnet18(num_classes=7).state_dict(), tmp_path / "w7.pth")
        made, _ = import_state_dict(tmp_path / "w7.pth", "resnet18", scheme="rsscn7")
        assert made.scheme == load_scheme("rsscn7")

    @pytest.mark.parametrize(
        "names",
        [["Field", "Forest"], ["Field", "field", "Forest"], ["River Lake", "Field", "RiverLake"], ["Field"], []],
    )
    def test_wrong_lists_of_classes(self, weights, names):
        with pytest.raises(BundleError, match="--classes"):
            import_state_dict(weights, "resnet18", classes=names)

    def test_classes_and_scheme_are_either_or(self, weights):
        for both in ({}, {"classes": ["a", "b", "c"], "scheme": "rsscn7"}):
            with pytest.raises(BundleError, match=r"either --classes .* or --scheme"):
                import_state_dict(weights, "resnet18", **both)

    @pytest.mark.parametrize("arch", ["resnet34", "alexnet", "efficientnet_lite0"])
    def test_another_architecture(self, weights, arch):
        with pytest.raises(BundleError, match=r"w\.pth: .*--arch"):
            import_state_dict(weights, arch, classes=["a", "b", "c"])

    def test_a_deeper_network_under_a_shallower_name(self, tmp_path):
        torch.save(torchvision.models.resnet34(num_classes=3).state_dict(), tmp_path / "w.pth")
        with pytest.raises(BundleError, match=r"no tensor 'layer1\.2.*--arch"):
            import_state_dict(tmp_path / "w.pth", "resnet18", classes=["a", "b", "c"])

    @pytest.mark.parametrize("wrong", [{"size_px": 0}, {"gsd_m": -1.0}, {"bands": ("red", "green", "thermal")}])
    def test_wrong_options(self, weights, wrong):
        with pytest.raises((BundleError, ConfigError)) as caught:
            import_state_dict(weights, "resnet18", classes=["a", "b", "c"], **wrong)
        assert "\n" not in str(caught.value)

    def test_weights_that_are_not_finite(self, weights):
        own = torch.load(weights, weights_only=True)
        own["fc.bias"][1] = torch.nan
        torch.save(own, weights)
        with pytest.raises(BundleError, match=r"'fc\.bias' holds NaN"):
            import_state_dict(weights, "resnet18", classes=["a", "b", "c"])

    def test_a_tile_size_the_network_does_not_take(self, tmp_path):
        torch.save(torchvision.models.alexnet(num_classes=3).state_dict(), tmp_path / "w.pth")
        with pytest.raises(BundleError, match="alexnet does not take tiles of 32 px"):
            import_state_dict(tmp_path / "w.pth", "alexnet", classes=["a", "b", "c"], size_px=32)
