"""Bundles for other programs: ONNX with the whole way from brightness to probabilities inside, and safetensors.

Beside the safetensors file stands a STAC Item with the fields of the Machine Learning Model extension, so that
catalogues can hold the model; the file's own header holds what `models import` needs to make the same bundle again.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from . import __version__, backbones
from .bundle import Bundle, BundleMeta, State, digest_of
from .configs import validate
from .errors import BundleError, ConfigError, GeoclassError
from .files import replacing, require_absent
from .predict import Predictor
from .runtimes.answers import Answers
from .runtimes.onnx_cpu import to_onnx
from .sensors import load_sensor

TOLERANCE = 1e-4
INPUT, OUTPUT = "brightness", "probabilities"
META_KEY, DIGEST_KEY = "geoclass.meta", "geoclass.digest"
MLM = "https://stac-extensions.github.io/mlm/v1.6.0/schema.json"
CLASSIFICATION = "https://stac-extensions.github.io/classification/v1.1.0/schema.json"

Tiles = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
Kind = Literal["onnx", "safetensors"]


class Deployed(nn.Module):
    """Brightness (N, bands, H, W) in 0–255 → probabilities (N, K): what `Predictor` does, as one module."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.answers = Answers(bundle)

    def forward(self, brightness: torch.Tensor) -> torch.Tensor:
        # Answers normalises in place; the caller's tensor is not ours to change, and no graph may change its input.
        return torch.softmax(self.answers(brightness.clone()), dim=1)


def export(bundle: Bundle, out: str | Path, kind: Kind, overwrite: bool = False) -> list[Path]:
    """Write `bundle` as ONNX, or as safetensors with its JSON: the files written.

    Raises BundleError for a bundle that this format cannot hold, OutputError where a file exists or cannot be written.
    """
    out = Path(out)
    if out.suffix != f".{kind}":
        raise GeoclassError(
            f"{out} does not end in .{kind}; give -o {out.with_suffix(f'.{kind}').name}, or another --to"
        )
    if getattr(bundle, "forest", None) is not None:
        raise BundleError(
            f"a bundle whose head is a random forest cannot be exported to {kind}, which holds networks only; "
            "train with --head logistic or --head svm"
        )
    if kind == "onnx":
        export_onnx(bundle, out, overwrite)
        return [out]
    return export_safetensors(bundle, out, overwrite)


def export_onnx(bundle: Bundle, out: Path, overwrite: bool = False) -> float | None:
    """Write `bundle` as an ONNX graph, and compare it with torch: the greatest difference, None without onnxruntime.

    Input `brightness`: float32 (N, bands, size, size) in 0–255, any N. Output `probabilities`: float32 (N, K), rows
    sum to 1. Normalisation, resampling, views, temperature and softmax are in the graph; the metadata say the rest.
    Raises BundleError where the network cannot be translated, or the graph differs from it by more than TOLERANCE.
    """
    require_absent([out], overwrite)
    model = _translated(bundle)
    data = model.SerializeToString()
    meta = bundle.meta
    try:
        difference = _difference(bundle, data, _made_tiles(len(meta.bands), meta.size_px))
    except ModuleNotFoundError:
        difference = None
        logging.getLogger(__name__).warning("not compared with torch: pip install 'geoclass[onnx]' gives onnxruntime")
    if difference is not None and not difference <= TOLERANCE:
        raise BundleError(
            f"the ONNX graph of {meta.backbone} differs from torch by {difference:.2g}; export to safetensors instead"
        )
    with replacing(out, overwrite) as temporary:
        temporary.write_bytes(data)
    return difference


def check_onnx(bundle: Bundle, path: str | Path, tiles: Tiles) -> float:
    """The greatest absolute difference between the probabilities of an ONNX file and of `Predictor`.

    `tiles` is brightness (N, bands, size, size). Raises GeoclassError where onnxruntime is missing, BundleError where the
    file is no ONNX graph of this bundle.
    """
    try:
        return _difference(bundle, Path(path).read_bytes(), tiles)
    except ModuleNotFoundError as error:
        raise _missing_onnx() from error
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}; check the path") from error
    except GeoclassError:
        raise
    except Exception as error:  # onnxruntime raises types of its own for what it cannot load or run
        reason = " ".join(str(error).split())[:150]
        raise BundleError(f"{path} is no ONNX graph of this bundle ({reason}); export it again") from error


