"""What this machine's processor is and can do."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

VNNI = ("avx512_vnni", "avx_vnni", "amx_int8")
AMX = ("amx_bf16",)


def name() -> str:
    """The processor's model name, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def has(features: tuple[str, ...]) -> bool:
    """Whether the processor has one of `features`; not, where it does not tell."""
    told: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    flags = {key for key, value in told.items() if value is True}
    if not flags:
        flags = _flags()
    return any(feature in flags for feature in features)


def _flags() -> set[str]:
    """Linux's own list, for releases of torch that have none."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    return {flag for line in text.splitlines() if line.startswith("flags") for flag in line.split(":", 1)[1].split()}
