"""What reviewers said of the sampled tiles: read from the sample itself or from CSVs, and joined by majority.

A CSV has the columns `sample_id`, `tile_id` and either `answer` (`y` newly built-up between the first and the last date,
`n` not, `?` cannot tell) or the true class on each date, `class_<date>` (`reference` for one map), where `?` means the
same; `reviewer` and `note` may follow. Other columns are ignored, and so are rows without an answer. That is what the
review page writes; with an answer it may have classes on some dates only, which then do not count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import sklearn.metrics

from ..errors import ChangeError
from ..schemes import class_position
from .sample import ANSWER, REVIEWER, Sample

KNOWN, UNSURE, TIED, MISSING = range(4)
YES, NO, CANNOT_TELL = ("y", "yes"), ("n", "no"), "?"
UNKNOWN = -1
PURPOSE = "purpose"
NAMED = 5
"""Tiles a message names before it says how many more there are."""


@dataclass(frozen=True)
class Vote:
    """What one reviewer says of one tile. tile: position in the sample; new_built: None where only `classes` tell, or
    nothing does; classes: (T,) positions in the scheme, UNKNOWN on dates in between without one, or None."""

    tile: int
    reviewer: str
    new_built: bool | None = None
    classes: tuple[int, ...] | None = None

    @property
    def unsure(self) -> bool:
        return self.new_built is None and self.classes is None


@dataclass(frozen=True)
class Agreement:
    """How far two reviewers agree on the `tiles` both answered: share of equal answers, and Cohen's kappa (NaN where
    both always said the same one thing). Cohen (1960), Educational and Psychological Measurement 20:37–46."""

    first: str
    second: str
    tiles: int
    agreed: float
    kappa: float


@dataclass(frozen=True)
class Answers:
    """The joined answers on n tiles.

    status: (n,) KNOWN, UNSURE (every answer is `?`), TIED or MISSING; new_built: (n,) whether a known tile is newly
    built-up; classes: (n, T) the true classes of known tiles, or None where some answers were y or n only; reviewers,
    agreements: who answered, and each pair of them; warnings: sentences on answers that could not be used whole.
    """

    status: npt.NDArray[np.intp]
    new_built: npt.NDArray[np.bool_]
    classes: npt.NDArray[np.intp] | None
    reviewers: tuple[str, ...]
    agreements: tuple[Agreement, ...]
    warnings: tuple[str, ...]


def read_votes(sample: Sample, path: Path, csvs: Sequence[Path] = ()) -> list[Vote]:
    """Answers filled into the sample, whose file is `path`, and those in `csvs`.

    A row without a reviewer counts as by one with the file's name. Raises ChangeError for a file that is no such CSV,
    an unknown tile, another sample's answers, an unknown answer or class, and two answers of one reviewer that differ.
    """
    votes = list(_votes(sample, _as_text(sample.table), path))
    for csv in csvs:
        votes += _votes(sample, _read_csv(sample, csv), csv)
    by_tile: dict[tuple[int, str], Vote] = {}
    for vote in votes:
        before = by_tile.setdefault((vote.tile, vote.reviewer), vote)
        if before != vote:
            raise ChangeError(
                f"reviewer {vote.reviewer!r} gives two different answers on tile {sample.tile_ids[vote.tile]}; keep one "
                "of them, or say in column reviewer who is who"
            )
    return list(by_tile.values())


def _as_text(table: pd.DataFrame) -> pd.DataFrame:
    return table.astype(object).where(table.notna(), "").astype(str)


def _read_csv(sample: Sample, path: Path) -> pd.DataFrame:
    wanted = f"sample_id, tile_id and {ANSWER} or {', '.join(sample.class_columns)}"
    if not path.is_file():
        raise ChangeError(f"there is no file {path}; give a CSV of answers, with columns {wanted}")
    try:
        # A spreadsheet may have put a mark before the first column, and semicolons for commas.
        with path.open(encoding="utf-8-sig") as stream:
            header = stream.readline()
        comma = ";" if header.count(";") > header.count(",") else ","
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", sep=comma, index_col=False)
    except UnicodeDecodeError:
        raise ChangeError(f"{path} is not in UTF-8; save it again as CSV UTF-8") from None
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:100]
        raise ChangeError(f"{path} cannot be read ({reason}); give a CSV of answers, with columns {wanted}") from error
    table.columns = pd.Index([str(name).strip() for name in table.columns])
    if not sample.design.dates and sample.class_columns[0] not in table:
        table = table.rename(columns={"class": sample.class_columns[0]})  # as the page of one map calls it
    if "tile_id" not in table or not {ANSWER, *sample.class_columns} & set(table.columns):
        raise ChangeError(f"{path} is no table of answers; it needs columns {wanted}")
    if "sample_id" not in table:
        raise ChangeError(
            f"{path} does not say of which sample its tiles are; tiles that were not drawn by design carry no estimate, "
            f"so take answers from the review page of the sample, or add column sample_id with {sample.design.sample_id}"
        )
    return table


def _votes(sample: Sample, table: pd.DataFrame, path: Path) -> Iterator[Vote]:
    places = {key: place for place, key in enumerate(sample.tile_ids)}
    columns = [name for name in (ANSWER, *sample.class_columns) if name in table]
    wanted = [name for name in ("sample_id", "tile_id", REVIEWER, PURPOSE, *columns) if name in table]
    rows: list[dict[str, str]] = [
        {str(name): str(value).strip() for name, value in row.items()} for row in table[wanted].to_dict("records")
    ]
    for row in rows:
        if not any(row[name] for name in columns):
            continue
        tile, drawn = row["tile_id"], row["sample_id"]
        if row.get(PURPOSE) == "candidates":
            raise ChangeError(
                f"{path} has answers on ranked candidates, which were picked and not drawn, so no area follows from them; "
                "give the answers of the review page of the random sample"
            )
        if drawn != sample.design.sample_id:
            raise ChangeError(
                f"{path} has answers of sample {drawn or '(none)'}, and this one is {sample.design.sample_id}; give the "
                "answers on the tiles of this sample"
            )
        if tile not in places:
            raise ChangeError(f"{path} has an answer on tile {tile!r}, which was not drawn; remove the row")
        yield _vote(sample, row, places[tile], path)


def _vote(sample: Sample, row: Mapping[str, str], tile: int, path: Path) -> Vote:
    where = f"{path}, tile {row['tile_id']}"
    reviewer = row.get(REVIEWER, "") or path.stem
    new_built = _answer(sample, row.get(ANSWER, ""), where)
    given = [row.get(name, "") for name in sample.class_columns]
    if row.get(ANSWER) == CANNOT_TELL or CANNOT_TELL in (given[0], given[-1]):
        return Vote(tile, reviewer)
    if not any(given) or (new_built is not None and not (given[0] and given[-1])):
        return Vote(tile, reviewer, new_built)
    for name, text in zip(sample.class_columns, given, strict=True):
        if not text and name in (sample.class_columns[0], sample.class_columns[-1]):
            raise ChangeError(
                f"{where}: {name} is empty and another date is not; give both, or ? where one cannot tell"
            )
    classes = tuple(_class(sample, text, where) for text in given)
    became = _became_built(sample, classes)
    if new_built is not None and new_built != became:
        raise ChangeError(
            f"{where}: the answer is {row[ANSWER]!r}, but {given[0]} and then {given[-1]} is "
            f"{'' if became else 'not '}newly built-up; correct one of them"
        )
    return Vote(tile, reviewer, became if sample.design.dates else None, classes)


def _answer(sample: Sample, text: str, where: str) -> bool | None:
    if text.lower() in (*YES, *NO):
        if not sample.design.dates:
            raise ChangeError(
                f"{where}: {text!r} is an answer on change, and this sample is of one map; give the true class in column "
                f"{sample.class_columns[0]}"
            )
        return text.lower() in YES
    if text not in ("", CANNOT_TELL):
        raise ChangeError(f"{where}: unknown answer {text!r}; give y (newly built-up), n (not) or ? (cannot tell)")
    return None


def _class(sample: Sample, text: str, where: str) -> int:
    if text in ("", CANNOT_TELL):
        return UNKNOWN
    place = class_position(sample.scheme, text)
    if place is None:
        raise ChangeError(f"{where}: unknown class {text!r}; give one of {', '.join(sample.scheme.names)}, or ?")
    return place


def _became_built(sample: Sample, classes: Sequence[int]) -> bool:
    names = sample.scheme.names
    return names[classes[0]] in sample.design.open and names[classes[-1]] in sample.design.built


def combine(sample: Sample, votes: Sequence[Vote]) -> Answers:
    """One answer a tile: what most reviewers say who can tell.

    Where all of them gave classes, they vote on the classes of the first and the last date together; else on whether
    the tile is newly built-up. Raises ChangeError where nobody answered anything.
    """
    told = [vote for vote in votes if not vote.unsure]
    if not told:
        raise ChangeError(
            "the sample has no answers yet; fill in its empty columns, or give the review page's CSV with --answers"
        )
    with_classes = all(vote.classes is not None for vote in told)
    mixed = not with_classes and any(vote.classes is not None for vote in told)
    status = np.full(len(sample), MISSING, np.intp)
    new_built = np.zeros(len(sample), bool)
    classes = np.full((len(sample), len(sample.class_columns)), UNKNOWN, np.intp)
    ballots: dict[int, list[Vote]] = {}
    for vote in votes:
        ballots.setdefault(vote.tile, []).append(vote)
    for tile, ballot in ballots.items():
        winners = _winners(ballot, with_classes)
        status[tile] = UNSURE if winners is None else KNOWN if winners else TIED
        if winners:
            new_built[tile] = bool(winners[0].new_built)
            if with_classes:
                classes[tile] = _dates(winners)
    return Answers(
        status=status,
        new_built=new_built,
        classes=classes if with_classes else None,
        reviewers=tuple(sorted({vote.reviewer for vote in votes})),
        agreements=tuple(_agreements(told, with_classes)),
        warnings=(
            ("some answers are y or n only, so classes are left aside and only new built-up land is estimated",)
            if mixed
            else ()
        ),
    )


def _key(vote: Vote, with_classes: bool) -> tuple[int, ...]:
    if with_classes and vote.classes is not None:
        return vote.classes[0], vote.classes[-1]
    return (int(bool(vote.new_built)),)


def _winners(ballot: Sequence[Vote], with_classes: bool) -> list[Vote] | None:
    """Those who gave the commonest answer; none on a tie, None where nobody can tell."""
    told = [vote for vote in ballot if not vote.unsure]
    if not told:
        return None
    ranked = Counter(_key(vote, with_classes) for vote in told).most_common(2)
    if len(ranked) > 1 and ranked[0][1] == ranked[1][1]:
        return []
    return [vote for vote in told if _key(vote, with_classes) == ranked[0][0]]


def _dates(winners: Sequence[Vote]) -> list[int]:
    """The class of each date that most winners give; on dates in between it stays unknown where they do not agree."""
    found = []
    for each in zip(*(vote.classes for vote in winners if vote.classes), strict=True):
        ranked = Counter(place for place in each if place != UNKNOWN).most_common(2)
        tied = len(ranked) > 1 and ranked[0][1] == ranked[1][1]
        found.append(ranked[0][0] if ranked and not tied else UNKNOWN)
    return found


def _agreements(told: Sequence[Vote], with_classes: bool) -> Iterator[Agreement]:
    by_reviewer: dict[str, dict[int, str]] = {}
    for vote in told:
        by_reviewer.setdefault(vote.reviewer, {})[vote.tile] = str(_key(vote, with_classes))
    return agreement_of(by_reviewer)


def agreement_of(by_reviewer: Mapping[str, Mapping[Any, str]]) -> Iterator[Agreement]:
    """The agreement of each two reviewers who answered tiles in common, from reviewer → tile → answer."""
    for (first, a), (second, b) in combinations(sorted(by_reviewer.items()), 2):
        both = sorted(a.keys() & b.keys())
        if both:
            left, right = [a[tile] for tile in both], [b[tile] for tile in both]
            same = float(np.mean([x == y for x, y in zip(left, right, strict=True)]))
            # Where both said one thing throughout there is nothing to agree on by chance, and kappa is 0/0.
            constant = len({*left, *right}) == 1
            kappa = np.nan if constant else float(sklearn.metrics.cohen_kappa_score(left, right))
            yield Agreement(first, second, len(both), same, kappa)


def some(keys: Sequence[str]) -> str:
    """The first few of many tile ids, as text."""
    return ", ".join(keys[:NAMED]) + (f" and {len(keys) - NAMED:,} more" if len(keys) > NAMED else "")
