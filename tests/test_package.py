"""The package's public names mean the same whatever was imported before them."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "before",
    [
        "",
        "geoclass.Result",
        "from geoclass.classify import Settings",
        "from geoclass.train import Method",
        "import geoclass.classify, geoclass.train",
    ],
)
def test_functions_are_not_hidden_by_modules_of_the_same_name(before: str) -> None:
    code = (
        f"import geoclass\n{before}\nassert callable(geoclass.classify) and callable(geoclass.train), geoclass.classify"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
