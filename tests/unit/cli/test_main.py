"""The command line: what it prints where, and one line with exit status 2 for everything a user can put right."""

from __future__ import annotations

import json
import subprocess
import sys
from logging import getLogger
from pathlib import Path
from subprocess import PIPE

import pytest
import yaml

from safethink import prefix
from safethink.cli.main import PROGRAM
from safethink.cli.program import GOES_ON, INTERRUPTED, PIPE_CLOSED, Command, Program, quiet_libraries
from tests.support import chat_reasoner, tiny_guard

NOWHERE = "no such folder, and no such repository on the hub (offline)"


@pytest.fixture(scope="module")
def run_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over tiny random models, with a threshold under which the guard always fires."""
    folder = tmp_path_factory.mktemp("models")
    for name, source in (("reasoner", chat_reasoner), ("guard", tiny_guard)):
        source.model().save_pretrained(folder / name)
        source.tokenizer().save_pretrained(folder / name)
    config = {
        "reasoner": {"path": str(folder / "reasoner"), "dtype": "float32"},
        "monitor": {"kind": "guard", "path": str(folder / "guard")},
        "defense": {"kind": "safethink", "threshold": 1.0, "max_steered_steps": 1, "max_resamples": 2},
        "limits": {"max_step_tokens": 4, "max_trace_tokens": 12, "max_answer_tokens": 4},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def run(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    status = PROGRAM.main([str(word) for word in argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.slow
def test_generate_prints_one_json_object_and_nothing_else(capsys, run_yaml: Path) -> None:
    status, out, err = run(capsys, "generate", run_yaml, "how are you?", "--json")
    assert (status, err) == (0, "")
    record = json.loads(out)
    assert list(record) == [
        *("prompt_ids", "trace_ids", "answer_ids", "forced_mask", "trace", "answer", "interventions"),
        *("step_scores", "answer_scores", "usage"),
    ]
    assert len(record["forced_mask"]) == len(record["trace_ids"]) + len(record["answer_ids"])
    assert [note["step"] for note in record["interventions"]] == [0]
    assert record["interventions"][0]["prefix"] == prefix.built_in("wait-think-safely").texts[0]


@pytest.mark.slow
def test_generate_is_repeatable_and_flags_change_it(capsys, run_yaml: Path) -> None:
    first, again, other = (
        json.loads(run(capsys, "generate", run_yaml, "how are you?", "--json", *flags)[1])
        for flags in ((), (), ("--seed", "5", "--defense.max_steered_steps", "0"))
    )
    assert first == again
    assert other["trace_ids"] != first["trace_ids"]
    assert other["interventions"] == []


def test_generate_prints_what_was_injected_and_done(capsys, run_yaml: Path) -> None:
    status, out, _ = run(capsys, "generate", run_yaml, "how are you?", "--defense.keep_prefix")
    assert status == 0
    # The separator behind the prefix is injected too, so the mark closes on the next line.
    assert f"⟦{prefix.built_in('wait-think-safely').texts[0]}" in out
    assert "⟧" in out
    assert "interventions" in out


def test_generate_says_so_where_there_was_no_intervention(capsys, run_yaml: Path) -> None:
    argv = ("generate", run_yaml, "how are you?", "--defense.threshold", "-1")
    status, out, _ = run(capsys, *argv)
    record = json.loads(run(capsys, *argv, "--json")[1])
    assert (status, record["interventions"]) == (0, [])
    assert out.splitlines()[-1] == f"no intervention; lowest score {min(record['step_scores']):+.2f}"
    assert "no intervention; nothing was scored" in run(capsys, "generate", run_yaml, "hi", "--defense.kind", "none")[1]


def test_generate_prints_words_and_neither_control_tokens_nor_blank_lines_around_them(capsys) -> None:
    status, out, err = run(capsys, "generate", "testbed", "Start with 3. Add 4. What is the result?")
    assert (status, err) == (0, "")
    assert "<|" not in out
    lines = [line.strip("│ ") for line in out.splitlines()]
    answer = lines.index(next(line for line in lines if line.startswith("╭─ answer")))
    assert lines[answer + 1].startswith("The answer is")
    assert lines[answer + 2].startswith("╰")


@pytest.mark.parametrize("columns", [50, 120])
@pytest.mark.parametrize("command", ["generate", "inspect"])
def test_piped_output_is_as_wide_as_asked_for(
    capsys, run_yaml: Path, monkeypatch: pytest.MonkeyPatch, command: str, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    _, out, _ = run(capsys, command, run_yaml, "how are you?")
    assert max(map(len, out.splitlines())) == columns


def test_inspect_shows_what_the_monitor_was_fed(capsys, run_yaml: Path) -> None:
    argv = ("inspect", run_yaml, "how are you?", "--defense.keep_prefix")
    status, out, _ = run(capsys, *argv)
    assert status == 0
    assert "what the monitor read" in out
    assert "how are you?" in out
    record = json.loads(run(capsys, *argv, "--json")[1])
    scores = [reading["score"] for reading in record["monitor"]]
    assert record["interventions"][0]["score_before"] == scores[0]
    injected = prefix.built_in("wait-think-safely").texts[0]
    assert injected in record["trace"]
    assert not any(injected in reading["trace"] for reading in record["monitor"])


def test_inspect_without_a_monitor(capsys, run_yaml: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.yaml"
    values = yaml.safe_load(run_yaml.read_text(encoding="utf-8")) | {"defense": {"kind": "none"}}
    plain.write_text(yaml.safe_dump(values), encoding="utf-8")
    status, out, _ = run(capsys, "inspect", plain, "hello", "--json")
    assert (status, json.loads(out)["monitor"]) == (0, [])


def test_prefixes_are_listed_shown_and_verified(capsys, run_yaml: Path) -> None:
    assert json.loads(run(capsys, "prefix", "list", "--json")[1]) == list(prefix.list_built_in())
    shown = json.loads(run(capsys, "prefix", "show", "wait-think-safely", "--json")[1])
    assert shown["prefixes"][0]["text"] == prefix.built_in("wait-think-safely").texts[0]
    reasoner = run_yaml.with_name("reasoner")
    status, out, _ = run(capsys, "prefix", "verify", "wait-think-safely", "--reasoner", reasoner)
    assert status == 0
    assert "hashes match" in out


def test_an_edited_artifact_does_not_verify(capsys, run_yaml: Path, tmp_path: Path) -> None:
    prefix.save(prefix.built_in("wait-think-safely"), tmp_path, None, "card")
    edited = (tmp_path / "prefix.json").read_text(encoding="utf-8").replace("safely", "twice")
    (tmp_path / "prefix.json").write_text(edited, encoding="utf-8")
    status, out, err = run(capsys, "prefix", "verify", tmp_path, "--reasoner", run_yaml.with_name("reasoner"))
    assert (status, out) == (2, "")
    assert "was edited" in err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["generat"], "no command 'generat', did you mean 'generate'?"),
        (["frobnicate"], "choose one of generate, inspect, evaluate, calibrate, judge-check, prefix, testbed"),
        (["prefix", "lst"], "no command 'lst', did you mean 'list'?"),
        (["generate"], "safethink generate takes a YAML file"),
        (["generate", "--json"], "safethink generate takes a YAML file"),
        (["generate", "tesbed", "x"], "did you mean 'testbed'?"),
        (["generate", "nowhere/run.yaml", "x"], "no configuration 'nowhere/run.yaml'"),
        (["generate", "testbed"], "PROMPT"),
        (["generate", "testbed", "x", "--seed", "y"], "--seed"),
        (["generate", "testbed", "x", "--sed", "3"], "did you mean '--seed'?"),
        (["generate", "testbed", "x", "--sampling.top_p", "7"], "--sampling.top_p: input should be less than"),
        (["evaluate", "testbed", "--run.batch_size", "0"], "--run.batch_size: input should be greater than"),
        (["prefix", "show", "wait-think-safly"], "no prefix 'wait-think-safly'"),
        (["prefix", "verify", "nowhere/prefix"], "no prefix 'nowhere/prefix'"),
    ],
)
def test_mistakes_are_one_line_and_status_2(capsys, argv: list[str], said: str) -> None:
    status, out, err = run(capsys, *argv)
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"defense": {"kind": "safethink", "treshold": 0}}, "defense.treshold: unknown key, did you mean 'threshold'?"),
        ({"seed": "many"}, "seed: input should be a valid integer"),
        ({"reasoner": {"path": "nowhere/reasoner"}}, f"no model at 'nowhere/reasoner': {NOWHERE}"),
        ({"reasoner": {"path": "a/deep/folder"}}, "no model at 'a/deep/folder': no such folder"),
        (
            {"reasoner": {"path": "smollm2-reasoner", "base": "nowhere/base"}},
            f"no base model (reasoner.base) of the adapter 'smollm2-reasoner' at 'nowhere/base': {NOWHERE}",
        ),
        ({"monitor": {"kind": "guard", "path": "nowhere/guard"}}, f"no model at 'nowhere/guard': {NOWHERE}"),
        ({"reasoner": {"path": "nowhere/reasoner", "device": "toaster"}}, "no such device: 'toaster'"),
        ({"prefix": "wait-think-safly"}, "no prefix 'wait-think-safly'"),
        ({"defense": {"kind": "safethink", "threshold": 1.5}}, "defense.threshold: input should be less than"),
        ({"defense": {"kind": "safethink", "threshold": -1.5}}, "defense.threshold: input should be greater than"),
        ({"thought": {"family": "qwen4"}}, "thought.family: no family of reasoners is called 'qwen4'; known are "),
        ({"monitor": {"kind": "entry_point", "name": "nobody"}}, "no monitor 'nobody' among the entry points"),
        ({"monitor": {"kind": "min", "members": []}}, "monitor: a combination needs members"),
        ({"monitor": {"kind": "guard", "template": "{prompt}"}}, "monitor: the template needs the hole {trace}"),
        ({"monitor": {"kind": "reward", "path": "nowhere/reward"}}, f"no model at 'nowhere/reward': {NOWHERE}"),
        ({"monitor": {"kind": "stream", "path": "nowhere/stream"}}, f"no model at 'nowhere/stream': {NOWHERE}"),
    ],
)
def test_a_file_that_cannot_be_run(
    capsys, run_yaml: Path, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    broken = tmp_path / "broken.yaml"
    values = yaml.safe_load(run_yaml.read_text(encoding="utf-8")) | change
    broken.write_text(yaml.safe_dump(values), encoding="utf-8")
    status, out, err = run(capsys, "generate", broken, "hello")
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("monitor", "said"),
    [
        ({"kind": "guard", "preset": "qwen3guard"}, "there is no 'Controversial' in its chat template"),
        ({"kind": "reward"}, "lacks score.weight"),
        ({"kind": "stream"}, "is no Qwen3Guard-Stream"),
    ],
)
def test_a_model_that_is_no_monitor_of_its_kind(
    capsys, run_yaml: Path, tmp_path: Path, monitor: dict[str, object], said: str
) -> None:
    broken = tmp_path / "broken.yaml"
    values = yaml.safe_load(run_yaml.read_text(encoding="utf-8"))
    values["monitor"] = monitor | {"path": str(run_yaml.with_name("guard"))}
    broken.write_text(yaml.safe_dump(values), encoding="utf-8")
    status, out, err = run(capsys, "generate", broken, "hello")
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(("prompt", "said"), [("  ", "is empty"), ("word " * 600, "context window of 512")])
def test_prompts_that_cannot_be_run(capsys, run_yaml: Path, prompt: str, said: str) -> None:
    status, out, err = run(capsys, "generate", run_yaml, prompt)
    assert (status, out) == (2, "")
    assert said in err


def test_ctrl_c_is_a_plain_word(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(argv: object) -> None:
        raise KeyboardInterrupt

    program = Program("prog", "", (Command("wait", "", interrupt),))
    assert program.main(["wait"]) == INTERRUPTED == 130
    assert capsys.readouterr().err == "prog: interrupted\n"


def test_ctrl_c_says_where_the_same_command_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(argv: object) -> None:
        raise KeyboardInterrupt

    inner = Program("prog more", "", (Command("wait", "", interrupt, resumes=True),))
    program = Program("prog", "", (Command("more", "", inner.run),))
    assert program.main(["more", "wait"]) == INTERRUPTED
    assert capsys.readouterr().err == f"prog: interrupted: {GOES_ON}\n"


@pytest.mark.parametrize("argv", [["--help"], ["evaluate", "testbed", "--help"], ["prefix", "list"]])
def test_nobody_complains_when_the_reader_has_gone(argv: list[str]) -> None:
    """As `safethink ... | head -1`: the pipe is closed before anything is written."""
    code = "import sys\nsys.stdin.readline()\nfrom safethink.cli.main import main\nmain()"
    command = [sys.executable, "-c", code, *argv]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write("go\n")
        process.stdin.close()
        assert process.stderr.read() == ""
        assert process.wait() == PIPE_CLOSED


def test_a_real_bug_keeps_its_traceback() -> None:
    def bug(argv: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Program("prog", "", (Command("go", "", bug),)).main(["go"])


def test_help_names_every_command_and_explains_by_example(capsys) -> None:
    status, out, _ = run(capsys, "--help")
    assert status == 0
    assert all(f"\n  {command.name}" in out for command in PROGRAM.commands)
    assert "examples:" in out
    assert run(capsys)[1] == out


@pytest.mark.parametrize("argv", [["--help"], ["generate", "--help"], ["evaluate", "testbed", "--help"], ["prefix"]])
def test_help_and_mistakes_load_no_torch(argv: list[str]) -> None:
    code = (
        "import sys\nfrom safethink.cli.main import PROGRAM\n"
        "try:\n    PROGRAM.main(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: safethink" in done.stdout


def test_evaluate_dry_run_prints_the_resolved_config_and_what_it_takes(capsys) -> None:
    status, out, _ = run(
        capsys, "evaluate", "testbed", "--dry-run", "--full", "--world.prompts_seed", "4", "--prefix", "text:a"
    )
    assert status == 0
    planned, resolved = yaml.safe_load_all(out)
    assert (resolved["world"]["prompts_seed"], resolved["prefix"]) == (4, "text:a")
    assert planned["generations"]["guarded"] > 0
    assert json.loads(run(capsys, "evaluate", "testbed", "--dry-run", "--json")[1])["tokens"] == planned["tokens"]


def test_libraries_that_speak_of_kernels_nobody_asks_for_are_silenced(caplog: pytest.LogCaptureFixture) -> None:
    quiet_libraries()
    getLogger("bitsandbytes.backends.cpu.ops").warning("Failed to load a kernel")
    assert caplog.records == []
