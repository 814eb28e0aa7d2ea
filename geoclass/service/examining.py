"""The service's side of the examiner: one question at a time, with a limit of time, and a new process after a crash."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from .kinds import Kind
from .refusal import Refusal
from .settings import Limits

LINE_BYTES = 1 << 20


class Examiner:
    """Asks the examining process. Start it lazily; `close` ends it."""

    def __init__(self, limits: Limits, environment: dict[str, str]) -> None:
        self.limits = limits
        self.environment = environment
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def scene(self, path: Path, name: str, kind: Kind) -> dict[str, Any]:
        """Width, height, bands and files of a raster, from its header. Raises Refusal for what is not fit."""
        return await self._ask(
            do="scene",
            path=str(path),
            name=name,
            driver=kind.driver,
            pixels=self.limits.scene_pixels,
            block_bytes=self.limits.block_bytes,
        )

    async def picture(self, path: Path, name: str, bands: tuple[str, ...], sensor: str, size_px: int) -> Path:
        """The .npy file with a TIFF picture as a tile. Raises Refusal for what is not fit."""
        found = await self._ask(
            do="picture", path=str(path), name=name, pixels=self.limits.picture_pixels, bands=list(bands),
            sensor=sensor, size_px=size_px,
        )  # fmt: skip
        return Path(found["array"])

    async def _ask(self, **question: Any) -> dict[str, Any]:
        async with self._turn:
            process = await self._started()
            assert process.stdin is not None and process.stdout is not None  # pipes were asked for
            try:
                process.stdin.write(json.dumps(question).encode() + b"\n")
                await process.stdin.drain()
                line = await asyncio.wait_for(process.stdout.readline(), self.limits.examine_s)
            except (TimeoutError, ConnectionError):
                line = b""
            except BaseException:  # the caller went away: the answer that comes would be taken for the next one's
                await self.close()
                raise
            if not line.endswith(b"\n"):
                await self.close()
                raise Refusal(422, f"{question['name']} cannot be examined", "send a file that is whole and smaller")
        answer = json.loads(line)
        if "ok" not in answer:
            raise Refusal(int(answer["status"]), answer["error"], answer["remedy"])
        found: dict[str, Any] = answer["ok"]
        return found

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            pipe = asyncio.subprocess.PIPE
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "geoclass.service.examiner", stdin=pipe, stdout=pipe,
                stderr=asyncio.subprocess.DEVNULL, env=self.environment, limit=LINE_BYTES,
            )  # fmt: skip
        return self._process

    async def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()
