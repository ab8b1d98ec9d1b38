"""Replies of a large model on file, by what was asked: a run that was killed does not pay twice."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from safethink.errors import RecordError
from safethink.files import writing
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
        self._known: dict[str, Reply] = {}
        self._file = None
        if path is None:
            return
        with writing(path):
            whole = path.read_bytes() if path.is_file() else b""
            whole = whole[: whole.rfind(b"\n") + 1]
            for number, line in enumerate(whole.splitlines(), start=1):
                try:
                    reply = Reply.model_validate_json(line)
                except ValidationError as error:
                    raise RecordError(f"{path}:{number}: not a judge's reply") from error
                self._known[reply.asked] = reply
            self._file = path.open("ab", buffering=0)
            self._file.truncate(len(whole))

    def get(self, asked: str) -> Reply | None:
        """The reply to a request; None where it was never asked."""
        return self._known.get(asked)

    def keep(self, reply: Reply) -> None:
        """Write a reply down at once.

        Raises:
            RecordError: it could not be written.
        """
        self._known[reply.asked] = reply
        if self._file is not None:
            line = json.dumps(reply.model_dump(exclude_defaults=True), ensure_ascii=False).encode() + b"\n"
            with writing(Path(str(self._file.name))):
                self._file.write(line)
