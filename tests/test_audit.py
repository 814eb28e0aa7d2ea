"""Dependencies that read what strangers send are not of a release with a known hole; and nothing of ours executes what it reads.

A pinned list (tests/advisories.toml) instead of pip-audit, whose service cannot be reached wherever the tests run. It says of each
advisory where it was looked up. On a connected machine `pip-audit` says what is to be added.
"""

import ast
import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.version import Version

import geoclass

ADVISORIES = tomllib.loads((Path(__file__).parent / "advisories.toml").read_text(encoding="utf-8"))["advisory"]
MODULES = ("cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml")
CALLS = ("eval", "exec", "compile", "__import__")


@pytest.mark.parametrize("advisory", ADVISORIES, ids=[f"{item['package']}-{item['id']}" for item in ADVISORIES])
def test_no_dependency_has_a_hole_that_is_known(advisory: dict[str, str]) -> None:
    package, first = advisory["package"], advisory["fixed"]
    try:
        found = version(package)
    except PackageNotFoundError:
        pytest.skip(f"{package} is not installed, so it reads nothing")
    assert Version(found) >= Version(first), (
        f"{package} {found}: {advisory['id']}, {advisory['what']}; pip install --upgrade {package}"
    )


def test_the_list_says_where_each_line_is_from() -> None:
    for item in ADVISORIES:
        assert set(item) == {"package", "fixed", "id", "what", "source"}, item
        assert item["id"].startswith(("CVE-", "GHSA-", "PYSEC-")) and item["source"], item
    assert len({(item["package"], item["id"]) for item in ADVISORIES}) == len(ADVISORIES)


def test_the_table_of_what_is_tested_names_tests_that_exist() -> None:
    """docs/design/service.md: `file.py::name`, `::name` of the same file, or `file.py` alone."""
    folder = Path(__file__).parent
    page = (folder.parent / "docs" / "design" / "service.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("|") and "test_" in line]
    assert len(lines) > 15
    for line in lines:
        file = ""
        for named, name in re.findall(r"`(test_\w+\.py)?(?:::(\w+))?`", line.split("|")[2]):
            file = named or file
            source = (folder / file).read_text(encoding="utf-8")
            assert not name or f"def {name}(" in source, f"{file}::{name} is none"


def test_nothing_of_ours_unpickles_or_executes() -> None:
    for path in Path(geoclass.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [item.name for item in getattr(node, "names", [])] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            assert not [name for name in names if name.split(".")[0] in MODULES], (
                f"{path}:{node.lineno} imports {names}"
            )
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "pickle":
                assert node.attr == "UnpicklingError", f"{path}:{node.lineno} uses pickle"
            assert not (isinstance(node, ast.ImportFrom) and node.module == "pickle"), f"{path}:{node.lineno}"
            if not isinstance(node, ast.Call):
                continue
            assert getattr(node.func, "id", "") not in CALLS, f"{path}:{node.lineno} executes"
            for word in node.keywords:
                shell = word.arg in ("shell", "allow_pickle") and getattr(word.value, "value", True) is not False
                assert not shell, f"{path}:{node.lineno} has {word.arg}"
