"""The figures of a trend against hand-worked cases, closed forms and brute force."""

import json
import math
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely

from geoclass.changes.hotspots import find_hotspots, getis_ord
from geoclass.changes.places import population_columns, read_named_aois, tile_shares
from geoclass.changes.posterior import KINDS, Change, Prior
from geoclass.changes.rates import compound_rate, exchange, land_consumption, linear_rate, log_rate
from geoclass.changes.series import Series, Source, Uncovered
from geoclass.changes.trend import trend
from geoclass.errors import ChangeError, GridError, OutputError
from geoclass.grid import TileGrid
from geoclass.outputs.trendtables import (
    areas_frame,
    hotspot_columns,
    transitions_table,
    trend_table,
    write_trend_tables,
)
from geoclass.schemes import ClassScheme, load_scheme

LEFT, BOTTOM = 1400, 20900


def simulated(
    width: int = 12,
    height: int = 9,
    dates: tuple[str, ...] = ("2010", "2016"),
    seed: int = 0,
    scheme: ClassScheme | None = None,
    grid: TileGrid | None = None,
    holes: int = 5,
) -> Change:
    """A change whose posterior is sharper than its labels of single dates, on a block of tiles with a few missing."""
    rng = np.random.default_rng(seed)
    scheme = scheme or load_scheme("rsscn7")
    grid = grid or TileGrid("EPSG:26919", 224, 1.0)
    column, line = np.meshgrid(np.arange(width), np.arange(height))
    kept = np.sort(rng.permutation(width * height)[holes:])
    columns, rows = LEFT + column.ravel()[kept], BOTTOM + height - 1 - line.ravel()[kept]
    count, classes = len(kept), len(scheme)
    truth = np.repeat(rng.integers(0, classes, count)[:, None], len(dates), axis=1)
    moved = rng.random(count) < 0.2
    truth[moved, -1] = rng.integers(0, classes, int(moved.sum()))
    evidence = rng.dirichlet(np.ones(classes), (count, len(dates))).astype(np.float32)
    posterior = 0.4 * evidence + 0.6 * np.eye(classes, dtype=np.float32)[truth]
    built, open_ = tuple(scheme.groups["built"]), tuple(scheme.groups["open"])
    series = Series(
        grid=grid,
        scheme=scheme,
        dates=dates,
        columns=columns,
        rows=rows,
        probabilities=evidence,
        valid_fraction=rng.uniform(0.5, 1, (count, len(dates))).astype(np.float32),
        sources=tuple(Source(None, {"name": f"county {date}"}) for date in dates),
        uncovered=Uncovered(columns[:0], rows[:0], np.zeros((0, len(dates)), bool)),
        built=built,
        open=open_,
    )
    first = posterior[:, 0, series.members(open_)].sum(axis=1)
    new = first * posterior[:, -1, series.members(built)].sum(axis=1)
    stayed = (posterior[:, 0] * posterior[:, -1]).sum(axis=1)
    prior = Prior(np.full(classes, 1 / classes), np.repeat(np.eye(classes)[None], len(dates) - 1, axis=0))
    return Change(series, prior, posterior, 1 - stayed, new, threshold=0.5)


def towns(change: Change, **columns: list) -> gpd.GeoDataFrame:
    """Two towns that cut through tiles, the second with a hole and a part of its own, apart from the first."""
    side, (x, y) = change.series.grid.side, (LEFT * change.series.grid.side, BOTTOM * change.series.grid.side)
    north = shapely.Polygon([(x + a * side, y + b * side) for a, b in ((0.3, 0.4), (5.2, 1.1), (4.4, 6.7), (0.9, 5.5))])
    ring = shapely.box(x + 6.3 * side, y + 0.2 * side, x + 10.6 * side, y + 4.9 * side)
    hole = shapely.Point(x + 8.5 * side, y + 2.5 * side).buffer(1.3 * side)
    isle = shapely.box(x + 6.5 * side, y + 6.1 * side, x + 7.1 * side, y + 7.4 * side)
    shapes = [north, shapely.union_all([shapely.difference(ring, hole), isle])]
    frame = {"name": ["Norton", "Easton"], **columns}
    return gpd.GeoDataFrame(frame, geometry=shapes, crs=change.series.grid.crs)


