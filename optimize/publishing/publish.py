"""Publishes a prefix artifact: to a folder, or in one commit to a repository on the hub.

Only what was reported on `test`, and lowers ASR there, is published. Publishing the same artifact again does nothing.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from optimize.publishing.model_card import card
from safethink import prefix
from safethink.errors import ArtifactError, ConfigError, MissingFileError
from safethink.evaluation import holdout
from safethink.files import write_bytes, writing
from safethink.prefix import Metric, PrefixArtifact, hub
from safethink.prefix.artifact import SCHEMA_FILE, shipped_schema

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

Files: TypeAlias = Mapping[str, bytes]
"""Content by name; `prefix.json` comes last, so that a folder that has it is complete."""

TEST_RECORD: Final = ("asr_test", "asr_undefended_test")


@dataclass(frozen=True, slots=True)
class Published:
    """The outcome of publishing, or of its dry run.

    Attributes:
        to: the folder, or the repository on the hub.
        files: what the published artifact consists of.
        changed: which of them were not there like that before, and what was left there of another one; none where
            nothing was to be done.
        commit: of the repository, by which the artifact is loaded; None for a folder, and before there is one.
    """

    to: str
    files: tuple[str, ...]
    changed: tuple[str, ...]
    commit: str | None = None


def publish(
    folder: Path,
    to: str,
    *,
    run: Path | None = None,
    license: str | None = None,
    private: bool = False,
    dry_run: bool = False,
) -> Published:
    """Publish the artifact in `folder`.

    Args:
        folder: the artifact.
        to: a folder, or OWNER/NAME of a repository on the hub, which is made where it is missing. What names no folder
            yet and reads like OWNER/NAME is a repository; `./OWNER/NAME` is a folder.
        run: an evaluation of it on `test`, whose numbers are written into the artifact first.
        license: as the hub spells it; None keeps that of the artifact.
        private: whether a repository that is made is private.
        dry_run: change nothing, here or there.

    Raises:
        ArtifactError: the artifact is damaged, has no record of `test`, or does not lower ASR there.
        MissingFileError: there is no such artifact or evaluation.
        ConfigError: `to` cannot be published to.
        HubError: the hub cannot be reached, or refuses.
    """
    if not (folder / prefix.JSON_FILE).is_file():
        raise MissingFileError(f"no artifact to publish: {folder} has no {prefix.JSON_FILE}")
    # As an absolute path it cannot be taken for the name of a built-in prefix.
    artifact = prefix.load(folder.resolve())
    if run is not None:
        artifact = _with_run(artifact, folder, run, dry_run)
    refuse_unfit(artifact)
    if license is not None:
        artifact = artifact.replace(license=license)
    files = bundle(artifact, folder)
    repo_id = repository(to)
    if repo_id is None:
        return _to_folder(files, Path(to).expanduser(), dry_run)
    return _to_hub(files, repo_id, artifact.name, private, dry_run)


def refuse_unfit(artifact: PrefixArtifact) -> None:
    """Refuse what nobody should use.

    Raises:
        ArtifactError: no record of `test`, or ASR there is not below that of the undefended reasoner.
    """
    known = artifact.metrics
    if artifact.test_evaluations == 0 or any(name not in known for name in TEST_RECORD):
        raise ArtifactError(
            f"prefix {artifact.name!r} has no record of `test`: evaluate it there, beside a row without a defense, and "
            "name the run by --evaluation"
        )
    guarded, undefended = (known[name] for name in TEST_RECORD)
    if guarded.value >= undefended.value:
        raise ArtifactError(
            f"prefix {artifact.name!r} does not lower ASR on `test`: {_told(guarded)} guarded, "
            f"{_told(undefended)} undefended"
        )


def bundle(artifact: PrefixArtifact, folder: Path) -> Files:
    """The files of an artifact as they are published: card and schema written anew, logs as they lie in `folder`."""
    log = folder / prefix.LOG_FILE
    with tempfile.TemporaryDirectory() as scratch:
        staged = Path(scratch)
        prefix.save(artifact, staged, log if log.is_file() else None, card(artifact))
        files = {path.name: path.read_bytes() for path in sorted(staged.iterdir())}
    files[SCHEMA_FILE] = shipped_schema().encode()
    # With it, evaluations of what is published go on being counted.
    if (folder / holdout.LOG).is_file():
        files[holdout.LOG] = (folder / holdout.LOG).read_bytes()
    return files | {prefix.JSON_FILE: files.pop(prefix.JSON_FILE)}


def repository(to: str) -> str | None:
    """The repository that `to` names; None where it names a folder.

    Raises:
        ConfigError: it names a commit.
    """
    if os.path.isdir(to):
        return None
    place = hub.parse(to)
    if place is not None and place.revision is not None:
        raise ConfigError(f"--to {to}: a commit cannot be written to; name the repository, {place.repo_id}")
    if place is not None:
        return place.repo_id
    return to if hub.is_repo_id(to) else None


def _with_run(artifact: PrefixArtifact, folder: Path, run: Path, dry_run: bool) -> PrefixArtifact:
    from optimize.publishing.holdout_metrics import report_run, with_run

    return with_run(artifact, run) if dry_run else report_run(folder, run)


def _to_folder(files: Files, to: Path, dry_run: bool) -> Published:
    stale = _stale(files, [prefix.ROWS_FILE] if (to / prefix.ROWS_FILE).is_file() else [])
    written = [name for name in files if not _holds(to / name, files[name])]
    changed = (*written, *stale)
    if changed and not dry_run:
        with writing(to):
            to.mkdir(parents=True, exist_ok=True)
        for name in written:
            write_bytes(to / name, files[name])
        for name in stale:
            (to / name).unlink()
    return Published(str(to), tuple(files), changed)


def _stale(files: Files, there: Iterable[str]) -> list[str]:
    """Files that a soft prefix has left behind where a text takes its place."""
    return [name for name in there if name == prefix.ROWS_FILE and name not in files]


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _to_hub(files: Files, repo_id: str, name: str, private: bool, dry_run: bool) -> Published:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api = hub.client()
    with hub.one_line_errors(api, repo_id):
        head, there = _remote(api, repo_id)
        stale = _stale(files, there)
        written = [file for file, content in files.items() if not _same(there.get(file), content)]
        changed = (*written, *stale)
        done = Published(repo_id, tuple(files), changed, head)
        if dry_run or not changed:
            return done
        if head is None:
            api.create_repo(repo_id, private=private or None, exist_ok=True)
            head = api.repo_info(repo_id).sha
        commit = api.create_commit(
            repo_id,
            [CommitOperationAdd(file, files[file]) for file in written]
            + [CommitOperationDelete(file) for file in stale],
            commit_message=f"Publish {name}",
            parent_commit=head,
        )
    return Published(repo_id, tuple(files), changed, commit.oid)


def _remote(api: HfApi, repo_id: str) -> tuple[str | None, dict[str, RepoFile]]:
    """The newest commit of a repository and its files; (None, {}) where there is none yet."""
    from huggingface_hub.errors import RepositoryNotFoundError
    from huggingface_hub.hf_api import RepoFile

    try:
        head = api.repo_info(repo_id).sha
    except RepositoryNotFoundError:
        return None, {}
    tree = api.list_repo_tree(repo_id, revision=head)
    return head, {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}


def _same(there: RepoFile | None, content: bytes) -> bool:
    """Whether the hub has this content: it names files by git's hash, and large ones by SHA-256."""
    from hashlib import sha256

    from huggingface_hub.utils.sha import git_hash

    if there is None:
        return False
    if there.lfs is not None:
        return there.lfs.sha256 == sha256(content).hexdigest()
    return there.blob_id == git_hash(content)


def _told(metric: Metric) -> str:
    return f"{metric.value:.3f} ({metric.low:.3f} to {metric.high:.3f}, n = {metric.n})"
