"""Bodies of requests to files on disk: form data, or one file alone. Nothing is decoded here, and nothing kept in memory."""

from __future__ import annotations

import asyncio
import errno
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from .refusal import Refusal, one_line

FIELD_BYTES = 16 * 1024
HEADER_BYTES = 8 * 1024
"""Of all header lines of one part; they are kept in memory until it begins."""
MOST_FIELDS = 64
AT_ONCE = 1 << 18
"""Bodies above this size are written by a thread, so that a slow disk keeps no other caller waiting."""


@dataclass(frozen=True)
class Received:
    """One file of a request: the name its sender gave it, and where it lies now."""

    name: str
    path: Path


@dataclass
class Form:
    """What a request held."""

    fields: dict[str, str] = field(default_factory=dict)
    files: list[Received] = field(default_factory=list)


@asynccontextmanager
async def received(request: Request, folder: Path, most_files: int, alone: tuple[str, ...] = ()) -> AsyncIterator[Form]:
    """The form of a request, its files in `folder`; files still there at the end are removed.

    alone: media types (their beginnings) of bodies that are one file. Raises Refusal for what is no form (400, 415), or
    has too many parts (413); starlette's ClientDisconnect where the sender went away.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    media = kind.decode("latin-1").lower()
    form = Form()
    sink: _Sink
    if media == "multipart/form-data" and options.get(b"boundary"):
        sink = _Parts(form, folder, most_files, options[b"boundary"])
    elif alone and media.startswith(alone):
        sink = _Alone(form, folder)
    else:
        wanted = " or ".join(["multipart/form-data", *(f"{name}…" for name in alone)])
        raise Refusal(415, f"a body of type {one_line(media) or 'unknown'} is not taken", f"send {wanted}")
    try:
        await _fill(request, sink)
        yield form
    finally:
        sink.close()
        for item in form.files:
            item.path.unlink(missing_ok=True)


async def _fill(request: Request, sink: _Sink) -> None:
    total = 0
    try:
        async for piece in request.stream():
            total += len(piece)
            if total > AT_ONCE:
                await asyncio.to_thread(sink.write, piece)
            else:
                sink.write(piece)
        sink.end()
    except (FormParserError, UnicodeDecodeError, ValueError) as error:
        raise Refusal(400, "the form data cannot be read", "send multipart/form-data, as curl -F does") from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise full_disk() from error


def full_disk() -> Refusal:
    """The refusal of what does not fit on the disk."""
    return Refusal(507, "the service's disk is full", "delete finished jobs, or try again later")


class _Sink:
    """Takes a body in pieces."""

    def __init__(self, form: Form, folder: Path) -> None:
        self.form = form
        self.folder = folder
        self.open: BinaryIO | None = None

    def begin_file(self, name: str) -> None:
        path = self.folder / secrets.token_hex(12)
        self.form.files.append(Received(name, path))
        self.open = path.open("xb")

    def write(self, piece: bytes) -> None:
        raise NotImplementedError

    def end(self) -> None:
        self.close()

    def close(self) -> None:
        if self.open is not None:
            self.open.close()
            self.open = None


class _Alone(_Sink):
    def write(self, piece: bytes) -> None:
        if self.open is None:
            self.begin_file("picture")
        assert self.open is not None
        self.open.write(piece)


class _Parts(_Sink):
    """multipart/form-data: parts with a file name go to disk, others are short texts."""

    def __init__(self, form: Form, folder: Path, most_files: int, boundary: bytes) -> None:
        super().__init__(form, folder)
        self.most_files = most_files
        self.header = (bytearray(), bytearray())
        self.header_bytes = 0
        self.disposition = b""
        self.key: str | None = None
        self.text = bytearray()
        self.ended = False
        self.parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begins,
                "on_part_data": self._part_data,
                "on_part_end": self._part_ends,
                "on_header_field": lambda data, start, end: self._header(0, data[start:end]),
                "on_header_value": lambda data, start, end: self._header(1, data[start:end]),
                "on_header_end": self._header_ends,
                "on_headers_finished": self._headers_finished,
                "on_end": self._all_ends,
            },
        )

    def write(self, piece: bytes) -> None:
        self.parser.write(piece)

    def end(self) -> None:
        self.parser.finalize()
        if not self.ended:
            raise FormParserError("the last boundary is missing")
        self.close()

    def _part_begins(self) -> None:
        self.disposition = b""
        self.header_bytes = 0

    def _header(self, place: int, data: bytes) -> None:
        self.header_bytes += len(data)
        if self.header_bytes > HEADER_BYTES:
            raise Refusal(413, f"a part's header is longer than {HEADER_BYTES} bytes", "send it as curl -F does")
        self.header[place].extend(data)

    def _header_ends(self) -> None:
        if self.header[0].lower() == b"content-disposition":
            self.disposition = bytes(self.header[1])
        self.header = (bytearray(), bytearray())

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self.disposition)
        self.key, self.text = options.get(b"name", b"").decode("utf-8", "replace"), bytearray()
        if b"filename" in options:
            if len(self.form.files) >= self.most_files:
                raise Refusal(413, f"more than {self.most_files} files in one request", "send fewer at once")
            name = options[b"filename"].decode("utf-8", "replace").replace("\\", "/")
            self.begin_file(one_line(PurePosixPath(name).name)[:100] or "unnamed")
        elif len(self.form.fields) >= MOST_FIELDS:
            raise Refusal(413, f"more than {MOST_FIELDS} fields in one request", "send fewer")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self.open is not None:
            self.open.write(data[start:end])
            return
        self.text += data[start:end]
        if len(self.text) > FIELD_BYTES:
            raise Refusal(413, f"a field is longer than {FIELD_BYTES} bytes", "send files as files (-F file=@name)")

    def _part_ends(self) -> None:
        if self.open is not None:
            self.close()
        elif self.key:
            self.form.fields[self.key] = self.text.decode("utf-8", "replace")

    def _all_ends(self) -> None:
        self.ended = True