def _difference(bundle: Bundle, data: bytes, tiles: Tiles, batch: int = 16) -> float:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    predictor = Predictor(bundle, load_sensor("rgb8"), device=torch.device("cpu"), batch_size=batch)
    worst = 0.0
    for start in range(0, len(tiles), batch):
        part = tiles[start : start + batch]
        theirs = session.run([OUTPUT], {INPUT: part.astype(np.float32)})[0]
        ours = predictor(list(part)).probabilities
        worst = max(worst, float(np.abs(theirs - ours).max()))
    return worst


def _made_tiles(bands: int, size_px: int) -> npt.NDArray[np.uint8]:
    """Four tiles of noise on patches of different brightness: networks give all tiles of mere noise one answer."""
    random = np.random.default_rng(0)
    patches = (
        random.integers(0, 192, (4, bands, 4, 4)).repeat(-(-size_px // 4), axis=2).repeat(-(-size_px // 4), axis=3)
    )
    noise = random.integers(0, 64, (4, bands, size_px, size_px))
    return (patches[:, :, :size_px, :size_px] + noise).astype(np.uint8)


def _missing_onnx() -> GeoclassError:
    return GeoclassError("ONNX needs packages that are not installed; install them: pip install 'geoclass[onnx]'")


def _translated(bundle: Bundle) -> Any:
    """The bundle as a checked ONNX model with metadata."""
    try:
        import onnx
        import onnxscript  # noqa: F401  (torch's exporter imports it, and would fail with a text of its own)
    except ImportError as error:
        raise _missing_onnx() from error
    meta = bundle.meta
    example = torch.zeros(2, len(meta.bands), meta.size_px, meta.size_px)
    try:
        tiles = {0: torch.export.Dim("tiles", min=1)}
        model = to_onnx(Deployed(bundle).eval(), example, INPUT, OUTPUT, dynamic_shapes=(tiles,))
        model.doc_string = f"{meta.backbone}: brightness 0-255 of {', '.join(meta.bands)} to class probabilities"
        model.producer_name, model.producer_version = "geoclass", __version__
        onnx.helper.set_model_props(model, _properties(bundle))
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # torch, onnxscript and onnx raise many types for an operator they do not know
        reason = " ".join(str(error).split())[:150]
        raise BundleError(
            f"{meta.backbone} cannot be translated to ONNX ({reason}); export to safetensors instead"
        ) from error
    return model


def _properties(bundle: Bundle) -> dict[str, str]:
    meta = bundle.meta
    return {
        "geoclass.digest": bundle.digest,
        "geoclass.version": __version__,
        "geoclass.backbone": meta.backbone,
        "geoclass.scheme": meta.scheme.model_dump_json(),
        "geoclass.classes": json.dumps(meta.scheme.names, ensure_ascii=False),
        "geoclass.bands": json.dumps(meta.bands),
        "geoclass.sensor": meta.sensor.name,
        "geoclass.size_px": str(meta.size_px),
        "geoclass.gsd_m": "" if meta.gsd_m is None else f"{meta.gsd_m:g}",
        "geoclass.input": "float32 brightness 0-255, not normalised: (tiles, bands, size_px, size_px)",
        "geoclass.output": "class probabilities in the order of geoclass.classes",
    }


def export_safetensors(bundle: Bundle, out: Path, overwrite: bool = False) -> list[Path]:
    """Write the tensors to `out` and a STAC Item beside it (m.safetensors, m.json): both paths. Raises OutputError."""
    from safetensors.torch import save

    item = out.with_suffix(".json")
    require_absent([out, item], overwrite)
    header = {"format": "pt", META_KEY: bundle.meta.model_dump_json(), DIGEST_KEY: bundle.digest}
    with replacing(item, overwrite) as described, replacing(out, overwrite) as tensors:
        # Not save_file: it makes files that only their owner may read.
        tensors.write_bytes(save({name: tensor.contiguous() for name, tensor in bundle.state.items()}, metadata=header))
        described.write_text(json.dumps(stac_item(bundle, out.name), indent=1, ensure_ascii=False) + "\n", "utf-8")
    return [out, item]


def read_exported(path: str | Path) -> tuple[BundleMeta, State] | None:
    """What `export_safetensors` wrote, checked; None for a file of another origin.

    Raises BundleError where the file is damaged, or was changed since.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (OSError, SafetensorError):
        return None  # backbones.read_state_dict says what is wrong with it
    if META_KEY not in header:
        return None
    try:
        meta = validate(BundleMeta, json.loads(header[META_KEY]), str(path))
    except (ValueError, ConfigError) as error:
        raise BundleError(f"{path}: its header cannot be read ({str(error)[:150]}); export the bundle again") from error
    network = backbones.build(meta.backbone, classes=len(meta.scheme), bands=len(meta.bands), weights=None)
    state = backbones.fit_state(network, backbones.read_state_dict(Path(path)), str(path), "export the bundle again")
    if digest_of(meta, state) != header.get(DIGEST_KEY):
        raise BundleError(f"{path} has been changed since it was exported (its hash does not fit); export it again")
    return meta, state


def stac_item(bundle: Bundle, file_name: str) -> dict[str, Any]:
    """The bundle as a STAC 1.1 Item of the Machine Learning Model extension (MLM) 1.6, https://github.com/stac-extensions/mlm.

    A model has no footprint: the geometry is null. Beyond MLM's fields, `geoclass:…` hold the scheme and the digest.
    """
    meta = bundle.meta
    parameters = sum(tensor.numel() for tensor in bundle.state.values() if tensor.is_floating_point())
    properties: dict[str, Any] = {
        "datetime": re.sub(r"\+00:00$", "Z", meta.created),
        "created": re.sub(r"\+00:00$", "Z", meta.created),
        "title": f"{meta.backbone} for {meta.scheme.title or meta.scheme.name}",
        "bands": [{"name": band} for band in meta.bands],
        "mlm:name": _word(f"geoclass-{meta.scheme.name}-{meta.backbone}"),
        "mlm:architecture": meta.backbone,
        "mlm:tasks": ["scene-classification"],
        "mlm:framework": "PyTorch",
        "mlm:framework_version": ".".join(re.findall(r"\d+", torch.__version__)[:3]),
        "mlm:total_parameters": parameters,
        "mlm:memory_size": sum(tensor.numel() * tensor.element_size() for tensor in bundle.state.values()),
        "mlm:input": [_input(meta)],
        "mlm:output": [_output(meta)],
        "mlm:hyperparameters": _hyperparameters(meta),
        "geoclass:digest": bundle.digest,
        "geoclass:version": __version__,
        "geoclass:sensor": meta.sensor.name,
        "geoclass:scheme": meta.scheme.model_dump(mode="json"),
    }
    if meta.gsd_m is not None:
        properties["gsd"] = meta.gsd_m
    if meta.training and "imported_from" not in meta.training:
        properties["mlm:pretrained"] = (
            True  # geoclass trains from given weights only; an imported network's past is unknown
        )
    asset = {
        "href": f"./{file_name}",
        "type": "application/octet-stream",
        "title": "Weights, by the names that torchvision or timm give them",
        "roles": ["mlm:model", "mlm:weights"],
        "mlm:artifact_type": "safetensors.torch.save_file",
    }
    return {
        "type": "Feature", "stac_version": "1.1.0", "stac_extensions": [MLM, CLASSIFICATION], "id": Path(file_name).stem,
        "geometry": None, "properties": properties, "links": [], "assets": {"model": asset},
    }  # fmt: skip


def _input(meta: BundleMeta) -> dict[str, Any]:
    return {
        "name": "tile",
        "description": "Brightness of one tile, 0 to 255; value_scaling is per band, in the order of bands.",
        "bands": list(meta.bands),
        "input": {
            "shape": [-1, len(meta.bands), meta.size_px, meta.size_px],
            "dim_order": ["batch", "bands", "height", "width"],
            "data_type": "float32",
        },
        "value_scaling": [
            {"type": "z-score", "mean": mean, "stddev": std} for mean, std in zip(meta.mean, meta.std, strict=True)
        ],
        "resize_type": "interpolation-linear" if (meta.input_px or meta.size_px) != meta.size_px else None,
    }


def _output(meta: BundleMeta) -> dict[str, Any]:
    views = f", averaged over {meta.views} turned and mirrored views" if meta.views > 1 else ""
    return {
        "name": "logits",
        "description": f"One number a class{views}; probabilities are the softmax of these divided by {meta.temperature:g}.",
        "tasks": ["scene-classification"],
        "result": {"shape": [-1, len(meta.scheme)], "dim_order": ["batch", "class"], "data_type": "float32"},
        "classification:classes": [
            {"value": place, "name": _word(item.name), "description": item.name, "color_hint": item.colour[1:].upper()}
            for place, item in enumerate(meta.scheme.classes)
        ],
    }


def _hyperparameters(meta: BundleMeta) -> dict[str, Any]:
    plain = {
        re.sub(r"[^0-9a-zA-Z_.-]", "_", key): value
        for key, value in meta.training.items()
        if isinstance(value, str | int | float | bool)
    }
    return {**plain, "temperature": meta.temperature, "views": meta.views, "input_px": meta.input_px or meta.size_px}


def _word(text: str) -> str:
    """`text` in the letters that the extensions' names allow."""
    return re.sub(r"[^0-9A-Za-z_-]+", "-", text).strip("-_") or "class"
