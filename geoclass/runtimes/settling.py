"""Settles what a run uses: the runtime and precision asked for, or the fastest that says the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pydantic
import torch

from ..bundle import Bundle
from ..errors import BundleError, GeoclassError, OutputError, UnfitError
from ..journal import read_manifest
from ..plan import Plan
from ..predict import DEFAULT_BATCH, Predictor, choose_device, seen
from ..reader import Pixels
from ..sensors import Sensor
from ..tones import Tone
from . import cpu, kept, measuring, openvino_cpu, quantised
from .answers import Runner, TorchRunner
from .cascade import Cascade, margin_for
from .lanes import devices_of
from .replayed import REPLAYED_FROM_TILES, Replayed
from .sampling import sampled
from .wanted import AUTO, Agreement, Choice, Wanted, installed, require_installed

MEASURED_FROM_TILES = 500
"""Below this many tiles a run does not pay for measuring and translating: some 5 s, while a tile gains 3 ms where the
machine is idle, and 100 ms and more where other programs keep PyTorch's threads waiting for each other."""

INT8_FROM_SECONDS = 60.0
"""Below this many seconds of fp32 a run does not pay for calibrating and comparing int8 (some 15 s; it gains half)."""

REMOTE_SAMPLES = 20
"""Over a network a run of fewer tiles than this many samples for int8 does not pay for fetching one besides."""


@dataclass(frozen=True)
class Workload:
    """What is to be settled for. tiles: how many the run has; sample(n): up to n of them, drawn by chance, in stored
    numbers; model_file: the bundle's file, beside which int8 networks are kept, None for one in memory; remote: whether
    tiles are read over a network."""

    bundle: Bundle
    sensor: Sensor
    device: torch.device
    batch_size: int
    tiles: int
    sample: Callable[[int], list[Pixels]]
    tone: Tone | None = None
    model_file: Path | None = None
    remote: bool = False

    def predictor(self, runner: Runner, thumbnail_px: int = 8) -> Predictor:
        return Predictor(
            self.bundle,
            self.sensor,
            device=self.device,
            batch_size=self.batch_size,
            thumbnail_px=thumbnail_px,
            tone=self.tone,
            runner=runner,
        )

    def see(self, tiles: list[Pixels]) -> torch.Tensor:
        """Brightness (N, C, H, W) as the network is shown it."""
        return seen(tiles, self.sensor, self.device, self.tone)


@dataclass(frozen=True)
class Settled:
    """A choice, its runner where one was made on the way, and the int8 network of a choice of int8."""

    choice: Choice
    runner: Runner | None = None
    network: kept.Stored | None = None


def workload_of(plan: Plan, device: torch.device, batch_size: int | None) -> Workload:
    """The workload of classifying a plan."""
    file = Path(plan.model)
    return Workload(
        plan.bundle,
        plan.mosaic.sensor,
        device,
        batch_size or DEFAULT_BATCH[device.type],
        len(plan),
        lambda count: sampled(plan, count),
        plan.tone,
        file if plan.model and file.is_file() else None,
        plan.mosaic.remote,
    )


def device_for(name: str, wanted: Wanted) -> torch.device:
    """`predict.choose_device`, but `auto` is the CPU where what is wanted runs there only.

    Raises UnfitError where device, runtime and precision do not go together.
    """
    if name == AUTO and wanted.on_cpu:
        return torch.device("cpu")
    device = choose_device(name)
    require_fit(device, name, wanted)
    if device.type == "cpu" and wanted.precision == "bf16" and not cpu.has(cpu.AMX):
        raise UnfitError("this CPU has no AMX, without which bf16 is slower than fp32; give --precision fp32")
    return device


def require_fit(device: torch.device, name: str, wanted: Wanted) -> None:
    """Raise UnfitError where a device, which was asked for by `name`, cannot do what is wanted, here or elsewhere."""
    if device.type == "cuda" and wanted.on_cpu:
        option = f"--precision {wanted.precision}" if wanted.precision == "int8" else f"--runtime {wanted.runtime}"
        raise UnfitError(f"{option} runs on the CPU, not on {name}; give --device cpu, or leave it out")
    if device.type == "cpu" and wanted.precision == "fp16":
        raise UnfitError("--precision fp16 needs a CUDA device, and none is used here; give --precision fp32")