def brute_share(change: Change, shape: shapely.Geometry) -> np.ndarray:
    grid, found = change.series.grid, []
    for column, row in zip(change.series.columns.tolist(), change.series.rows.tolist(), strict=True):
        found.append(shape.intersection(shapely.box(*grid.bounds(column, row))).area / grid.side**2)
    return np.array(found)


# ---- arithmetic


def test_rates_by_hand():
    assert compound_rate(100, 121, 2) == pytest.approx(0.1, rel=1e-12)
    assert linear_rate(100, 121, 2) == pytest.approx(0.105)
    assert log_rate(100, 121, 2) == pytest.approx(math.log(1.1))
    assert compound_rate(50, 0, 3) == -1
    for rate in (compound_rate, linear_rate, log_rate):
        assert math.isnan(rate(0, 5, 2)) and math.isnan(rate(5, 6, 0))
    assert math.isnan(log_rate(5, 0, 1)) and compound_rate(7, 7, 5) == 0


def test_sdg_11_3_1_by_hand():
    # 100 km² become 120 km² in ten years, 1,000,000 people 1,100,000.
    found = land_consumption((100, 120), 10, (1_000_000, 1_100_000))
    assert found.lcr == pytest.approx(0.02)
    assert found.pgr == pytest.approx(0.00953101798)
    assert found.ratio == pytest.approx(2.0984117, rel=1e-7)
    assert found.lcr_log == pytest.approx(0.0182321557)
    assert found.ratio_log == pytest.approx(1.9129279, rel=1e-6)
    # Fewer people on more land: a negative ratio; as many: none.
    assert land_consumption((100, 120), 10, (1000, 900)).ratio < 0
    assert math.isnan(land_consumption((100, 120), 10, (1000, 1000)).ratio)
    assert math.isnan(land_consumption((100, 120), 10).ratio)


def test_exchange_by_hand():
    # A loses 10 to B and 5 to C and wins 4 from B; C wins 5 and loses nothing.
    found = exchange(np.array([[60.0, 10, 5], [4, 20, 0], [0, 0, 1]]))
    np.testing.assert_allclose(found.gain, [4, 10, 5])
    np.testing.assert_allclose(found.loss, [15, 4, 0])
    np.testing.assert_allclose(found.net, [-11, 6, 5])
    np.testing.assert_allclose(found.swap, [8, 8, 0])
    np.testing.assert_allclose(found.gross, np.abs(found.net) + found.swap)


# ---- hot spots


def test_gi_star_of_one_hot_tile_in_closed_form():
    # 25 tiles, one with value 1: mean 1/25, s = sqrt(24)/25. Around it W = 9: (1 - 9/25) / (s sqrt(6)) = 4/3.
    column, row = (part.ravel() for part in np.meshgrid(np.arange(5), np.arange(5)))
    x = ((column == 2) & (row == 2)).astype(float)
    z = getis_ord(x, column, row)
    assert z[12] == pytest.approx(4 / 3, rel=1e-12)
    # A corner has W = 4 and none of it: -(4/25) / (s sqrt((100 - 16) / 24)).
    assert z[0] == pytest.approx(-(4 / 25) / (math.sqrt(24) / 25 * math.sqrt(84 / 24)), rel=1e-12)
    assert (getis_ord(np.ones(25), column, row) == 0).all()
    inside = (column < 3) & (row < 3)
    assert getis_ord(x[inside], column[inside], row[inside])[4] == 0  # its neighbourhood is everything


def test_gi_star_against_a_loop_on_a_ragged_area():
    change = simulated(14, 11, seed=3, holes=40)
    x, columns, rows = np.asarray(change.p_new_built, np.float64), change.series.columns, change.series.rows
    n, mean = len(x), x.mean()
    s = math.sqrt((x**2).sum() / n - mean**2)
    wanted = []
    for k in range(n):
        near = [j for j in range(n) if abs(columns[j] - columns[k]) <= 1 and abs(rows[j] - rows[k]) <= 1]
        w = len(near)
        wanted.append((x[near].sum() - mean * w) / (s * math.sqrt((n * w - w**2) / (n - 1))))
    np.testing.assert_allclose(getis_ord(change.p_new_built, columns, rows), wanted, rtol=1e-6, atol=1e-9)


