"""Find and validate the TOML files of configs/: class schemes and sensors."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TypeVar

import pydantic

from .errors import ConfigError

Model = TypeVar("Model", bound=pydantic.BaseModel)


def config_folder(kind: str) -> Path:
    """The folder of the shipped `kind` ("schemes" or "sensors") files.

    An installed package carries configs/ inside itself; in a source checkout (an editable install) it
    stands beside the package.
    """
    here = Path(__file__).resolve().parent
    for root in (here / "configs", here.parent / "configs"):
        if (root / kind).is_dir():
            return root / kind
    raise ConfigError(f"the folder configs/{kind} is missing from this installation; reinstall geoclass")


def config_names(kind: str) -> list[str]:
    """Names of the shipped files of this kind, sorted."""
    return sorted(path.stem for path in config_folder(kind).glob("*.toml"))


def load_config(kind: str, name: str | Path, model: type[Model]) -> Model:
    """Read `name`, a shipped config's name or the path of a TOML file, into `model`.

    Raises ConfigError for an unknown name, broken TOML or values that `model` refuses.
    """
    path = Path(name)
    if path.suffix != ".toml":
        path = config_folder(kind) / f"{name}.toml"
        if not path.is_file():
            known = ", ".join(config_names(kind))
            raise ConfigError(f"unknown {kind[:-1]} {str(name)!r}; choose one of {known}, or name a .toml file")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    return validate(model, values, str(path))


def validate(model: type[Model], values: object, where: str) -> Model:
    """`values` as a `model`; a ConfigError that names the first wrong field otherwise."""
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigError(f"{where}: {field}: {first['msg']}") from error
