"""A sample of tiles and the design that drew it, kept together in a GeoPackage that takes the answers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import geopandas as gpd
import numpy as np
import pandas as pd
import pydantic
import pyogrio

from ..errors import ChangeError, GeoclassError
from ..files import replacing
from ..grid import TileGrid
from ..outputs import changeqml
from ..outputs.geopackage import GEOMETRY, GPKG_VERSION, Style, finish
from ..outputs.style import GRID_KEY, SCHEME_KEY, to_json
from ..schemes import ClassScheme
from .design import Allocation
from .strata import StrataBy

SAMPLE_LAYER = "sample"
SAMPLE_KEY = "GEOCLASS_SAMPLE"
ANSWER, REFERENCE, REVIEWER, NOTE = "answer", "reference", "reviewer", "note"

DesignKind = Literal["stratified", "random"]


class DrawnStratum(pydantic.BaseModel, frozen=True, extra="forbid"):
    """A stratum of the map: its name, number of tiles, ground with data, and how many tiles were drawn."""

    name: str
    tiles: int = pydantic.Field(ge=1)
    area_ha: float = pydantic.Field(ge=0)
    drawn: int = pydantic.Field(ge=0)


class Design(pydantic.BaseModel, frozen=True, extra="forbid"):
    """How a sample was drawn, and from which map; kept in its GeoPackage.

    kind: `stratified`, or `random` over all tiles (then `strata` only describe the map); map_digest: of the map's
    tiles, strata and classes; sample_id: of the map and of the tiles in their order.
    """

    kind: DesignKind
    allocation: Allocation
    strata_by: StrataBy
    seed: int
    strata: tuple[DrawnStratum, ...] = pydantic.Field(min_length=1)
    dates: tuple[str, ...]
    built: tuple[str, ...]
    open: tuple[str, ...]
    map_digest: str
    sample_id: str
    geoclass_version: str


@dataclass(frozen=True)
class Expected:
    """What an estimated area should come out as, and its standard error, by the map's own probabilities."""

    name: str
    area_ha: float
    se_ha: float


@dataclass(frozen=True)
class Sample:
    """n tiles to look at, in random order.

    table: a row for each, with the columns of layer `sample` but its polygon; expected: areas; expected_accuracy,
    expected_accuracy_se: overall accuracy; advice: sentences on what the design cannot do well. A sample read back has
    none of the last four.
    """

    design: Design
    grid: TileGrid
    scheme: ClassScheme
    table: pd.DataFrame
    expected: tuple[Expected, ...] = ()
    expected_accuracy: float = np.nan
    expected_accuracy_se: float = np.nan
    advice: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.table)

    @property
    def tile_ids(self) -> list[str]:
        return [str(key) for key in self.table["tile_id"]]

    @property
    def class_columns(self) -> tuple[str, ...]:
        """The columns that take the true class: `class_<date>` of each date, or `reference` for one map."""
        return tuple(f"class_{date}" for date in self.design.dates) or (REFERENCE,)

    def to_gdf(self) -> gpd.GeoDataFrame:
        """The table with each tile's square, in the grid's CRS."""
        places = [self.grid.parse_id(key) for key in self.tile_ids]
        columns, rows = np.array(places, np.int64).reshape(-1, 2).T
        return gpd.GeoDataFrame(self.table, geometry=self.grid.polygons(columns, rows), crs=self.grid.crs)


def sample_id_of(map_digest: str, kind: str, seed: int, keys: list[str]) -> str:
    text = json.dumps([map_digest, kind, seed, keys])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def require_gpkg(path: Path) -> None:
    """Raise ChangeError for a path that QGIS would not take for a GeoPackage."""
    if path.suffix.lower() != ".gpkg":
        raise ChangeError(f"{path} is to be a GeoPackage; give a name that ends in .gpkg")


def write_sample(sample: Sample, path: Path, *, overwrite: bool = False) -> None:
    """Write layer `sample` to the GeoPackage `path`: tiles in labelling order, empty columns for answers, the design.

    An existing file may hold hours of answers: it is kept unless `overwrite`. Raises OutputError.
    """
    texts = {
        SAMPLE_KEY: sample.design.model_dump_json(),
        SCHEME_KEY: sample.scheme.model_dump_json(),
        GRID_KEY: to_json(sample.grid.to_dict()),
    }
    with replacing(path, overwrite) as temporary:
        pyogrio.write_dataframe(
            sample.to_gdf(),
            temporary,
            layer=SAMPLE_LAYER,
            driver="GPKG",
            layer_metadata=texts,
            GEOMETRY_NAME=GEOMETRY,
            SPATIAL_INDEX="YES",
            VERSION=GPKG_VERSION,
            IDENTIFIER=f"Sample {sample.design.sample_id} of {len(sample):,} tiles",
            DESCRIPTION="Tiles drawn by design for geoclass estimate; fill in the empty columns, change nothing else.",
        )
        style = Style("tiles to look at", changeqml.outline_qml(), "Outline of each tile of the sample")
        finish(temporary, SAMPLE_LAYER, len(sample), [style])


def read_sample(path: Path) -> Sample:
    """The sample that `write_sample` wrote, with the answers filled in since, in labelling order.

    Raises ChangeError for a file that is missing, no such sample, or whose tiles are not the ones drawn.
    """
    advice = "name a GeoPackage that geoclass sample drew; areas can be estimated from no other tiles"
    if not path.is_file():
        raise ChangeError(f"there is no file {path}; {advice}")
    try:
        layers = [str(name) for name, _ in pyogrio.list_layers(path)]
        if SAMPLE_LAYER not in layers:
            raise ChangeError(f"{path} has no layer {SAMPLE_LAYER!r}, so it was not drawn by design; {advice}")
        texts = pyogrio.read_info(path, layer=SAMPLE_LAYER)["layer_metadata"] or {}
        table = pyogrio.read_dataframe(path, layer=SAMPLE_LAYER, read_geometry=False)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, pyogrio.errors.FeatureError) as error:
        raise ChangeError(f"{path} cannot be read: {str(error).split(';')[0].rstrip('.')}; {advice}") from error
    if SAMPLE_KEY not in texts:
        raise ChangeError(f"{path} does not say how its tiles were drawn ({SAMPLE_KEY} is missing); {advice}")
    try:
        design = Design.model_validate_json(texts[SAMPLE_KEY])
        scheme = ClassScheme.model_validate_json(texts[SCHEME_KEY])
        grid = TileGrid.from_dict(json.loads(texts[GRID_KEY]))
        table = table.sort_values("order", kind="stable").reset_index(drop=True)
        keys = [str(key) for key in table["tile_id"]]
        if "sample_id" not in table:
            raise KeyError("sample_id")
    except (KeyError, ValueError, TypeError, GeoclassError) as error:
        raise ChangeError(f"{path} is damaged: {' '.join(str(error).split())[:120]}; draw the sample again") from error
    if sample_id_of(design.map_digest, design.kind, design.seed, keys) != design.sample_id:
        raise ChangeError(
            f"{path} no longer holds the tiles that were drawn: some were added, removed or renumbered; take the "
            "answers as CSV to a sample drawn again with the same map, options and --seed"
        )
    return Sample(design, grid, scheme, table)
