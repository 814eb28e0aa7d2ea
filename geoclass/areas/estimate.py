"""From a sample and its answers to hectares: check that they belong together, then estimate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..changes.posterior import ARROW, Change
from ..errors import ChangeError
from ..grid import positions
from ..labels import Labels
from .answers import KNOWN, MISSING, TIED, UNKNOWN, UNSURE, Answers, combine, read_votes, some
from .design import FEW, LEAST, TELLING
from .estimation import Assessment, Doubles, Number, Observed, Places, assess, unseen_share
from .sample import Design, Sample, read_sample
from .strata import NEW_BUILT, Frame, frame_of_change, frame_of_labels, read_frame

NOT_NEW_BUILT = "Not new built-up"


@dataclass(frozen=True)
class Area:
    """Ground of one kind: what the map says, None where it says nothing, and the estimate; hectares."""

    name: str
    mapped_ha: float | None
    ha: Number


@dataclass(frozen=True)
class StratumAnswers:
    """A stratum of the estimate: its tiles and ground, how many tiles were drawn, and how many of them count."""

    name: str
    tiles: int
    area_ha: float
    drawn: int
    counted: int


@dataclass(frozen=True)
class Estimate:
    """What the sample says of the ground.

    legend, assessment: the lines that map and truth are compared on; areas: ground of each line; new_built: None for
    one map; cautious_ha: a 95 % interval of it that also holds where few tiles or none were found (see
    `Observed.cautious`); net_built: gain of built-up land from the first to the last date; by_date: ground of each class on each
    date; transitions: each change that was found, commonest first. The last three are empty where reviewers said y or
    n only. unsure, tied, missing: ids of tiles that do not count; tile_ha: ground of a whole tile.
    """

    design: Design
    post_stratified: bool
    strata: tuple[StratumAnswers, ...]
    total_ha: float
    tile_ha: float
    legend: tuple[str, ...]
    assessment: Assessment
    areas: tuple[Area, ...]
    new_built: Area | None
    cautious_ha: tuple[float, float] | None
    net_built: Area | None
    by_date: tuple[tuple[str, tuple[Area, ...]], ...]
    transitions: tuple[Area, ...]
    answers: Answers
    unsure: tuple[str, ...]
    tied: tuple[str, ...]
    missing: tuple[str, ...]
    warnings: tuple[str, ...]


def estimate(
    sample: Path | Sample,
    source: Path | Change | Labels,
    *,
    answers: Sequence[Path] = (),
    allow_missing: bool = False,
    post_stratify: bool = False,
) -> Estimate:
    """Areas and accuracies of the map `source`, from the answers on `sample`, which was drawn from it.

    answers: CSVs besides the answers in the sample itself (see `areas.answers`). Tiles without an answer are accepted
    where they are the last ones of each stratum, since the rest is then a smaller random sample; allow_missing accepts
    others, as if they were like the rest. post_stratify: weigh a simple random sample by the map's strata, whose areas
    are known (Olofsson et al. 2014, section 4.2). Raises ChangeError where the tiles were not drawn by design or from
    another map, for answers that do not fit, and for a stratum with fewer than two answers.
    """
    path = sample if isinstance(sample, Path) else Path("the sample")
    drawn = read_sample(sample) if isinstance(sample, Path) else sample
    if post_stratify and drawn.design.kind == "stratified":
        raise ChangeError(f"{path} is stratified already; leave out --post-stratify")
    frame = _frame(drawn, source)
    found = combine(drawn, read_votes(drawn, path, answers))
    places = _places(drawn, frame)
    stratified = drawn.design.kind == "stratified" or post_stratify
    strata = frame.stratum[places] if stratified else np.zeros(len(places), np.intp)
    missing = _missing(drawn, found, strata, allow_missing)
    observed, counted = _observed(frame, places, strata, found, stratified, post_stratify)
    return _estimate(drawn, frame, found, places[counted], counted, observed, stratified, post_stratify, missing)


def _frame(sample: Sample, source: Path | Change | Labels) -> Frame:
    design = sample.design
    if isinstance(source, Change):
        frame = frame_of_change(source, design.strata_by)
    elif isinstance(source, Labels):
        frame = frame_of_labels(source)
    else:
        frame = read_frame(source, design.strata_by)
    if frame.digest != design.map_digest:
        name = source if isinstance(source, Path) else "the map"
        raise ChangeError(
            f"{name} is not the map that the sample {design.sample_id} was drawn from; name that one with --map, or "
            "draw a sample of this one"
        )
    return frame


def _places(sample: Sample, frame: Frame) -> Places:
    return positions(frame.columns, frame.rows, *frame.grid.parse_ids(sample.tile_ids))


def _missing(sample: Sample, answers: Answers, strata: Places, allowed: bool) -> list[str]:
    """A sentence about tiles nobody answered; refuses gaps, since what was skipped is seldom like the rest."""
    missing = answers.status == MISSING
    if not missing.any():
        return []
    gaps = np.zeros(len(sample), bool)
    for stratum in np.unique(strata):
        here = np.flatnonzero(strata == stratum)
        done = np.flatnonzero(~missing[here])
        gaps[here[: done[-1] if len(done) else 0]] = missing[here[: done[-1] if len(done) else 0]]
    skipped = [key for key, gap in zip(sample.tile_ids, gaps, strict=True) if gap]
    if skipped and not allowed:
        raise ChangeError(
            f"{len(skipped):,} tiles were skipped ({some(skipped)}); answer them, with ? where one cannot tell, or "
            "give --allow-missing to take them for the others' like"
        )
    how = "skipped tiles are taken to be like the others" if skipped else "the answered ones are a random part of it"
    return [f"{int(missing.sum()):,} of {len(sample):,} tiles of the sample have no answer; {how}"]


def _observed(
    frame: Frame, places: Places, strata: Places, answers: Answers, stratified: bool, post: bool
) -> tuple[Observed, npt.NDArray[np.bool_]]:
    """The tiles that count, and which they are. Raises ChangeError for a stratum with too few of them."""
    counted = answers.status == KNOWN
    names = frame.strata if stratified else ("All tiles",)
    tiles = frame.tiles if stratified else np.array([len(frame)])
    counts = np.bincount(strata[counted], minlength=len(names))
    for name, count, size in zip(names, counts, tiles, strict=True):
        if count < min(LEAST, size):
            remedy = "leave out --post-stratify" if post else "answer more of its tiles"
            raise ChangeError(
                f"stratum {name!r} has {int(count)} usable answers, and its spread needs {LEAST}; {remedy}"
            )
    weights = frame.weights if stratified else np.ones(1)
    return Observed(strata[counted], frame.ground_ha[places[counted]], weights, tiles), counted


def _estimate(
    sample: Sample, frame: Frame, answers: Answers, places: Places, counted: npt.NDArray[np.bool_], observed: Observed,
    stratified: bool, post: bool, missing: list[str],
) -> Estimate:  # fmt: skip
    total = float(frame.ground_ha.sum())
    truth = None if answers.classes is None else answers.classes[counted]
    new_built = answers.new_built[counted]
    if truth is None:
        legend: tuple[str, ...] = (NEW_BUILT, NOT_NEW_BUILT)
        lines, true_lines = np.where(frame.new_built, 0, 1), np.where(new_built, 0, 1)
    else:
        legend, lines, true_lines = frame.legend.names, frame.lines, frame.legend.lines(truth)
    assessment = assess(observed, lines[places], true_lines, len(legend))
    mapped = np.bincount(lines, weights=frame.ground_ha, minlength=len(legend))
    new, cautious = None, None
    if frame.dates:
        is_new = new_built.astype(np.float64)
        share, (low, high) = observed.share(is_new).times(total), observed.cautious(is_new)
        new = Area("New built-up land", float(frame.ground_ha[frame.new_built].sum()), share)
        cautious = (low * total, high * total)
    status, keys = answers.status, np.asarray(sample.tile_ids, dtype=object)
    unsure, tied, absent = (tuple(str(k) for k in keys[status == code]) for code in (UNSURE, TIED, MISSING))
    changes = truth if frame.dates else None
    return Estimate(
        design=sample.design,
        post_stratified=post,
        strata=_strata(sample, frame, observed, stratified, post),
        total_ha=total,
        tile_ha=frame.grid.tile_area_m2 / 1e4,
        legend=legend,
        assessment=assessment,
        areas=tuple(
            Area(name, float(area), share.times(total))
            for name, area, share in zip(legend, mapped, assessment.shares, strict=True)
        ),
        new_built=new,
        cautious_ha=cautious,
        net_built=None if changes is None else _net_built(frame, observed, changes, total),
        by_date=() if changes is None else _by_date(frame, observed, changes, total),
        transitions=() if changes is None else _transitions(frame, observed, changes, total),
        answers=answers,
        unsure=unsure,
        tied=tied,
        missing=absent,
        warnings=(
            *frame.said,
            *answers.warnings,
            *missing,
            *_left_out(unsure, "could not be told (?)"),
            *_left_out(tied, "are a tie between reviewers"),
            *(_thin(frame, observed, new_built, new, stratified) if new else ()),
        ),
    )


def _strata(
    sample: Sample, frame: Frame, observed: Observed, stratified: bool, post: bool
) -> tuple[StratumAnswers, ...]:
    if not stratified:
        return (
            StratumAnswers("All tiles", len(frame), float(frame.ground_ha.sum()), len(sample), len(observed.ground)),
        )
    return tuple(
        StratumAnswers(item.name, item.tiles, item.area_ha, item.drawn, int(count))
        for item, count in zip(sample.design.strata, observed.counts, strict=True)
    )


def _net_built(frame: Frame, observed: Observed, truth: Places, total: float) -> Area:
    """Built-up land on the last date less that on the first: one number a tile, so that its error is right."""
    built = np.isin(np.asarray(frame.scheme.names), frame.built)
    gain = built[truth].astype(np.float64)
    mapped = built[frame.classes].astype(np.float64)
    mapped_ha = float(((mapped[:, -1] - mapped[:, 0]) * frame.ground_ha).sum())
    return Area("Net gain of built-up land", mapped_ha, observed.share(gain[:, -1] - gain[:, 0]).times(total))


def _by_date(frame: Frame, observed: Observed, truth: Places, total: float) -> tuple[tuple[str, tuple[Area, ...]], ...]:
    """Ground of every class on every date; dates in between only where every tile has an answer."""
    found = []
    for t, date in enumerate(frame.dates):
        if (truth[:, t] == UNKNOWN).any():
            continue
        mapped = np.bincount(frame.classes[:, t], weights=frame.ground_ha, minlength=len(frame.scheme))
        areas = tuple(
            Area(name, float(mapped[k]), observed.share((truth[:, t] == k).astype(np.float64)).times(total))
            for k, name in enumerate(frame.scheme.names)
        )
        found.append((date, areas))
    return tuple(found)


def _transitions(frame: Frame, observed: Observed, truth: Places, total: float) -> tuple[Area, ...]:
    names, first, last = frame.scheme.names, truth[:, 0], truth[:, -1]
    found = []
    for a, b in sorted({(int(a), int(b)) for a, b in zip(first, last, strict=True) if a != b}):
        mapped = (frame.classes[:, 0] == a) & (frame.classes[:, -1] == b)
        share = observed.share(((first == a) & (last == b)).astype(np.float64))
        found.append(Area(names[a] + ARROW + names[b], float(frame.ground_ha[mapped].sum()), share.times(total)))
    return tuple(sorted(found, key=lambda area: -area.ha.value))


def _left_out(keys: Sequence[str], why: str) -> list[str]:
    if not keys:
        return []
    return [
        f"{len(keys):,} tiles {why} and are left out, which is right only if they are like the others of their stratum: "
        f"{some(keys)}"
    ]


def _thin(
    frame: Frame, observed: Observed, new_built: npt.NDArray[np.bool_], area: Area, stratified: bool
) -> list[str]:
    """Where the interval of new built-up land rests on few finds, or none, in a stratum that could hide much."""
    said = []
    found = np.bincount(observed.stratum, weights=new_built, minlength=len(observed.weights)).astype(int)
    tiles = observed.tiles if observed.tiles is not None else observed.counts
    names = frame.strata if stratified else ("All tiles",)
    ground: Doubles = frame.areas_ha if stratified else np.array([frame.ground_ha.sum()])
    for name, few, count, size, ha in zip(names, found, observed.counts, tiles, ground, strict=True):
        hidden = unseen_share(int(count), int(size)) * ha
        if few == 0 and hidden > area.ha.half:
            said.append(
                f"no new built-up land was found on the {count:,} tiles of stratum {name!r}, and the interval takes that "
                f"for none at all; up to {hidden:,.0f} ha could hide there (95 %): look at more of its tiles to know"
            )
        elif 0 < few < min(FEW, count) and count < size and ha / count > TELLING * area.ha.value:
            said.append(
                f"only {few} of {count:,} tiles of stratum {name!r} were newly built-up, and each stands for "
                f"{ha / count:,.0f} ha: the interval is rough"
            )
    return said
