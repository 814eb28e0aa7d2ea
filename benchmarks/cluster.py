"""Dask: two single-thread workers against one, and a run whose workers are killed at random.

    python benchmarks/cluster.py [--tiles 3136] [--rounds 2] [--own-core] [--kills 10] [--seed 0]

Speed: the same run by one and by two workers that are up already, in turns. Beside it stands what the machine itself
gives to two processes: the same network on tensors in memory, in one worker and in two at once; and the share of
their time that workers spent reading and computing: the rest they waited for blocks. One worker beside an idle core
borrows from it: OpenVINO computes in a thread of its own while the worker's own prepares the next images. With
--own-core each worker has one core and no more, as cluster managers see to. Kills: SIGKILL of a
random worker at random moments of one run with --workers 2, whose outputs are then compared with those of one
process, row by row.
"""

import argparse
import os
import random
import statistics
import subprocess
import tempfile
from pathlib import Path
from time import perf_counter, sleep

import dask
import psutil
from distributed import Client, LocalCluster
from kill import command, compare
from made import make_bundle, make_scene

import geoclass
from geoclass.cluster.crew import SELF_WATCH

RUNTIME = "openvino"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def bare(bundle: Path, tiles: int) -> float:
    """Tiles a second of the workers' own runtime alone, on one thread, on brightness in memory."""
    import torch

    from geoclass.bundle import load_bundle
    from geoclass.runtimes.answers import input_side
    from geoclass.runtimes.measuring import open_fp32

    torch.set_num_threads(1)
    loaded = load_bundle(bundle)
    side = input_side(loaded.meta)
    runner, batch = open_fp32(loaded, RUNTIME), torch.rand(32, 3, side, side) * 255
    runner(batch.clone())
    start = perf_counter()
    for _ in range(max(1, tiles // 32)):
        runner(batch.clone())
    return max(1, tiles // 32) * 32 / (perf_counter() - start)


def bare_together(client: Client, bundle: Path, tiles: int, workers: int) -> float:
    tasks = [client.submit(bare, bundle, tiles, pure=False, workers=[at]) for at in list(client.nthreads())[:workers]]
    return sum(client.gather(tasks))


def classified(cluster: LocalCluster, scene: Path, bundle: Path) -> tuple[float, float, float]:
    """Tiles a second while blocks are classified, and of the whole run with all its outputs; the share of workers' time
    that was spent on blocks."""
    moments: list[tuple[float, int]] = []

    def progress(stage: str, done: int, _: int) -> None:
        if stage == "classifying":
            moments.append((perf_counter(), done))

    with tempfile.TemporaryDirectory() as out:
        start = perf_counter()
        result = geoclass.classify(
            scene, bundle, out=out, cluster=cluster, progress=progress, runtime=RUNTIME, precision="fp32"
        )
        seconds = perf_counter() - start
    (began, _), (ended, tiles) = moments[0], moments[-1]
    spent = result.timings["seconds_reading"] + result.timings["seconds_network"]
    return tiles / (ended - began), len(result.labels) / seconds, spent / (ended - began) / len(cluster.workers)


def hold_to(core: int) -> None:
    """Hold this process, and all threads it will start, to one core."""
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


def speed(here: Path, side: int, rounds: int, own_core: bool) -> None:
    scene, bundle = here / "scene.tif", here / "m.pt"
    with dask.config.set(SELF_WATCH):
        clusters = {
            n: LocalCluster(n_workers=n, threads_per_worker=1, memory_limit=None, dashboard_address=":0")
            for n in (1, 2)
        }
    clients = {n: Client(cluster, set_as_default=False) for n, cluster in clusters.items()}
    for client in clients.values() if own_core else ():
        for core, worker in enumerate(client.nthreads()):
            client.run(hold_to, core, workers=[worker])
    warm = make_scene(here / "warm.tif", 4, 4)
    for n, cluster in clusters.items():
        classified(cluster, warm, bundle)
        bare_together(clients[n], bundle, 32, n)
    print(f"{side * side} tiles, {psutil.cpu_count(logical=False)} cores, {os.cpu_count()} threads")
    print(f"{'round':>6}{'workers':>9}{'network alone':>15}{'classifying':>13}{'whole run':>11}   tiles/s{'busy':>8}")
    found: dict[str, list[float]] = {"alone": [], "classifying": [], "whole run": []}
    for number in range(rounds):
        rates = {}
        for n, cluster in clusters.items():
            alone = bare_together(clients[n], bundle, side * side // 2, n)
            rates[n] = (alone, *classified(cluster, scene, bundle))
            print(
                f"{number + 1:>6}{n:>9}{rates[n][0]:>15.1f}{rates[n][1]:>13.1f}{rates[n][2]:>11.1f}{rates[n][3]:>18.0%}"
            )
        for name, one, two in zip(found, rates[1], rates[2], strict=False):
            found[name].append(two / one)
    told = ", ".join(f"{name} {statistics.median(ratios):.2f}" for name, ratios in found.items())
    print(f"two workers against one, median of {rounds}: {told}")
    for n, cluster in clusters.items():
        clients[n].close()
        cluster.close()


def kills(here: Path, count: int, seed: int) -> None:
    rng = random.Random(seed)
    subprocess.run(command("whole"), cwd=here, env=ENVIRONMENT, check=True)
    run = subprocess.Popen([*command("killed"), "--workers", "2"], cwd=here, env=ENVIRONMENT)
    journal, done = here / "killed" / ".scene.journal", 0
    while run.poll() is None:
        workers = workers_of(run.pid)
        if journal.exists() and workers and done < count:
            rng.choice(workers).kill()
            done += 1
            print(f"kill {done:>2}: {len(list(journal.glob('part-*')))} blocks in the journal", flush=True)
            sleep(rng.uniform(0.5, 15))  # a worker needs some seconds to be at work
        sleep(0.05)
    print(f"{done} kills; the run ended with {run.returncode}")
    compare(here)


def workers_of(driver: int) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(driver).children():
        try:
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue  # killed a moment ago
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=3136)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--input-px", type=int, default=64)
    parser.add_argument("--views", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--own-core", action="store_true", help="hold each worker to one core")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    side = max(2, round(options.tiles**0.5))
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        make_scene(here / "scene.tif", side, side)
        make_bundle(here / "m.pt", options.backbone, options.input_px, options.views)
        if options.rounds:
            speed(here, side, options.rounds, options.own_core)
        if options.kills:
            kills(here, options.kills, options.seed)


if __name__ == "__main__":
    main()
