"""Open a desk on data: one desk at a time, its answers beside the data, its page in the browser."""

from __future__ import annotations

import html
import tempfile
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock
from starlette.types import ASGIApp

from ..areas.sample import read_sample
from ..bundle import load_bundle
from ..datasets.store import is_dataset
from ..errors import DatasetError
from ..files import require_writable
from ..history.registry import resolve
from ..predict import choose_device
from ..schemes import load_scheme
from ..service.settings import Settings
from .answers import Answers
from .desk import Desk, Learns, Suggest
from .learner import Learner
from .queue import OrderName
from .tiles import Tiles, open_tiles

STORE = ".labels.sqlite"


@dataclass(frozen=True)
class Wanted:
    """What a desk is opened with. store: the file of the answers, by default `<data>.labels.sqlite` beside the data;
    scheme: the classes, where the data do not name them; design: a file of `geoclass sample` whose tiles are asked
    for."""

    data: Path
    scheme: str | None = None
    model: str | None = None
    design: Path | None = None
    store: Path | None = None
    order: OrderName | None = None
    suggest: Suggest = "after"
    learns: Learns = "answers"
    who: str = ""
    sensor: str | None = None
    size_px: int | None = None
    gsd_m: float | None = None
    device: str = "auto"

    @property
    def answers(self) -> Path:
        """The file of the answers."""
        if self.store is not None:
            return self.store
        folder = self.data.resolve()
        return folder.with_name(folder.name + STORE)


@contextmanager
def opened(wanted: Wanted) -> Iterator[Desk]:
    """A desk, which nobody else has open. Raises GeoclassError of the fitting kind for data it cannot be opened on."""
    scheme = load_scheme(wanted.scheme) if wanted.scheme else None
    sample = read_sample(wanted.design) if wanted.design else None
    with _claimed(wanted.answers):
        model = load_bundle(resolve(wanted.model)) if wanted.model else None
        own = model.meta.size_px if model and not is_dataset(wanted.data) else None
        tiles = open_tiles(
            wanted.data, scheme, size_px=wanted.size_px or own, gsd_m=wanted.gsd_m, sensor=wanted.sensor, sample=sample
        )
        require_tiles(tiles)
        learner = Learner(tiles, model, device=str(choose_device(wanted.device)))
        answers = Answers(wanted.answers)
        order = wanted.order or ("design" if sample else "uncertain")
        try:
            yield Desk(
                tiles, answers, learner, order=order, suggest=wanted.suggest, learns=wanted.learns, who=wanted.who
            )
        finally:
            answers.close()


def require_tiles(tiles: Tiles) -> None:
    """Raise DatasetError where no tile is left to ask for."""
    if not len(tiles.positions):
        raise DatasetError(
            f"{tiles.folder} holds no tile to label: every one is held out to judge the head on; add tiles to its other splits"
        )


@contextmanager
def _claimed(store: Path) -> Iterator[None]:
    """Hold the lock of the answers, which the system frees where the desk is killed."""
    require_writable(store.parent, "--store")
    lock = filelock.FileLock(store.with_name(f".{store.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise DatasetError(
            f"another desk has {store} open; use that one (several people can), or end it, or name another --store"
        ) from error
    try:
        yield
    finally:
        lock.release()


def serve_desk(desk: Desk, settings: Settings, ready: Callable[[str, str], None], log_level: str = "warning") -> None:
    """Answer the page of `desk` until SIGINT or SIGTERM; `ready` is told the address, and the one that carries the
    token.

    Raises ServiceError where the address is taken.
    """
    from ..service.serving import serve_app
    from .app import build_app

    def make() -> ASGIApp:
        desk.learner.start()
        return build_app(desk, settings)

    serve_app(make, settings, lambda address: ready(address, f"{address}/#token={settings.token}"), log_level)


@contextmanager
def in_browser() -> Iterator[Callable[[str], None]]:
    """Yield what opens an address in the user's browser.

    The address holds the token, and other users of the machine can read the arguments of a browser's process: so it is
    given a file that only its user may read and that leads to the address."""
    with tempfile.TemporaryDirectory(prefix="geoclass-") as folder:  # mode 700

        def show(address: str) -> None:
            path = Path(folder) / "desk.html"
            target = html.escape(address, quote=True)
            path.write_text(
                f'<!doctype html><meta charset="utf-8"><title>geoclass</title><meta http-equiv="refresh" content="0; url={target}">'
                f'<a href="{target}">Open the labelling desk</a>',
                encoding="utf-8",
            )
            webbrowser.open(path.as_uri())

        yield show