def test_hot_spots_find_a_cluster_and_seldom_one_in_noise():
    column, row = (part.ravel() for part in np.meshgrid(np.arange(40), np.arange(40)))
    alarms = 0
    for seed in range(40):
        noise = np.random.default_rng(seed).normal(size=1600)
        found = find_hotspots(noise, column, row)
        alarms += bool(found.hot.any() or found.cold.any())
        cluster = (abs(column - 20) <= 3) & (abs(row - 12) <= 3)
        found = find_hotspots(noise + 2.5 * cluster, column, row)
        inside = (abs(column - 20) <= 2) & (abs(row - 12) <= 2)  # all nine of the neighbourhood lie in the cluster
        assert found.hot[inside].mean() > 0.95 and found.hot[~cluster].sum() <= 30 and (found.level[cluster] >= 0).all()
    assert alarms <= 6  # at a rate of 5 %, 2 of 40 are expected


# ---- areas


@pytest.mark.parametrize("crs", ["EPSG:26919", "EPSG:2249"])  # metres; US survey feet
def test_shares_of_tiles_against_brute_force(crs):
    change = simulated(grid=TileGrid(crs, 224, 1.0))
    frame = towns(change)
    shares = tile_shares(change.series.grid, change.series.columns, change.series.rows, frame.geometry.to_numpy())
    for found, shape in zip(shares.toarray(), frame.geometry, strict=True):
        np.testing.assert_allclose(found, brute_share(change, shape), atol=1e-9)
    assert 0 < shares.toarray().max() <= 1 and shares.nnz < shares.shape[0] * shares.shape[1]


def test_figures_against_brute_force():
    change = simulated(dates=("2009", "2012", "2018"), seed=5)
    frame = towns(change)
    found = trend(change, frame)
    series, names = change.series, change.series.scheme.names
    ground = series.valid_fraction.min(axis=1).astype(float) * 224**2 / 10_000
    shares = [np.ones(len(series)), *(brute_share(change, shape) for shape in frame.geometry)]
    built = [names.index(name) for name in series.built]
    open_ = [names.index(name) for name in series.open]
    assert [place.name for place in found.places] == ["all", "Norton", "Easton"]
    assert [(step.before, step.after) for step in found.steps] == [(0, 1), (1, 2), (0, 2)]
    for a, share in enumerate(shares):
        weight = share * ground
        assert found.places[a].covered_ha == pytest.approx(weight.sum())
        for t in range(3):
            for k in range(len(names)):
                assert found.mapped_ha[a, t, k] == pytest.approx(weight[change.classes[:, t] == k].sum(), abs=1e-6)
                assert found.single_ha[a, t, k] == pytest.approx(weight[series.classes[:, t] == k].sum(), abs=1e-6)
                assert found.expected_ha[a, t, k] == pytest.approx((weight * change.posterior[:, t, k]).sum(), rel=1e-5)
        for step in found.steps:
            for i in range(len(names)):
                for j in range(len(names)):
                    went = (change.classes[:, step.before] == i) & (change.classes[:, step.after] == j)
                    assert step.matrices[a, i, j] == pytest.approx(weight[went].sum(), abs=1e-6)
            np.testing.assert_allclose(step.matrices[a].sum(axis=1), found.mapped_ha[a, step.before])
            np.testing.assert_allclose(step.matrices[a].sum(axis=0), found.mapped_ha[a, step.after])
        first, last = change.classes[:, 0], change.classes[:, -1]
        gain = weight[~np.isin(first, built) & np.isin(last, built)].sum()
        loss = weight[np.isin(first, built) & ~np.isin(last, built)].sum()
        moved = found.built_exchange(found.whole)
        assert moved.gain[a] == pytest.approx(gain) and moved.loss[a] == pytest.approx(loss)
        assert found.built_ha[a, -1] - found.built_ha[a, 0] == pytest.approx(moved.net[a])
        assert found.new_mapped_ha[a] == pytest.approx(weight[change.new_built].sum())
        assert found.new_expected_ha[a] == pytest.approx((weight * change.p_new_built).sum(), rel=1e-5)
        raw = np.isin(series.classes[:, 0], open_) & np.isin(series.classes[:, -1], built)
        assert found.new_single_ha[a] == pytest.approx(weight[raw].sum())
        assert found.hot_tiles[a] == (found.hotspots.hot & (share > 0)).sum()
    years = found.years[-1] - found.years[0]
    assert found.growth(0, found.whole) == pytest.approx(
        (found.built_ha[0, -1] / found.built_ha[0, 0]) ** (1 / years) - 1
    )


