"""Model bundles: one file of tensors and plain values, from which nothing is ever executed.

`m.pt` is a torch zip of `meta`, a JSON text (see `BundleMeta`), `state`, the network's tensors by name, the digest of
all, and where the head is a random forest its skops archive as a tensor of bytes (see `forest`). It is read with `torch.load(weights_only=True)`, first onto the meta device, so that shapes are checked before
anything is allocated.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import pydantic
import torch
from torch import nn

from . import __version__, backbones
from .configs import validate
from .errors import BundleError, ConfigError
from .files import replacing
from .schemes import ClassScheme, class_position, load_scheme, scheme_for_names
from .sensors import Sensor, load_sensor

FORMAT: Final = "geoclass-bundle"
VERSION: Final = 1

State = dict[str, torch.Tensor]

FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


class BundleMeta(pydantic.BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """What a bundle says of itself. `mean` and `std` (a number a band) are on the 0–255 brightness scale.

    `brightness` holds, for each band, the shares of 32 equal steps of brightness in the training tiles. `input_px` is
    the side that tiles are resampled to before the network, where that is not `size_px`; `views` the number of turned
    and mirrored views of a tile over which answers are averaged; `projection` the number of outputs of the network that
    a forest reads, where the head is one; `training_tiles` the prints of the tiles trained on (`datasets.duplicates.Prints`).
    """

    format: Literal["geoclass-bundle"] = FORMAT
    version: Literal[1] = VERSION
    backbone: str
    scheme: ClassScheme
    sensor: Sensor
    bands: tuple[str, ...] = pydantic.Field(min_length=1, max_length=64)
    size_px: int = pydantic.Field(ge=1, le=4096)
    gsd_m: float | None = pydantic.Field(default=None, gt=0)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    brightness: tuple[tuple[float, ...], ...] | None = None
    temperature: float = pydantic.Field(default=1.0, gt=0)
    input_px: int | None = pydantic.Field(default=None, ge=1, le=4096)
    views: int = pydantic.Field(default=1, ge=1, le=8)
    projection: int | None = pydantic.Field(default=None, ge=2, le=65536)
    training_tiles: str = ""
    training: dict[str, Any] = {}
    created: str
    geoclass_version: str

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> BundleMeta:
        bands = len(self.bands)
        if len(self.mean) != bands or len(self.std) != bands or min(self.std) <= 0:
            raise ValueError(f"mean and std must have one number for each of {bands} bands, std above 0")
        if self.brightness is not None and [len(row) for row in self.brightness] != [32] * bands:
            raise ValueError(f"brightness must have 32 shares for each of {bands} bands")
        missing = set(self.bands) - set(self.sensor.band_names)
        if missing:
            raise ValueError(f"sensor {self.sensor.name} has no band {', '.join(sorted(missing))}")
        return self


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle: what it says of itself, its tensors, the digest of all, and the forest that is its head, if any."""

    meta: BundleMeta
    state: State
    digest: str
    forest: bytes | None = None

    def network(self) -> nn.Module:
        """The network in evaluation mode, float32 on the CPU: (N, bands, H, W) normalised brightness → logits."""
        with torch.device("meta"):
            network = _skeleton(self.meta)
        if all(name in self.state for name, _ in network.named_buffers()):
            network.load_state_dict({name: tensor.clone() for name, tensor in self.state.items()}, assign=True)
        else:
            # Tables that a network computes for itself (swin's position index) are in no state: build it for real.
            network = _skeleton(self.meta)
            network.load_state_dict(self.state)
        return network.float().eval()


def _skeleton(meta: BundleMeta) -> nn.Module:
    outputs = meta.projection or len(meta.scheme)
    return backbones.build(meta.backbone, classes=outputs, bands=len(meta.bands), weights=None)


def digest_of(meta: BundleMeta, state: Mapping[str, torch.Tensor], forest: bytes | None = None) -> str:
    """A hash of everything in a bundle."""
    digest = hashlib.blake2b(_canonical(meta).encode() + (forest or b""), digest_size=16)
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def _canonical(meta: BundleMeta) -> str:
    return json.dumps(meta.model_dump(mode="json"), sort_keys=True)


def bundle_of(meta: BundleMeta, state: Mapping[str, torch.Tensor], forest: bytes | None = None) -> Bundle:
    """A bundle in memory, of copies of the tensors."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    return Bundle(meta, plain, digest_of(meta, plain, forest), forest)


def save_bundle(
    path: Path,
    meta: BundleMeta,
    state: Mapping[str, torch.Tensor],
    overwrite: bool = False,
    *,
    forest: bytes | None = None,
) -> Bundle:
    """Write a bundle to `path` (.pt), whole or not at all. Raises OutputError."""
    bundle = bundle_of(meta, state, forest)
    with replacing(Path(path), overwrite) as temporary:
        # Through memory: torch's own writer hides a full disk behind a RuntimeError about positions in the zip.
        temporary.write_bytes(bundle_bytes(bundle))
    return bundle


def bundle_bytes(bundle: Bundle) -> bytes:
    """The content of the bundle's file."""
    parts = {"meta": _canonical(bundle.meta), "state": dict(bundle.state), "digest": bundle.digest}
    if bundle.forest is not None:
        parts["forest"] = torch.frombuffer(bytearray(bundle.forest), dtype=torch.uint8)
    buffer = io.BytesIO()
    torch.save(parts, buffer)
    return buffer.getvalue()


