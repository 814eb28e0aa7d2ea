"""Settles what a run uses: the runtime and precision asked for, or the fastest that says the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
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
from . import cpu, guard, kept, measuring, openvino_cpu, quantised
from .answers import Images, Runner, TorchRunner, give_back
from .cascade import Cascade, answers_of, margin_for, numbers_of_views
from .lanes import devices_of
from .replayed import REPLAYED_FROM_TILES, Replayed
from .sampling import sampled
from .wanted import AUTO, Agreement, Choice, Wanted, installed, require_installed

MEASURED_FROM_TILES = 500
"""Below this many tiles a run does not pay for measuring and translating: some 5 s, while a tile gains 3 ms where the
machine is idle, and 100 ms and more where other programs keep PyTorch's threads waiting for each other."""

QUICK_FROM_SECONDS = 60.0
"""Below this many seconds of fp32 a run does not pay for comparing a quicker way (some 5 s; int8, which is calibrated
first, 15 s)."""

SELDOM = 0.2
"""Where fp32 is asked again about more of the tiles, further views may leave fewer to ask about, and be quicker for that."""

FEW_SIDES = "fp32 from few sides"

REMOTE_SAMPLES = 20
"""Over a network a run of fewer tiles than this many samples does not pay for fetching one besides."""


SEEN_AT_ONCE = 8
"""Tiles that images to calibrate on are made of together: a tile is four times as large before."""


@dataclass(frozen=True)
class Workload:
    """What is to be settled for. tiles: how many the run has; sample(n): up to n of them, drawn by chance, in stored
    numbers; model_file: the bundle's file, beside which int8 networks are kept, None for one in memory; remote: whether
    tiles are read over a network; elsewhere: whether they are classified on other machines, whose processors may be others."""

    bundle: Bundle
    sensor: Sensor
    device: torch.device
    batch_size: int
    tiles: int
    sample: Callable[[int], list[Pixels]]
    tone: Tone | None = None
    model_file: Path | None = None
    remote: bool = False
    elsewhere: bool = False

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


def workload_of(plan: Plan, device: torch.device, batch_size: int | None, elsewhere: bool = False) -> Workload:
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
        elsewhere,
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
        return _first_that_holds(workload, settled, ["int8"], must_be_faster=False)
    if wanted.precision == AUTO and seconds is not None and seconds * workload.tiles >= QUICK_FROM_SECONDS:
        return _quicker_if_fit(workload, settled)
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
    if choice.runtime == "onnx":
        return measuring.open_fp32(bundle, "onnx", threads)
    stored = network if choice.precision == "int8" else openvino_cpu.translated(bundle)
    assert stored is not None  # a choice of int8 comes with its network
    quick = openvino_cpu.OpenvinoRunner(bundle, stored, choice.precision, threads)
    if not choice.margin and not choice.views:
        return quick
    exact = quick
    if choice.precision != "fp32":
        exact = openvino_cpu.OpenvinoRunner(bundle, openvino_cpu.translated(bundle), "fp32", threads)
    return Cascade(quick, exact, choice.margin, choice.views)


