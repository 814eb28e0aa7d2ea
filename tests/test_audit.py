"""Dependencies that read what strangers send are not of a release with a known hole.

A pinned list instead of pip-audit, whose service is not reachable wherever the tests run: each line is an advisory and the
first release without it. Add a line when one is published; `pip-audit` on a connected machine says which.
"""

from importlib.metadata import PackageNotFoundError, version

import pytest
from packaging.version import Version

FIXED = [
    ("torch", "2.6", "CVE-2025-32434: weights_only loading ran code"),
    ("pillow", "10.3", "CVE-2024-28219: buffer overflow"),
    ("pyarrow", "14.0.1", "CVE-2023-47248: reading IPC files ran code"),
    ("skops", "0.12", "CVE-2025-54412, CVE-2025-54413: the type audit could be passed by"),
    ("jinja2", "3.1.6", "CVE-2025-27516: sandbox breakout"),
    ("scikit-learn", "1.5", "CVE-2024-5206: data of the training kept in a model"),
    ("python-multipart", "0.0.18", "CVE-2024-53981: malformed boundaries took the processor"),
    ("starlette", "0.49.1", "CVE-2025-62727: Range headers took the processor; CVE-2024-47874: forms took the memory"),
    ("h11", "0.16", "CVE-2025-43859: request smuggling by chunked bodies"),
    ("idna", "3.7", "CVE-2024-3651: names took the processor"),
    ("certifi", "2024.7.4", "CVE-2024-39689: a root that is not trusted any more"),
    ("urllib3", "2.5", "CVE-2025-50181: redirects were followed that should not be"),
    ("requests", "2.32.4", "CVE-2024-47081: credentials of .netrc sent elsewhere"),
    ("tornado", "6.5", "CVE-2025-47287: malformed forms filled the log"),
    ("cryptography", "44.0.1", "CVE-2024-12797: OpenSSL did not check raw public keys"),
]


@pytest.mark.parametrize(("package", "first", "advisory"), FIXED, ids=[item[0] for item in FIXED])
def test_no_dependency_has_a_hole_that_is_known(package: str, first: str, advisory: str) -> None:
    try:
        found = version(package)
    except PackageNotFoundError:
        pytest.skip(f"{package} is not installed, so it reads nothing")
    assert Version(found) >= Version(first), f"{package} {found}: {advisory}; pip install --upgrade {package}"
