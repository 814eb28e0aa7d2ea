"""Exports compute what the bundle computes, say what they are, and come back as the same bundle."""

import dataclasses
import json
import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import missing
from PIL import Image
from safetensors.torch import load_file, save_file

from geoclass import backbones, export
from geoclass.bundle import Bundle, BundleMeta, load_bundle, save_bundle
from geoclass.cli import main
from geoclass.errors import BundleError, GeoclassError, OutputError
from geoclass.predict import Predictor
from geoclass.runtimes import onnx_cpu
from geoclass.schemes import load_scheme
from geoclass.sensors import load_sensor

SIZE = 64


def make(
    path: Path,
    *,
    backbone: str = "resnet18",
    weights: str | None = None,
    seed: int = 1,
    sample: np.ndarray | None = None,
    **changes: object,
) -> Bundle:
    """A bundle whose answers are spread over its classes, as a trained one's are."""
    bands = changes.get("bands", ("red", "green", "blue"))
    scheme = load_scheme("rsscn7")
    network = backbones.build(backbone, classes=len(scheme), bands=len(bands), weights=weights, seed=seed)
    norm = backbones.normalisation(backbone, len(bands))
    values = {
        "backbone": backbone, "scheme": scheme, "sensor": load_sensor("naip"), "bands": bands, "size_px": SIZE, "gsd_m": 0.6,
        "mean": norm.mean, "std": norm.std, "temperature": 1.25, "training": {"seed": 3, "tiles_per_class": {"Field": 3}},
        "created": "2024-05-01T10:00:00+00:00", "geoclass_version": "0.1.0",
    }  # fmt: skip
    size = int({**values, **changes}["size_px"])
    given = torch.from_numpy(tiles(8, len(bands), size, seed=9) if sample is None else sample).float()
    mean, std = (torch.tensor(part).view(1, -1, 1, 1) for part in (norm.mean, norm.std))
    with torch.inference_mode():
        features = backbones.feature_network(network)((given - mean) / std)
    # A random head on centred features, as steep as theirs allow: the answers then differ from tile to tile.
    weight = torch.randn(len(scheme), features.shape[1], generator=torch.Generator().manual_seed(seed))
    weight *= 2 / features.var(dim=0).sum().sqrt()
    backbones.set_classifier(network, weight, -weight @ features.mean(dim=0))
    return save_bundle(path, BundleMeta(**{**values, **changes}), dict(network.state_dict()))


