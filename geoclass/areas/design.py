"""How many tiles to draw from each stratum, and how exact the estimate will be: worked out before anyone looks.

Symbols as in Cochran (1977, *Sampling Techniques*, 3rd edition, chapter 5): H strata with shares W of the ground and
N tiles each, of which n are drawn; S is the standard deviation within a stratum of what is to be estimated.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from ..errors import ChangeError

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

Allocation = Literal["equal", "neyman", "proportional", "minimum"]
ALLOCATIONS: tuple[str, ...] = get_args(Allocation)
LEAST = 2
"""Fewest tiles of a stratum: with one, nothing is known about the spread within it."""
RARE_LEAST = 50
"""Fewest tiles of a stratum under `minimum`: Olofsson et al. (2014, section 5.1.2) advise 50 to 100 for rare classes."""
FEW = 5
"""With fewer finds than this in a stratum, an interval by the normal distribution is rough and often too narrow."""
TELLING = 0.1
"""Share of an estimate from which on what rests on few finds is worth a warning."""


def allocate(kind: str, total: int, tiles: Ints, weights: Doubles, spread: Doubles, least: int | None = None) -> Ints:
    """(H,) numbers of tiles to draw, `total` together, from H strata.

    tiles: N; weights: W; spread: S. `equal` draws alike from each stratum, `proportional` in proportion to W, `neyman`
    to W·S (Cochran 1977, equation 5.26, which makes the variance least), `minimum` in proportion to W but at least 50
    from each (Olofsson et al. 2014, section 5.1.2). Each stratum gets at least `least` (2 unless given, 50 under
    `minimum`) and at most all of its tiles; a `total` of more tiles than there are takes all. Raises ChangeError for an
    unknown kind, and a `total` too small for that.
    """
    sizes = {"equal": np.ones(len(tiles)), "proportional": weights, "minimum": weights, "neyman": weights * spread}
    if kind not in sizes:
        raise ChangeError(f"unknown allocation {kind!r}; choose from {', '.join(ALLOCATIONS)}")
    low = least if least is not None else RARE_LEAST if kind == "minimum" else LEAST
    if low < LEAST:
        raise ChangeError(f"at least {low} tiles of each stratum is too few to know the spread; give 2 or more")
    floor = np.minimum(low, tiles)
    if total < floor.sum():
        raise ChangeError(
            f"{total:,} tiles are too few for {len(tiles)} strata with at least {low} each; give a --total of "
            f"{int(floor.sum()):,} or more, or a smaller --min-per-stratum"
        )
    size = sizes[kind]
    return _share_out(min(total, int(tiles.sum())), size if size.sum() > 0 else weights, floor, tiles)


def _share_out(total: int, sizes: Doubles, floor: Ints, ceiling: Ints) -> Ints:
    """`total` whole tiles in proportion to `sizes`, none below `floor` or above `ceiling`: clip(λ·size), λ bisected."""
    low, high = 0.0, 1.0
    # A stratum of size 0 takes what the others cannot.
    sizes = np.maximum(sizes / sizes.max(), 1e-9)
    while np.clip(high * sizes, floor, ceiling).sum() < total:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(middle * sizes, floor, ceiling).sum() < total else (low, middle)
    exact = np.clip(high * sizes, floor, ceiling)
    whole = np.floor(exact + 1e-9).astype(np.int64)
    for place in np.argsort(whole - exact, kind="stable"):
        if whole.sum() < total:
            whole[place] += whole[place] < ceiling[place]
    return whole


def sample_size(weights: Doubles, accuracies: Doubles, standard_error: float, tiles: Ints | None = None) -> int:
    """Tiles needed for a standard error of overall accuracy, given the user's accuracies (H,) to be expected.

    Equation 13 of Olofsson et al. (2014, *Remote Sensing of Environment* 148:42–57), which is 5.25 of Cochran (1977)
    under Neyman allocation; its second term is left out where `tiles` is, as the paper does. Raises ChangeError for a
    standard error that is not between 0 and 0.5.
    """
    if not 0 < standard_error < 0.5:
        raise ChangeError(f"a standard error of {standard_error:g} is impossible; give one as 0.01, for 1 %")
    spread = np.sqrt(accuracies * (1 - accuracies))
    finite = 0.0 if tiles is None else float((weights * spread**2).sum() / tiles.sum())
    return math.ceil(float((weights * spread).sum()) ** 2 / (standard_error**2 + finite) - 1e-9)


def expected_errors(weights: Doubles, tiles: Ints, drawn: Ints, shares: Doubles) -> Doubles:
    """(K,) standard errors, as shares of the ground, to expect of K estimated shares.

    shares: (H, K) what share of each stratum is to be expected. Cochran (1977), equation 5.7 with S² = N p (1 − p) /
    (N − 1); strata drawn whole add nothing.
    """
    finite = 1 - drawn / tiles
    variance = shares * (1 - shares) * (tiles / np.maximum(tiles - 1, 1))[:, None]
    return np.asarray(np.sqrt((weights**2 * finite / drawn) @ variance))
