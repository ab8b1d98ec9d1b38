"""Prefixes from the hub: by repository and commit, from the cache once they are there, and never unpinned."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants
from hypothesis import given
from hypothesis import strategies as st

from safethink import prefix
from safethink.errors import ArtifactError, ConfigError, HubError, MissingFileError
from safethink.prefix import Prefix, PrefixArtifact, hub
from safethink.prefix.hub import HubPlace
from tests.support import stub_hub
from tests.support.stub_hub import Repository, StubHub

NAMES = st.from_regex(r"[a-z][a-z_0-9.-]{0,9}", fullmatch=True)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PUBLISHED = "ada/kind-words"


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StubHub]:
    """A hub with one published prefix; nothing else can be reached."""
    with stub_hub.reached(monkeypatch, tmp_path / "cache") as served:
        prefix.save(PrefixArtifact(name="kind", prefixes=(Prefix(text="Wait, think"),)), tmp_path / "kind", None, "#")
        files = {path.name: path.read_bytes() for path in (tmp_path / "kind").iterdir()}
        served.repositories[PUBLISHED] = Repository(False, [])
        served.repositories[PUBLISHED].commit("publish", files | {"evil.py": b"raise SystemExit"})
        yield served


def commit_of(served: StubHub) -> str:
    return served.repositories[PUBLISHED].commits[-1].oid


@pytest.mark.parametrize("scheme", ["", "hub:"])
def test_a_published_prefix_loads_by_repository_and_commit(online: StubHub, scheme: str) -> None:
    spec = f"{scheme}{PUBLISHED}@{commit_of(online)}"
    assert prefix.load(spec).texts == ("Wait, think",)
    assert not [asked for asked in online.requests if "evil.py" in asked]
    asked = len(online.requests)
    assert prefix.load(spec).texts == ("Wait, think",)
    assert len([line for line in online.requests[asked:] if "/resolve/" in line]) == 0


def test_a_later_commit_changes_nothing_for_who_pinned_an_earlier_one(online: StubHub) -> None:
    first = commit_of(online)
    online.repositories[PUBLISHED].commit("break it", {"prefix.json": b"{}"})
    assert prefix.load(f"{PUBLISHED}@{first}").texts == ("Wait, think",)
    with pytest.raises(ArtifactError, match=r"prefix\.json: name: Field required"):
        prefix.load(f"{PUBLISHED}@{commit_of(online)}")


@pytest.mark.parametrize("revision", ["", "@main", "@" + COMMIT[:7]])
def test_a_place_that_can_move_is_refused(online: StubHub, revision: str) -> None:
    expected = "not pinned" if revision != "@" + COMMIT[:7] else "has no such commit"
    error = ConfigError if expected == "not pinned" else MissingFileError
    with pytest.raises(error, match=expected) as caught:
        prefix.load(f"hub:{PUBLISHED}{revision}")
    if error is ConfigError:
        assert f"now it would be hub:{PUBLISHED}@{commit_of(online)}" in str(caught.value)


def test_what_is_not_there_is_named(online: StubHub) -> None:
    with pytest.raises(MissingFileError, match="no repository 'ada/unkind-words'"):
        prefix.load(f"ada/unkind-words@{COMMIT}")
    with pytest.raises(MissingFileError, match=f"repository '{PUBLISHED}' on .* has no such commit"):
        prefix.load(f"{PUBLISHED}@{COMMIT}")
    online.repositories["ada/other"] = Repository(False, [])
    empty = online.repositories["ada/other"].commit("nothing", {"notes.md": b""}).oid
    with pytest.raises(MissingFileError, match=r"has no prefix\.json"):
        prefix.load(f"ada/other@{empty}")


def test_without_a_network_the_cache_serves_what_it_has(online: StubHub, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = f"{PUBLISHED}@{commit_of(online)}"
    prefix.load(spec)
    monkeypatch.setattr(hub, "client", lambda: HfApi(endpoint="http://127.0.0.1:9", token=False))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert prefix.load(spec).texts == ("Wait, think",)
    with pytest.raises(HubError, match=r"127\.0\.0\.1:9 cannot be reached for 'ada/kind-words'"):
        prefix.load(f"{PUBLISHED}@{COMMIT}")
    with pytest.raises(ConfigError, match="not pinned to a commit; write hub:ada/kind-words@COMMIT"):
        prefix.load(f"hub:{PUBLISHED}")


def test_offline_mode_is_one_line(online: StubHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="cannot be reached") as caught:
        prefix.load(f"{PUBLISHED}@{COMMIT}")
    assert "\n" not in str(caught.value)


def test_a_folder_comes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(f"{PUBLISHED}@{COMMIT}")
    prefix.save(PrefixArtifact(name="here", prefixes=(Prefix(text="Hmm"),)), folder, None, "#")
    assert prefix.load(str(folder)).name == "here"


@given(st.tuples(NAMES, NAMES).map("/".join), st.from_regex(r"[0-9a-f]{40}", fullmatch=True))
def test_a_place_is_read_as_it_is_written(repo_id: str, commit: str) -> None:
    place = HubPlace(repo_id, commit)
    assert hub.parse(str(place)) == place == hub.parse(f"{repo_id}@{commit}")
    assert place.is_pinned
    assert not HubPlace(repo_id, commit[1:]).is_pinned


@pytest.mark.parametrize("spec", ["runs/gcg", "wait-think-safely", "/tmp/a@b", "./a/b@c", "a/b/c@d", "text:a/b@c"])
def test_anything_else_is_no_place_on_the_hub(spec: str) -> None:
    assert hub.parse(spec) is None


@pytest.mark.parametrize("spec", ["hub:", "hub:name", "hub:a/b/c", "hub:a/b c"])
def test_a_misspelt_place_is_one_line(spec: str) -> None:
    with pytest.raises(ConfigError, match="is not hub:OWNER/NAME@COMMIT"):
        hub.parse(spec)


def test_an_id_that_the_hub_would_not_take_is_one_line(online: StubHub) -> None:
    with pytest.raises(ConfigError, match="cannot name a repository"):
        prefix.load(f"ada/kind..words@{COMMIT}")


def test_importing_it_does_not_import_the_client() -> None:
    code = "import sys, safethink.prefix.hub; assert not {'huggingface_hub', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
