"""A real `geoclass label` on this machine, for tests: the labelling desk as a process, its address, and ways to end it."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TOKEN = "a-token-for-tests-only"
HEADERS = {"authorization": f"Bearer {TOKEN}"}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Desk:
    """A desk that answers. `log` is all it printed."""

    def __init__(self, data: Path, *options: str) -> None:
        command = [sys.executable, "-m", "geoclass", "label", str(data), "--no-browser", *options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GEOCLASS_TOKEN": TOKEN}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        self.log: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log.append(line)
            if found := re.search(r"desk is at (\S+)", line):
                self.url, self.page = found[1], f"{found[1]}/#token={TOKEN}"
                break
        else:
            raise AssertionError("".join(self.log))
        threading.Thread(target=lambda: self.log.extend(self.process.stdout or ()), daemon=True).start()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=60)


@contextmanager
def opened(data: Path, *options: str) -> Iterator[Desk]:
    desk = Desk(data, *options)
    try:
        yield desk
    finally:
        desk.end()
