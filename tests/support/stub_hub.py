"""A hub on loopback: as much of its protocol as making a repository, committing to it and downloading from it takes."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from huggingface_hub import HfApi, constants

from safethink.prefix import hub

TOKEN = "hf_stub"
Files = dict[str, bytes]


@dataclass
class Commit:
    oid: str
    message: str
    files: Files


@dataclass
class Repository:
    is_private: bool
    commits: list[Commit]

    def at(self, revision: str) -> Commit | None:
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit.oid == revision), None)

    def commit(self, message: str, files: Files) -> Commit:
        content = repr((len(self.commits), message, sorted(files.items())))
        self.commits.append(Commit(hashlib.sha1(content.encode()).hexdigest(), message, files))
        return self.commits[-1]


@dataclass
class StubHub:
    """What the hub holds and what it was asked."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)


class Refused(Exception):
    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


def blob_id(content: bytes) -> str:
    """The name git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serve() -> Iterator[StubHub]:
    """Run a hub on a free port of the loopback."""
    hub = StubHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def reached(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[StubHub]:
    """Run a hub that the package reaches in place of the real one, with a cache of its own."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    with serve() as served:
        monkeypatch.setattr(hub, "client", lambda: HfApi(endpoint=served.url, token=TOKEN))
        yield served


class _Handler(BaseHTTPRequestHandler):
    hub: StubHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = [unquote(part) for part in self.path.partition("?")[0].strip("/").split("/")]
        headers: dict[str, str] = {}
        try:
            match path:
                case ["api", "repos", "create"]:
                    said = self._create(json.loads(body))
                case ["api", "validate-yaml"]:
                    said = _validate(json.loads(body)["content"])
                case ["api", "models", owner, name]:
                    said = self._info(f"{owner}/{name}", "main")
                case ["api", "models", owner, name, "revision", revision]:
                    said = self._info(f"{owner}/{name}", revision)
                case ["api", "models", owner, name, "tree", revision]:
                    said = self._tree(f"{owner}/{name}", revision)
                case ["api", "models", owner, name, "preupload", revision]:
                    said = self._preupload(f"{owner}/{name}", revision, json.loads(body))
                case ["api", "models", owner, name, "commit", "main"]:
                    said = self._commit(f"{owner}/{name}", [json.loads(line) for line in body.splitlines()])
                case [owner, name, "resolve", revision, *file]:
                    said, headers = self._file(f"{owner}/{name}", revision, "/".join(file))
                case _:
                    raise Refused(404, f"the stub has no {self.path}")
            status = 200
        except Refused as refusal:
            status, said = refusal.status, {"error": str(refusal)}
            headers = {"X-Error-Message": str(refusal)} | ({"X-Error-Code": refusal.code} if refusal.code else {})
        content = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        for header, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(header, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _create(self, asked: dict[str, Any]) -> dict[str, Any]:
        self._authorise()
        repo_id = f"{asked['organization']}/{asked['name']}"
        if repo_id in self.hub.repositories:
            raise Refused(409, "You already created this model repo")
        is_private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.repositories[repo_id] = Repository(is_private, [])
        self.hub.repositories[repo_id].commit("initial commit", {".gitattributes": b""})
        return {"url": f"{self.hub.url}/{repo_id}", "id": repo_id}

    def _info(self, repo_id: str, revision: str) -> dict[str, Any]:
        repository, commit = self._find(repo_id, revision)
        files = [{"rfilename": path} for path in commit.files]
        return {"id": repo_id, "modelId": repo_id, "sha": commit.oid, "private": repository.is_private} | {
            "siblings": files,
            "tags": [],
        }

    def _tree(self, repo_id: str, revision: str) -> list[dict[str, Any]]:
        _, commit = self._find(repo_id, revision)
        return [
            {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
            for path, content in commit.files.items()
        ]

    def _preupload(self, repo_id: str, revision: str, asked: dict[str, Any]) -> dict[str, Any]:
        self._authorise()
        _, commit = self._find(repo_id, revision)
        there = {path: blob_id(content) for path, content in commit.files.items()}
        return {
            "files": [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": there.get(file["path"])}
                for file in asked["files"]
            ]
        }

    def _commit(self, repo_id: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
        self._authorise()
        repository, before = self._find(repo_id, "main")
        header, *operations = [line["value"] | {"key": line["key"]} for line in lines]
        if header.get("parentCommit", before.oid) != before.oid:
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files = dict(before.files)
        for operation in operations:
            if operation["key"] == "deletedFile":
                del files[operation["path"]]
            else:
                files[operation["path"]] = base64.b64decode(operation["content"])
        made = repository.commit(header["summary"], files)
        return {"commitUrl": f"{self.hub.url}/{repo_id}/commit/{made.oid}", "commitOid": made.oid}

    def _file(self, repo_id: str, revision: str, path: str) -> tuple[bytes, dict[str, str]]:
        _, commit = self._find(repo_id, revision)
        if path not in commit.files:
            raise Refused(404, "Entry not found", "EntryNotFound")
        return commit.files[path], {"ETag": f'"{blob_id(commit.files[path])}"', "X-Repo-Commit": commit.oid}

    def _find(self, repo_id: str, revision: str) -> tuple[Repository, Commit]:
        repository = self.hub.repositories.get(repo_id)
        if repository is None or (repository.is_private and not self._is_authorised()):
            raise Refused(401, "Repository not found", "RepoNotFound")
        commit = repository.at(revision)
        if commit is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return repository, commit

    def _authorise(self) -> None:
        if not self._is_authorised():
            raise Refused(401, "Invalid username or password.")

    def _is_authorised(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"


def _validate(content: str) -> dict[str, Any]:
    """As strict as the hub is about the front matter of a card."""
    _, front, _ = content.split("---\n", 2) if content.startswith("---\n") else ("", "{}", "")
    if not isinstance(yaml.safe_load(front), dict):
        raise Refused(400, "Invalid metadata in README.md")
    return {"errors": [], "warnings": []}
