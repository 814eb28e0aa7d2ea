"""Pages of one file that need no network: the frame that all of them share, and what comes into it."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from typing import Any

from .style import plain


def whole_page(title: str, body: str, styles: Sequence[str], scripts: Sequence[str], values: Any = None) -> str:
    """A whole page. title: text; body: HTML; styles and scripts: files of this package; values: what the scripts find as
    JSON in the element `data`."""
    held = "" if values is None else f'<script type="application/json" id="data">{in_script(plain(values))}</script>\n'
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8" />
{policy()}
<meta name="viewport" content="width=device-width, initial-scale=1" />
<link rel="icon" href="data:," />
<title>{html.escape(title)}</title>
<style>
{assets(styles)}
</style>
</head>
<body>
{body.rstrip()}
{held}<script>
{assets(scripts)}
</script>
</body>
</html>
"""


def policy(hosts: Iterable[str] = ()) -> str:
    """The element of a page that forbids it all requests but of pictures from `hosts`."""
    allowed = (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
        f"img-src {' '.join(['data:', *hosts])}; base-uri 'none'; form-action 'none'"
    )
    return f'<meta http-equiv="Content-Security-Policy" content="{allowed}" />'


def in_script(values: Any) -> str:
    """Plain values as JSON in a script element, which only "<" can end; \\u003c means the same to JSON."""
    return json.dumps(values, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def assets(names: Iterable[str]) -> str:
    """The texts of files of this package, one after the other."""
    return "\n".join(map(asset, names))


@cache
def asset(name: str) -> str:
    """The text of a file of this package."""
    return resources.files(__package__).joinpath(name).read_text("utf-8")
