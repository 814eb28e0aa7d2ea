"""Real `geoclass serve` and `geoclass label` on this machine, for tests: a process, its address, and ways to end it."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

TOKEN = "a-token-for-tests-only"
HEADERS = {"authorization": f"Bearer {TOKEN}"}


class Process:
    """`geoclass VERB` that answers, by itself on a free port. `log` is all it printed; `more` goes into its environment."""

    def __init__(self, verb: str, *options: str, **more: str) -> None:
        command = [sys.executable, "-m", "geoclass", verb, "--port", "0", *options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GEOCLASS_TOKEN": TOKEN, **more}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        self.log: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log.append(line)
            if found := re.search(r"(?:answers|desk is) at (\S+)", line):
                self.url = found[1]
                break
        else:
            raise AssertionError("".join(self.log))
        self.port = int(self.url.rpartition(":")[2])
        self._reader = threading.Thread(target=lambda: self.log.extend(self.process.stdout or ()), daemon=True)
        self._reader.start()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        code = self.process.wait(timeout=60)
        self._reader.join(timeout=10)
        return code


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.02)


@contextmanager
def running(verb: str, *options: str, **more: str) -> Iterator[Process]:
    process = Process(verb, *options, **more)
    try:
        yield process
    finally:
        process.end()


def serving(model: Path, data: Path, *options: str, **more: str) -> AbstractContextManager[Process]:
    return running("serve", "--runtime", "torch", "--model", str(model), "--data", str(data), *options, **more)


def labelling(data: Path, *options: str) -> AbstractContextManager[Process]:
    return running("label", str(data), "--no-browser", *options)
