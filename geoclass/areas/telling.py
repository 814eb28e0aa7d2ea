"""An estimate in words and as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import __version__
from ..files import replacing
from ..outputs.style import to_json
from .estimate import Area, Estimate
from .estimation import Number

METHOD = (
    "Stratified estimation after Olofsson et al. 2014 (Remote Sensing of Environment 148:42-57) and Stehman 2014 "
    "(International Journal of Remote Sensing 35:4923-4939), tiles as a finite list"
)

SHORT_HA = 100
"""From here on tenths of a hectare are left out."""


def hectares(number: Number) -> str:
    """`212 ha ± 40 ha (95 %)`."""
    digits = 0 if abs(number.value) >= SHORT_HA else 1
    return f"{number.value:,.{digits}f} ha ± {number.half:,.{digits}f} ha (95 %)"


def percent(number: Number) -> str:
    """`94.7 % ± 1.8 %`, or a dash where undefined."""
    return "–" if number.value != number.value else f"{number.value:.1%} ± {number.half:.1%}".replace("%", " %")


def sentence(found: Estimate) -> str:
    """The estimate in one line, for people."""
    if found.new_built is None:
        return f"Overall accuracy: {percent(found.assessment.overall)} (95 %)"
    first, last = found.design.dates[0], found.design.dates[-1]
    mapped = found.new_built.mapped_ha or 0.0
    digits = 0 if mapped >= SHORT_HA else 1
    return f"New built-up land, {first} to {last}: {hectares(found.new_built.ha)}; counted on the map: {mapped:,.{digits}f} ha"


def caution(found: Estimate) -> str:
    """The interval that allows for what few finds may hide, for people; empty for one map."""
    if found.cautious_ha is None:
        return ""
    low, high = found.cautious_ha
    digits = 0 if high >= SHORT_HA else 1
    return f"Allowing for what may hide where few or none were found: {low:,.{digits}f} to {high:,.{digits}f} ha (95 %)"


def unit(found: Estimate) -> str:
    """What the hectares count."""
    return (
        f"Areas count tiles of {found.tile_ha:.3g} ha, each by its one main class, less ground without data; "
        "smaller patches within a tile are not counted"
    )


def to_dict(found: Estimate) -> dict[str, Any]:
    """Everything in plain values, as `write_estimate` writes it."""
    assessment = found.assessment
    accuracy = [
        {"name": name, "users": _share(users), "producers": _share(producers)}
        for name, users, producers in zip(found.legend, assessment.users, assessment.producers, strict=True)
    ]
    return {
        "sentence": sentence(found),
        "caution": caution(found),
        "unit": unit(found),
        "method": METHOD,
        "geoclass": __version__,
        "new_built": found.new_built and _area(found.new_built, found.total_ha),
        "new_built_cautious_ha": found.cautious_ha,
        "net_built": found.net_built and _signed(found.net_built),
        "areas": [_area(area, found.total_ha) for area in found.areas],
        "by_date": {date: [_area(area, found.total_ha) for area in areas] for date, areas in found.by_date},
        "transitions": [_area(area, found.total_ha) for area in found.transitions],
        "accuracy": {"overall": _share(assessment.overall), "classes": accuracy},
        "matrix": {
            "classes": found.legend,
            "counts": assessment.counts,
            "proportions": assessment.proportions,
            "rows": "map",
            "columns": "truth",
        },
        "total_ha": found.total_ha,
        "design": found.design.model_dump(),
        "post_stratified": found.post_stratified,
        "strata": [vars(item) for item in found.strata],
        "answers": {
            "reviewers": found.answers.reviewers,
            "agreements": [vars(item) for item in found.answers.agreements],
            "cannot_tell": found.unsure,
            "tied": found.tied,
            "missing": found.missing,
        },
        "warnings": found.warnings,
    }


def _area(area: Area, total_ha: float) -> dict[str, Any]:
    values = _signed(area)
    # Less than nothing and more than all of the ground are no answers.
    values["low_ha"], values["high_ha"] = max(0.0, values["low_ha"]), min(total_ha, values["high_ha"])
    return values | {"share": area.ha.value / total_ha}


def _signed(area: Area) -> dict[str, Any]:
    value, half = area.ha.value, area.ha.half
    return {
        "name": area.name,
        "area_ha": value,
        "se_ha": area.ha.se,
        "half_ha": half,
        "low_ha": value - half,
        "high_ha": value + half,
        "mapped_ha": area.mapped_ha,
    }


def _share(number: Number) -> dict[str, float]:
    return {"value": number.value, "se": number.se, "half": number.half}


def write_estimate(found: Estimate, path: Path, *, overwrite: bool = False) -> None:
    """Write the estimate as JSON. Raises OutputError, also where `path` exists and `overwrite` is not given."""
    with replacing(path, overwrite) as temporary:
        temporary.write_text(to_json(to_dict(found), indent=2) + "\n", encoding="utf-8")
