"""Publishing: one commit, nothing the second time, and refused without a test that the prefix passed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi

from optimize.cli import PROGRAM
from optimize.publishing import publish as publishing
from optimize.publishing.model_card import card
from optimize.publishing.publish import publish
from safethink import prefix
from safethink.errors import ArtifactError, ConfigError, HubError, MissingFileError
from safethink.evaluation import holdout
from safethink.prefix import artifact, hub
from tests.support import chat_reasoner, published, stub_hub
from tests.support.stub_hub import StubHub

FILES = ("README.md", "search.jsonl", "prefix.schema.json", "prefix.json")
REPO = "ada/kind-words"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved artifact that may be published."""
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 0}\n')
    prefix.save(published.artifact(), tmp_path / "artifact", log, "the card of the search")
    return tmp_path / "artifact"


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StubHub]:
    with stub_hub.reached(monkeypatch, tmp_path / "cache") as served:
        yield served


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_published_folder_is_whole(folder: Path, tmp_path: Path) -> None:
    done = publish(folder, str(tmp_path / "public"))
    assert done.files == done.changed == FILES
    held = contents(tmp_path / "public")
    assert sorted(held) == sorted(FILES)
    assert prefix.load(tmp_path / "public", chat_reasoner.tokenizer()).texts == published.TEXTS
    assert held["README.md"].decode() == card(published.artifact())
    assert held["search.jsonl"] == (folder / "search.jsonl").read_bytes()
    assert json.loads(held["prefix.schema.json"]) == json.loads(artifact.json_schema())


def test_publishing_again_changes_nothing(folder: Path, tmp_path: Path) -> None:
    public = tmp_path / "public"
    publish(folder, str(public))
    before = {path.name: path.stat().st_mtime_ns for path in public.iterdir()}
    assert publish(folder, str(public)).changed == ()
    assert {path.name: path.stat().st_mtime_ns for path in public.iterdir()} == before
    (public / "README.md").write_text("mine")
    assert publish(folder, str(public)).changed == ("README.md",)


def test_a_new_repository_gets_one_commit(folder: Path, online: StubHub) -> None:
    done = publish(folder, REPO)
    repository = online.repositories[REPO]
    assert [commit.message for commit in repository.commits] == ["initial commit", "Publish learned"]
    assert not repository.is_private
    assert done.commit == repository.commits[-1].oid
    assert done.changed == FILES
    assert set(repository.commits[-1].files) == {*FILES, ".gitattributes"}
    loaded = prefix.load(f"{REPO}@{done.commit}", chat_reasoner.tokenizer())
    assert loaded.metrics == published.artifact().metrics
    assert loaded == prefix.load(folder, chat_reasoner.tokenizer())


@pytest.mark.slow
def test_the_hub_gets_no_second_commit_of_the_same(folder: Path, online: StubHub) -> None:
    first = publish(folder, REPO)
    second = publish(folder, f"hub:{REPO}")
    assert (second.commit, second.changed) == (first.commit, ())
    assert len(online.repositories[REPO].commits) == 2
    relicensed = publish(folder, REPO, license="mit")
    assert relicensed.changed == ("README.md", "prefix.json")
    assert relicensed.commit == online.repositories[REPO].commits[-1].oid != first.commit
    assert prefix.load(f"{REPO}@{relicensed.commit}").license == "mit"
    assert prefix.load(f"{REPO}@{first.commit}").license == "apache-2.0"


def test_a_repository_is_made_private_where_asked(folder: Path, online: StubHub) -> None:
    publish(folder, REPO, private=True)
    assert online.repositories[REPO].is_private


def test_a_dry_run_writes_nothing_anywhere(folder: Path, online: StubHub, tmp_path: Path) -> None:
    before = contents(folder)
    assert publish(folder, REPO, dry_run=True).changed == FILES
    assert publish(folder, str(tmp_path / "public"), dry_run=True).changed == FILES
    assert online.repositories == {}
    assert not (tmp_path / "public").exists()
    publish(folder, REPO)
    assert publish(folder, REPO, license="mit", dry_run=True).changed == ("README.md", "prefix.json")
    assert len(online.repositories[REPO].commits) == 2
    assert contents(folder) == before


def test_soft_rows_and_the_log_of_evaluations_go_along(folder: Path, tmp_path: Path) -> None:
    soft = published.artifact().with_rows([torch.ones(2, 8)], ("Wait",))
    prefix.save(soft, folder, folder / prefix.LOG_FILE, "a card")
    (folder / holdout.LOG).write_text('{"evaluation": "one"}\n')
    done = publish(folder, str(tmp_path / "public"))
    assert {prefix.ROWS_FILE, holdout.LOG} <= set(done.files)
    assert done.files[-1] == prefix.JSON_FILE
    (rows,) = prefix.load(tmp_path / "public").soft_rows
    assert torch.equal(rows, torch.ones(2, 8))


