"""Names of imagery over a network: what they are to GDAL, and what may be shown of them.

A URL may carry a password or a signature. Both are for the server alone: whatever is printed, logged or written goes
through `shown` or `redacted` first.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from urllib.parse import parse_qsl, urlsplit, urlunsplit

PLANETARY_COMPUTER = "pc+"
"""Before a URL: to be signed for Microsoft's Planetary Computer when it is opened."""

_FILE_SYSTEMS = {
    "http": "/vsicurl/http://",
    "https": "/vsicurl/https://",
    "s3": "/vsis3/",
    "gs": "/vsigs/",
    "az": "/vsiaz/",
}
_OVER_NETWORK = ("/vsicurl", "/vsis3", "/vsigs", "/vsiaz", "/vsiadls", "/vsioss", "/vsiswift", "/vsiwebhdfs")
_SECRET = re.compile(r"sig|signature|token|credential|key|password|policy|auth", re.IGNORECASE)


def is_remote(name: str) -> bool:
    """Whether this is read over a network, or through one of GDAL's virtual file systems."""
    return not name.startswith("<") and ("://" in name or name.startswith("/vsi"))


def over_network(name: str) -> bool:
    """Whether this is one file that is read over a network."""
    return name.startswith(_OVER_NETWORK) or _scheme(name) in _FILE_SYSTEMS


def gdal_name(name: str) -> str:
    """`name` as GDAL's file systems call it: s3://bucket/key is /vsis3/bucket/key."""
    bare = name.removeprefix(PLANETARY_COMPUTER)
    start = _FILE_SYSTEMS.get(_scheme(bare))
    return bare if start is None or bare.startswith("/vsi") else start + bare.split("://", 1)[1]


def shown(name: str) -> str:
    """`name` without what only the server may know: user, password, query string and fragment."""
    if not is_remote(name):
        return name
    before, found, rest = name.removeprefix(PLANETARY_COMPUTER).partition("://")
    if not found:
        return before.split("?", 1)[0]
    rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = rest.partition("/")
    return f"{before.split('?', 1)[0]}://{host.rsplit('@', 1)[-1]}{slash}{path}"


def redacted(text: str) -> str:
    """`text`, as of an error, with every URL in it as `shown` shows it."""
    text = re.sub(r"(?<=://)[^\s/'\"@]+@", "", text)
    return re.sub(r"\?[^\s'\",;)]+", "", text)


def unsigned(url: str) -> str:
    """`url` without its query string where that holds a signature; other queries say what is asked, and stay."""
    parts = urlsplit(url)
    if any(_SECRET.search(key) for key, _ in parse_qsl(parts.query, keep_blank_values=True)):
        return urlunsplit(parts._replace(query=""))
    return url


def stem(name: str) -> str:
    """The file's name without folders and suffix, of a path or URL."""
    return PurePosixPath(shown(name)).stem if is_remote(name) else PurePosixPath(name.replace("\\", "/")).stem


def _scheme(name: str) -> str:
    found = re.match(r"(?:pc\+)?([a-z][a-z0-9]*)://", name, re.IGNORECASE)
    return found[1].lower() if found else ""
