"""What geoclass runs on: versions, and whether torch and torchvision fit each other."""

from __future__ import annotations

import platform
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from . import __version__
from .errors import UnfitError


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def require_matching_torch() -> None:
    """Raise UnfitError where torch and torchvision cannot be imported together.

    A CPU build of torch with the package index's torchvision fails with "operator torchvision::nms does not exist".
    """
    try:
        import_module("torch")
        import_module("torchvision")
    except (ImportError, OSError, RuntimeError) as error:
        raise UnfitError(
            f"torch {_version('torch')} and torchvision {_version('torchvision')} do not work together "
            f"({' '.join(str(error).split())[:120]}); install a pair: pip install --upgrade --force-reinstall torch torchvision"
        ) from error


def versions() -> dict[str, str]:
    """Name → version of geoclass, Python, GDAL, PROJ, GEOS, torch, CUDA and the other libraries results depend on."""
    import pyogrio
    import pyproj
    import rasterio
    import shapely

    found = {
        "geoclass": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "GDAL": f"{rasterio.__gdal_version__} (rasterio), {'.'.join(map(str, pyogrio.__gdal_version__))} (pyogrio)",
        "PROJ": pyproj.proj_version_str,
        "GEOS": shapely.geos_version_string,
    }
    for package in (
        "numpy",
        "rasterio",
        "geopandas",
        "shapely",
        "folium",
        "timm",
        "scikit-learn",
        "torch",
        "torchvision",
    ):
        found[package] = _version(package)
    try:
        torch = import_module("torch")
        cuda = torch.version.cuda if torch.cuda.is_available() else None
        found["CUDA"] = f"{cuda}, {torch.cuda.get_device_name(0)}" if cuda else "no device seen"
        found["CPU threads"] = str(torch.get_num_threads())
        require_matching_torch()
        others = [(name, _version(name)) for name in ("openvino", "onnxruntime", "nncf")]
        found["runtimes"] = ", ".join(["torch", *(f"{name} {v}" for name, v in others if v != "not installed")])
    except (ImportError, OSError, UnfitError) as error:
        found["runtimes"] = str(error)
    return found
