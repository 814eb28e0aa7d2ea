"""OpenVINO on the CPU: a stream a core, each with requests of its own, so that no core waits for another.

OpenVINO's Python package reports every import and conversion to a web service of its makers, unless its telemetry
package is missing. geoclass hides that package while it loads OpenVINO: nothing leaves the machine, and nothing is
written into the user's home.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, cast

import numpy as np
import torch

from ..bundle import Bundle
from ..errors import BundleError, OutputError
from . import kept
from .answers import IMAGES_AT_ONCE, Images, combined, input_side, noise, prepared, requests
from .wanted import missing, release

TOLERANCE = 1e-4
"""How far answers of a translated network may be from torch's, as a share of the greatest."""

TELEMETRY = "openvino_telemetry"
_loading = threading.Lock()


class OpenvinoRunner:
    """A network on OpenVINO. `stored` is its fp32 network, or an int8 one."""

    runtime = "openvino"

    def __init__(
        self, bundle: Bundle, stored: kept.Stored, precision: str = "fp32", threads: int | None = None
    ) -> None:
        self.precision = precision
        self.bundle = bundle
        compiled = compile_network(bundle, stored, precision, threads or torch.get_num_threads())
        self.outputs = int(compiled.output(0).shape[1])
        streams = int(compiled.get_property("NUM_STREAMS"))
        self.request: Any = None
        self.queue: Any = None
        if streams == 1:
            # The caller's own thread computes: one more would only take turns with it, or take a second core.
            self.request = compiled.create_infer_request()
            return
        # One request more than there are streams, so that a stream which is done finds the next one waiting.
        self.queue = load("openvino").AsyncInferQueue(compiled, streams + 1)
        self.queue.set_callback(_take)

    @torch.inference_mode()
    def __call__(self, brightness: torch.Tensor) -> torch.Tensor:
        return combined(self.images(prepared(brightness, self.bundle.meta).contiguous().numpy()), self.bundle)

    def images(self, images: Images) -> Images:
        """Answers (N × views, K) to every view of prepared images (N, C, side, side)."""
        views = self.bundle.meta.views
        found = np.empty((len(images) * views, self.outputs), np.float32)
        for places, batch in requests(images, views):
            given = (found, places, batch)
            if self.request is not None:
                self.request.infer({0: batch}, share_inputs=True)
                _take(self.request, given)
            else:
                self.queue.start_async({0: batch}, given, share_inputs=True)
        if self.queue is not None:
            self.queue.wait_all()
        return found


def _take(request: Any, given: tuple[Images, slice, Images]) -> None:
    """Put a request's answers in their places; `given` also kept its input alive until now."""
    found, places, _ = given
    found[places] = request.get_output_tensor(0).data[: places.stop - places.start]


def load(package: str) -> Any:
    """Import openvino or nncf without their telemetry. Raises GeoclassError where it is missing or broken."""
    with _loading, _without_telemetry():
        try:
            return import_module(package)
        except (ImportError, OSError, RuntimeError) as error:
            name = "int8" if package == "nncf" else "openvino"
            reason = f"cannot be loaded ({' '.join(str(error).split())[:100]})"
            raise missing(name, package, reason if release(package) != "none" else "is not installed") from error


@contextmanager
def _without_telemetry() -> Iterator[None]:
    modules = cast(dict[str, Any], sys.modules)
    if TELEMETRY in modules:
        yield
        return
    modules[TELEMETRY] = None  # importing it now fails, and OpenVINO takes a stub of its own
    try:
        yield
    finally:
        del modules[TELEMETRY]


def compile_network(bundle: Bundle, stored: kept.Stored, precision: str, threads: int) -> Any:
    """The stored network compiled for requests of IMAGES_AT_ONCE images on `threads` cores."""
    openvino = load("openvino")
    side = input_side(bundle.meta)
    core = openvino.Core()
    model = core.read_model(stored.graph, stored.weights)
    model.reshape([IMAGES_AT_ONCE, len(bundle.meta.bands), side, side])
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": threads,
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",  # never bf16 unasked, as is its habit
        "ENABLE_CPU_PINNING": False,  # pinned, two processes would share one core
    }
    return core.compile_model(model, "CPU", settings)


def translated(bundle: Bundle) -> kept.Stored:
    """The bundle's network for OpenVINO in fp32, from the cache or translated now and compared with torch.

    Raises BundleError where it cannot be translated, or says something else than torch; GeoclassError without OpenVINO.
    """
    load("openvino")
    path = kept.folder() / f"{bundle.digest}.openvino-{release('openvino')}.zip"
    stored = kept.read_network(path)
    if stored is None or stored.about.get("bundle") != bundle.digest:
        stored = _translate(bundle)
        try:
            kept.write_network(path, stored)
            kept.prune()
        except OutputError:
            pass  # a cache that cannot be written costs seconds at the next run, no more
    return stored


def _translate(bundle: Bundle) -> kept.Stored:
    network, example = bundle.network(), noise(bundle.meta)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's tracer, on its future
            model = load("openvino").convert_model(network, example_input=example)
            model.reshape(list(example.shape))
        stored = kept.packed(model, {"bundle": bundle.digest, "openvino": release("openvino")})
        theirs = np.asarray(compile_network(bundle, stored, "fp32", 1)(example.numpy())[0])
    except Exception as error:  # OpenVINO and torch's tracer raise many types for an operator they do not know
        reason = " ".join(str(error).split())[:120]
        raise BundleError(
            f"{bundle.meta.backbone} cannot be translated for OpenVINO ({reason}); give --runtime torch"
        ) from error
    with torch.inference_mode():
        ours = network(example).numpy()
    require_equal(ours, theirs, bundle.meta.backbone, "OpenVINO")
    return stored


def require_equal(ours: Images, theirs: Images, backbone: str, runtime: str) -> None:
    """Raise BundleError where a translated network's answers are not torch's."""
    difference = float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else float("nan")
    if not difference <= TOLERANCE * max(1.0, float(np.abs(ours).max())):
        raise BundleError(
            f"{backbone} says something else on {runtime} than on torch (by {difference:.2g}); give --runtime torch"
        )