def load_bundle(path: str | Path) -> Bundle:
    """Read and verify a bundle. Raises BundleError, with the reason, for everything that is not a sound one."""
    path = Path(path)
    size = _check_zip(path)
    outline = _read(path, "meta")
    meta = _check_outline(path, outline)
    _check_shapes(path, meta, outline["state"], size)
    contents = _read(path, "cpu")
    state = dict(contents["state"])
    head = {"forest": contents["forest"]} if "forest" in contents else {}
    for name, tensor in {**state, **head}.items():
        if tensor.device.type != "cpu":
            raise BundleError(
                f"{path}: tensor {name!r} has no data in the file; make the bundle again with geoclass train"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BundleError(f"{path}: tensor {name!r} holds NaN or infinity; the training failed, train again")
    forest = contents["forest"].numpy().tobytes() if "forest" in contents else None
    digest = digest_of(meta, state, forest)
    if contents.get("digest") != digest:
        raise BundleError(
            f"{path} has been changed or damaged since it was written (its hash does not fit); fetch it again"
        )
    return Bundle(meta, state, digest, forest)


def _check_zip(path: Path) -> int:
    """The file's size, once it is a whole, uncompressed zip."""
    if path.is_dir():
        raise BundleError(f"{path} is a folder, not a model bundle; give the .pt file that geoclass train made")
    if not path.is_file():
        raise BundleError(f"no such model bundle: {path}; check --model, or make one with geoclass train")
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            # torch stores without compression; anything else could unpack to any size.
            if any(m.compress_type != zipfile.ZIP_STORED for m in members) or sum(m.file_size for m in members) > size:
                raise BundleError(f"{path} is refused: a compressed zip is not a bundle; make one with geoclass train")
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError, NotImplementedError) as error:
        with path.open("rb") as stream:
            start = stream.read(2)
        if start[:1] == b"\x80":  # the pickle protocol's first byte
            raise BundleError(
                f"{path} is refused: it is a bare pickle, which can hold code; if it is a state dict that you trust, "
                "save it again with a newer torch and wrap it with geoclass models import"
            ) from error
        cut = start == b"PK"
        what = (
            "is truncated or damaged; fetch it again" if cut else "is not a model bundle; make one with geoclass train"
        )
        raise BundleError(f"{path} {what}") from error
    if broken:
        raise BundleError(f"{path} is damaged in {broken}; fetch it again")
    return size


def _read(path: Path, device: str) -> Any:
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise BundleError(
            f"{path} is refused: it holds code or objects that would have to be executed; a bundle holds tensors and plain values only"
        ) from error
    except Exception as error:  # torch raises many types for a zip that is not its own
        reason = " ".join(str(error).split())[:100]
        raise BundleError(f"{path} is not a model bundle ({reason}); make one with geoclass train") from error


def _check_outline(path: Path, contents: Any) -> BundleMeta:
    """The metadata, once the file has a bundle's parts, of this version."""
    if isinstance(contents, torch.Tensor) or not isinstance(contents, dict):
        raise BundleError(f"{path} is not a model bundle; make one with geoclass train")
    if "meta" not in contents:
        raise BundleError(
            f"{path} is a plain state dict, not a bundle; wrap it: geoclass models import {path} --arch NAME --classes A,B,C -o m.pt"
        )
    whole = set(contents) - {"forest"} == {"meta", "state", "digest"} and isinstance(contents["state"], dict)
    forest = contents.get("forest", torch.zeros(0, dtype=torch.uint8))
    if not whole or not isinstance(forest, torch.Tensor) or not _is_bytes(forest):
        raise BundleError(f"{path} has other parts than a bundle's; make one with geoclass train")
    try:
        values = json.loads(contents["meta"])
        version = values["version"]
    except (TypeError, ValueError, KeyError, RecursionError) as error:
        raise BundleError(f"{path}: its metadata cannot be read; make the bundle again with geoclass train") from error
    if version != VERSION:
        raise BundleError(
            f"{path} is of bundle version {version}, geoclass {__version__} reads version {VERSION}; use the geoclass that made it, or train again"
        )
    if not all(isinstance(t, torch.Tensor) and isinstance(k, str) for k, t in contents["state"].items()):
        raise BundleError(f"{path} is refused: its state holds more than tensors; make it again with geoclass train")
    try:
        meta = validate(BundleMeta, values, str(path))
    except ConfigError as error:
        raise BundleError(f"{error}; make the bundle again with geoclass train") from error
    if (meta.projection is None) != ("forest" not in contents):
        raise BundleError(f"{path} names a forest and holds none, or the reverse; make it again with geoclass train")
    return meta


