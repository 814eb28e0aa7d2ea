"""OpenVINO on the CPU: a stream a core, each with requests of its own, so that no core waits for another, and enough
of these that none waits while the next tiles are made ready.

OpenVINO's Python package reports every import and conversion to a web service of its makers, unless its telemetry
package is missing. geoclass hides that package while it loads OpenVINO: nothing leaves the machine, and nothing is
written into the user's home.
"""

from __future__ import annotations

import math
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

import numpy as np
import torch

from ..bundle import Bundle
from ..errors import BundleError, OutputError
from . import kept
from .answers import (
    IMAGES_AT_ONCE,
    Images,
    Pending,
    combined,
    fill_request,
    input_side,
    noise,
    prepared_parts,
    request_places,
)
from .wanted import missing, release

TOLERANCE = 1e-4
"""How far answers of a translated network may be from torch's, as a share of the greatest."""

AHEAD_BYTES = 16 << 20
"""Images that are given to the streams, or wait for them: what two compute while the next tiles are read or made ready. More
streams get two requests each; the one thread that makes tiles ready cannot keep more of them in line."""

TELEMETRY = "openvino_telemetry"
_loading = threading.Lock()


class OpenvinoRunner:
    """A network on OpenVINO, for one thread to call. `stored` is its fp32 network, or an int8 one."""

    runtime = "openvino"

    def __init__(
        self, bundle: Bundle, stored: kept.Stored, precision: str = "fp32", threads: int | None = None
    ) -> None:
        self.precision = precision
        self.bundle = bundle
        compiled = compile_network(bundle, stored, precision, threads or torch.get_num_threads())
        self.outputs = int(compiled.output(0).shape[1])
        streams = int(compiled.get_property("NUM_STREAMS"))
        # Where there is one stream the caller's own thread computes: another would only take turns with it, or take a
        # second core.
        self.alone = streams == 1
        given_bytes = 4 * math.prod(compiled.input(0).shape)
        requests = 1 if self.alone else max(2 * streams, AHEAD_BYTES // given_bytes)
        self.idle = [_Request.of(compiled) for _ in range(requests)]
        self.at_work: deque[tuple[_Request, Images]] = deque()
        self.begun = self.ended = 0

    def __call__(self, brightness: torch.Tensor) -> torch.Tensor:
        return self.begin([brightness])()

    @torch.inference_mode()
    def begin(self, brightness: Iterable[torch.Tensor]) -> Pending:
        """Give the streams a batch, see `AheadRunner`."""
        found = self.begin_images(prepared_parts(brightness, self.bundle.meta))
        return lambda: combined(found(), self.bundle)

    def begin_images(self, images: Images, views: int = 0) -> Callable[[], Images]:
        """Give the streams the first `views` views, all of the bundle's if 0, of prepared images (N, C, side, side);
        what is returned waits for the answers (N × views, K)."""
        views = views or self.bundle.meta.views
        found = np.empty((len(images) * views, self.outputs), np.float32)
        for places in request_places(len(found)):
            if not self.idle:
                self._end_first()
            request = self.idle.pop()
            fill_request(request.given, images, views, places)
            if self.alone:
                request.handle.infer()
            else:
                request.handle.start_async()
            self.at_work.append((request, found[places]))
            self.begun += 1
        last = self.begun

        def ended() -> Images:
            while self.ended < last:
                self._end_first()
            return found

        return ended

    def _end_first(self) -> None:
        """Wait for the request that was begun first, and put its answers in their places."""
        request, places = self.at_work.popleft()
        if not self.alone:
            request.handle.wait()
        places[:] = request.found[: len(places)]
        self.idle.append(request)
        self.ended += 1


@dataclass(frozen=True)
class _Request:
    """What a stream is given to do, with the memory of its images and of its answers."""

    handle: Any
    given: Images
    found: Images

    @classmethod
    def of(cls, compiled: Any) -> _Request:
        handle = compiled.create_infer_request()
        return cls(handle, handle.get_input_tensor(0).data, handle.get_output_tensor(0).data)


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
