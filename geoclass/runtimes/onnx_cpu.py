"""ONNX Runtime on the CPU: a thread a core, each running requests of its own."""

from __future__ import annotations

import logging
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import nn

from ..bundle import Bundle
from ..errors import BundleError, OutputError
from ..files import replacing
from . import kept
from .answers import Images, combined, noise, prepared, requests
from .openvino_cpu import require_equal
from .wanted import missing, release, require_installed

OPSET = 18
"""ONNX operator set: the first whose Resize shrinks with averaging, which tiles of another side need."""
INPUT, OUTPUT = "images", "answers"


class OnnxRunner:
    """A network on ONNX Runtime, in fp32."""

    runtime = "onnx"
    precision = "fp32"

    def __init__(self, bundle: Bundle, graph: bytes, threads: int | None = None) -> None:
        self.bundle = bundle
        self.threads = threads or torch.get_num_threads()
        self.session = _session(graph)

    @torch.inference_mode()
    def __call__(self, brightness: torch.Tensor) -> torch.Tensor:
        images = prepared(brightness, self.bundle.meta).contiguous().numpy()
        total = len(images) * self.bundle.meta.views

        def run(request: tuple[slice, Images]) -> Images:
            places, batch = request
            found: Images = self.session.run([OUTPUT], {INPUT: batch})[0]
            return found[: places.stop - places.start]

        with ThreadPoolExecutor(self.threads, thread_name_prefix="geoclass-onnx") as pool:
            answers = list(pool.map(run, requests(images, self.bundle.meta.views)))
        found = np.concatenate(answers)
        assert len(found) == total
        return combined(found, self.bundle)


def _session(graph: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def translated(bundle: Bundle) -> bytes:
    """The bundle's network as an ONNX graph, from the cache or translated now and compared with torch.

    Raises GeoclassError without the packages of the extra `onnx`, BundleError where it cannot be translated, or says
    something else than torch.
    """
    require_installed("onnx")
    try:
        import onnxruntime  # noqa: F401  (an installation that cannot be loaded is told here, in one line)
    except (ImportError, OSError) as error:
        reason = f"cannot be loaded ({' '.join(str(error).split())[:100]})"
        raise missing("onnx", "onnxruntime", reason) from error
    path = kept.folder() / f"{bundle.digest}.torch-{release('torch')}.onnx"
    try:
        graph = path.read_bytes()
        _session(graph)
        path.touch()
        return graph
    except Exception:  # absent, or damaged: onnxruntime raises types of its own
        graph = _translate(bundle)
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(graph)
        kept.prune()
    except OutputError:
        pass  # a cache that cannot be written costs seconds at the next run, no more
    return graph


def _translate(bundle: Bundle) -> bytes:
    network, example = bundle.network(), noise(bundle.meta)
    try:
        graph: bytes = to_onnx(network, example, INPUT, OUTPUT).SerializeToString()
        theirs = _session(graph).run([OUTPUT], {INPUT: example.numpy()})[0]
    except Exception as error:  # torch, onnxscript and onnxruntime raise many types for an operator they do not know
        reason = " ".join(str(error).split())[:120]
        raise BundleError(
            f"{bundle.meta.backbone} cannot be translated to ONNX ({reason}); give --runtime torch"
        ) from error
    with torch.inference_mode():
        ours = network(example).numpy()
    require_equal(ours, theirs, bundle.meta.backbone, "ONNX Runtime")
    return graph


def to_onnx(network: nn.Module, example: torch.Tensor, given: str, answers: str, **options: Any) -> Any:
    """A network as an ONNX model of one input and one output of these names, written without the exporter's chatter.

    By torch.export (dynamo=True): the older exporter, which traces, gives the same numbers for these networks and is ten
    times as fast, but is deprecated and writes six times as many nodes. `options` are torch.onnx.export's. Raises what
    torch and onnxscript raise, of many types.
    """
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network, (example,), dynamo=True, opset_version=OPSET, verbose=False, input_names=[given],
                output_names=[answers], **options,
            )  # fmt: skip
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    assert program is not None  # it is with dynamo=True
    return program.model_proto
