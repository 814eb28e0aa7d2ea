"""Random forests inside bundles, as skops archives: plain data, with every type in them audited before it is built.

skops and scikit-learn are loaded when a forest is met: most bundles have none, and the two take 180 MB and seconds.
"""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .errors import BundleError

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier

LEAF = -1
TRUSTED = {"sklearn.tree._tree.Tree"}
"""What a forest is made of beyond the types that skops itself trusts; an archive with any other is refused."""


def dump_forest(forest: RandomForestClassifier) -> bytes:
    """The forest as a skops archive."""
    import skops.io

    return bytes(skops.io.dumps(forest))


def load_forest(
    archive: bytes, where: str, *, inputs: int | None = None, classes: int | None = None
) -> RandomForestClassifier:
    """The forest in an archive, of `inputs` numbers a tile and at most `classes` classes.

    Raises BundleError where it holds anything but a sound forest of these.
    """
    import skops.io
    from sklearn.ensemble import RandomForestClassifier

    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as parts:  # skops stores; what is compressed could unpack to any size
            if any(part.compress_type != zipfile.ZIP_STORED for part in parts.infolist()):
                raise BundleError(f"{where} is refused: its forest is compressed; train again")
        strange = set(skops.io.get_untrusted_types(data=archive)) - TRUSTED
        if strange:
            raise BundleError(f"{where} is refused: its forest holds {sorted(strange)[0]}; train again")
        forest = skops.io.loads(archive, trusted=sorted(TRUSTED))
    except BundleError:
        raise
    except Exception as error:  # skops raises zip, json, type and own errors for what is no archive
        raise BundleError(f"{where}: its forest cannot be read ({str(error)[:80]}); train again") from error
    if not isinstance(forest, RandomForestClassifier):
        raise BundleError(f"{where} is refused: its head is {type(forest).__name__}, no random forest; train again")
    _require_sound(forest, where)
    if inputs not in (None, forest.n_features_in_) or (classes is not None and int(forest.classes_.max()) >= classes):
        raise BundleError(f"{where} is refused: its forest does not fit its network and classes; train again")
    forest.n_jobs = 1
    return forest


def _require_sound(forest: RandomForestClassifier, where: str) -> None:
    """Raise BundleError unless every path through every tree ends, and within the tree: scikit-learn walks without a look."""
    try:
        classes = forest.classes_.astype(int)
        sound = (
            len(forest.estimators_) > 0 and classes.ndim == 1 and bool((np.diff(classes) > 0).all() and classes[0] >= 0)
        )
        sound = sound and all(_is_sound(tree.tree_, forest.n_features_in_, len(classes)) for tree in forest.estimators_)
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        raise BundleError(f"{where} is refused: its forest is not whole; train again") from error
    if not sound:
        raise BundleError(f"{where} is refused: its forest is damaged or forged; train again")


def _is_sound(tree: Any, features: int, classes: int) -> bool:
    """Whether children come behind their parents (so that no path is a ring), and all numbers are of what there is."""
    left, right = tree.children_left, tree.children_right
    inner = np.flatnonzero(left != LEAF)
    behind = all(bool(((child[inner] > inner) & (child[inner] < tree.node_count)).all()) for child in (left, right))
    known = bool(((tree.feature[inner] >= 0) & (tree.feature[inner] < features)).all())
    shaped = tree.n_features == features and tree.n_outputs == 1 and tree.n_classes.tolist() == [classes]
    return behind and known and shaped and tree.node_count > 0 and bool(np.isfinite(tree.value).all())


def probabilities(
    forest: RandomForestClassifier, points: npt.NDArray[np.float32], classes: int
) -> npt.NDArray[np.float32]:
    """(N, classes) shares of the trees' votes, smoothed so that none is 0; classes the forest never saw get the least."""
    found = np.zeros((len(points), classes), np.float32)
    found[:, forest.classes_.astype(int)] = forest.predict_proba(points)
    found += 0.5 / len(forest.estimators_)
    return np.asarray(found / found.sum(axis=1, keepdims=True), np.float32)
