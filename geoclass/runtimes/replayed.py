"""CUDA graphs: a network's launches recorded once for one shape of batch, and replayed as a single launch."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from .answers import Runner
from .lanes import stream_on

REPLAYED_FROM_TILES = 20_000
"""Below this many tiles on a device a run does not pay for recording: a second or so, and the memory of one batch."""

WARM_UPS = 3

log = logging.getLogger(__name__)

Replay = Callable[[torch.Tensor], torch.Tensor]
Record = Callable[[Runner, torch.Tensor], Replay]


class Replayed:
    """A runner that records the first shape of batch that comes twice in a row, and replays it from then on.

    Other shapes, as at the edges of a scene, and all where recording fails, run as they would have.
    """

    def __init__(self, runner: Runner, record: Record | None = None) -> None:
        self.runner = runner
        self.runtime, self.precision = runner.runtime, runner.precision
        self.record: Record | None = record or record_graph
        self.replay: Replay | None = None
        self.shape: torch.Size | None = None

    def __call__(self, brightness: torch.Tensor) -> torch.Tensor:
        if self.record is not None and brightness.shape == self.shape:
            self._record(brightness)
        if self.replay is not None:
            return self.replay(brightness) if brightness.shape == self.shape else self.runner(brightness)
        self.shape = brightness.shape
        return self.runner(brightness)

    def _record(self, brightness: torch.Tensor) -> None:
        record, self.record = self.record, None  # it is tried once
        assert record is not None
        try:
            self.replay = record(self.runner, brightness)
        except RuntimeError as error:  # also of memory that ran out: the batch may still do without the recording
            log.info("no CUDA graph: %s", " ".join(str(error).split())[:120])


@torch.inference_mode()
def record_graph(runner: Runner, brightness: torch.Tensor) -> Replay:
    """The runner's work on a batch (N, C, H, W) of this shape as a CUDA graph, which keeps the batch's memory.

    Raises RuntimeError where the network does something that cannot be recorded, or memory runs out.
    """
    given = brightness.clone()
    computing, side = torch.cuda.current_stream(given.device), stream_on(given.device)
    side.wait_stream(computing)
    graph = torch.cuda.CUDAGraph()
    try:
        # The outer `stream` also leads back where recording fails.
        with torch.cuda.device(given.device), torch.cuda.stream(side):
            for _ in range(WARM_UPS):  # in which kernels are chosen and take their working memory
                runner(given.copy_(brightness))
            with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                answers = runner(given)
    finally:
        computing.wait_stream(side)  # which still writes into `given`, whatever became of the recording

    def replay(brightness: torch.Tensor) -> torch.Tensor:
        given.copy_(brightness)
        graph.replay()
        return answers.clone()

    return replay