def _is_bytes(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a plain row of bytes: one that repeats a byte by its strides could be of any size."""
    return (
        tensor.dtype == torch.uint8 and tensor.ndim == 1 and tensor.layout == torch.strided and tensor.is_contiguous()
    )


def _check_shapes(path: Path, meta: BundleMeta, outline: Mapping[str, torch.Tensor], size: int) -> None:
    """Compare declared shapes to the network's and to the file's size, before anything is allocated."""
    with torch.device("meta"):
        expected = _skeleton(meta).state_dict()
    for name in sorted({*expected, *outline}):
        if name not in expected or name not in outline:
            what = "lacks" if name in expected else "has an unknown"
            raise BundleError(
                f"{path} {what} tensor {name!r} for {meta.backbone}; make the bundle again with geoclass train"
            )
        if outline[name].shape != expected[name].shape:
            raise BundleError(
                f"{path}: tensor {name!r} declares shape {tuple(outline[name].shape)}, {meta.backbone} has {tuple(expected[name].shape)}; "
                "make the bundle again with geoclass train"
            )
        given, wanted = outline[name], expected[name]
        if given.dtype != wanted.dtype and not {given.dtype, wanted.dtype} <= FLOATS:
            raise BundleError(
                f"{path}: tensor {name!r} is of {given.dtype}, not {wanted.dtype}; make the bundle again with geoclass train"
            )
        if given.layout != torch.strided or not given.is_contiguous():
            raise BundleError(f"{path}: tensor {name!r} is not stored whole; make the bundle again with geoclass train")
    if sum(tensor.numel() * tensor.element_size() for tensor in outline.values()) > size:
        raise BundleError(f"{path} declares more data than the file's size; it is truncated or forged, fetch it again")


def now() -> str:
    """The time in UTC, as bundles record it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def import_state_dict(
    path: str | Path,
    arch: str,
    *,
    classes: Sequence[str] | None = None,
    scheme: ClassScheme | str | Path | None = None,
    sensor: Sensor | str | Path = "rgb8",
    bands: Sequence[str] = ("red", "green", "blue"),
    gsd_m: float | None = None,
    size_px: int = 224,
) -> tuple[BundleMeta, State]:
    """Wrap a plain state dict of network `arch` whose outputs are `classes` (or `scheme`'s), in that order.

    Raises BundleError where names or shapes do not fit, ConfigError for an unknown scheme or sensor.
    """
    if (classes is None) == (scheme is None):
        raise BundleError("the network's classes are not known; give either --classes A,B,C or --scheme NAME")
    chosen = _ordered_scheme(classes) if classes is not None else scheme
    chosen = chosen if isinstance(chosen, ClassScheme) else load_scheme(str(chosen))
    state = backbones.read_state_dict(Path(path))
    network = backbones.build(arch, classes=len(chosen), bands=len(bands), weights=None)
    remedy = f"check --arch ({arch}) and --classes ({len(chosen)} given)"
    state = backbones.fit_state(network, state, str(path), remedy)
    broken = [
        name for name, tensor in state.items() if tensor.is_floating_point() and not bool(tensor.isfinite().all())
    ]
    if broken:
        raise BundleError(f"{path}: tensor {broken[0]!r} holds NaN or infinity; export the weights again")
    norm = backbones.normalisation(arch, len(bands))
    values = {
        "backbone": arch,
        "scheme": chosen,
        "sensor": sensor if isinstance(sensor, Sensor) else load_sensor(sensor),
        "bands": tuple(bands),
        "size_px": size_px,
        "gsd_m": gsd_m,
        "mean": norm.mean,
        "std": norm.std,
        "training": {"imported_from": Path(path).name},
        "created": now(),
        "geoclass_version": __version__,
    }
    meta = validate(BundleMeta, values, str(path))
    backbones.require_size(network, arch, len(bands), size_px)
    return meta, state


def _ordered_scheme(names: Sequence[str]) -> ClassScheme:
    """The scheme for these names in the order given, which is the order of the network's outputs."""
    if len({name.lower() for name in names}) < len(names) or len(names) < 2:
        raise BundleError(f"--classes {','.join(names)} must name two or more different classes; give each once")
    found = scheme_for_names(names)
    positions = [class_position(found, name) for name in names]
    if None in positions or len(set(positions)) < len(names):
        raise BundleError(f"--classes {','.join(names)} names one class twice; give each once")
    ordered = tuple(found.classes[position] for position in positions if position is not None)
    return found.model_copy(update={"classes": ordered})


def import_to_file(weights: Path, out: Path, *, arch: str, overwrite: bool = False, **options: Any) -> Bundle:
    """`import_state_dict`, written to `out`. Raises OutputError besides."""
    meta, state = import_state_dict(weights, arch, **options)
    return save_bundle(out, meta, state, overwrite)