@pytest.mark.parametrize("on_hub", [False, True])
def test_a_text_in_the_place_of_a_soft_prefix_leaves_no_rows_behind(
    folder: Path, online: StubHub, tmp_path: Path, on_hub: bool
) -> None:
    public, soft = REPO if on_hub else str(tmp_path / "public"), tmp_path / "soft"
    prefix.save(published.artifact().with_rows([torch.ones(2, 8)], ("Wait",)), soft, None, "a card")
    assert prefix.ROWS_FILE in publish(soft, public).changed
    done = publish(folder, public)
    assert prefix.ROWS_FILE in done.changed
    there = online.repositories[REPO].commits[-1].files if on_hub else contents(Path(public))
    assert prefix.ROWS_FILE not in there
    assert publish(folder, public).changed == ()


@pytest.mark.parametrize("missing", ["asr_test", "asr_undefended_test", "count"])
def test_without_a_test_nothing_is_published(folder: Path, tmp_path: Path, missing: str) -> None:
    made = published.artifact()
    kept = {name: metric for name, metric in made.metrics.items() if name != missing}
    count = 0 if missing == "count" else 1
    prefix.save(made.replace(metrics=kept, test_evaluations=count), folder, None, "a card")
    with pytest.raises(ArtifactError, match="has no record of `test`: evaluate it there"):
        publish(folder, str(tmp_path / "public"))
    assert not (tmp_path / "public").exists()


@pytest.mark.parametrize("guarded", [0.7, 0.75])
def test_a_prefix_that_does_not_lower_asr_is_refused(folder: Path, online: StubHub, guarded: float) -> None:
    prefix.save(published.artifact(guarded), folder, None, "a card")
    said = rf"does not lower ASR on `test`: {guarded:.3f} \(.*n = 300\) guarded, 0\.700 \(0\.650 to 0\.750, n = 300\)"
    with pytest.raises(ArtifactError, match=said):
        publish(folder, REPO)
    assert online.requests == []


def test_an_edited_artifact_is_refused(folder: Path, tmp_path: Path) -> None:
    path = folder / prefix.JSON_FILE
    path.write_text(path.read_text().replace('"value": 0.7', '"value": 0.9'))
    with pytest.raises(ArtifactError, match="was edited"):
        publish(folder, str(tmp_path / "public"))


def test_what_is_no_artifact_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"wait-think-safely has no prefix\.json"):
        publish(Path("wait-think-safely"), str(tmp_path / "public"))


@pytest.mark.parametrize(
    ("to", "repo_id"),
    [
        ("ada/kind-words", "ada/kind-words"),
        ("hub:ada/kind-words", "ada/kind-words"),
        ("./ada/kind-words", None),
        ("/tmp/public", None),
        ("public", None),
        ("runs/a/public", None),
        ("here/already", None),
    ],
)
def test_where_it_goes(to: str, repo_id: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here/already").mkdir(parents=True)
    assert publishing.repository(to) == repo_id


def test_a_commit_cannot_be_written_to(folder: Path) -> None:
    with pytest.raises(ConfigError, match="a commit cannot be written to; name the repository, ada/kind-words"):
        publish(folder, f"{REPO}@{'0' * 40}")


def test_without_a_token_the_hub_refuses_in_one_line(
    folder: Path, online: StubHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "client", lambda: HfApi(endpoint=online.url, token=False))
    with pytest.raises((HubError, MissingFileError), match=REPO) as caught:
        publish(folder, REPO)
    assert "\n" not in str(caught.value)
    assert online.repositories == {}


def test_a_commit_in_between_is_not_overwritten(folder: Path, online: StubHub, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(folder, REPO)
    repository = online.repositories[REPO]
    known = repository.commits[-1].oid
    repository.commit("somebody else's", repository.commits[-1].files | {"README.md": b"theirs"})
    read = publishing._remote
    monkeypatch.setattr(publishing, "_remote", lambda api, repo_id: (known, read(api, repo_id)[1]))
    with pytest.raises(HubError, match="A commit has happened since"):
        publish(folder, REPO)
    assert repository.commits[-1].files["README.md"] == b"theirs"


@pytest.mark.slow
def test_the_command_says_what_it_did(folder: Path, online: StubHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert PROGRAM.main(["publish", str(folder), "--to", REPO, "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith(f"would publish to {REPO}:\n  README.md\n")
    assert PROGRAM.main(["publish", str(folder), "--to", REPO]) == 0
    commit = online.repositories[REPO].commits[-1].oid
    assert capsys.readouterr().out.startswith(f"published as {REPO}@{commit}:\n")
    assert PROGRAM.main(["publish", str(folder), "--to", REPO]) == 0
    assert capsys.readouterr().out == f"nothing changed: {REPO}@{commit} has it all\n"
    assert PROGRAM.main(["publish", str(folder), "--to", REPO, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads(json.dumps(asdict(publish(folder, REPO))))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nowhere", "--to", "x"], "no artifact to publish: nowhere has no prefix.json"),
        (["nowhere"], "--to"),
        ([], "PATH"),
        (["nowhere", "--too", "x"], "--to"),
    ],
)
def test_mistakes_are_one_line_and_status_2(capsys: pytest.CaptureFixture[str], argv: list[str], said: str) -> None:
    assert PROGRAM.main(["publish", *argv]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert said in captured.err
