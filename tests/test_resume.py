"""Interrupted runs: killed or stopped at any moment, the same command ends in the same result, row by row."""

import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import assert_same_outputs, write_coordinates

KILLS = 6


def command(bundle: Path, out: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "geoclass",
        "classify",
        "scene.tif",
        "--model",
        str(bundle),
        "-o",
        out,
        "--format",
        "csv",
    ]


@pytest.fixture(scope="module")
def here(tmp_path_factory, tiny_bundle) -> Path:
    """A scene of 17 × 17 tiles, and the outputs of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("resume")
    write_coordinates(folder / "scene.tif", width=17 * 224, height=17 * 224)
    subprocess.run(command(tiny_bundle, "whole"), cwd=folder, check=True, capture_output=True)
    return folder


def wait_for(pattern: str, folder: Path, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not list(folder.glob(pattern)) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)


def test_killed_at_random_moments(here, tiny_bundle):
    rng = random.Random(1)
    moments = []
    for _ in range(KILLS):
        run = subprocess.Popen(command(tiny_bundle, "killed"), cwd=here, stderr=subprocess.DEVNULL)
        # Before that it only imports; kills are wanted while it works.
        wait_for("killed/.scene.journal/manifest.json", here, run)
        time.sleep(rng.uniform(0, 1.5))
        run.send_signal(signal.SIGKILL)
        run.wait()
        moments.append(len(list(here.glob("killed/.scene.journal/part-*"))))
        if (here / "killed" / "scene.json").exists() and not (here / "killed" / ".scene.journal").exists():
            break
    else:
        subprocess.run(command(tiny_bundle, "killed"), cwd=here, check=True, capture_output=True)
    assert_same_outputs(here, "killed", 289)


def test_killed_while_outputs_are_moved_into_place(here, tiny_bundle):
    """The worst moment: some outputs are there, some are not. The same command must not call them someone else's."""
    script = (
        "import os, sys, pathlib\n"
        "from geoclass import journal\n"
        "real, count = pathlib.Path.replace, [0]\n"
        "def replace(self, target):\n"
        "    done = real(self, target)\n"
        "    count[0] += str(target).startswith('half/scene')\n"
        "    if count[0] == 3: os.kill(os.getpid(), 9)\n"
        "    return done\n"
        "pathlib.Path.replace = replace\n"
        f"sys.argv = ['geoclass', *{command(tiny_bundle, 'half')[3:]!r}]\n"
        "from geoclass.cli import main\n"
        "main(prog_name='geoclass')\n"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=here, capture_output=True, check=False)
    assert run.returncode == -signal.SIGKILL
    assert len([path for path in (here / "half").iterdir() if path.is_file()]) == 3
    subprocess.run(command(tiny_bundle, "half"), cwd=here, check=True, capture_output=True)
    assert_same_outputs(here, "half", 289)


def test_ctrl_c_says_how_to_resume(here, tiny_bundle):
    run = subprocess.Popen(
        command(tiny_bundle, "stopped"),
        cwd=here,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A background job inherits that interrupts are ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for("stopped/.scene.journal/part-*", here, run)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=120)
    assert run.returncode == 130, said
    last = [line for line in said.splitlines() if line.strip()][-1]
    assert re.search("run the same command again", last)
    assert "Traceback" not in said
    again = subprocess.run(command(tiny_bundle, "stopped"), cwd=here, check=False, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert_same_outputs(here, "stopped", 289)
    timings = json.loads((here / "stopped" / "scene.json").read_text())["timings"]
    kept = timings["tiles_kept"]
    assert 0 < kept <= 289 and f"({kept} were kept from an interrupted run)" in again.stdout
    assert timings["tiles_per_second"] * timings["seconds_total"] == pytest.approx(289 - kept)


def test_threads_do_not_change_the_result(here, tiny_bundle):
    subprocess.run([*command(tiny_bundle, "three"), "--readers", "3"], cwd=here, check=True, capture_output=True)
    assert_same_outputs(here, "three", 289)
