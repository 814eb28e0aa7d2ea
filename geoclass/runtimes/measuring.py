"""Which fp32 runtime is the fastest here: measured once on a scene's own tiles, then remembered."""

from __future__ import annotations

import hashlib
import json
import logging
from time import perf_counter
from typing import Any

import torch

from ..bundle import Bundle
from ..errors import GeoclassError
from . import cpu, kept, onnx_cpu, openvino_cpu
from .answers import Runner, TorchRunner, input_side, usual_buffers
from .wanted import installed, release

ROUNDS = 3
"""Batches of each runtime, by turns; the quickest of each counts, since other programs only ever slow one down."""

log = logging.getLogger(__name__)

Seconds = dict[str, float]
"""Seconds a tile, by runtime."""


def open_fp32(bundle: Bundle, runtime: str, threads: int | None = None) -> Runner:
    """The bundle's network on a CPU runtime in fp32. Raises GeoclassError where the runtime is missing."""
    if runtime == "openvino":
        return openvino_cpu.OpenvinoRunner(bundle, openvino_cpu.translated(bundle), "fp32", threads)
    if runtime == "onnx":
        return onnx_cpu.OnnxRunner(bundle, onnx_cpu.translated(bundle), threads)
    return TorchRunner(bundle, torch.device("cpu"))


def candidates() -> list[str]:
    """The CPU runtimes worth measuring.

    ONNX Runtime only where OpenVINO is missing: it was measured as fast as OpenVINO, to the percent, while translating
    for it takes three times as long.
    """
    if installed("openvino"):
        return ["torch", "openvino"]
    return ["torch", "onnx"] if installed("onnx") else ["torch"]


def key_of(bundle: Bundle, batch: int) -> dict[str, Any]:
    """What a measurement holds for: the machine, the libraries, and the shape of the work."""
    meta = bundle.meta
    return {
        "cpu": cpu.name(),
        "threads": torch.get_num_threads(),
        "versions": {name: release(name) for name in ("geoclass", "torch", "openvino", "onnxruntime")},
        "backbone": meta.backbone,
        "input_px": input_side(meta),
        "size_px": meta.size_px,
        "bands": len(meta.bands),
        "views": meta.views,
        "batch": batch,
    }


def remembered(bundle: Bundle, batch: int) -> Seconds | None:
    """What was measured before; None where nothing was."""
    found = kept.read_choice(_digest(key_of(bundle, batch))) or {}
    seconds = found.get("seconds_per_tile")
    names = candidates()
    if not isinstance(seconds, dict) or set(seconds) - set(names) or "torch" not in seconds:
        return None
    return seconds if all(isinstance(value, float) and value > 0 for value in seconds.values()) else None


def measure(bundle: Bundle, batch: int, brightness: torch.Tensor) -> Seconds:
    """Measure every candidate on one batch of the scene's brightness (N, C, H, W), and remember it.

    A candidate that cannot take the network is left out.
    """
    runners: dict[str, Runner] = {}
    for name in candidates():
        try:
            runners[name] = open_fp32(bundle, name)
            runners[name](brightness.clone())
        except GeoclassError as error:
            runners.pop(name, None)
            log.info("%s is not used: %s", name, error)
    seconds = dict.fromkeys(runners, float("inf"))
    for _ in range(ROUNDS):
        for name, runner in runners.items():
            given, start = brightness.clone(), perf_counter()
            runner(given)
            seconds[name] = min(seconds[name], (perf_counter() - start) / len(brightness))
    usual_buffers()  # where torch is taken, it asks for its own again
    key = key_of(bundle, batch)
    kept.write_choice(_digest(key), {"key": key, "seconds_per_tile": seconds})
    return seconds


def fastest(seconds: Seconds) -> str:
    return min(seconds, key=lambda name: seconds[name])


def _digest(key: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=8).hexdigest()
