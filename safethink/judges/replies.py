"""Replies of a large model on file, by what was asked: a run that was killed does not pay twice."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from safethink.errors import RecordError
from safethink.files import write_bytes, writing
from safethink.frozen import Frozen


class Reply(Frozen):
    """One line of the file."""

    asked: str
    """Hash of the request."""
    reply: str | None
    """The model's words; None where the endpoint refuses the request, which is asked again in the next run."""
    note: str = ""
    """Words of the endpoint's refusal."""


class Replies:
    """Replies by the hash of their request, appended to a file as they come; kept in memory alone without one."""

    def __init__(self, path: Path | None = None) -> None:
        """Read what is there; a last line that a killed run left unfinished is dropped.

        Raises:
            RecordError: another line is damaged, or the file cannot be read or written.
        """
        self._path = path
        self._known: dict[str, Reply] = {}
        if path is None or not path.is_file():
            return
        whole = path.read_bytes()
        kept = whole[: whole.rfind(b"\n") + 1]
        for number, line in enumerate(kept.splitlines(), start=1):
            try:
                reply = Reply.model_validate_json(line)
            except ValidationError as error:
                raise RecordError(f"{path}:{number}: not a judge's reply") from error
            self._known[reply.asked] = reply
        if len(kept) < len(whole):
            write_bytes(path, kept)

    def get(self, asked: str) -> Reply | None:
        """The reply to a request; None where it was never asked."""
        return self._known.get(asked)

    def keep(self, reply: Reply) -> None:
        """Write a reply down at once.

        Raises:
            RecordError: it could not be written.
        """
        self._known[reply.asked] = reply
        if self._path is not None:
            line = reply.model_dump_json(exclude_defaults=True).encode() + b"\n"
            with writing(self._path), self._path.open("ab") as file:
                file.write(line)
