"""Runs jobs, each in a process of its own: it can be killed, and what kills it leaves the service alone."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from .jobs import Job, Jobs
from .settings import Settings

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parent.parent
TOKEN_VARIABLE = "GEOCLASS_TOKEN"
DATABASE_VARIABLE = "PGPASSWORD"
REST_S = 5.0


def child_environment(database: bool = False) -> dict[str, str]:
    """The environment of the service's processes: the same geoclass, no token, and the database's password only for those
    that store there."""
    hidden = {TOKEN_VARIABLE} if database else {TOKEN_VARIABLE, DATABASE_VARIABLE}
    inherited = {key: value for key, value in os.environ.items() if key not in hidden}
    path = [str(PACKAGE.parent), inherited.get("PYTHONPATH", "")]
    return {**inherited, "PYTHONPATH": os.pathsep.join(filter(None, path)), "PYTHONSAFEPATH": "1"}


class Crew:
    """A thread for each job at once. `folder` holds a folder a job."""

    def __init__(self, jobs: Jobs, folder: Path, settings: Settings) -> None:
        self.jobs = jobs
        self.folder = folder
        self.settings = settings
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._work, name=f"jobs-{n}", daemon=True) for n in range(settings.jobs)
        ]

    def start(self) -> None:
        """Take up what a killed service left, and clear what it had not accepted yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.jobs.requeue_all("the service ended")
        known = self.jobs.ids()
        for leftover in self.folder.iterdir():
            if leftover.name not in known:
                shutil.rmtree(leftover, ignore_errors=True)
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Say that a job waits."""
        self._wake.set()

    def stop(self) -> None:
        """End all processes; their jobs wait for the next start."""
        self._stopping = True
        self._wake.set()
        with self._lock:
            for process in self._processes.values():
                process.kill()
        for thread in self._threads:
            thread.join(timeout=30)
        try:
            self.jobs.requeue_all("the service ended")
        except sqlite3.Error:  # the next start does it
            log.exception("jobs that ran cannot be queued again now")

    def cancel(self, job: str) -> bool:
        """Cancel a job that waits or runs; whether it was one. Its process is gone when this returns."""
        found = self.jobs.cancel(job)
        with self._lock:
            process = self._processes.get(job)
        if found and process is not None:
            process.kill()
            while job in self._processes:  # until its thread has done with it
                sleep(0.01)
        return found

    def _work(self) -> None:
        # A thread that ended would leave all later jobs waiting, so it goes on after whatever goes wrong.
        while not self._stopping:
            try:
                job = self.jobs.claim()
            except Exception:
                log.exception("no job can be taken up")
                self._rest()
                continue
            if job is None:
                self._rest()
                continue
            self._wake.set()  # another thread may find another job
            try:
                self._run(job)
            except Exception as error:
                log.exception("job %s", job.id)
                self._settle(job, error)

    def _rest(self) -> None:
        """Wait a few seconds, or until there is news."""
        self._wake.wait(timeout=REST_S)
        self._wake.clear()

    def _settle(self, job: Job, error: Exception) -> None:
        """Note what becomes of a job that could not be followed to its end, as soon as the table can be written."""
        while not self._stopping:  # then it is queued again, at the end or at the next start
            try:
                if isinstance(error, sqlite3.Error):  # no fault of the job's
                    self.jobs.requeue(job.id, "its progress could not be written")
                else:
                    self.jobs.fail(job.id, f"unexpected failure ({type(error).__name__})", "see the service's log")
                return
            except sqlite3.Error:
                log.exception("job %s: its end cannot be written", job.id)
                self._rest()

    def _run(self, job: Job) -> None:
        folder = self.folder / job.id
        more = {"folder": str(folder), "limits": asdict(self.settings.limits), "database": self.settings.database}
        line = json.dumps({**job.spec, **more})
        with (folder / "stderr.txt").open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "geoclass.service.worker"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8",
                env=child_environment(bool(job.spec.get("to_database"))),
            )  # fmt: skip
        with self._lock:
            self._processes[job.id] = process
        timer = threading.Timer(self.settings.limits.job_s, process.kill)
        timer.start()
        begun = monotonic()
        try:
            found = self.jobs.get(job.id)
            if self._stopping or found is None or found.state != "running":  # cancelled before it had a process
                process.kill()
            if not self._follow(job, process, line) and not self._stopping:
                self._account(job, process.wait(), monotonic() - begun)
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            with self._lock:
                del self._processes[job.id]

    def _account(self, job: Job, code: int, seconds: float) -> None:
        """What becomes of a job whose process ended without a word."""
        most = self.settings.limits.job_s
        if seconds >= most:
            self.jobs.fail(job.id, f"the job took longer than {most / 3600:g} hours", "cut the scene into parts")
        else:
            self.jobs.requeue(job.id, f"its process ended by itself ({_how(code)})")

    def _follow(self, job: Job, process: subprocess.Popen[str], line: str) -> bool:
        """Note what the process tells; whether it told how it ended."""
        assert process.stdin is not None and process.stdout is not None  # pipes were asked for
        pace = Pace()
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            return False
        for text in process.stdout:
            event: dict[str, Any] = json.loads(text)
            if "stage" in event:
                eta_s = pace.eta_s(event["stage"], event["done"], event["total"])
                self.jobs.progress(job.id, event["stage"], event["done"], event["total"], eta_s)
            elif "say" in event:
                self.jobs.say(job.id, event["say"])
            else:
                self._end(job, event)
                return True
        return False

    def _end(self, job: Job, event: dict[str, Any]) -> None:
        if "error" in event:
            self.jobs.fail(job.id, event["error"], event["remedy"], event.get("files"))
        else:
            self.jobs.finish(job.id, event["files"], event["run"])


class Pace:
    """How long a job still takes, by the tiles since it began to classify."""

    def __init__(self) -> None:
        self.stage = ""
        self.begun, self.before = 0.0, 0

    def eta_s(self, stage: str, done: int, total: int) -> float | None:
        """Seconds, None where nothing is known yet."""
        if stage != self.stage:
            self.stage, self.begun, self.before = stage, monotonic(), done
        if stage != "classifying" or done <= self.before:
            return None
        return round((monotonic() - self.begun) * (total - done) / (done - self.before), 1)


def _how(code: int) -> str:
    if code >= 0:
        return f"exit {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
