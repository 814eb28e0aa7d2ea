"""Tiles as rows of PostgreSQL's binary COPY: all rows are equally long, so numpy packs and unpacks them as one array.

A row, big-endian (https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format"): the number of its fields, then
of each field its length in bytes and its value. An array of K reals is itself a header (dimensions, whether it has nulls, the
type of its elements, their number, the first index) and K times length and value. What varies in length stays out of
the rows: ids and class names follow from columns, rows and the class's place, and the server makes them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..grid import IntArray
from ..labels import FloatArray

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
CHUNK_TILES = 10_000
"""Tiles packed at a time: 20 MB with 255 classes."""

FLOAT4_OID = 700
_SCALARS = {"column": ">i4", "row": ">i4", "place": ">i2", "valid_fraction": ">f4"}
_ARRAY_HEADER = 20

Rows = npt.NDArray[np.void]


def row_type(classes: int, raw: bool) -> np.dtype[np.void]:
    """The layout of one row: columns, rows, a class's place, valid fraction, K probabilities and perhaps K raw ones."""
    fields: list[Any] = [("fields", ">i2")]
    for name, kind in _SCALARS.items():
        fields += [(f"{name}_bytes", ">i4"), (name, kind)]
    for name in _arrays(raw):
        fields += [
            (f"{name}_bytes", ">i4"),
            (f"{name}_head", ">i4", (5,)),
            (name, [("bytes", ">i4"), ("value", ">f4")], (classes,)),
        ]
    return np.dtype(fields)


def pack(
    columns: IntArray,
    rows: IntArray,
    places: npt.NDArray[Any],
    valid_fraction: FloatArray,
    probabilities: FloatArray,
    raw: FloatArray | None,
) -> bytes:
    """N tiles as binary rows, without header and trailer. probabilities, raw: (N, K); places count from 1, as in SQL."""
    packed = _frame(len(columns), probabilities.shape[1], raw is not None)
    packed["column"], packed["row"], packed["place"], packed["valid_fraction"] = columns, rows, places, valid_fraction
    packed["probabilities"]["value"] = probabilities
    if raw is not None:
        packed["raw"]["value"] = raw
    return packed.tobytes()


def unpack(data: bytes, classes: int, raw: bool) -> Rows | None:
    """The rows of a whole COPY, header and trailer included; None where they are no such rows."""
    kind = row_type(classes, raw)
    body = len(data) - len(HEADER) - len(TRAILER)
    if not data.startswith(HEADER[:11]) or body < 0 or body % kind.itemsize:
        return None
    rows = np.frombuffer(data, kind, body // kind.itemsize, len(HEADER))
    frame = _frame(1, classes, raw)
    fixed = ["fields", *(name for name in kind.names or () if name.endswith(("_bytes", "_head")))]
    whole = all((rows[name] == frame[name]).all() for name in fixed)
    whole = whole and all((rows[name]["bytes"] == 4).all() for name in _arrays(raw))
    return rows if whole else None


def _frame(count: int, classes: int, raw: bool) -> Rows:
    """`count` rows with everything but their values."""
    kind = row_type(classes, raw)
    rows = np.zeros(count, kind)
    rows["fields"] = len(_SCALARS) + len(_arrays(raw))
    for name, scalar in _SCALARS.items():
        rows[f"{name}_bytes"] = np.dtype(scalar).itemsize
    for name in _arrays(raw):
        rows[f"{name}_bytes"] = _ARRAY_HEADER + 8 * classes
        rows[f"{name}_head"] = (1, 0, FLOAT4_OID, classes, 1)
        rows[name]["bytes"] = 4
    return rows


def _arrays(raw: bool) -> tuple[str, ...]:
    return ("probabilities", "raw") if raw else ("probabilities",)
