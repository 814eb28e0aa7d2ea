"""Class schemes: the ordered classes of a land-cover map, with ids, colours, groups and source codes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import pydantic

from .configs import config_names, load_config
from .errors import ConfigError

NO_CLASS = 0
"""The class id of ground that carries no label, in rasters."""

# Okabe & Ito (2008), "Color Universal Design", then Tol's muted set for the longer schemes: told apart by
# readers with any of the common colour-vision deficiencies.
CATEGORICAL = (
    "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7",
    "#332288", "#88ccee", "#44aa99", "#999933", "#882255", "#aa4499", "#ddcc77", "#117733", "#bbbbbb",
)  # fmt: skip

Colour = Annotated[str, pydantic.Field(pattern=r"^#[0-9a-fA-F]{6}$")]


class LandClass(pydantic.BaseModel, frozen=True, extra="forbid"):
    """One class: its raster value `id` (1–255), `name`, `colour` (#rrggbb) and source `codes`."""

    id: int = pydantic.Field(ge=1, le=255)
    name: str = pydantic.Field(min_length=1, max_length=60)
    colour: Colour
    codes: tuple[int, ...] = ()
    members: tuple[str, ...] = ()

    @property
    def rgb(self) -> tuple[int, int, int]:
        """The colour as three numbers from 0 to 255."""
        red, green, blue = bytes.fromhex(self.colour[1:])
        return red, green, blue


class ClassScheme(pydantic.BaseModel, frozen=True, extra="forbid"):
    """Ordered classes. A model's k-th output is the k-th class here.

    `groups` says which classes are `built` (built-up), `open` (land that could become so) and `water`.
    A scheme that is a grouping of a finer one names it in `base`, and each class lists its `members` there.
    """

    name: str = pydantic.Field(min_length=1)
    title: str = ""
    source: str = ""
    base: str | None = None
    classes: tuple[LandClass, ...] = pydantic.Field(min_length=2, max_length=255)
    groups: Mapping[str, tuple[str, ...]] = {}

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> ClassScheme:
        lowered = [name.lower() for name in self.names]
        if len(set(lowered)) < len(lowered):
            raise ValueError("two classes have the same name (upper and lower case count as the same)")
        if len(set(self.ids)) < len(self.ids):
            raise ValueError("two classes have the same id")
        codes = [code for item in self.classes for code in item.codes]
        if len(set(codes)) < len(codes):
            raise ValueError("a source code belongs to two classes")
        for group, members in self.groups.items():
            unknown = set(members) - set(self.names)
            if unknown:
                raise ValueError(f"group {group!r} names no class of the scheme: {', '.join(sorted(unknown))}")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(item.name for item in self.classes)

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(item.id for item in self.classes)

    def __len__(self) -> int:
        return len(self.classes)

    def index(self, name: str) -> int:
        """Position of the class called `name`. Raises ConfigError where there is none."""
        try:
            return self.names.index(name)
        except ValueError:
            raise ConfigError(f"scheme {self.name!r} has no class {name!r}; it has {', '.join(self.names)}") from None

    def subset(self, names: Sequence[str]) -> ClassScheme:
        """The scheme with only the classes in `names`, in this scheme's order, with their ids and colours."""
        kept = tuple(item for item in self.classes if item.name in names)
        groups = {group: tuple(n for n in members if n in names) for group, members in self.groups.items()}
        return self.model_copy(update={"classes": kept, "groups": groups})


def load_scheme(name: str | Path) -> ClassScheme:
    """A shipped scheme by name (`nlcd6`, `eurosat10`, …) or any TOML file by path. Raises ConfigError."""
    return load_config("schemes", name, ClassScheme)


def scheme_for_names(names: Sequence[str]) -> ClassScheme:
    """The scheme for class folders called `names`.

    A shipped scheme that has all of these names is taken (the smallest, where several do; letter case, spaces
    and punctuation aside), restricted to them; otherwise a new scheme is made, in sorted order, with colours
    that colour-blind readers can tell apart.
    """
    wanted = {_folded(name) for name in names}
    known = sorted((load_scheme(name) for name in config_names("schemes")), key=len)
    for scheme in known:
        if wanted <= {_folded(name) for name in scheme.names}:
            return scheme.subset([name for name in scheme.names if _folded(name) in wanted])
    ordered = sorted(names)
    classes = tuple(
        LandClass(id=number, name=name, colour=CATEGORICAL[(number - 1) % len(CATEGORICAL)])
        for number, name in enumerate(ordered, start=1)
    )
    try:
        return ClassScheme(name="custom", title="Classes named by their folders", classes=classes)
    except pydantic.ValidationError as error:
        raise ConfigError(f"class folders {', '.join(ordered)}: {error.errors()[0]['msg']}") from error


def class_position(scheme: ClassScheme, name: str) -> int | None:
    """Where `scheme` has the class called `name`, spelled just so, or else letter case, spaces and punctuation aside."""
    if name in scheme.names:
        return scheme.names.index(name)
    folded = [_folded(known) for known in (*scheme.names, name)]
    return folded.index(folded[-1]) if folded[-1] and folded[-1] in folded[:-1] else None


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
