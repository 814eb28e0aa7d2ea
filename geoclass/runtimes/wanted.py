"""What was asked for, and what was chosen: runtime and precision of a run."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import pydantic

from ..errors import GeoclassError

AUTO = "auto"
RUNTIMES = (AUTO, "torch", "openvino", "onnx")
PRECISIONS = (AUTO, "fp32", "bf16", "fp16", "int8")

NEEDS = {
    "torch": ("torch",),
    "openvino": ("openvino",),
    "onnx": ("onnxruntime", "onnx", "onnxscript"),
    "int8": ("nncf",),
}
REMEDY = {
    "openvino": "pip install openvino",
    "onnx": "pip install 'geoclass[onnx]'",
    "int8": "pip install 'geoclass[int8]'",
}
RUNS = {
    "torch": (AUTO, "fp32", "bf16", "fp16"),
    "openvino": (AUTO, "fp32", "bf16", "int8"),
    "onnx": (AUTO, "fp32"),
}
"""The precisions of each runtime."""


@dataclass(frozen=True)
class Wanted:
    """What was asked for. Raises GeoclassError for a name that is unknown, or two that do not go together."""

    runtime: str = AUTO
    precision: str = AUTO

    def __post_init__(self) -> None:
        for option, value, known in (
            ("--runtime", self.runtime, RUNTIMES),
            ("--precision", self.precision, PRECISIONS),
        ):
            if value not in known:
                raise GeoclassError(f"{option} is {value!r}; choose from {', '.join(known)}")
        if self.runtime != AUTO and self.precision not in RUNS[self.runtime]:
            raise GeoclassError(
                f"--runtime {self.runtime} has no {self.precision}; choose --precision {', '.join(RUNS[self.runtime])}, "
                "or --runtime auto"
            )

    @property
    def on_cpu(self) -> bool:
        """Whether this can be done on the CPU only."""
        return self.runtime in ("openvino", "onnx") or self.precision == "int8"


class Agreement(pydantic.BaseModel, frozen=True, extra="forbid"):
    """How a quick network, in `precision`, compared with its fp32 one from all sides on held-out tiles of the scene.

    labels: the share of `tiles` with the same class; mean_dp: the mean change of the probability of fp32's class;
    speedup: how many times as fast; asked_again: the share that was classified again in fp32, and views: how many of the
    bundle's the others were seen in, all if 0; see `cascade`.
    """

    precision: str
    tiles: int
    labels: float
    mean_dp: float
    speedup: float
    asked_again: float = 0.0
    views: int = 0

    @property
    def name(self) -> str:
        """The quick network, for people."""
        return f"{self.precision} from {self.views} sides" if self.views else self.precision


class Choice(pydantic.BaseModel, frozen=True, extra="forbid"):
    """What a run uses: it is kept in its journal, and recorded in its result.

    `device` is cpu or cuda; `asked` are runtime and precision as they were given; `note` says why it is not the fastest
    or not what was asked for;
    `network` is the key of the int8 network in its file's name, empty for other precisions; `views` is how many of the
    bundle's views a quick network looks at, 0 for all, and `margin` that below which it asks fp32 again: see `cascade`.
    """

    runtime: str
    precision: str
    device: str = "cpu"
    asked: tuple[str, str] = (AUTO, AUTO)
    note: str = ""
    agreement: Agreement | None = None
    network: str = ""
    views: int = 0
    margin: float = 0.0

    def serves(self, wanted: Wanted) -> bool:
        """Whether a run that was begun with this may be continued by a command that asks for `wanted`."""
        if self.asked == (wanted.runtime, wanted.precision):
            return True
        if wanted.precision == "fp32" and self.views:
            return False  # fp32 that is asked for looks from all sides
        return wanted.runtime in (AUTO, self.runtime) and wanted.precision in (AUTO, self.precision)

    @property
    def words(self) -> str:
        """One line for people."""
        said = f"{self.runtime} {self.precision}"
        if self.agreement is not None and self.precision == self.agreement.precision:
            again = "in fp32 from all" if self.agreement.views else "in fp32"
            said = (
                f"{self.runtime} {self.agreement.name} ({self.agreement.labels:.1%} of {self.agreement.tiles} held-out tiles have fp32's class, "
                f"mean |dp| {self.agreement.mean_dp:.4f}; {self.agreement.asked_again:.1%} were asked again {again})"
            )
        return f"{said}; {self.note}" if self.note else said


def installed(name: str) -> bool:
    """Whether the packages of a runtime, or those that int8 needs, are here."""
    return all(find_spec(package) is not None for package in NEEDS[name])


def require_installed(name: str) -> None:
    """Raise GeoclassError, with the command that installs it, where a runtime is missing."""
    for package in NEEDS[name]:
        if find_spec(package) is None:
            raise missing(name, package)


def missing(name: str, package: str, reason: str = "is not installed") -> GeoclassError:
    """The error for a runtime that cannot be loaded."""
    option = f"--precision {name}" if name in PRECISIONS else f"--runtime {name}"
    return GeoclassError(f"{option} needs {package}, which {reason}; {REMEDY[name]}, or give --runtime torch")


def release(package: str) -> str:
    """The version of a package, "none" where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
