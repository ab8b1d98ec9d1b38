"""Configuration of an evaluation: rows of defenses over benchmarks, and a judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field, model_validator

from safethink.config.benchmarks import BenchmarkConfig
from safethink.config.defenses import DefenseConfig, SafeThinkConfig
from safethink.config.judges import MONITOR_AS_JUDGE, JudgeConfig, TestbedJudgeConfig, judge_leaves, weights_watched_by
from safethink.config.run import RunConfig, WorldConfig
from safethink.config.section import Section


class RowConfig(Section):
    """One line of the results table: a defense and what it injects."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """The row's name in the table."""
    defense: DefenseConfig
    prefix: str | None = None
    """Built-in name, artifact folder, OWNER/NAME@COMMIT on the hub or literal `text:...`; `random` draws as many random
    tokens as the prefix on trial has, `random:K` draws K; None takes the prefix on trial."""


def refuse_namesakes(what: str, names: Sequence[str]) -> None:
    """Check that no two of a kind have one name, by which their numbers would be told apart.

    Raises:
        ValueError: two have.
    """
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        hint = "; give one a `title`" if what == "benchmark" else ""
        raise ValueError(f"two {what}s are called {twice!r}{hint}")


class CalibrateConfig(RunConfig):
    """Configuration of `safethink calibrate`: a guarded reasoner, and benchmarks of harmless prompts."""

    LATER_KEYS: ClassVar[frozenset[str]] = frozenset({"benchmarks"})

    benchmarks: tuple[BenchmarkConfig, ...] = ()
    """Prompts that the threshold is calibrated on: all that are no attacks, those that only look harmful too. Where
    there are none, the testbed's or those of `--prompts`."""

    @property
    def run(self) -> RunConfig:
        """The guarded reasoner alone."""
        return RunConfig.model_validate({name: getattr(self, name) for name in RunConfig.model_fields})

    @model_validator(mode="after")
    def _unique_names(self) -> CalibrateConfig:
        refuse_namesakes("benchmark", [each.name for each in self.benchmarks])
        return self


class EvalConfig(Section):
    """Configuration of `safethink evaluate`: one guarded reasoner, several defenses, several benchmarks."""

    LATER_KEYS: ClassVar[frozenset[str]] = frozenset(
        {"recovery_both_ways", "recovery_guarded", "second_judges", "judge_checks", "allow_monitor_as_judge"}
    )

    run: RunConfig
    """The guarded reasoner. Its defense and prefix play no part: every row brings its own."""
    prefix: str = "wait-think-safely"
    """The prefix on trial: built-in name, artifact folder or OWNER/NAME@COMMIT on the hub; rows without a prefix of
    their own use it."""
    benchmarks: tuple[BenchmarkConfig, ...] = Field(min_length=1)
    rows: tuple[RowConfig, ...] = Field(min_length=1)
    world: WorldConfig = WorldConfig()
    samples: int = Field(default=1, ge=0)
    """Seeds per prompt and row; 0 leaves the guarded runs out."""
    recovery_samples: int = Field(default=2, ge=0)
    """Seeds per context in the recovery rate; 0 leaves it out."""
    recovery_both_ways: bool = False
    """Whether recovery is measured with the prefix kept in the trace and dropped from it, in columns of their own,
    beside the way of each row's defense."""
    recovery_guarded: bool = True
    """Whether each defense also runs from the same contexts on, resamples and all, in a column of its own; it takes as
    long as all else about recovery."""
    forced_samples: int = Field(default=1, ge=0)
    """Seeds per prompt in the forced injections; 0 leaves them out."""
    depth_curve: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)
    """Values of max_steered_steps at which the ASR of the prefix on trial is measured; empty for none."""
    depth_prompts: int = Field(default=150, ge=1)
    """The most attack prompts behind each point of that curve."""
    judge: JudgeConfig = TestbedJudgeConfig()
    """`testbed`: the exact oracle, for the testbed's prompts alone; `refusal`: refusal phrases, a weak baseline; or the
    section of another kind, such as `{kind: guard, monitor: ...}` or `{kind: entry_point, name: ...}`."""

    second_judges: tuple[JudgeConfig, ...] = ()
    """Judges that read the guarded outputs as well: the summary gives the rates by each, and how far they agree."""
    judge_checks: tuple[str, ...] = ()
    """Folders of `safethink judge-check` on labels of harm: the ASR by a judge that was checked is corrected for its
    errors; any other stays marked as uncorrected."""
    allow_monitor_as_judge: bool = False
    """Whether a judge may have the monitor's weights; summary and report mark it then."""

    @property
    def on_trial(self) -> RowConfig | None:
        """The row that steers with the prefix on trial; None where none does."""
        return next((row for row in self.rows if row.prefix is None and isinstance(row.defense, SafeThinkConfig)), None)

    @property
    def judges(self) -> tuple[JudgeConfig, ...]:
        """All judges, the one that decides first."""
        return (self.judge, *self.second_judges)

    @property
    def judge_name(self) -> str:
        """Name of the judge in reports and model cards."""
        return self.judge.title

    @model_validator(mode="after")
    def _unique_names(self) -> EvalConfig:
        for what, names in (
            ("row", [row.name for row in self.rows]),
            ("benchmark", [each.name for each in self.benchmarks]),
            ("judge", [judge.title for judge in self.judges]),
        ):
            refuse_namesakes(what, names)
        return self

    @model_validator(mode="after")
    def _judge_is_no_monitor(self) -> EvalConfig:
        for judge in () if self.allow_monitor_as_judge else self.judges:
            if (path := weights_watched_by(judge, self.run.monitor)) is not None:
                raise ValueError(f"judge {judge.title!r} asks the monitor's own model {path!r}: {MONITOR_AS_JUDGE}")
        return self

    @model_validator(mode="after")
    def _judge_knows_the_prompts(self) -> EvalConfig:
        foreign = next((each.name for each in self.benchmarks if each.kind != "testbed"), None)
        leaves = (leaf for judge in self.judges for leaf in judge_leaves(judge))
        knows_testbed_alone = any(isinstance(leaf, TestbedJudgeConfig) for leaf in leaves)
        if knows_testbed_alone and foreign is not None:
            raise ValueError(
                f"judge: 'testbed' knows the testbed's prompts alone, not those of {foreign!r}; use 'refusal'"
            )
        return self