def settle(workload: Workload, wanted: Wanted, begun: Choice | None = None) -> Settled:
    """What this run uses. `begun` is what an interrupted run of the same began with, which is kept.

    Raises OutputError where that run began with something else than is wanted now, GeoclassError where what was asked for
    is not installed. With `auto` a missing runtime is none to choose from.
    """
    if begun is not None:
        return _as_begun(workload, wanted, begun)
    asked = (wanted.runtime, wanted.precision)
    if workload.device.type == "cuda":
        precision = "fp16" if wanted.precision == AUTO else wanted.precision
        return Settled(Choice(runtime="torch", precision=precision, device="cuda", asked=asked))
    if wanted.precision == "bf16":
        runtime = wanted.runtime if wanted.runtime != AUTO else "openvino" if installed("openvino") else "torch"
        return Settled(Choice(runtime=runtime, precision="bf16", asked=asked))
    found, seconds = _fp32(workload, wanted)
    settled = Settled(found.choice.model_copy(update={"asked": asked}), found.runner)
    if wanted.precision == "int8":
        if not cpu.has(cpu.VNNI):
            settled = _noted(settled, "this CPU has no VNNI, without which int8 may be slower than fp32")
        return _int8(workload, settled, must_be_faster=False)
    if wanted.precision == AUTO and seconds is not None and seconds * workload.tiles >= INT8_FROM_SECONDS:
        return _int8_if_fit(workload, settled)
    return settled


def settle_journalled(
    workload: Workload, wanted: Wanted, journal: Path, restart: bool, manifest: Mapping[str, Any]
) -> Settled:
    """`settle`, keeping what an interrupted run in the folder `journal` began with.

    `manifest` is what this run's journal says of it, before there is a choice. With `restart` a run that was of something
    else, or that cannot be gone on with here, is passed over.
    """
    there = read_manifest(journal) or {}
    try:
        begun = Choice.model_validate(there.get("network"))
    except pydantic.ValidationError:
        begun = None  # there is none, or one of another version, which the journal will refuse
    if begun is None or not restart:
        return settle(workload, wanted, begun)
    if there == json.loads(json.dumps(with_choice(manifest, begun))):
        with suppress(OutputError):
            return _as_begun(workload, wanted, begun)
    return settle(workload, wanted)


def with_choice(manifest: Mapping[str, Any], choice: Choice) -> dict[str, Any]:
    """A journal's manifest, complete: it also names what the network runs on."""
    return {**manifest, "network": choice.model_dump(mode="json")}


def open_predictors(workload: Workload, settled: Settled, thumbnail_px: int, tiles: int) -> list[Predictor]:
    """One predictor for each device that classifying `tiles` tiles is spread over. On CUDA long runs are replayed."""
    devices = devices_of(workload.device)
    made = settled.runner if len(devices) == 1 else None
    found = []
    for device in devices:
        runner = made or open_runner(workload.bundle, settled.choice, device, network=settled.network)
        if device.type == "cuda" and tiles >= REPLAYED_FROM_TILES * len(devices):
            runner = Replayed(runner)
        found.append(replace(workload, device=device).predictor(runner, thumbnail_px))
    return found


def open_runner(
    bundle: Bundle,
    choice: Choice,
    device: torch.device,
    *,
    network: kept.Stored | None = None,
    threads: int | None = None,
) -> Runner:
    """The network on what was chosen, here or on another machine.

    network: what a choice of int8 runs, see `Settled`; threads: cores to use on a CPU, all of torch's if None. Raises
    GeoclassError where its runtime is missing here.
    """
    if choice.runtime == "torch":
        return TorchRunner(bundle, device, choice.precision)
    require_installed(choice.runtime)
    if choice.precision == "int8":
        assert network is not None  # a choice of int8 comes with its network
        return _int8_runner(bundle, network, choice.margin, threads)
    if choice.precision == "bf16":
        return openvino_cpu.OpenvinoRunner(bundle, openvino_cpu.translated(bundle), "bf16", threads)
    return measuring.open_fp32(bundle, choice.runtime, threads)


def _int8_runner(bundle: Bundle, network: kept.Stored, margin: float, threads: int | None) -> Runner:
    quick = openvino_cpu.OpenvinoRunner(bundle, network, "int8", threads)
    if not margin:
        return quick
    return Cascade(quick, openvino_cpu.OpenvinoRunner(bundle, openvino_cpu.translated(bundle), "fp32", threads), margin)


def _as_begun(workload: Workload, wanted: Wanted, begun: Choice) -> Settled:
    """The choice of an interrupted run, where it can be gone on with here."""
    if not begun.serves(wanted):
        raise OutputError(
            f"the interrupted run was begun with --runtime {begun.runtime} --precision {begun.precision}; "
            "repeat that command to finish it, or give --overwrite to start anew"
        )
    device = begun.device
    if device != workload.device.type:
        raise OutputError(
            f"the interrupted run was begun on {device}; give --device {device} to finish it, or --overwrite to start anew"
        )
    if begun.precision != "int8":
        return Settled(begun)
    stored = quantised.find(workload.bundle, begun.network, workload.model_file)
    if stored is None:
        where = quantised.places(workload.bundle, begun.network, workload.model_file)[0]
        raise OutputError(
            f"the int8 network that the run began with is gone ({where}); bring it back, or give --overwrite to start anew"
        )
    return Settled(begun, network=stored)