def test_flicker_ledger_against_brute_force():
    change = simulated(dates=("2009", "2012", "2018"), seed=8)
    found = trend(change)
    for item in found.ledgers:
        raw = [a != b for a, b in change.series.classes[:, [item.before, item.after]]]
        joint = [a != b for a, b in change.classes[:, [item.before, item.after]]]
        both = sum(r and j for r, j in zip(raw, joint, strict=True))
        assert (item.raw, item.joint, item.both) == (sum(raw), sum(joint), both)
        assert item.dropped == sum(raw) - both > 0
    assert sum(found.kinds.values()) == len(change) and set(found.kinds) == set(KINDS)


def test_people_and_the_ratio_of_an_area():
    change = simulated()
    frame = towns(change, population_p10=[1000.0, 500], population_p16=[1200.0, float("nan")])
    found = trend(change, frame, {"2010": "p10", "2016": "p16"})
    norton, easton = (found.consumption(a, found.whole) for a in (1, 2))
    before, after = found.built_ha[1]
    assert norton.pgr == pytest.approx(math.log(1.2) / 6)
    assert norton.ratio == pytest.approx((after - before) / before / 6 / (math.log(1.2) / 6))
    assert math.isnan(easton.ratio) and not math.isnan(easton.lcr)
    assert math.isnan(found.consumption(0, found.whole).ratio)


def test_areas_that_do_not_fit(tmp_path):
    change = simulated()
    frame = towns(change)
    x, y = frame.geometry[0].bounds[:2]
    away = gpd.GeoDataFrame({"name": ["Away"]}, geometry=[shapely.box(x - 9e4, y, x - 8.9e4, y + 500)], crs=frame.crs)
    with pytest.raises(ChangeError, match="none of the areas meets a tile"):
        trend(change, away)
    both = gpd.GeoDataFrame(pd.concat([frame, away], ignore_index=True), crs=frame.crs)
    found = trend(change, both)
    assert any("lies in Away" in text for text in found.warnings)
    assert (
        found.places[3].tiles == 0 and found.mapped_ha[3].sum() == 0 and np.isnan(found.shares(found.built_ha)[3]).all()
    )
    twice = gpd.GeoDataFrame(
        {"name": ["A", "B"]}, geometry=[frame.geometry[0], frame.geometry[0].buffer(50)], crs=frame.crs
    )
    found = trend(change, twice)
    assert [text for text in found.warnings if "overlap" in text and "A and B by" in text]
    assert not [text for text in trend(change, frame).warnings if "overlap" in text]
    with pytest.raises(ChangeError, match="there is none; give one with --aoi"):
        trend(change, None, {"2010": "p"})
    with pytest.raises(ChangeError, match="names 2011, but the results are of 2010, 2016"):
        trend(change, frame, {"2011": "p"})
    with pytest.raises(ChangeError, match="no column 'p'"):
        trend(change, frame, {"2010": "p"})


