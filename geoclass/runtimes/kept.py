"""Networks translated for a runtime and choices made, kept in the cache folder, which may be emptied at any time."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..files import cache_folder, replacing

MOST_KEPT = 40
"""Files of translated networks in the cache (some 14 MB each); the least recently used make room."""


@dataclass(frozen=True)
class Stored:
    """A network as OpenVINO writes it: its graph (XML), its weights, and what it is of."""

    graph: bytes
    weights: bytes
    about: Mapping[str, Any]


def folder() -> Path:
    """Where translated networks and choices are kept."""
    return cache_folder() / "runtimes"


def read_network(path: Path) -> Stored | None:
    """What `write_network` wrote, every byte checked; None where there is none, or it is damaged."""
    try:
        with zipfile.ZipFile(path) as parts:
            about = json.loads(parts.read("about.json"))
            stored = Stored(parts.read("network.xml"), parts.read("network.bin"), about)
        path.touch()
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None
    return stored


def packed(model: Any, about: Mapping[str, Any]) -> Stored:
    """An `openvino.Model` as its bytes."""
    import openvino

    with tempfile.TemporaryDirectory() as made:
        openvino.save_model(model, str(Path(made) / "network.xml"), compress_to_fp16=False)
        return Stored((Path(made) / "network.xml").read_bytes(), (Path(made) / "network.bin").read_bytes(), about)


def write_network(path: Path, stored: Stored) -> None:
    """Keep a network as one file, whole or not at all. Raises OutputError."""
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as parts:
        parts.writestr("about.json", json.dumps(dict(stored.about), indent=1))
        parts.writestr("network.xml", stored.graph)
        parts.writestr("network.bin", stored.weights)


def read_choice(key: str) -> dict[str, Any] | None:
    """What was remembered under `key`; None where nothing was, or it is damaged."""
    with suppress(OSError, ValueError):
        found = json.loads((folder() / f"choice-{key}.json").read_text("utf-8"))
        return found if isinstance(found, dict) else None
    return None


def write_choice(key: str, value: Mapping[str, Any]) -> None:
    """Remember `value` under `key`, where the cache folder can be written."""
    with suppress(OutputError), replacing(folder() / f"choice-{key}.json") as temporary:
        temporary.write_text(json.dumps(dict(value), indent=1), "utf-8")


def prune() -> None:
    """Remove the least recently used networks until MOST_KEPT are left."""
    with suppress(OSError):
        files = [path for path in folder().iterdir() if path.suffix in (".zip", ".onnx")]
        for path in sorted(files, key=lambda path: path.stat().st_mtime)[:-MOST_KEPT]:
            path.unlink(missing_ok=True)
