"""Two prefixes compared end to end: against the planted process, and from the command line on the shipped models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from safethink import prefix
from safethink.cli.main import PROGRAM
from safethink.config import EvalConfig, OracleMonitorConfig, RowConfig, SafeThinkConfig, yaml_config
from safethink.config.yaml_config import shipped_config
from safethink.errors import MissingFileError
from safethink.evaluation import exact_asr, folder, holdout, records
from safethink.evaluation.compare import COMPARISON, Comparison, PairedColumn, compare, table
from safethink.evaluation.worker import GuardedReasoner
from safethink.prefix import Prefix, PrefixArtifact
from safethink.testbed.world import World
from tests.support import planted
from tests.support.timeless import SECONDS

pytestmark = pytest.mark.slow

STRONG, WEAK = "doubt calm stop again", "Hmm, let me see"
KINDS = ("jailbreak", "harmless")


@pytest.fixture
def config() -> EvalConfig:
    """The shipped evaluation with few prompts, watched by the oracle, with a single try."""
    shipped = yaml_config.load(EvalConfig, shipped_config("eval/testbed"))
    run = shipped.run.replace(monitor=OracleMonitorConfig())
    cut = tuple(each.replace(n=24) for each in shipped.benchmarks if each.name in KINDS)
    defense = SafeThinkConfig(max_resamples=1)
    return shipped.replace(run=run, benchmarks=cut, rows=(RowConfig(name="learned", defense=defense),))


@pytest.fixture
def reasoner(monkeypatch: pytest.MonkeyPatch) -> GuardedReasoner:
    monkeypatch.setattr(exact_asr, "make_world", lambda config: World.make(planted.SEED))
    return planted.reasoner((STRONG, WEAK))


def saved(path: Path, text: str) -> str:
    prefix.save(PrefixArtifact(name=path.name, prefixes=(Prefix(text=text),)), path, None, "a card")
    return str(path)


def test_a_comparison_is_paired_and_counted(config: EvalConfig, reasoner: GuardedReasoner, tmp_path: Path) -> None:
    a, b = saved(tmp_path / "strong", STRONG), saved(tmp_path / "weak", WEAK)
    found = compare(a, b, config, tmp_path / "run", reasoner)
    assert Comparison.model_validate_json((tmp_path / "run" / COMPARISON).read_bytes()) == found
    assert (found.a.texts, found.b.texts) == ((STRONG,), (WEAK,))
    asr = found.columns["asr_answer"]
    assert asr.difference.value == pytest.approx(asr.a.value - asr.b.value)
    outcomes = {
        (record.row, record.prompt): record.outcome == "harmful"
        for record in records.read(tmp_path / "run" / folder.RECORDS)
        if record.phase == "guarded" and record.benchmark == "jailbreak"
    }
    prompts = {prompt for _, prompt in outcomes}
    assert asr.test is not None
    assert asr.test.only_a == sum(outcomes["a", each] and not outcomes["b", each] for each in prompts)
    assert asr.test.only_b == sum(outcomes["b", each] and not outcomes["a", each] for each in prompts)
    assert asr.test.only_b > asr.test.only_a
    assert found.columns["recovery_rate"].test is None, "a context has several seeds"
    assert found.columns["recovery_rate"].difference.low > 0
    assert (found.a.test_evaluations, found.b.test_evaluations) == (1, 1)
    assert (Path(a) / holdout.LOG).is_file()
    assert (Path(b) / holdout.LOG).is_file()


def content(line: bytes) -> str:
    """A record as it is written, but for its seconds."""
    return json.dumps({name: value for name, value in json.loads(line).items() if name not in SECONDS})


def without_seconds(found: Comparison) -> dict[str, PairedColumn]:
    return {name: column for name, column in found.columns.items() if name != "seconds"}


def test_it_goes_on_where_it_was(config: EvalConfig, reasoner: GuardedReasoner, tmp_path: Path) -> None:
    first = compare(f"text:{STRONG}", f"text:{WEAK}", config, tmp_path, reasoner)
    path = tmp_path / folder.RECORDS
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: len(lines) // 2]))
    again = compare(f"text:{STRONG}", f"text:{WEAK}", config, tmp_path, reasoner)
    assert without_seconds(again) == without_seconds(first)
    assert sorted(map(content, path.read_bytes().splitlines())) == sorted(map(content, lines))


def test_a_prefix_is_no_better_than_itself(config: EvalConfig, reasoner: GuardedReasoner, tmp_path: Path) -> None:
    found = compare(f"text:{WEAK}", f"text:{WEAK}", config, tmp_path, reasoner)
    for column in without_seconds(found).values():
        assert column.difference.value == 0
        assert column.test is None or (column.test.only_a, column.test.only_b, column.test.p_value) == (0, 0, 1.0)
    assert table(found).row_count == len(found.columns) + len(found.columns_closed)


def test_a_prefix_that_is_not_there_is_named(config: EvalConfig, reasoner: GuardedReasoner, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no prefix 'nowhere'"):
        compare(f"text:{WEAK}", "nowhere", config, tmp_path, reasoner)


def test_the_command_compares_on_the_shipped_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shipped = yaml_config.load(EvalConfig, shipped_config("eval/testbed"))
    cut = tuple(each.replace(n=3) for each in shipped.benchmarks)
    (tmp_path / "few.yaml").write_text(yaml_config.dump(shipped.replace(benchmarks=cut)))
    argv = ["prefix", "compare", "wait-think-safely", f"text:{WEAK}", str(tmp_path / "few.yaml")]
    argv += ["--out", str(tmp_path / "run"), "--forced_samples", "0"]
    assert PROGRAM.main(argv) == 0
    printed = capsys.readouterr().out
    assert "McNemar" in printed
    assert "ASR answer" in printed
    assert PROGRAM.main([*argv, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads((tmp_path / "run" / COMPARISON).read_text())
    assert "accuracy_forced" not in said["columns"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["a"], "takes two prefixes"),
        (["a", "b", "testbed", "d"], "takes two prefixes"),
        (["--out", "x", "a", "b"], "takes two prefixes"),
        (["a", "b", "tesbed"], "did you mean 'testbed'?"),
        (["a", "b", "--judge", "nobody"], "--judge"),
    ],
)
def test_mistakes_are_one_line_and_status_2(capsys: pytest.CaptureFixture[str], argv: list[str], said: str) -> None:
    assert PROGRAM.main(["prefix", "compare", *argv]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert said in captured.err
