"""Why a read over a network failed: whether it is worth another try, and what to do about it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import SceneError
from .names import PLANETARY_COMPUTER, redacted, shown

AGAIN = {408, 425, 429, 500, 502, 503, 504}
"""HTTP statuses that may be gone at the next try."""


@dataclass(frozen=True)
class Failure:
    """`what` happened and its `remedy`; `final` where another try would end alike."""

    what: str
    remedy: str
    final: bool

    def error(self, name: str, where: str = "") -> SceneError:
        """The failure of `name`, with `where` (a window) in it. No query string of a URL is in it."""
        return SceneError(f"{shown(name)}{where}: {self.what}; {self.remedy}")


_NO_RANGES = Failure(
    "its server sends whole files only (no HTTP range requests)", "download the file and name it by its path", True
)
_CREDENTIALS = Failure(
    "no credentials for this bucket",
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE), or AWS_NO_SIGN_REQUEST=YES for a public bucket",
    True,
)
_REFUSED_KEY = Failure(
    "the credentials for this bucket are refused",
    "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and AWS_REGION, or set AWS_NO_SIGN_REQUEST=YES for a "
    "public bucket",
    True,
)
_OTHER_CREDENTIALS = Failure(
    "no credentials for this storage",
    "set GOOGLE_APPLICATION_CREDENTIALS (gs://) or AZURE_STORAGE_CONNECTION_STRING (az://), or GS_NO_SIGN_REQUEST=YES or "
    "AZURE_NO_SIGN_REQUEST=YES with AZURE_STORAGE_ACCOUNT for public data",
    True,
)


def failure_of(text: str, name: str) -> Failure:
    """What GDAL's error `text` about `name` means."""
    if "Range downloading not supported" in text:
        return _NO_RANGES
    if re.search(r"AWS_SECRET_ACCESS_KEY|InvalidCredentials", text):
        return _CREDENTIALS
    if re.search(r"GS_SECRET_ACCESS_KEY|GOOGLE_APPLICATION_CREDENTIALS|AZURE_STORAGE", text):
        return _OTHER_CREDENTIALS
    if re.search(r"AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|Access Key Id", text):
        return _REFUSED_KEY
    if re.search(r"resolve host", text, re.IGNORECASE):
        return Failure("its host is not known", "check the address and this machine's network (DNS, proxy)", True)
    if re.search(r"key does not exist|NoSuchKey|bucket does not exist|NoSuchBucket", text):
        return Failure("there is no such object", "check bucket and key", True)
    found = re.search(r"(?:response code:|HTTP error code\s*:|error code)\s*(\d{3})", text)
    if found:
        return _by_status(int(found[1]), name)
    if "does not exist in the file system" in text:
        return Failure(
            "it is not there, or may not be seen", "check the address, and the credentials where it needs some", True
        )
    if re.search(r"not recognized as", text):
        return Failure("it is no raster", "give the address of a GeoTIFF, VRT or JP2, not of a page about it", True)
    return Failure(redacted(" ".join(text.split()))[-160:], "check the network, then run the same command again", False)


def _by_status(status: int, name: str) -> Failure:
    if status in AGAIN:
        return Failure(
            f"its server is out of order (HTTP {status})", "run the same command again later; it continues", False
        )
    if status in (404, 410):
        return Failure(f"there is no such file (HTTP {status})", "check the address", True)
    if status in (401, 403, 409):
        if name.startswith(PLANETARY_COMPUTER):
            remedy = "its owner allows the Planetary Computer's users no access now; try later, or another item"
        elif name.startswith(("s3:", "/vsis3")):
            return _REFUSED_KEY
        else:
            remedy = (
                "give the address with its signature (geoclass keeps none), or a STAC item of the Planetary Computer, "
                "which is signed while it is read"
            )
        return Failure(f"access is refused (HTTP {status})", remedy, True)
    return Failure(f"its server answers HTTP {status}", "check the address", 400 <= status < 500)