def test_part_of_an_area_is_covered_and_said_so():
    change = simulated(holes=0)
    side = change.series.grid.side
    # Half of it lies west of the tiles.
    half = shapely.box((LEFT - 2) * side, BOTTOM * side, (LEFT + 2) * side, (BOTTOM + 3) * side)
    found = trend(change, gpd.GeoDataFrame({"name": ["Half"]}, geometry=[half], crs=change.series.grid.crs))
    place = found.places[1]
    assert place.area_ha == pytest.approx(12 * 224**2 / 1e4) and place.tiles == 6
    assert 0.25 < place.covered_share < 0.5 and "Half" in found.warnings[-1]


def test_reading_areas(tmp_path: Path):
    change = simulated()
    frame = towns(change, TOWN=["Norton", "Norton"], people=[10, 20], word=["many", "few"]).drop(columns="name")
    nothing = gpd.GeoDataFrame({"TOWN": ["line"]}, geometry=[shapely.LineString([(0, 0), (1, 1)])], crs=frame.crs)
    path = tmp_path / "towns.geojson"
    # Edges are straight in the file's CRS, so those that are straight in UTM need points there.
    drawn = frame.set_geometry(frame.geometry.segmentize(50))
    gpd.GeoDataFrame(pd.concat([nothing, drawn], ignore_index=True), crs=frame.crs).to_crs(4326).to_file(path)
    crs = change.series.grid.crs
    read = read_named_aois(path, crs, "TOWN", ["people"])
    assert list(read["name"]) == ["Norton", "Norton (2)"] and list(read["population_people"]) == [10, 20]
    assert read.geometry.area.to_numpy() == pytest.approx(frame.geometry.area.to_numpy(), rel=1e-6)
    assert list(read_named_aois(path, crs)["name"]) == ["area 1", "area 2"]
    with pytest.raises(ChangeError, match=r"no column 'NAME' for --aoi-name; its columns are TOWN, people, word"):
        read_named_aois(path, crs, "NAME")
    with pytest.raises(ChangeError, match="no column 'pop' for --population"):
        read_named_aois(path, crs, columns=["pop"])
    with pytest.raises(ChangeError, match=r"column 'word' of .* holds no counts of people"):
        read_named_aois(path, crs, columns=["word"])
    with pytest.raises(GridError, match="no such AOI file"):
        read_named_aois(tmp_path / "none.gpkg", crs)
    frame = frame.assign(name=["all", "all (2)"])
    frame.to_file(path)
    assert list(read_named_aois(path, crs)["name"]) == ["all (2)", "all (2) (2)"]


def test_population_columns():
    assert population_columns("2010=pop10, 2016-07=p 2") == {"2010": "pop10", "2016-07": "p 2"}
    for wrong in ("", "2010", "2010=", "=x", "ten=x"):
        with pytest.raises(ChangeError, match="give it as 2010=pop2010"):
            population_columns(wrong)


# ---- files