def _as_begun(workload: Workload, wanted: Wanted, begun: Choice) -> Settled:
    """The choice of an interrupted run, where it can be gone on with here."""
    if not begun.serves(wanted):
        # fp32 from few sides is no answer to --precision fp32.
        runtime, precision = begun.asked if begun.views else (begun.runtime, begun.precision)
        raise OutputError(
            f"the interrupted run was begun with --runtime {runtime} --precision {precision}; "
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


def _quicker_if_fit(workload: Workload, settled: Settled) -> Settled:
    """bf16, int8, or fp32 from few sides, where this machine gains by it, as `auto` asks.

    Where the processor has AMX, bf16 is about as fast as int8, moves answers less, and needs no calibration.
    """
    if settled.choice.runtime != "openvino":
        return settled
    tried = ["bf16"] if cpu.has(cpu.AMX) and not workload.elsewhere else []
    without = ""
    if not cpu.has(cpu.VNNI):
        without = "not int8: this CPU has no VNNI, without which int8 is slower"
    elif not installed("int8"):
        without = "int8 was not tried: pip install 'geoclass[int8]'"
    else:
        tried.append("int8")
    if tried and workload.remote and workload.tiles < REMOTE_SAMPLES * (quantised.CALIBRATION + guard.HELD_OUT):
        name = tried[-1]
        return _noted(
            settled, f"{name} was not tried: its sample would be fetched besides; --precision {name} tries it"
        )
    if len(numbers_of_views(workload.bundle)) > 1 and not workload.remote:
        tried.append(FEW_SIDES)
    found = _first_that_holds(workload, settled, tried, must_be_faster=True)
    return _noted(found, without) if found.choice.precision == "fp32" else found


@dataclass(frozen=True)
class _Sample:
    """Tiles of the scene: prepared images (N, C, side, side) to make a quick network and to find its margin with, and tiles
    (C, H, W) in stored numbers to compare it with fp32 on."""

    images: Images
    held_out: list[Pixels]


def _first_that_holds(workload: Workload, settled: Settled, ways: Sequence[str], must_be_faster: bool) -> Settled:
    """The first of these quick networks that holds against fp32 from all sides, else `settled` with the reasons."""
    if not ways:
        return settled
    give_back()  # what measuring has left is as much as the sample takes
    tiles = workload.sample(quantised.CALIBRATION + guard.HELD_OUT)
    if len(tiles) < 2 * guard.FEWEST:
        few = f"only {len(tiles)} tiles to make and compare it with, {2 * guard.FEWEST} are needed"
        return _noted(settled, f"not {ways[-1]}: {few}")
    share = min(quantised.CALIBRATION, len(tiles) - guard.FEWEST)
    parts = (tiles[at : min(share, at + SEEN_AT_ONCE)] for at in range(0, share, SEEN_AT_ONCE))
    sample = _Sample(quantised.calibration_images(workload.bundle, map(workload.see, parts), share), tiles[share:])
    del tiles  # as many megabytes as a block of tiles has
    for way in ways:
        settled = _TRIALS[way](workload, settled, sample, must_be_faster)
        if settled.choice.precision != "fp32":
            break
    return settled


def _bf16(workload: Workload, settled: Settled, sample: _Sample, must_be_faster: bool) -> Settled:
    """The network in bf16 where it holds against fp32, else `settled` with the reason."""
    quick = openvino_cpu.OpenvinoRunner(workload.bundle, openvino_cpu.translated(workload.bundle), "bf16")
    return _if_it_holds(workload, settled, quick, sample, must_be_faster)


def _int8(workload: Workload, settled: Settled, sample: _Sample, must_be_faster: bool) -> Settled:
    """The int8 network where it holds against fp32, else `settled` with the reason."""
    try:
        key, stored = quantised.network(
            workload.bundle, openvino_cpu.translated(workload.bundle), sample.images, workload.model_file
        )
        quick = openvino_cpu.OpenvinoRunner(workload.bundle, stored, "int8")
    except BundleError as error:
        return _noted(settled, f"not int8: {error}")
    found = _if_it_holds(workload, settled, quick, sample, must_be_faster)
    if found.choice.precision != "int8":
        return found
    return replace(found, choice=found.choice.model_copy(update={"network": key}), network=stored)


def _few_sides(workload: Workload, settled: Settled, sample: _Sample, must_be_faster: bool) -> Settled:
    """The network in fp32 from few sides where that holds against all, else `settled` with the reason."""
    assert isinstance(settled.runner, openvino_cpu.OpenvinoRunner)
    return _if_it_holds(workload, settled, settled.runner, sample, must_be_faster)


_TRIALS = {"bf16": _bf16, "int8": _int8, FEW_SIDES: _few_sides}


def _if_it_holds(
    workload: Workload, settled: Settled, quick: openvino_cpu.OpenvinoRunner, sample: _Sample, must_be_faster: bool
) -> Settled:
    """`quick`, which asks fp32 again where it is unsure, in the number of views with which it is quickest of those that hold
    against fp32 on held-out tiles of the scene; `settled` with the reason where none does."""
    exact = settled.runner
    assert isinstance(exact, openvino_cpu.OpenvinoRunner)
    every, note = workload.bundle.meta.views, settled.choice.note
    right = answers_of(exact, sample.images)
    held: list[tuple[float, Settled]] = []
    for views in numbers_of_views(workload.bundle):
        if quick is exact and views == every:
            break  # that is what there is to compare with
        few = views if views < every else 0
        margin = margin_for(quick, right, sample.images, few)
        runner = Cascade(quick, exact, margin, few) if margin or few else quick
        agreement = _compared(workload, exact, runner, sample.held_out)
        choice = settled.choice.model_copy(update={"agreement": agreement})
        if reason := guard.objection(agreement, must_be_faster):
            settled = _noted(
                settled if quick is exact else replace(settled, choice=choice), f"not {agreement.name}: {reason}"
            )
            continue
        found = {"precision": quick.precision, "views": few, "margin": margin, "note": note}
        held.append((agreement.speedup, Settled(choice.model_copy(update=found), runner)))
        if agreement.asked_again <= SELDOM:
            break
    return max(held, key=lambda one: one[0])[1] if held else settled


def _compared(workload: Workload, fp32: Runner, quick: Runner, tiles: list[Pixels]) -> Agreement:
    exact, rounded = workload.predictor(fp32), workload.predictor(quick)
    found = guard.compare(
        quick.precision,
        lambda part: exact(part).probabilities,
        lambda part: rounded(part).probabilities,
        tiles,
        workload.batch_size,
    )
    if isinstance(quick, Cascade):
        views = quick.views if quick.views < workload.bundle.meta.views else 0
        found = found.model_copy(update={"asked_again": quick.share_asked_again, "views": views})
    return found


def _noted(settled: Settled, note: str) -> Settled:
    both = "; ".join(text for text in (settled.choice.note, note) if text)
    return replace(settled, choice=settled.choice.model_copy(update={"note": both}))
