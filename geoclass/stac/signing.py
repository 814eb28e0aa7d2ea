"""Microsoft's Planetary Computer gives access to its storage by signatures that last under an hour.

They are asked for when a file is opened, kept in memory by the package planetary-computer, and written nowhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from urllib.parse import urlsplit

from ..errors import SceneError

SERVICE = "planetarycomputer.microsoft.com"
STORAGE = ".blob.core.windows.net"
TRIES = 4


def is_signed_by_service(href: str, links: Iterable[str]) -> bool:
    """Whether a file at `href` of an item with these `links` needs the Planetary Computer's signature.

    Other owners keep files in the same storage: only items that come from the service itself are signed, or from the one
    that PC_SDK_SAS_URL names, as the package's own settings do.
    """
    services = {SERVICE, urlsplit(os.environ.get("PC_SDK_SAS_URL", "")).netloc} - {""}
    host = urlsplit(href).hostname or ""
    return host.endswith(STORAGE) and any(urlsplit(link).netloc in services for link in links)


def signed(url: str) -> str:
    """`url` with a signature that is valid for the next minute at least. Raises SceneError where there is none to be had."""
    try:
        from planetary_computer import sas
    except ImportError as error:
        raise SceneError(f"{url} needs the Planetary Computer's signature; pip install 'geoclass[stac]'") from error
    bare = url.split("?", 1)[0]
    account, container = (urlsplit(bare).hostname or "").removesuffix(STORAGE), urlsplit(bare).path.split("/")[1]
    try:
        sas.get_token(account, container, retry_total=TRIES, retry_backoff_factor=0.5)  # kept; the next line finds it
        return str(sas.sign_url(bare))
    except Exception as error:  # requests', urllib3's and pydantic's; their texts may hold a key
        status = getattr(getattr(error, "response", None), "status_code", None)
        why = f"HTTP {status}" if status else type(error).__name__
        raise SceneError(
            f"{bare}: the Planetary Computer gives no signature ({why}); check the network, or try again later"
        ) from None