def _fp32(workload: Workload, wanted: Wanted) -> tuple[Settled, float | None]:
    """The fp32 runtime, and the seconds a tile that it takes where these are known."""
    if wanted.precision == "int8":
        require_installed("openvino")
        require_installed("int8")
        return _opened(workload, "openvino"), None
    if wanted.runtime not in (AUTO, "torch"):
        require_installed(wanted.runtime)
    seconds = None if wanted.runtime != AUTO and wanted.precision == "fp32" else _measured(workload)
    if wanted.runtime != AUTO:
        return _opened(workload, wanted.runtime), (seconds or {}).get(wanted.runtime)
    if seconds is None:
        return Settled(Choice(runtime="torch", precision="fp32")), None
    runtime = measuring.fastest(seconds)
    try:
        return _opened(workload, runtime), seconds[runtime]
    except GeoclassError as error:  # it could be translated for another bundle of this backbone, not for this one
        return Settled(Choice(runtime="torch", precision="fp32", note=f"torch instead of {runtime}: {error}")), None


def _measured(workload: Workload) -> measuring.Seconds | None:
    """Seconds a tile by runtime: remembered, or measured where the run is long enough to repay it."""
    known = measuring.remembered(workload.bundle, workload.batch_size)
    if known is not None or workload.tiles < MEASURED_FROM_TILES or len(measuring.candidates()) < 2:
        return known
    tiles = workload.sample(workload.batch_size)
    return measuring.measure(workload.bundle, workload.batch_size, workload.see(tiles)) if tiles else None


def _opened(workload: Workload, runtime: str) -> Settled:
    choice = Choice(runtime=runtime, precision="fp32")
    return Settled(choice, open_runner(workload.bundle, choice, workload.device))


def _int8_if_fit(workload: Workload, settled: Settled) -> Settled:
    """int8 where this machine gains by it, as `auto` asks."""
    if settled.choice.runtime != "openvino":
        return settled
    if not cpu.has(cpu.VNNI):
        return _noted(settled, "not int8: this CPU has no VNNI, without which int8 is slower")
    if not installed("int8"):
        return _noted(settled, "int8 was not tried: pip install 'geoclass[int8]'")
    if workload.remote and workload.tiles < REMOTE_SAMPLES * (quantised.CALIBRATION + quantised.HELD_OUT):
        return _noted(settled, "int8 was not tried: its sample would be fetched besides; --precision int8 tries it")
    return _int8(workload, settled, must_be_faster=True)


def _int8(workload: Workload, settled: Settled, must_be_faster: bool) -> Settled:
    """The int8 network where it holds against fp32 on held-out tiles of the scene, else `settled` with the reason."""
    exact = settled.runner
    assert isinstance(exact, openvino_cpu.OpenvinoRunner)
    tiles = workload.sample(quantised.CALIBRATION + quantised.HELD_OUT)
    share = min(quantised.CALIBRATION, len(tiles) - quantised.FEWEST)
    if share < quantised.FEWEST:
        few = 2 * quantised.FEWEST
        return _noted(settled, f"not int8: only {len(tiles)} tiles to calibrate and compare it on, {few} are needed")
    try:
        parts = (tiles[at : min(share, at + workload.batch_size)] for at in range(0, share, workload.batch_size))
        images = quantised.calibration_images(workload.bundle, map(workload.see, parts))
        del tiles[:share]  # the rest is held out
        key, stored = quantised.network(
            workload.bundle, openvino_cpu.translated(workload.bundle), images, workload.model_file
        )
        quick = openvino_cpu.OpenvinoRunner(workload.bundle, stored, "int8")
    except BundleError as error:
        return _noted(settled, f"not int8: {error}")
    margin = margin_for(quick, exact, images)
    runner = Cascade(quick, exact, margin) if margin else quick
    agreement = _compared(workload, exact, runner, tiles)
    reason = quantised.objection(agreement, must_be_faster)
    if reason:
        choice = settled.choice.model_copy(update={"agreement": agreement})
        return _noted(replace(settled, choice=choice), f"not int8: {reason}")
    found = {"precision": "int8", "agreement": agreement, "network": key, "margin": margin}
    return Settled(settled.choice.model_copy(update=found), runner, stored)


def _compared(workload: Workload, fp32: Runner, int8: Runner, tiles: list[Pixels]) -> Agreement:
    exact, quick = workload.predictor(fp32), workload.predictor(int8)
    found = quantised.compare(
        lambda part: exact(part).probabilities, lambda part: quick(part).probabilities, tiles, workload.batch_size
    )
    again = int8.share_asked_again if isinstance(int8, Cascade) else 0.0
    return found.model_copy(update={"asked_again": again})


def _noted(settled: Settled, note: str) -> Settled:
    both = "; ".join(text for text in (settled.choice.note, note) if text)
    return replace(settled, choice=settled.choice.model_copy(update={"note": both}))
