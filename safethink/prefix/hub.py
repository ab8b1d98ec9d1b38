"""Prefix artifacts on the hub, named by repository and commit: what was read once is what will be read again."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from safethink.errors import ConfigError, HubError, MissingFileError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SCHEME: Final = "hub:"
"""`hub:OWNER/NAME@COMMIT`; it may be left out where the commit is there."""
DATA_ONLY: Final = ("*.json", "*.jsonl", "*.md", "*.safetensors")
"""Patterns of the files to download: nothing that could be run."""

_REPO_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class HubPlace:
    """A repository at a revision.

    Attributes:
        repo_id: OWNER/NAME.
        revision: commit, branch or tag; None where none was named.
    """

    repo_id: str
    revision: str | None

    def __str__(self) -> str:
        return f"{SCHEME}{self.repo_id}" + (f"@{self.revision}" if self.revision else "")

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit; branches and tags move."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None


def is_repo_id(name: str) -> bool:
    """Whether `name` has the form OWNER/NAME; a relative path may have it too."""
    return _REPO_ID.fullmatch(name) is not None


def parse(spec: str) -> HubPlace | None:
    """Read `hub:OWNER/NAME@COMMIT` or `OWNER/NAME@COMMIT`; None for anything else.

    Raises:
        ConfigError: `hub:` is followed by something else.
    """
    repo_id, at, revision = spec.removeprefix(SCHEME).partition("@")
    if is_repo_id(repo_id) and (at or spec.startswith(SCHEME)):
        return HubPlace(repo_id, revision or None)
    if spec.startswith(SCHEME):
        raise ConfigError(f"{spec!r} is not {SCHEME}OWNER/NAME@COMMIT")
    return None


def download(place: HubPlace) -> Path:
    """Fetch an artifact's files, or find them in the hub's cache.

    Raises:
        ConfigError: the place names no commit; says which one it is now, where the hub can be asked.
        MissingFileError: no such repository or commit.
        HubError: the hub cannot be reached and the cache does not have it.
    """
    hub = client()
    if not place.is_pinned:
        raise ConfigError(f"{place} is not pinned to a commit{_pinned_now(hub, place)}")
    with one_line_errors(hub, place.repo_id):
        # The client leaves the type of its progress bar open.
        fetch = cast("Callable[..., str]", hub.snapshot_download)  # pyright: ignore[reportUnknownMemberType]
        return Path(fetch(place.repo_id, revision=place.revision, allow_patterns=list(DATA_ONLY)))


def client() -> HfApi:
    """The hub's own client; HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE apply."""
    from huggingface_hub import HfApi

    return HfApi(library_name="safethink")


@contextmanager
def one_line_errors(hub: HfApi, repo_id: str) -> Generator[None, None, None]:
    """Say in one line what the hub's client says in many.

    Raises:
        ConfigError: the id cannot be that of a repository.
        MissingFileError: no such repository or commit.
        HubError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import httpx

    try:
        yield
    except HFValidationError as error:
        raise ConfigError(f"{repo_id!r} cannot name a repository: {error}") from error
    except RepositoryNotFoundError as error:
        raise MissingFileError(f"no repository {repo_id!r} on {hub.endpoint}, or no right to it (HF_TOKEN)") from error
    except RevisionNotFoundError as error:
        raise MissingFileError(f"the repository {repo_id!r} on {hub.endpoint} has no such commit") from error
    except HfHubHTTPError as error:
        said = error.server_message or str(error).strip().splitlines()[0]
        raise HubError(f"{hub.endpoint} refuses {repo_id!r}: {said}") from error
    except (httpx.HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise HubError(f"{hub.endpoint} cannot be reached for {repo_id!r}: {reason}") from error


def _pinned_now(hub: HfApi, place: HubPlace) -> str:
    """The rest of the sentence: how to pin it."""
    try:
        with one_line_errors(hub, place.repo_id):
            commit = hub.repo_info(place.repo_id, revision=place.revision).sha
    except HubError:
        return f"; write {SCHEME}{place.repo_id}@COMMIT"
    return f"; now it would be {HubPlace(place.repo_id, commit)}"
