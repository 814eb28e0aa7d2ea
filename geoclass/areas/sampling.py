"""Draw the tiles to look at: a random sample of a map by design."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from .. import __version__
from ..changes.posterior import Change
from ..errors import ChangeError
from ..labels import Labels
from .design import FEW, TELLING, Allocation, allocate, expected_errors, sample_size
from .sample import ANSWER, NOTE, REFERENCE, REVIEWER, Design, DesignKind, DrawnStratum, Expected, Sample, sample_id_of
from .strata import Doubles, Frame, StrataBy, frame_of_change, frame_of_labels, read_frame

PER_STRATUM = 50
NEW_BUILT_AREA = "New built-up land"


def draw_sample(
    source: Path | Change | Labels,
    *,
    per_stratum: int = PER_STRATUM,
    total: int | None = None,
    allocation: Allocation = "equal",
    least: int | None = None,
    kind: DesignKind = "stratified",
    strata: StrataBy | None = None,
    seed: int = 0,
    expected: Mapping[str, float] | None = None,
    target_se: float | None = None,
) -> Sample:
    """Draw tiles of a change map or of one map, at random and without replacement, by permanent tile id.

    per_stratum: tiles of each stratum on average, unless `total` says how many together, or `target_se` which standard
    error of overall accuracy to reach; allocation, least: as in `design.allocate`; kind: `random` draws from all tiles
    alike; strata: as in `strata.read_frame`; seed: the same seed draws the same tiles of the same map; expected:
    accuracy to expect in strata, by name, in place of what the map's own probabilities say. Neyman allocation makes the
    area of new built-up land as exact as can be, or overall accuracy for one map. Raises ChangeError.
    """
    if kind not in ("stratified", "random"):
        raise ChangeError(f"unknown design {kind!r}; choose stratified or random")
    if per_stratum < 1 or (total is not None and total < 1):
        raise ChangeError("a sample needs at least one tile; give --per-stratum or --total above 0")
    if total is not None and target_se is not None:
        raise ChangeError("--total and --target-se both say how many tiles to draw; give one of them")
    frame = _frame(source, strata)
    correct, shares = _beliefs(frame, expected or {})
    if target_se is not None:
        total = sample_size(frame.weights, correct, target_se, frame.tiles)
    if kind == "random":
        drawn = _draw_random(frame, total or per_stratum * len(frame.strata), seed)
    else:
        aim = shares[:, frame.new_lines].sum(axis=1) if len(frame.new_lines) else correct
        wanted = total or _wanted(frame, per_stratum, allocation)
        numbers = allocate(allocation, wanted, frame.tiles, frame.weights, np.sqrt(aim * (1 - aim)), least)
        drawn = _draw(frame, numbers, seed)
    design = _design(frame, drawn, kind, allocation, seed)
    return _with_expected(
        frame, Sample(design, frame.grid, frame.scheme, _table(frame, design, drawn)), correct, shares
    )


def _frame(source: Path | Change | Labels, strata: StrataBy | None) -> Frame:
    if isinstance(source, Change):
        return frame_of_change(source, strata or "new_built")
    return frame_of_labels(source) if isinstance(source, Labels) else read_frame(source, strata)


def _wanted(frame: Frame, per_stratum: int, allocation: str) -> int:
    # A small stratum cannot give its part; under equal allocation the others then stay at `per_stratum`.
    if allocation == "equal":
        return int(np.minimum(per_stratum, frame.tiles).sum())
    return per_stratum * len(frame.strata)


def _beliefs(frame: Frame, expected: Mapping[str, float]) -> tuple[Doubles, Doubles]:
    """(H,) accuracy to expect in each stratum, and (H, K) what share of it to expect of each line of the legend."""
    unknown = [name for name in expected if name not in frame.strata]
    if unknown:
        raise ChangeError(
            f"the map has no stratum {unknown[0]!r} to expect anything of; it has {'; '.join(frame.strata)}"
        )
    beliefs, tiles = frame.beliefs.copy(), np.arange(len(frame))
    for name, accuracy in expected.items():
        if not 0 < accuracy < 1:
            raise ChangeError(f"expected accuracy {accuracy:g} of {name!r} is impossible; give one between 0 and 1")
        here = tiles[frame.stratum == frame.strata.index(name)]
        right = beliefs[here, frame.lines[here]]
        beliefs[here] *= ((1 - accuracy) / (1 - right))[:, None]
        beliefs[here, frame.lines[here]] = accuracy
    right = beliefs[tiles, frame.lines]
    ground = frame.areas_ha
    shares = np.zeros((len(ground), beliefs.shape[1]))
    np.add.at(shares, frame.stratum, beliefs * frame.ground_ha[:, None])
    return np.bincount(frame.stratum, weights=right * frame.ground_ha) / ground, shares / ground[:, None]


def _draw(frame: Frame, numbers: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.intp]:
    """Positions in the frame, in random order, so that whatever part is done first is a random part of each stratum."""
    generator = np.random.default_rng(seed)
    parts = [
        generator.choice(np.flatnonzero(frame.stratum == h), number, replace=False) for h, number in enumerate(numbers)
    ]
    return generator.permutation(np.concatenate(parts))


def _draw_random(frame: Frame, total: int, seed: int) -> npt.NDArray[np.intp]:
    if total < 2:
        raise ChangeError("a random sample of one tile says nothing of its error; give --total 2 or more")
    drawn = np.random.default_rng(seed).choice(len(frame), min(total, len(frame)), replace=False)
    return np.asarray(drawn, np.intp)


def _design(frame: Frame, drawn: npt.NDArray[np.intp], kind: DesignKind, allocation: Allocation, seed: int) -> Design:
    counts = np.bincount(frame.stratum[drawn], minlength=len(frame.strata))
    digest = frame.digest
    return Design(
        kind=kind,
        allocation=allocation,
        strata_by=frame.by,
        seed=seed,
        strata=tuple(
            DrawnStratum(name=name, tiles=int(tiles), area_ha=float(area), drawn=int(count))
            for name, tiles, area, count in zip(frame.strata, frame.tiles, frame.areas_ha, counts, strict=True)
        ),
        dates=frame.dates,
        built=frame.built,
        open=frame.open,
        map_digest=digest,
        sample_id=sample_id_of(digest, kind, seed, frame.grid.tile_ids(frame.columns[drawn], frame.rows[drawn])),
        geoclass_version=__version__,
    )


def _table(frame: Frame, design: Design, drawn: npt.NDArray[np.intp]) -> pd.DataFrame:
    names = np.asarray(frame.scheme.names, dtype=object)
    stratum = frame.stratum[drawn]
    counts = np.array([item.drawn for item in design.strata])
    chance = np.full(len(drawn), len(drawn) / len(frame))
    if design.kind == "stratified":
        chance = (counts / frame.tiles)[stratum]
    maps = [f"map_{date}" for date in frame.dates] or ["map_class"]
    text = np.full(len(drawn), None, dtype=object)
    empty = ([ANSWER] if frame.dates else []) + ([f"class_{date}" for date in frame.dates] or [REFERENCE])
    return pd.DataFrame(
        {
            "order": np.arange(1, len(drawn) + 1),
            "sample_id": design.sample_id,
            "tile_id": frame.grid.tile_ids(frame.columns[drawn], frame.rows[drawn]),
            "stratum": np.asarray(frame.strata, dtype=object)[stratum],
            **{column: names[frame.classes[drawn, t]] for t, column in enumerate(maps)},
            "chance": chance,
            "weight": 1 / chance,
            "ground_ha": frame.ground_ha[drawn],
            **dict.fromkeys((*empty, REVIEWER, NOTE), text),
        }
    )


def _with_expected(frame: Frame, sample: Sample, correct: Doubles, shares: Doubles) -> Sample:
    """The sample with the standard errors to expect of overall accuracy and of the area of every line of the legend."""
    if sample.design.kind == "random":
        weights, tiles, drawn = np.ones(1), np.array([len(frame)]), np.array([len(sample)])
        correct, shares = (frame.weights @ correct)[None], (frame.weights @ shares)[None]
    else:
        weights, tiles = frame.weights, frame.tiles
        drawn = np.array([item.drawn for item in sample.design.strata])
    total = float(frame.areas_ha.sum())
    columns = [(name, shares[:, k]) for k, name in enumerate(frame.legend.names)]
    if len(frame.new_lines):
        columns.insert(0, (NEW_BUILT_AREA, shares[:, frame.new_lines].sum(axis=1)))
    errors = expected_errors(weights, tiles, drawn, np.stack([values for _, values in columns], axis=1))
    found = [
        Expected(name, float(weights @ values) * total, float(error) * total)
        for (name, values), error in zip(columns, errors, strict=True)
    ]
    accuracy_se = float(expected_errors(weights, tiles, drawn, correct[:, None])[0])
    return replace(
        sample,
        expected=tuple(found),
        expected_accuracy=float(weights @ correct),
        expected_accuracy_se=accuracy_se,
        advice=tuple(_advice(frame, sample, shares[:, frame.new_lines].sum(axis=1))),
    )


def _advice(frame: Frame, sample: Sample, new_built: Doubles) -> Iterator[str]:
    """Strata that should hold much new built-up land, of which the tiles drawn will show next to nothing."""
    if sample.design.kind == "random":
        return
    hectares = new_built * frame.areas_ha
    for item, share, ha in zip(sample.design.strata, new_built, hectares, strict=True):
        if item.drawn < item.tiles and item.drawn * share < FEW and ha > TELLING * hectares.sum():
            yield (
                f"about {ha:,.0f} ha of new built-up land should be in stratum {item.name!r}, and its {item.drawn:,} tiles "
                f"will show about {item.drawn * share:.1f} of it: the interval would come out too narrow; draw more with "
                "--allocation neyman, or a larger --total"
            )


def read_expected(texts: Sequence[str]) -> dict[str, float]:
    """Accuracy to expect by stratum, from texts `NAME=SHARE` and names of CSVs with columns stratum,accuracy.

    Raises ChangeError for anything else.
    """
    advice = "give NAME=SHARE, as 'New built-up=0.7', or a CSV with columns stratum,accuracy"
    found: dict[str, float] = {}
    for text in texts:
        name, equals, share = text.rpartition("=")
        try:
            if equals:
                found[name.strip()] = float(share)
            else:
                table = pd.read_csv(text)
                found |= {
                    str(key).strip(): float(value)
                    for key, value in zip(table["stratum"], table["accuracy"], strict=True)
                }
        except (OSError, KeyError, ValueError) as error:
            raise ChangeError(f"--expected {text!r} cannot be read; {advice}") from error
    return found