def test_tables_add_up_and_read_back(tmp_path: Path):
    change = simulated(dates=("2009", "2012", "2018"), seed=2)
    frame = towns(change, population_a=[100.0, 200], population_b=[150.0, 250])
    found = trend(change, frame, {"2009": "a", "2018": "b"}, estimate={"sentence": "x"})
    paths = write_trend_tables(tmp_path, found, change.series)
    assert [path.name for path in paths] == ["transitions.csv", "trend.csv", "trend.json", "trend.gpkg"]
    table = pd.read_csv(tmp_path / "trend.csv")
    assert len(table) == 3 * 3 * 8 and not table.duplicated(["area", "date", "level", "class"]).any()
    classes = table[table["level"] == "class"]
    for (area, _), part in classes.groupby(["area", "date"]):
        covered = next(place.covered_ha for place in found.places if place.name == area)
        for column in ("mapped_ha", "expected_ha", "single_date_ha"):
            assert part[column].sum() == pytest.approx(covered, rel=1e-5)
        assert part["mapped_share"].sum() == pytest.approx(1, abs=1e-5)
    row = table.set_index(["area", "date", "class"]).loc[("Norton", 2018, "built-up")]
    step = found.whole
    assert row["ratio_since_first"] == pytest.approx(found.consumption(1, step).ratio, abs=1e-6)
    assert row["net_ha_since_first"] == pytest.approx(row["gain_ha_since_first"] - row["loss_ha_since_first"], abs=1e-5)
    assert row["gain_ha_since_first"] == pytest.approx(found.built_exchange(step).gain[1], abs=1e-6)
    assert math.isnan(row["ratio_since_previous"])  # no people in 2012
    moves = pd.read_csv(tmp_path / "transitions.csv")
    assert len(moves) == 3 * 3 * 49
    for (area, _, _), part in moves.groupby(["area", "from_date", "to_date"]):
        covered = next(place.covered_ha for place in found.places if place.name == area)
        assert part["hectares"].sum() == pytest.approx(covered, rel=1e-5)
    values = json.loads((tmp_path / "trend.json").read_text("utf-8"))
    assert values["areas"][1]["name"] == "Norton" and values["estimate"] == {"sentence": "x"}
    assert values["areas"][0]["people"] == {"2009": None, "2012": None, "2018": None}
    np.testing.assert_allclose(values["areas"][1]["steps"][-1]["matrix_ha"], step.matrices[1])
    layer = pyogrio.read_dataframe(tmp_path / "trend.gpkg", layer="trend")
    assert list(layer["name"]) == ["Norton", "Easton"] and layer.crs == change.series.grid.crs
    assert layer["built_ha_2018"].to_numpy() == pytest.approx(found.built_ha[1:, 2])
    assert shapely.equals_exact(
        shapely.normalize(layer.geometry[0]), shapely.normalize(shapely.MultiPolygon([frame.geometry[0]])), 1e-6
    )
    with pytest.raises(OutputError, match=r"transitions\.csv exists and is kept"):
        write_trend_tables(tmp_path, found, change.series)


def test_without_areas_no_geopackage_is_written(tmp_path: Path):
    change = simulated()
    paths = write_trend_tables(tmp_path, trend(change), change.series)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in paths)
    assert not (tmp_path / "trend.gpkg").exists()


def test_hotspot_columns_are_those_of_the_tiles():
    change = simulated(30, 20)
    change = replace(change, p_new_built=np.where(change.series.columns < LEFT + 3, 0.9, 0.01).astype(np.float32))
    columns = hotspot_columns(trend(change))
    assert set(columns) == {"hotspot_z", "hotspot"} and len(columns["hotspot"]) == len(change)
    assert columns["hotspot"][change.series.columns < LEFT + 2].min() == 1
    assert columns["hotspot"][change.series.columns > LEFT + 4].max() <= 0
    assert (np.sign(columns["hotspot_z"]) == columns["hotspot"])[columns["hotspot"] != 0].all()


def test_one_date_all_water_and_tables_of_empty_classes():
    change = simulated()
    still = np.zeros_like(change.posterior)
    still[:, :, change.series.scheme.index("RiverLake")] = 1
    quiet = replace(change, posterior=still, p_new_built=np.zeros(len(change), np.float32))
    found = trend(quiet)
    assert found.built_ha.sum() == 0 and math.isnan(found.growth(0, found.whole))
    assert not found.hotspots.hot.any() and found.new_tiles == 0
    assert len(trend_table(found)) == 16 and transitions_table(found)["hectares"].sum() > 0
    assert areas_frame(trend(quiet, towns(quiet)), quiet.series)["growth_per_year"].isna().all()


def test_a_county_of_67000_tiles_adds_up():
    change = simulated(260, 260, dates=("2010", "2013", "2016"), holes=600)
    side = change.series.grid.side
    rng = np.random.default_rng(1)
    middles = [((LEFT + a) * side, (BOTTOM + b) * side) for a, b in rng.uniform(20, 240, (40, 2))]
    coasts = [shapely.Point(p).buffer(16 * side, quad_segs=500) for p in middles]
    frame = gpd.GeoDataFrame({"name": [f"town {k}" for k in range(40)]}, geometry=coasts, crs=change.series.grid.crs)
    found = trend(change, frame)
    assert found.places[7].covered_ha < found.places[7].area_ha
    assert found.mapped_ha[0].sum(axis=1) == pytest.approx([found.places[0].covered_ha] * 3)
