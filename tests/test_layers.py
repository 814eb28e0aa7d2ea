"""The house's order: data flows one way, and a module imports only what stands before it on that way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import geoclass

PACKAGE = Path(geoclass.__file__).parent

# From the first room to the last. A module may import those before it.
ORDER = [
    "errors", "environment", "configs", "schemes", "sensors", "files", "database.run", "client", "gdal", "grid", "tiletable", "lattice", "sharing",
    "remote.names", "stac.signing", "remote.failures", "remote.opening", "remote.held", "remote.virtual", "scene",
    "fileblocks", "vrt", "scanlines", "nearest", "filereader", "remotereader", "reader",
    "stac.documents", "stac.assets", "stac.scenes", "inputs", "mosaic", "aoi",
    "stac.search",
    "blocks", "tones", "tileindex", "tile", "labels", "smoothing", "imagery",
    "datasets.pictures", "datasets.tileset", "datasets.fractions", "datasets.labelraster", "datasets.labelvector",
    "datasets.reference", "datasets.splits", "datasets.duplicates", "datasets.store", "datasets.corrections",
    "datasets.sources", "datasets.images", "datasets.candidates", "datasets.cutting", "datasets.folders", "datasets.making",
    "stages", "backbones", "bundle", "history.record", "history.tracking", "history.runs", "history.registry",
    "plan", "forest", "views", "runtimes.wanted", "runtimes.cpu", "runtimes.shrinking", "runtimes.answers", "runtimes.lanes", "runtimes.replayed",
    "runtimes.kept",
    "runtimes.openvino_cpu", "runtimes.cascade", "runtimes.onnx_cpu", "runtimes.quantised", "runtimes.guard", "runtimes.measuring", "runtimes.sampling",
    "predict", "export", "journal", "runtimes.settling", "learning.frozen", "cluster.worker", "cluster.crew", "cluster.dispatch",
    "cluster.pictures",
    "outputs.style", "outputs.page", "outputs.colours", "outputs.lattice", "outputs.geopackage", "outputs.vector", "outputs.raster",
    "outputs.summary", "outputs.preview", "outputs.offline", "outputs.webmap", "outputs.contactsheet", "outputs.curves",
    "database.address", "database.connecting", "database.systems", "database.tables", "database.views", "database.styles",
    "database.copying", "database.reading", "database.browsing", "results", "database.loading", "remap",
    "evaluation.metrics", "evaluation.scored", "evaluation.scores", "evaluation.comparison", "outputs.report",
    "evaluation.assessment",
    "learning.features", "learning.augment", "learning.heads", "learning.finetune", "train", "learning.search", "single",
    "changes.series", "changes.posterior", "changes.inference", "changes.drift", "changes.rates", "changes.hotspots",
    "changes.places", "changes.trend", "changes.candidates", "changes.chips",
    "outputs.changestyle", "outputs.changeqml", "outputs.changevector", "changes.stored", "outputs.changemap",
    "outputs.candidatelist", "outputs.qgisproject", "outputs.reviewpage", "outputs.driftwords",
    "outputs.trendwords", "outputs.trendfigures", "outputs.trendmaps", "outputs.trendtables", "outputs.trendrows",
    "outputs.trendreport", "labelling",
    "areas.design", "areas.strata", "areas.estimation", "areas.sample",
    "areas.sampling", "areas.answers", "areas.estimate", "areas.telling", "areas.page",
    "doctor", "matching", "parts", "gathering", "cluster.block", "cluster.classifying", "classify", "change", "describe",
    "county.landscape", "county.materials", "county.streets", "county.painting", "county.site", "county.make", "demo",
    "service.settings", "service.folder", "service.refusal", "service.metrics", "service.gate", "service.receiving", "service.kinds",
    "service.places", "service.examiner", "service.examining", "service.decoding", "service.batching", "service.networks",
    "service.jobs", "service.runs", "service.worker", "service.crew", "service.state", "service.schemas", "service.problems", "service.routes",
    "service.jobroutes", "service.runroutes", "service.painting", "service.wmts", "service.clipping", "service.areastatistics", "service.drawn",
    "service.maps", "service.mapschemas", "service.tileroutes", "service.maproutes", "service.pages", "service.app", "service.connection", "service.serving",
    "desk.queue", "desk.answers", "desk.agreement", "desk.heads", "desk.tiles", "desk.pictures", "desk.learner", "desk.desk",
    "desk.export", "desk.schemas", "desk.routes", "desk.app", "desk.opening", "cli",
]  # fmt: skip
FREE_OF_TORCH = [
    "errors",
    "schemes",
    "sensors",
    "grid",
    "scene",
    "mosaic",
    "tileindex",
    "tile",
    "labels",
    "results",
    "remap",
    "runtimes.wanted",
    "cli",
    "datasets.making",
    "datasets.corrections",
    "evaluation.comparison",
    "history.runs",
    "history.registry",
    "outputs.report",
    "cluster.crew",
    "database.loading",
    "client",
    "service.serving",
    "service.worker",
]


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = "cli" if parts[0] == "cli" else ".".join(parts)
        if parts[-1] not in ("__init__", "__main__"):
            found[f"{name}:{path.name}"] = path
    return found


def imported(path: Path) -> set[str]:
    """Modules of the package that `path` imports, function bodies included."""
    parts = list(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = parts[: len(parts) - node.level] + (node.module.split(".") if node.module else [])
            inside = ".".join(base[1:])
            names |= {f"{inside}.{item.name}".strip(".") for item in node.names} | {inside}
    return {name for name in names if name in ORDER}


@pytest.mark.parametrize("key", modules())
def test_imports_point_one_way(key):
    name = key.split(":")[0]
    assert name in ORDER, f"{name} has no place in the house's order yet"
    later = {other for other in imported(modules()[key]) if other != "cli" and ORDER.index(other) >= ORDER.index(name)}
    assert not later, f"{name} imports {', '.join(sorted(later))}, which stand after it"


def test_order_names_only_what_exists():
    assert set(ORDER) == {key.split(":")[0] for key in modules()}


def test_help_and_pure_modules_do_not_load_torch():
    code = (
        "import sys; "
        + "; ".join(f"import geoclass.{name}" for name in FREE_OF_TORCH)
        + "; print('torch' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )
    code = "import sys, click.testing, geoclass.cli as c; click.testing.CliRunner().invoke(c.main, ['--help']); print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )


def test_public_names_exist():
    for name in geoclass.__all__:
        assert getattr(geoclass, name) is not None
    with pytest.raises(AttributeError):
        _ = geoclass.no_such_name


def test_library_does_not_print():
    for path in PACKAGE.rglob("*.py"):
        calls = [
            n
            for n in ast.walk(ast.parse(path.read_text()))
            if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "print"
        ]
        assert not calls, f"{path} prints"
