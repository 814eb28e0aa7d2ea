"""Many callers of `geoclass serve` on loopback against a plain loop of the same network.

python benchmarks/service.py [--callers 64] [--seconds 60] [--model m.pt] [--pictures FOLDER] [--slices 3]

The loop decodes and classifies the same pictures in this process, one by one and in batches of 32, through the same
runtime. Loop and service take turns, `--slices` times, so that a noisy machine is as noisy for both; the ratio of record
is the median over the turns. Callers keep their connection and send prepared bytes, so that they take little of the
processor that they share with the service. Every picture is another one, and every answer is compared with the loop's: one
that is lost, given twice, or another caller's is found.
"""

import argparse
import asyncio
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import numpy as np
import psutil
import torch
from made import SIDE, make_bundle
from PIL import Image

from geoclass.bundle import load_bundle
from geoclass.datasets.pictures import read_picture, squared
from geoclass.service.metrics import Metrics
from geoclass.service.networks import open_models
from geoclass.service.settings import Settings

TOKEN = "benchmark-of-the-service"


def pictures(folder: Path, count: int, source: Path | None) -> list[Path]:
    """JPEG files that all differ: real ones, or noise as smooth as photographs."""
    found = sorted(source.rglob("*.jpg"))[:count] if source else []
    rng = np.random.default_rng(0)
    for number in range(len(found), count):
        small = Image.fromarray(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8))
        path = folder / f"{number:04}.jpg"
        small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path, quality=90)
        found.append(path)
    return found


class Loop:
    """The same network in this process."""

    def __init__(self, model: Path) -> None:
        self.bundle = load_bundle(model)
        self.served = open_models(Settings((model,)), Metrics().batch)[model.stem]

    def __call__(self, paths: list[Path], batch: int) -> np.ndarray:
        meta, found = self.bundle.meta, []
        for start in range(0, len(paths), batch):
            read = [read_picture(path, meta.bands, meta.sensor, None)[0] for path in paths[start : start + batch]]
            found.append(
                self.served.batcher.network([squared(each, meta.size_px) for each in read if each is not None])
            )
        return np.concatenate(found)

    def rate(self, paths: list[Path], batch: int, seconds: float) -> float:
        """Pictures a second."""
        start, done = perf_counter(), 0
        while perf_counter() - start < seconds:
            part = [paths[(done + k) % len(paths)] for k in range(batch)]
            self(part, batch)
            done += batch
        return done / (perf_counter() - start)


@dataclass(frozen=True)
class Got:
    """One answer: the name it was asked under and the one it came with, which picture, seconds, probabilities."""

    asked: str
    name: str
    at: int
    seconds: float
    probabilities: list[float]


async def caller(number: int, port: int, bodies: list[bytes], ends: float, out: list[Got]) -> int:
    """One caller: asks again as soon as it was answered. Returns how many it asked for."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    step = 0
    while perf_counter() < ends:
        at, name = (number * 97 + step) % len(bodies), f"{number}-{step}-{secrets.token_hex(4)}.jpg"
        part = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
        body = part + bodies[at] + b"\r\n--b--\r\n"
        head = (
            f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        start = perf_counter()
        writer.write(head.encode() + body)
        step += 1
        answer = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", answer)
        assert answer.startswith(b"HTTP/1.1 200") and length, answer
        found = json.loads(await reader.readexactly(int(length[1])))["answers"]
        for each in found:
            out.append(Got(name, each["name"], at, perf_counter() - start, list(each["probabilities"].values())))
    writer.close()
    return step


async def load(callers: int, port: int, bodies: list[bytes], seconds: float) -> tuple[int, list[Got], float]:
    """(asked, answers, pictures a second) of all callers together."""
    out: list[Got] = []
    start = perf_counter()
    asked = await asyncio.gather(*(caller(n, port, bodies, start + seconds, out) for n in range(callers)))
    return sum(asked), out, len(out) / (perf_counter() - start)


def start_server(model: Path, folder: Path) -> tuple[subprocess.Popen[str], int]:
    command = [
        sys.executable,
        "-m",
        "geoclass",
        "serve",
        "--model",
        str(model),
        "--data",
        str(folder / "data"),
        "--port",
        "0",
    ]
    environment = {**os.environ, "GEOCLASS_TOKEN": TOKEN}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert server.stdout is not None
    for line in server.stdout:
        if found := re.search(r"answers at http://127.0.0.1:(\d+)", line):
            return server, int(found[1])
    raise SystemExit("the service did not start")


def wrong(answers: list[Got], expected: np.ndarray) -> int:
    """Answers that came to another caller, or are not the picture's own."""
    found = np.array([each.probabilities for each in answers])
    strange = np.abs(found - expected[[each.at for each in answers]]).max(axis=1) > 1e-3
    return int((strange | np.array([each.asked != each.name for each in answers])).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--slices", type=int, default=3)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--count", type=int, default=256)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = options.model or make_bundle(folder / "m.pt")
        paths = pictures(folder, options.count, options.pictures)
        bodies = [path.read_bytes() for path in paths]
        loop = Loop(model)
        expected = loop(paths, 32)
        print(f"{loop.served.runtime}, {torch.get_num_threads()} threads; {len(paths)} pictures")
        server, port = start_server(model, folder)
        try:
            report(options, loop, paths, bodies, expected, server.pid, port)
        finally:
            server.terminate()
            server.wait()


def report(
    options: argparse.Namespace,
    loop: Loop,
    paths: list[Path],
    bodies: list[bytes],
    expected: np.ndarray,
    pid: int,
    port: int,
) -> None:
    asyncio.run(load(options.callers, port, bodies, 2))  # warm
    process, each = psutil.Process(pid), options.seconds / options.slices
    answers: list[Got] = []
    asked, ratios, work = 0, [], []
    for turn in range(options.slices):
        single = loop.rate(paths, 1, each / 4)
        begun = process_time()
        batched = loop.rate(paths, 32, each / 4)
        loop_work = (process_time() - begun) / (batched * each / 4)
        begun = sum(process.cpu_times()[:2])
        sent, got, rate = asyncio.run(load(options.callers, port, bodies, each))
        work.append((loop_work, (sum(process.cpu_times()[:2]) - begun) / len(got)))
        asked, answers = asked + sent, answers + got
        ratios.append((rate / single, rate / batched))
        print(
            f"turn {turn + 1}: loop one by one {single:.1f}, loop of 32 {batched:.1f}, service {rate:.1f} pictures/s; "
            f"ratio {ratios[-1][0]:.2f} and {ratios[-1][1]:.2f}; processor ms a picture: "
            f"loop of 32 {work[-1][0] * 1000:.1f}, service {work[-1][1] * 1000:.1f}"
        )
    times = np.sort([got.seconds for got in answers]) * 1000
    print(
        f"median ratio: {median(a for a, _ in ratios):.2f} of one by one, {median(b for _, b in ratios):.2f} of batches of 32; "
        f"processor time {median(b / a for a, b in work):.2f} times the loop's"
    )
    twice = len(answers) - len({got.asked for got in answers})
    print(
        f"{options.callers} callers, {asked} asked, {asked - len(answers) + twice} lost, {twice} given twice, "
        f"{wrong(answers, expected)} wrong; p50 {times[len(times) // 2]:.0f} ms, p99 {times[int(len(times) * 0.99)]:.0f} ms"
    )


if __name__ == "__main__":
    main()
