"""Pictures of labelled tiles answered by workers: features to train a head on, or probabilities to be scored.

The driver reads the pictures and sends them with the task, so workers need not see the files.
"""

from __future__ import annotations

import io
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import GeoclassError
from ..sensors import Sensor
from .crew import Spread
from .dispatch import TRIES, Task, dispatched
from .worker import Job, ready_for, software, with_bundle

if TYPE_CHECKING:
    import torch

    from ..bundle import Bundle

Pictures = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class PictureJob(Job):
    """All that a worker must know to answer pictures, in stored numbers of `sensor`.

    features_px: the side at which the backbone sees them to give features; None for the bundle's probabilities.
    """

    sensor: Sensor
    batch_size: int
    features_px: int | None


def picture_job(bundle: Bundle, sensor: Sensor, device: str, batch_size: int, features_px: int | None) -> PictureJob:
    """What workers must know to answer pictures with this bundle."""
    from ..bundle import bundle_bytes

    return PictureJob(
        token=secrets.token_hex(4),
        bundle=bundle_bytes(bundle),
        device=device,
        software=software(),
        sensor=sensor,
        batch_size=batch_size,
        features_px=features_px,
    )


def answered(
    job: PictureJob, batches: Iterable[tuple[int, Pictures]], spread: Spread
) -> Iterator[tuple[int, Pictures]]:
    """Yield (number, answers) of batches of pictures (n, bands, H, W) as they are finished, in no order.

    Raises GeoclassError for a batch that failed 3 times, ClusterError as `dispatched` does.
    """
    tasks = (Task(number, (pictures,)) for number, pictures in batches)
    for number, answer in dispatched(spread, job, answer_pictures, tasks, _failed):
        yield number, np.load(io.BytesIO(answer), allow_pickle=False)


def answer_pictures(job: PictureJob, pictures: Pictures) -> bytes:
    """Features (n, VIEWS, F) or probabilities (n, K) of pictures (n, bands, H, W), as an .npy file.

    Raises ClusterError where this worker is not fit for the job.
    """
    ready = ready_for(job, lambda: with_bundle(job, lambda bundle, device: _Ready(job, bundle, device)))
    buffer = io.BytesIO()
    np.save(buffer, ready.answer(pictures), allow_pickle=False)
    return buffer.getvalue()


class _Ready:
    def __init__(self, job: PictureJob, bundle: Bundle, device: torch.device) -> None:
        from ..backbones import Normalisation, feature_network
        from ..learning.frozen import FrozenNetwork
        from ..predict import Predictor

        self.answer: Callable[[Pictures], Pictures]
        if job.features_px is None:
            predictor = Predictor(bundle, job.sensor, device=device, batch_size=job.batch_size)
            self.answer = lambda pictures: predictor(list(pictures)).probabilities
            return
        norm = Normalisation(bundle.meta.mean, bundle.meta.std)
        sizes: Any = {"side": job.features_px, "device": device, "batch_size": job.batch_size}
        self.answer = FrozenNetwork(feature_network(bundle.network()), norm, job.sensor, **sizes)

    def close(self) -> None:
        """There is nothing to close."""


def _failed(errors: dict[int, Exception]) -> GeoclassError:
    number, error = next(iter(errors.items()))
    why = f"{type(error).__name__}: {error}"
    return GeoclassError(
        f"batch {number} of the tiles failed {TRIES} times on the workers ({why[:300]}); run it without --workers and --cluster to "
        "see whether it is the tiles or the workers"
    )