def tiles(count: int = 6, bands: int = 3, size: int = SIZE, seed: int = 0) -> np.ndarray:
    """Smooth random pictures (count, bands, size, size): noise alone looks the same to any network."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count * bands, 5, 5), np.uint8)
    large = [np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC)) for picture in coarse]
    return np.stack(large).reshape(count, bands, size, size)


def predicted(bundle: Bundle, pictures: np.ndarray) -> np.ndarray:
    return Predictor(bundle, load_sensor("rgb8"), device=torch.device("cpu"))(list(pictures)).probabilities


def command(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(word) for word in words], env={"COLUMNS": "160"})
    return done.exit_code, done.output


@pytest.fixture(scope="session")
def onnx_parts() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(name) is None:
            missing(f"{name} is not installed: pip install 'geoclass[onnx]'")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    path = tmp_path_factory.mktemp("made") / "m.pt"
    return make(path), path


@pytest.fixture(scope="module")
def graph(made: tuple[Bundle, Path], onnx_parts: None) -> Path:
    path = made[1].with_suffix(".onnx")
    export.export_onnx(made[0], path)
    return path


class TestOnnx:
    def test_500_real_tiles(self, test_data, onnx_parts, tmp_path):
        """The default backbone with its real weights, on every class of RSSCN7."""
        folders = sorted(path for path in (test_data / "rsscn7_224").iterdir() if path.is_dir())
        files = [path for folder in folders for path in sorted(folder.glob("*.jpg"))[:72]][:500]
        pictures = np.stack([np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1) for path in files])
        assert len(pictures) == 500 and pictures.shape[1:] == (3, 224, 224)
        bundle = make(
            tmp_path / "m.pt", backbone=backbones.DEFAULT, weights="pretrained", size_px=224, sample=pictures[::25]
        )
        assert export.export_onnx(bundle, tmp_path / "m.onnx") <= export.TOLERANCE
        assert export.check_onnx(bundle, tmp_path / "m.onnx", pictures) <= 1e-4
        answers = predicted(bundle, pictures[::25])
        assert np.ptp(answers, axis=0).max() > 0.3, "answers that are all alike would agree whatever the graph does"

    def test_another_program_needs_nothing_else(self, made, graph):
        """Brightness in, probabilities out, for any number of tiles; computed here from the network alone."""
        import onnxruntime

        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        (given,), (result,) = session.get_inputs(), session.get_outputs()
        assert (given.name, given.type, given.shape[1:]) == ("brightness", "tensor(float)", [3, SIZE, SIZE])
        assert result.name == "probabilities" and isinstance(given.shape[0], str) and given.shape[0] == result.shape[0]
        meta = made[0].meta
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (meta.mean, meta.std))
        for count in (1, 2, 5):
            pictures = tiles(count, seed=count).astype(np.float32)
            (theirs,) = session.run(None, {"brightness": pictures})
            with torch.inference_mode():
                logits = made[0].network()((torch.from_numpy(pictures) - mean) / std)
            ours = torch.softmax(logits / meta.temperature, dim=1).numpy()
            assert np.abs(theirs - ours).max() < 1e-5 and np.abs(theirs.sum(axis=1) - 1).max() < 1e-5

    def test_it_says_what_it_is(self, made, graph):
        import onnx

        model = onnx.load(graph)
        said = {item.key: item.value for item in model.metadata_props}
        bundle = made[0]
        assert (
            said["geoclass.digest"] == bundle.digest
            and said["geoclass.size_px"] == str(SIZE)
            and said["geoclass.gsd_m"] == "0.6"
        )
        assert json.loads(said["geoclass.classes"]) == list(bundle.meta.scheme.names)
        assert json.loads(said["geoclass.bands"]) == ["red", "green", "blue"]
        assert type(bundle.meta.scheme).model_validate_json(said["geoclass.scheme"]) == bundle.meta.scheme
        assert [item.version for item in model.opset_import if item.domain == ""] == [onnx_cpu.OPSET]
        assert not list(graph.parent.glob("*.data")), "the weights are inside"

    @pytest.mark.parametrize(
        "changes",
        [{"input_px": 40, "views": 3}, {"bands": ("red", "green", "blue", "nir"), "input_px": 80}],
        ids=["smaller, turned", "four bands, larger"],
    )
    def test_whatever_the_bundle_does_to_tiles(self, onnx_parts, tmp_path, changes):
        bundle = make(tmp_path / "m.pt", **changes)
        export.export_onnx(bundle, tmp_path / "m.onnx")
        pictures = tiles(4, len(bundle.meta.bands))
        assert export.check_onnx(bundle, tmp_path / "m.onnx", pictures) <= 1e-4
        assert np.ptp(predicted(bundle, pictures), axis=0).max() > 0.05

    def test_the_module_leaves_its_input_alone(self, made):
        given = torch.from_numpy(tiles(2)).float()
        before = given.clone()
        with torch.inference_mode():
            answers = export.Deployed(made[0]).eval()(given)
        assert torch.equal(given, before) and np.abs(answers.numpy() - predicted(made[0], tiles(2))).max() < 1e-5

    def test_the_check_tells_another_bundle(self, made, graph, tmp_path):
        assert export.check_onnx(made[0], graph, tiles()) <= 1e-5
        for other in (
            make(tmp_path / "a.pt", temperature=2.0),
            make(tmp_path / "b.pt", seed=2),
            make(tmp_path / "c.pt", views=2),
        ):
            assert export.check_onnx(other, graph, tiles()) > 1e-3

    def test_a_graph_that_differs_is_not_kept(self, made, onnx_parts, tmp_path, monkeypatch):
        class Wrong(export.Deployed):
            def forward(self, brightness: torch.Tensor) -> torch.Tensor:
                return torch.softmax(2 * self.answers(brightness.clone()), dim=1)

        monkeypatch.setattr(export, "Deployed", Wrong)
        with pytest.raises(BundleError, match=r"differs from torch.*safetensors instead"):
            export.export_onnx(made[0], tmp_path / "m.onnx")
        assert list(tmp_path.iterdir()) == []


class TestSafetensors:
    @pytest.fixture
    def written(self, made: tuple[Bundle, Path], tmp_path: Path) -> Path:
        export.export(made[0], tmp_path / "m.safetensors", "safetensors")
        return tmp_path / "m.safetensors"

    def test_the_same_bundle_comes_back(self, made, written, tmp_path):
        code, said = command("models", "import", written, "-o", tmp_path / "back.pt")
        assert code == 0, said
        back = load_bundle(tmp_path / "back.pt")
        assert back.digest == made[0].digest and back.meta == made[0].meta

    def test_as_plain_weights_it_predicts_the_same(self, tmp_path):
        """With the backbone's normalisation and no calibration there is nothing else to know."""
        bundle = make(tmp_path / "m.pt", temperature=1.0)
        export.export(bundle, tmp_path / "m.safetensors", "safetensors")
        code, said = command(
            "models", "import", tmp_path / "m.safetensors", "--arch", "resnet18", "--scheme", "rsscn7", "--size", SIZE, "-o", tmp_path / "b.pt"
        )  # fmt: skip
        assert code == 0, said
        assert np.array_equal(predicted(load_bundle(tmp_path / "b.pt"), tiles()), predicted(bundle, tiles()))

    def test_others_may_read_it_as_they_may_the_bundle(self, made, written):
        assert written.stat().st_mode == made[1].stat().st_mode

    def test_half_precision_is_kept(self, made, tmp_path):
        half = {name: t.half() if t.is_floating_point() else t for name, t in made[0].state.items()}
        bundle = save_bundle(tmp_path / "h.pt", made[0].meta, half)
        export.export_safetensors(bundle, tmp_path / "h.safetensors")
        meta, state = export.read_exported(tmp_path / "h.safetensors")
        assert (
            state["fc.weight"].dtype == torch.float16
            and save_bundle(tmp_path / "i.pt", meta, state).digest == bundle.digest
        )

    def test_the_item_has_what_the_extension_asks_for(self, made, written):
        """Checked against the required fields and patterns of the MLM 1.6 schema, of classification 1.1 and STAC 1.1."""
        item = json.loads(written.with_suffix(".json").read_text())
        assert {"type", "stac_version", "stac_extensions", "id", "geometry", "properties", "links", "assets"} <= set(
            item
        )
        assert item["type"] == "Feature" and item["stac_version"] == "1.1.0" and export.MLM in item["stac_extensions"]
        properties = item["properties"]
        assert {"mlm:name", "mlm:architecture", "mlm:tasks", "mlm:input", "mlm:output"} <= set(properties)
        assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]", properties["mlm:name"])
        assert re.fullmatch(r"\d+\.\d+\.\d+", properties["mlm:framework_version"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", properties["datetime"])
        assert properties["mlm:hyperparameters"] and all(
            re.fullmatch(r"[\w.-]+", key) for key in properties["mlm:hyperparameters"]
        )
        known = {
            "name", "architecture", "tasks", "framework", "framework_version", "memory_size", "total_parameters", "pretrained",
            "pretrained_source", "input", "output", "hyperparameters",
        }  # fmt: skip
        assert {key[4:] for key in properties if key.startswith("mlm:")} <= known, "unknown mlm: fields are forbidden"
        (given,), (result,) = properties["mlm:input"], properties["mlm:output"]
        assert given["bands"] == [band["name"] for band in properties["bands"]] == ["red", "green", "blue"]
        assert given["input"] == {
            "shape": [-1, 3, SIZE, SIZE],
            "dim_order": ["batch", "bands", "height", "width"],
            "data_type": "float32",
        }
        meta = made[0].meta
        assert [(s["type"], s["mean"], s["stddev"]) for s in given["value_scaling"]] == [
            ("z-score", mean, std) for mean, std in zip(meta.mean, meta.std, strict=True)
        ]
        assert result["result"]["shape"] == [-1, 7] and "bands" not in result["result"]["dim_order"]
        classes = result["classification:classes"]
        assert [entry["value"] for entry in classes] == list(range(7))
        assert [entry["description"] for entry in classes] == list(meta.scheme.names)
        assert all(
            re.fullmatch("[0-9A-Za-z_-]+", e["name"]) and re.fullmatch("[0-9A-F]{6}", e["color_hint"]) for e in classes
        )
        (asset,) = item["assets"].values()
        assert "mlm:model" in asset["roles"] and asset["mlm:artifact_type"] and asset["href"] == "./m.safetensors"
        assert properties["mlm:total_parameters"] >= sum(p.numel() for p in made[0].network().parameters())

    @pytest.mark.parametrize("what", ["weight", "meta", "garbled"])
    def test_a_changed_file_is_refused(self, written, what):
        from safetensors import safe_open

        with safe_open(written, framework="pt") as file:
            header = dict(file.metadata())
        state = load_file(written)
        if what == "weight":
            state["fc.bias"] = state["fc.bias"] + 1
        elif what == "meta":
            header[export.META_KEY] = header[export.META_KEY].replace('"temperature":1.25', '"temperature":9.0')
        else:
            header[export.META_KEY] = "{"
        save_file(state, written, metadata=header)
        code, said = command("models", "import", written, "-o", written.with_name("back.pt"))
        assert code == 2 and said.count("\n") == 1 and ("changed since" in said or "header cannot be read" in said)

    def test_a_file_of_others_needs_its_network_named(self, made, tmp_path):
        save_file(made[0].state, tmp_path / "w.safetensors")
        code, said = command("models", "import", tmp_path / "w.safetensors", "-o", tmp_path / "b.pt")
        assert code == 2 and "give --arch" in said
        (tmp_path / "junk.safetensors").write_bytes(b"junk")
        code, said = command(
            "models",
            "import",
            tmp_path / "junk.safetensors",
            "--arch",
            "resnet18",
            "--scheme",
            "rsscn7",
            "-o",
            tmp_path / "b.pt",
        )
        assert code == 2 and "no file of plain weights" in said

    def test_another_network_than_the_file_says_is_refused(self, written):
        code, said = command("models", "import", written, "--arch", "resnet50", "-o", written.with_name("b.pt"))
        assert code == 2 and "is of resnet18, not resnet50" in said


class TestRefusals:
    @pytest.mark.parametrize("kind", ["onnx", "safetensors"])
    def test_a_forest(self, made, tmp_path, kind):
        bundle = dataclasses.replace(made[0], forest=b"trees")
        with pytest.raises(BundleError, match=r"random forest.*--head logistic"):
            export.export(bundle, tmp_path / f"m.{kind}", kind)

    def test_existing_files_are_kept(self, made, tmp_path, monkeypatch):
        monkeypatch.setattr(export, "_translated", lambda bundle: pytest.fail("found before the work, not after it"))
        for name, kind in (("m.onnx", "onnx"), ("m.json", "safetensors"), ("m.safetensors", "safetensors")):
            (tmp_path / name).write_text("mine")
            with pytest.raises(OutputError, match="--overwrite"):
                export.export(made[0], (tmp_path / name).with_suffix(f".{kind}"), kind)
            assert (tmp_path / name).read_text() == "mine"
            (tmp_path / name).unlink()

    def test_an_ending_that_is_not_the_format(self, made):
        code, said = command("models", "export", made[1], "--to", "onnx", "-o", "m.pt")
        assert code == 2 and "does not end in .onnx" in said and said.count("\n") == 1

    @pytest.mark.parametrize("name", ["onnx", "onnxscript"])
    def test_without_the_extra(self, made, tmp_path, monkeypatch, name):
        monkeypatch.setitem(sys.modules, name, None)
        code, said = command("models", "export", made[1], "--to", "onnx", "-o", tmp_path / "m.onnx")
        assert code == 2 and "pip install 'geoclass[onnx]'" in said and said.count("\n") == 1

    def test_without_onnxruntime_it_is_written_unchecked_and_said(self, made, graph, tmp_path, monkeypatch, caplog):
        import onnx

        monkeypatch.setattr(export, "_translated", lambda bundle: onnx.load(graph))
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        assert export.export_onnx(made[0], tmp_path / "m.onnx") is None
        assert "not compared with torch" in caplog.text and (tmp_path / "m.onnx").is_file()
        with pytest.raises(GeoclassError, match=r"geoclass\[onnx\]"):
            export.check_onnx(made[0], graph, tiles())

    def test_a_network_that_cannot_be_translated(self, made, onnx_parts, tmp_path, monkeypatch):
        def fail(*_: object, **__: object) -> Callable[[], None]:
            raise RuntimeError("no such\noperator")

        monkeypatch.setattr(torch.onnx, "export", fail)
        with pytest.raises(BundleError, match=r"cannot be translated to ONNX \(no such operator\)"):
            export.export(made[0], tmp_path / "m.onnx", "onnx")
        assert list(tmp_path.iterdir()) == []

    def test_what_is_no_graph_of_this_bundle(self, made, graph, tmp_path):
        (tmp_path / "junk.onnx").write_bytes(b"junk")
        for path, pictures in (
            (tmp_path / "junk.onnx", tiles()),
            (graph, tiles(2, bands=4)),
            (tmp_path / "none.onnx", tiles()),
        ):
            with pytest.raises(BundleError) as caught:
                export.check_onnx(made[0], path, pictures)
            assert "\n" not in str(caught.value) and path.name in str(caught.value)

    def test_export_through_the_command_line(self, made, onnx_parts, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "m.pt").write_bytes(made[1].read_bytes())
        code, said = command("models", "export", "m.pt", "--to", "safetensors")
        assert code == 0 and "m.safetensors" in said and "m.json" in said
        code, said = command("models", "export", "m.pt", "--to", "safetensors")
        assert code == 2 and "--overwrite" in said
        assert command("models", "export", "m.pt", "--to", "safetensors", "--overwrite")[0] == 0
        code, said = command("models", "export", "none.pt", "--to", "onnx")
        assert code == 2 and "no such model bundle" in said
