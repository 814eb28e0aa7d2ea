"""Scenes that a request names instead of sending: paths under allowed folders, and URLs on the list. Nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from .refusal import Refusal


def is_url(source: str) -> bool:
    return "://" in source


def allowed_path(source: str, roots: Sequence[Path]) -> Path:
    """The file that `source` names, absolute or under one of `roots`, with every link followed.

    Raises Refusal: 403 for what leads out of the roots, whether or not it is there; 404 for what is missing in them.
    """
    outside = Refusal(
        403, "the path is under no allowed folder", "start geoclass serve with --allow-root for its folder"
    )
    if not roots or "\0" in source or not source.isprintable():
        raise outside
    if source.lower().lstrip("/\\").startswith("vsi"):
        raise Refusal(403, "/vsi paths are not taken", "name a file under an allowed folder, or send it")
    inside = False
    for root in roots:
        base = root.resolve()
        try:
            found = (base / source).resolve()
            if not found.is_relative_to(base):
                continue
            inside = True
            if found.is_file():
                return found
        except (OSError, RuntimeError, ValueError):  # a name too long, a loop of links
            continue
    if inside:
        raise Refusal(404, "there is no such file in the allowed folders", "check the path")
    raise outside


def require_inside(files: Sequence[str], name: str, roots: Sequence[Path]) -> None:
    """Raise Refusal (403) where one of the files that the scene `name` is read from, as a mask beside it, leads out."""
    bases = [root.resolve() for root in roots]
    for file in files:
        found = Path(file).resolve()
        if not any(found.is_relative_to(base) for base in bases):
            raise Refusal(
                403,
                f"a file beside {name} leads out of the allowed folders",
                "remove the link, or copy what it leads to",
            )


def allowed_url(source: str, prefixes: Sequence[str]) -> str:
    """The URL, where it begins with an allowed one. Raises Refusal (403) for every other.

    Compared part by part: `https://host.example` does not allow `https://host.example.evil`, and a path with `..` none.
    """
    refusal = Refusal(403, "the URL is not on the service's list", "start geoclass serve with --allow-url for it")
    if not source.isascii() or not source.isprintable() or re.search(r"[\s\\]", source):
        raise refusal
    try:
        parts = urlsplit(source)
        ways = [urlsplit(prefix) for prefix in prefixes]
        fits = any(_begins(parts, way) for way in ways)
    except ValueError as error:  # a port or bracket that is none
        raise refusal from error
    path = unquote(unquote(parts.path))
    if not fits or parts.username is not None or parts.password is not None or parts.fragment:
        raise refusal
    if "\\" in path or ".." in path.split("/"):
        raise refusal
    return source


def _begins(parts: SplitResult, way: SplitResult) -> bool:
    same = (parts.scheme, parts.hostname, parts.port) == (way.scheme, way.hostname, way.port)
    folder = way.path if way.path.endswith("/") else f"{way.path}/"
    return same and f"{parts.path}/".startswith(folder)
