"""Every kind of bad input: exit 2, one line with the remedy, never a traceback, nothing lost or half-written."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
import torch
from click.testing import CliRunner
from conftest import coordinate_pixels, write_coordinates
from rasterio.transform import from_origin

from geoclass.cli import main

LEFT, TOP = 1400 * 224, 20900 * 224


def geoclass(*args: object) -> tuple[int, str]:
    """(exit code, what was said on standard error) of a command."""
    result = CliRunner().invoke(main, [str(arg) for arg in args], prog_name="geoclass")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stderr


def assert_refused(code: int, said: str, *words: str) -> None:
    assert code == 2, said
    lines = said.strip().splitlines()
    assert len(lines) == 1, said
    assert "Traceback" not in said
    assert lines[0].startswith("geoclass: error: ")
    assert ";" in lines[0], f"no remedy: {lines[0]}"
    for word in words:
        assert re.search(word, said), f"{word!r} is not in: {said}"


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def county(here) -> Path:
    return write_coordinates(here / "county.tif", width=700, height=500)


def raster(path: Path, pixels: np.ndarray, crs="EPSG:26919", transform=None, **profile) -> Path:
    count, height, width = pixels.shape
    options = {"driver": "GTiff", "width": width, "height": height, "count": count, "dtype": pixels.dtype, **profile}
    if crs:
        options["crs"] = crs
    options["transform"] = transform if transform is not None else from_origin(LEFT, TOP, 1, 1)
    with rasterio.open(path, "w", **options) as dataset:
        dataset.write(pixels)
    return path


def plain(path: Path, value: float = 90, bands: int = 3, size: int = 600, dtype: str = "uint8", **options) -> Path:
    return raster(path, np.full((bands, size, size), value, dtype), **options)


COMMANDS = ("tile", "doctor", "classify")


def call(verb: str, scene: object, bundle: Path, *more: object) -> tuple[int, str]:
    model = [] if verb == "tile" else ["--model", bundle]
    return geoclass(verb, scene, *model, *more)


@pytest.mark.parametrize("verb", COMMANDS)
class TestScenes:
    def test_missing_file(self, here, tiny_bundle, verb):
        assert_refused(*call(verb, "none.tif", tiny_bundle), "none.tif", "no such file")

    def test_not_a_raster(self, here, tiny_bundle, verb):
        (here / "a.tif").write_text("this is text")
        assert_refused(*call(verb, "a.tif", tiny_bundle), "a.tif", "cannot be read as a raster")

    def test_zero_size(self, here, tiny_bundle, verb):
        (here / "a.tif").touch()
        assert_refused(*call(verb, "a.tif", tiny_bundle), "0 bytes")

    def test_no_crs(self, here, tiny_bundle, verb):
        plain(here / "a.tif", crs=None)
        assert_refused(*call(verb, "a.tif", tiny_bundle), "a.tif has no CRS", "gdal_edit")

    @pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
    def test_no_geotransform(self, here, tiny_bundle, verb):
        plain(here / "a.tif", transform=rasterio.Affine.identity())
        assert_refused(*call(verb, "a.tif", tiny_bundle), "no geotransform")

    def test_smaller_than_a_tile(self, here, tiny_bundle, verb):
        plain(here / "a.tif", size=200)
        assert_refused(*call(verb, "a.tif", tiny_bundle), "smaller than one tile")

    def test_all_no_data(self, here, tiny_bundle, verb):
        plain(here / "a.tif", value=0, nodata=0)
        assert_refused(*call(verb, "a.tif", tiny_bundle), "no data|no-data")

    def test_aoi_outside(self, county, tiny_bundle, verb):
        aoi(Path("aoi.geojson"), shapely.box(0, 0, 1, 1))
        assert_refused(*call(verb, "county.tif", tiny_bundle, "--aoi", "aoi.geojson"), "outside the scene")

    def test_aoi_empty(self, county, tiny_bundle, verb):
        Path("aoi.geojson").write_text('{"type": "FeatureCollection", "features": []}')
        assert_refused(*call(verb, "county.tif", tiny_bundle, "--aoi", "aoi.geojson"), "aoi.geojson", "no geometry")

    def test_aoi_missing(self, county, tiny_bundle, verb):
        assert_refused(*call(verb, "county.tif", tiny_bundle, "--aoi", "none.geojson"), "no such AOI file")

    def test_aoi_of_points(self, county, tiny_bundle, verb):
        aoi(Path("aoi.geojson"), shapely.Point(-71, 42))
        assert_refused(*call(verb, "county.tif", tiny_bundle, "--aoi", "aoi.geojson"), "polygon")

    def test_aoi_unknown_crs(self, county, tiny_bundle, verb):
        gpd.GeoDataFrame({"name": ["x"]}, geometry=[shapely.box(LEFT, TOP - 400, LEFT + 400, TOP)]).to_file("aoi.shp")
        Path("aoi.prj").unlink(missing_ok=True)
        assert_refused(*call(verb, "county.tif", tiny_bundle, "--aoi", "aoi.shp"), "no CRS")

    def test_ground_control_points_only(self, here, tiny_bundle, verb):
        path = here / "gcps.tif"
        points = [rasterio.control.GroundControlPoint(r, c, LEFT + c, TOP - r) for r, c in ((0, 0), (0, 9), (9, 0))]
        with rasterio.open(path, "w", driver="GTiff", width=9, height=9, count=3, dtype="uint8") as dataset:
            dataset.gcps = (points, rasterio.CRS.from_epsg(26919))
        assert_refused(*call(verb, path, tiny_bundle), "no CRS.*gdalwarp")

    def test_a_name_that_is_no_text(self, here, tiny_bundle, verb):
        path = plain(here / "x.tif").rename(os.fsdecode(b"latin-\xff.tif"))
        assert_refused(*call(verb, path, tiny_bundle), "no UTF-8")

    def test_aoi_not_a_vector_file(self, county, tiny_bundle, verb):
        Path("aoi.geojson").write_text("{]")
        assert_refused(*call(verb, "county.tif", tiny_bundle, "--aoi", "aoi.geojson"), "cannot be read as a vector")

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("--size", -5),
            ("--size", 0),
            ("--gsd", 0),
            ("--gsd", -1),
            ("--min-valid", 2),
            ("--crs", "EPSG:4326"),
            ("--crs", "nonsense"),
            ("--sensor", "nosuch"),
        ],
    )
    def test_impossible_options(self, county, tiny_bundle, verb, option, value):
        assert_refused(*call(verb, "county.tif", tiny_bundle, option, value))


def aoi(path: Path, shape: shapely.Geometry) -> None:
    gpd.GeoDataFrame({"name": ["x"]}, geometry=[shape], crs="EPSG:4326").to_file(path)


def test_an_invalid_aoi_is_repaired(county):
    bowtie = shapely.Polygon([(LEFT, TOP), (LEFT + 600, TOP - 450), (LEFT + 600, TOP), (LEFT, TOP - 450)])
    gpd.GeoDataFrame({"name": ["x"]}, geometry=[bowtie], crs="EPSG:26919").to_file("aoi.gpkg")
    assert geoclass("tile", "county.tif", "--aoi", "aoi.gpkg")[0] == 0


@pytest.mark.parametrize("shape", [shapely.box(-180, -90, 180, 90), shapely.box(-71.7, -89, 288.2, 89)])
def test_an_aoi_far_larger_than_the_grids_crs_selects_the_scene(county, shape):
    aoi(Path("world.geojson"), shape)
    assert geoclass("tile", "county.tif", "--aoi", "world.geojson") == (0, "")


@pytest.mark.parametrize("name", ["a!b.geojson", "a;b.geojson", "a\nb.geojson"])
def test_an_aoi_whose_path_gdal_misreads(county, name):
    aoi(Path("aoi.geojson"), shapely.box(-72, 42, -71, 43))
    Path("aoi.geojson").rename(name)
    assert_refused(*geoclass("tile", "county.tif", "--aoi", name), repr(name[1])[1:-1], "misreads", "rename")


def test_a_device_is_no_scene(here):
    assert_refused(*geoclass("tile", "/dev/null"), "neither a file nor a folder", "give a raster")


def test_classify_tells_the_doctors_doubts(county, tiny_bundle, caplog):
    """A scene that is far coarser than what the bundle was trained on is mapped, but not without a word."""
    with rasterio.open("county.tif", "r+") as scene:
        scene.transform = from_origin(LEFT, TOP, 2, 2)
    code, said = geoclass("classify", "county.tif", "-m", tiny_bundle, "--gsd", "1", "--runtime", "torch")
    assert code == 0, said
    assert re.search("GSD: scene 2 m, .* enlarged; use finer imagery", caplog.text), caplog.text


@pytest.mark.parametrize("verb", ["doctor", "classify"])
class TestFitness:
    def test_too_few_bands(self, here, tiny_bundle, verb):
        plain(here / "a.tif", bands=1)
        assert_refused(*call(verb, "a.tif", tiny_bundle), "too few bands", "green, blue")

    @pytest.mark.parametrize(("value", "dtype"), [(3000, "uint16"), (0.4, "float32")])
    def test_wrong_scale(self, here, tiny_bundle, verb, value, dtype):
        plain(here / "a.tif", value=value, dtype=dtype)
        assert_refused(*call(verb, "a.tif", tiny_bundle), "scale", "--sensor")

    def test_cuda_where_there_is_none(self, county, tiny_bundle, verb):
        if torch.cuda.is_available():
            pytest.skip("this machine has CUDA")
        assert_refused(*call(verb, "county.tif", tiny_bundle, "--device", "cuda"), "CUDA", "--device cpu")

    def test_no_model(self, county, tiny_bundle, verb):
        assert_refused(*geoclass(verb, "county.tif"), "--model")


def test_not_finite_values_are_no_data(here, tiny_bundle):
    """NaN and infinity in a float raster count as no data, and the doctor says so."""
    pixels = coordinate_pixels(LEFT, -TOP, 700, 500).astype("float32")
    pixels[:, :250, :230] = np.nan
    pixels[1, 300:310, 400:420] = np.inf
    raster(here / "a.tif", pixels)
    result = CliRunner().invoke(main, ["doctor", "a.tif", "--model", str(tiny_bundle)])
    assert result.exit_code == 0, result.output
    assert "NaN or infinite" in " ".join(result.stdout.split())
    assert geoclass("classify", "a.tif", "--model", tiny_bundle)[0] == 0
    frame = gpd.read_file("out/a.gpkg")
    assert frame["confidence"].between(0, 1).all()
    assert not frame["tile_id"].eq("26919_224_1400_20899").any()


@pytest.mark.parametrize("verb", ["doctor", "classify"])
class TestBundles:
    def refuse(self, verb: str, *words: str) -> None:
        assert_refused(*geoclass(verb, "county.tif", "--model", "bad.pt"), "bad.pt", *words)

    def test_missing(self, county, verb):
        self.refuse(verb, "no such|not found|does not exist")

    def test_pickle_with_code(self, county, verb):
        class Evil:
            def __reduce__(self):
                return os.system, ("touch executed",)

        torch.save({"meta": Evil()}, "bad.pt")
        self.refuse(verb, "code")
        assert not Path("executed").exists()

    def test_plain_state_dict(self, county, verb):
        torch.save({"fc.weight": torch.zeros(2, 3)}, "bad.pt")
        self.refuse(verb, "geoclass models import")

    def test_truncated_zip(self, county, tiny_bundle, verb):
        Path("bad.pt").write_bytes(tiny_bundle.read_bytes()[:100_000])
        self.refuse(verb, "truncated|damaged")

    def test_huge_declared_shape(self, county, tiny_bundle, verb):
        contents = torch.load(tiny_bundle, weights_only=True)
        name = next(name for name, tensor in contents["state"].items() if tensor.ndim == 4)
        contents["state"][name] = torch.zeros(1).expand(1_000_000, 1_000_000)
        torch.save(contents, "bad.pt")
        self.refuse(verb, "shape|size")

    def test_another_version(self, county, tiny_bundle, verb):
        contents = torch.load(tiny_bundle, weights_only=True)
        meta = json.loads(contents["meta"])
        meta["version"] = 99
        torch.save({**contents, "meta": json.dumps(meta)}, "bad.pt")
        self.refuse(verb, "version")

    def test_not_a_bundle_at_all(self, county, verb):
        shutil.copy("county.tif", "bad.pt")
        self.refuse(verb)

    def test_changed_weights(self, county, tiny_bundle, verb):
        contents = torch.load(tiny_bundle, weights_only=True)
        first = next(iter(contents["state"].values()))
        first.view(-1)[0] += 1
        torch.save(contents, "bad.pt")
        self.refuse(verb)


def test_truncated_file_found_while_reading(here, tiny_bundle):
    """Blocks before the damage are kept in the journal; the message names file and window."""
    path = write_coordinates(here / "county.tif", width=4000, height=4000, compress="none")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * 0.75)])
    code, said = geoclass("classify", "county.tif", "--model", tiny_bundle)
    assert_refused(code, said, r"county\.tif", "window", "kept")
    assert list((here / "out" / ".county.journal").glob("part-*.arrow"))
    assert visible(here / "out") == sorted(p.name for p in (here / "out" / ".county.journal").iterdir())


def test_existing_output_is_kept(county, tiny_bundle):
    assert geoclass("classify", "county.tif", "--model", tiny_bundle)[0] == 0
    before = {path: path.read_bytes() for path in Path("out").iterdir() if path.is_file()}
    assert_refused(*geoclass("classify", "county.tif", "--model", tiny_bundle), "exists", "--overwrite")
    assert {path: path.read_bytes() for path in Path("out").iterdir() if path.is_file()} == before
    assert geoclass("classify", "county.tif", "--model", tiny_bundle, "--overwrite")[0] == 0
    assert geoclass("tile", "county.tif")[0] == 0
    assert_refused(*geoclass("tile", "county.tif"), "exists", "--overwrite")


def test_the_scene_is_never_replaced(county, tiny_bundle):
    before = county.read_bytes()
    assert_refused(*geoclass("classify", "county.tif", "--model", tiny_bundle, "-o", ".", "--overwrite"), "input")
    assert county.read_bytes() == before


@pytest.mark.skipif(sys.platform != "linux", reason="needs a read-only place that even root cannot write")
def test_output_folder_not_writable(county, tiny_bundle):
    assert_refused(*geoclass("classify", "county.tif", "--model", tiny_bundle, "-o", "/proc/out"), "/proc/out", "-o")
    Path("file").touch()
    assert_refused(*geoclass("tile", "county.tif", "-o", "file/inside"), "file", "-o")


FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
sys.argv = ["geoclass", *{args!r}]
from geoclass.cli import main
main(prog_name="geoclass")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files through Linux's resource limits")
@pytest.mark.parametrize("limit", [500, 20_000, 100_000])
def test_disk_full(county, tiny_bundle, limit):
    """A disk that takes no more bytes, at three moments of the run. The same command then finishes."""
    args = ["classify", "county.tif", "--model", str(tiny_bundle)]
    code = FULL_DISK.format(limit=limit, args=args)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert_refused(run.returncode, run.stderr.strip(), "write|disk")
    assert not [path for path in Path("out").iterdir() if path.is_file()], "a half-written output is in place"
    assert geoclass(*args)[0] == 0
    assert len(gpd.read_file("out/county.gpkg")) == 6


@pytest.mark.parametrize(
    ("option", "value"),
    [("--batch-size", 0), ("--batch-size", -3), ("--readers", 0), ("--format", "docx"), ("--name", "a/b")],
)
def test_impossible_run_options(county, tiny_bundle, option, value):
    assert_refused(*geoclass("classify", "county.tif", "--model", tiny_bundle, option, value))


def test_no_index_and_two_indexes(county, tiny_bundle):
    assert_refused(*geoclass("classify", "--model", tiny_bundle), "no scene named")
    geoclass("tile", "county.tif", "--name", "a")
    geoclass("tile", "county.tif", "--name", "b")
    assert_refused(*geoclass("classify", "--model", tiny_bundle), "a.tiles.gpkg, b.tiles.gpkg")


def test_index_whose_scene_moved_or_changed(county, tiny_bundle):
    assert geoclass("tile", "county.tif")[0] == 0
    county.rename("elsewhere.tif")
    assert_refused(*geoclass("classify", "--model", tiny_bundle), "moved")
    write_coordinates(county, width=700, height=500, left=LEFT + 1)
    assert_refused(*geoclass("classify", "--model", tiny_bundle), "changed")


def test_index_that_is_none(county, tiny_bundle):
    gpd.GeoDataFrame({"a": [1]}, geometry=[shapely.Point(0, 0)], crs="EPSG:26919").to_file("x.tiles.gpkg")
    assert_refused(*geoclass("classify", "--model", tiny_bundle), "not a tile index")
    Path("x.tiles.gpkg").write_bytes(b"junk")
    assert_refused(*geoclass("classify", "--model", tiny_bundle), "not a tile index")


def test_an_interrupted_run_with_other_inputs_is_refused(here, tiny_bundle):
    path = write_coordinates(here / "county.tif", width=4000, height=4000, compress="none")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * 0.75)])
    geoclass("classify", "county.tif", "--model", tiny_bundle)
    path.write_bytes(whole)
    assert_refused(*geoclass("classify", "county.tif", "--model", tiny_bundle), "inputs", "--overwrite")


def test_map_of_what_is_no_result(county):
    assert_refused(*geoclass("map", "none.gpkg"))
    geoclass("tile", "county.tif")
    assert_refused(*geoclass("map", "county.tiles.gpkg"))
    assert_refused(*geoclass("map", "county.tif"))


def test_info_of_what_is_nothing(here):
    assert_refused(*geoclass("info", "none"), "no such file")
    (here / "a.txt").write_text("text")
    assert_refused(*geoclass("info", "a.txt"))
    with zipfile.ZipFile("a.zip", "w") as archive:
        archive.writestr("x", "y")
    assert_refused(*geoclass("info", "a.zip"))


def test_unknown_options_and_verbs(here):
    for args in (["classify", "--no-such"], ["nosuch"], ["train"]):
        result = CliRunner().invoke(main, args, prog_name="geoclass")
        assert result.exit_code == 2
        assert "Traceback" not in result.output


@pytest.mark.parametrize("name", ["a;b", "a!b", "x" * 201, "ü" * 101])
@pytest.mark.parametrize("verb", ["tile", "classify"])
def test_names_of_outputs_that_a_writer_would_misread(county, tiny_bundle, verb, name):
    assert_refused(*call(verb, county, tiny_bundle, "--name", name, "-o", "out"), "name")
    assert not Path("out").exists()


@pytest.mark.parametrize("verb", ["tile", "classify"])
def test_the_longest_name_of_outputs(county, tiny_bundle, verb):
    assert call(verb, county, tiny_bundle, "--name", "x" * 200, "-o", "out")[0] == 0


@pytest.mark.parametrize("verb", ["tile", "classify"])
def test_a_folder_of_outputs_that_a_writer_would_misread(county, tiny_bundle, verb):
    assert_refused(*call(verb, county, tiny_bundle, "-o", "maps!2019"), "maps!2019.*another -o")
    assert not Path("maps!2019").exists()


@pytest.mark.parametrize("date", ["x", "2020-13-01", "2020-02-30", "14.7.2019", "2019-7-4"])
def test_a_date_that_is_none(county, tiny_bundle, date):
    assert_refused(*call("classify", county, tiny_bundle, "--date", date), "is no date")


def test_ground_that_no_map_shows_is_told_before_classifying(here, tiny_bundle):
    polar = plain(here / "polar.tif", crs="EPSG:3413", transform=from_origin(1e5, 1e5, 1, 1))
    assert_refused(*call("classify", polar, tiny_bundle, "-o", "out"), "85.05°.*--aoi")
    assert not visible(here / "out")


@pytest.mark.parametrize(
    ("option", "value"), [("--gsd", "inf"), ("--gsd", "-1"), ("--size", "0"), ("--size", "99999999")]
)
def test_impossible_tiles_to_train_on(here, option, value):
    code, said = geoclass("train", here, "-o", "m.pt", option, value)
    assert_refused(code, said, f"give {option}")
    assert "None" not in said
