"""Loads every published file of a folder and compares what comes out with what its authors say; `make bench-data`.

    python -m tests.benchmarks.published_data FOLDER

Prints counts alone, never a row. Ends with 1 where a file is missing, does not load, or holds something else.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from safethink import benchmarks
from safethink.benchmarks import Benchmark, overlaps, wrappers
from safethink.config import EvalConfig, WorldConfig, yaml_config
from safethink.errors import SafeThinkError


@dataclass(frozen=True)
class Expected:
    """What a file is known to hold.

    Attributes:
        file: below the folder.
        kind: of the benchmark that reads it.
        prompts: how many come out.
        kinds: how many of each kind, where there are several.
        repeated: prompts that ask what an earlier one asks.
        settings: further keys of the benchmark's section.
        answers: whether every prompt has a right answer.
    """

    file: str
    kind: str
    prompts: int
    kinds: Mapping[str, int] = field(default_factory=dict)
    repeated: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    answers: bool = False


def _labelled(file: str, rows: int, prompt: str, repeated: int, **settings: Any) -> Expected:
    """A file of labelled responses, of which the prompts are read."""
    read = {"prompts": "harmful", "fields": {"prompt": prompt}} | settings
    return Expected(file, "table", rows, repeated=repeated, settings=read)


COMMENTED: Final = {"comment": "#"}
TASK: Final = {"answers": True}
FILES: Final = (
    Expected("advbench/harmful_behaviors.csv", "advbench", 520),
    Expected("harmbench/harmbench_behaviors_text_all.csv", "harmbench", 300),
    Expected(
        "harmbench/harmbench_behaviors_text_all.csv",
        "harmbench",
        100,
        settings={"functional": ["copyright"], "title": "harmbench-copyright"},
    ),
    Expected(
        "harmbench/harmbench_behaviors_text_val.csv",
        "harmbench",
        80,
        settings={"functional": ["standard", "contextual", "copyright"], "title": "harmbench-val"},
    ),
    Expected("strongreject/strongreject_dataset.csv", "strongreject", 313),
    Expected("jailbreakbench/harmful-behaviors.csv", "jailbreakbench", 100),
    Expected(
        "jailbreakbench/benign-behaviors.csv",
        "jailbreakbench",
        100,
        {"borderline": 100},
        settings={"title": "jailbreakbench-benign"},
    ),
    Expected("xstest/xstest_prompts.csv", "xstest", 450, {"borderline": 250, "harmful": 200}),
    Expected("figstep/safebench.csv", "figstep", 500),
    Expected("gsm8k/test.jsonl", "gsm8k", 1319, **TASK),
    Expected("gsm8k/train.jsonl", "gsm8k", 7473, settings={"title": "gsm8k-train"}, **TASK),
    Expected("svamp/SVAMP.json", "svamp", 1000, **TASK),
    Expected("multiarith/test.json", "multiarith", 600, repeated=20, **TASK),
    Expected("math500/test.jsonl", "math500", 500, **TASK),
    Expected("arc_easy/test.json", "arc", 2376, **TASK),
    Expected("boolq/test.json", "boolq", 3270, **TASK),
    # Without their contexts, some behaviours ask the same.
    _labelled("harmbench/harmbench_behaviors_text_all.csv", 400, "Behavior", 7, title="harmbench-bare"),
    _labelled("jailbreakbench/judge-comparison.csv", 300, "prompt", 0, encoding="mac_roman"),
    _labelled("openai_moderation/samples-1680.jsonl.gz", 1680, "prompt", 20),
    _labelled("star1/STAR-1.json", 1000, "question", 0),
    *(
        _labelled(f"xstest/completions/xstest_v2_completions_{model}.csv", 450, "prompt", 0)
        for model in ("gpt4", "llama2new", "llama2orig", "mistralguard", "mistralinstruct")
    ),
    *(
        _labelled(f"pyrit/harm/{name}.csv", rows, "objective", repeated, **COMMENTED)
        for name, rows, repeated in (
            ("exploits", 80, 27),
            ("info_integrity", 76, 35),
            ("privacy", 93, 42),
            ("representational", 29, 0),
            ("violence", 96, 43),
        )
    ),
    _labelled("pyrit/refusal/refusal.csv", 105, "objective", 9, **COMMENTED),
    _labelled("pyrit/refusal/refusal_extra.csv", 64, "objective", 24, **COMMENTED),
)
SHARED: Final = {
    "advbench and strongreject": 25,
    "advbench and jailbreakbench": 11,
    "jailbreakbench and harmbench": 9,
}
"""Prompts that two sets share."""
WRAPPERS: Final = ("self_reminder/jailbreak_prompts.csv", 73)
"""Wrappers with a place for a request, of 75."""


def main(folder: Path) -> int:
    """Load everything and print a line per file.

    Returns:
        1 if anything is not as expected.
    """
    loaded: list[Benchmark] = []
    problems = 0
    print(f"{'file':62}{'prompts':>8}{'repeated':>9}{'topics':>7}  kinds")
    for each in FILES:
        try:
            found = _load(folder, each)
        except SafeThinkError as error:
            print(f"{each.file}: {error}")
            problems += 1
            continue
        wrong = list(_surprises(found, each))
        problems += len(wrong)
        loaded.append(found)
        print(_line(each.file, found))
        for line in (*found.notes, *(f"WRONG: {said}" for said in wrong)):
            print(f"    {line}")
    return int(bool(problems + _overlaps(loaded) + _wrappers(folder)))


def _load(folder: Path, each: Expected) -> Benchmark:
    section = {"kind": each.kind, "path": str(folder / each.file)} | dict(each.settings)
    values = {"run": {"reasoner": {"path": "testbed"}, "monitor": {"kind": "guard", "path": "testbed"}}}
    rows = [{"name": "undefended", "defense": {"kind": "none"}}]
    made = values | {"benchmarks": [section], "rows": rows, "judge": "refusal"}
    config = yaml_config.validate(EvalConfig, made, each.file)
    return benchmarks.load(config.benchmarks[0], WorldConfig())


def _surprises(found: Benchmark, each: Expected) -> Iterator[str]:
    kinds = Counter(prompt.kind for prompt in found.prompts)
    if len(found.prompts) != each.prompts:
        yield f"{each.prompts} prompts expected"
    if each.kinds and kinds != each.kinds:
        yield f"kinds {dict(each.kinds)} expected"
    if (repeated := _repeated(found)) != each.repeated:
        yield f"{each.repeated} repeated expected, not {repeated}"
    if each.answers and not all(prompt.references for prompt in found.prompts):
        yield "prompts without a right answer"


def _line(file: str, found: Benchmark) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(each.kind for each in found.prompts).items())
    topics = len({each.category for each in found.prompts} - {None})
    return f"{file:62}{len(found.prompts):>8}{_repeated(found):>9}{topics:>7}  {kinds}"


def _repeated(found: Benchmark) -> int:
    return sum(overlaps.find([found]).repeated.values())


def _overlaps(loaded: list[Benchmark]) -> int:
    names = {name for pair in SHARED for name in pair.split(" and ")}
    shared = overlaps.find([each for each in loaded if each.name in names]).shared
    print("\nprompts that two sets share, told by their words:")
    problems = 0
    for pair, expected in SHARED.items():
        count = shared.get(pair, shared.get(" and ".join(reversed(pair.split(" and "))), 0))
        problems += count != expected
        print(f"    {pair}: {count}" + ("" if count == expected else f", WRONG: {expected} expected"))
    return problems


def _wrappers(folder: Path) -> int:
    file, expected = WRAPPERS
    found = wrappers.load(str(folder / file))
    print(f"\n{file}: {len(found.wrappers)} wrappers; {'; '.join(found.notes)}")
    return int(len(found.wrappers) != expected)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
