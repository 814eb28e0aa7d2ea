"""What a service refuses: a status, what is wrong, and the remedy, as JSON."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import GeoclassError, ServiceError


class Refusal(ServiceError):
    """A request that is not carried out. `status` is a 4xx, 503 where the database is down, 507 where the disk is full."""

    def __init__(self, status: int, what: str, remedy: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{what}; {remedy}")
        self.status = status
        self.what = one_line(what)
        self.remedy = one_line(remedy)
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, str]:
        return {"error": self.what, "remedy": self.remedy}


def refused(error: GeoclassError, status: int = 422) -> Refusal:
    """A library's error as an answer: its messages say what is wrong, then the remedy after the last semicolon."""
    what, _, remedy = str(error).rpartition("; ")
    return Refusal(status, what or remedy, remedy if what else "check the request")


def one_line(text: str) -> str:
    """Text that fits a line of JSON or of a log, whatever a client put into it."""
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))
    return plain.encode("utf-8", "replace").decode()[:600]
