"""geoclass: land-cover maps from aerial and satellite imagery, tile by tile.

    import geoclass

    mosaic = geoclass.open("county.tif")
    result = geoclass.classify("county.tif", "m.pt")
    result.to_gdf(); result.to_raster("classes.tif"); result.explore()

Names are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .areas.estimate import estimate
    from .areas.sampling import draw_sample
    from .bundle import Bundle, import_state_dict, load_bundle, save_bundle
    from .change import ChangeResult, change
    from .changes.stored import read_change
    from .classify import Result, classify
    from .database.loading import load_result
    from .errors import GeoclassError
    from .grid import TileGrid
    from .labels import Labels
    from .mosaic import Mosaic
    from .mosaic import open_mosaic as open
    from .results import read_result
    from .schemes import ClassScheme, load_scheme
    from .sensors import Sensor, load_sensor
    from .tileindex import TileIndex, read_index
    from .train import train

_HOMES = {
    "Bundle": "bundle",
    "ChangeResult": "change",
    "ClassScheme": "schemes",
    "GeoclassError": "errors",
    "Labels": "labels",
    "Mosaic": "mosaic",
    "Result": "classify",
    "Sensor": "sensors",
    "TileGrid": "grid",
    "TileIndex": "tileindex",
    "change": "change",
    "classify": "classify",
    "draw_sample": "areas.sampling",
    "estimate": "areas.estimate",
    "import_state_dict": "bundle",
    "load_bundle": "bundle",
    "load_result": "database.loading",
    "load_scheme": "schemes",
    "load_sensor": "sensors",
    "open": "mosaic",
    "read_change": "changes.stored",
    "read_index": "tileindex",
    "read_result": "results",
    "save_bundle": "bundle",
    "train": "train",
}

__all__ = [
    "Bundle",
    "ChangeResult",
    "ClassScheme",
    "GeoclassError",
    "Labels",
    "Mosaic",
    "Result",
    "Sensor",
    "TileGrid",
    "TileIndex",
    "__version__",
    "change",
    "classify",
    "draw_sample",
    "estimate",
    "import_state_dict",
    "load_bundle",
    "load_result",
    "load_scheme",
    "load_sensor",
    "open",
    "read_change",
    "read_index",
    "read_result",
    "save_bundle",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f".{_HOMES[name]}", __name__)
    value = getattr(module, "open_mosaic" if name == "open" else name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps the functions `change`, `classify` and `train` from being hidden by the submodules of the same names.

    The import system sets every submodule as an attribute of its package, whoever imports it first.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in _HOMES):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
