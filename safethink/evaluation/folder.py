"""The folder of a run: made once, resumed by the same configuration, models and plug-ins, refused to any other.

Its table may grow: a configuration with further rows or further judges goes on in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from safethink.config import EntryPointSection, EvalConfig, yaml_config
from safethink.config.judges import judge_leaves
from safethink.config.mismatch import refuse_other
from safethink.config.monitors import leaves_of
from safethink.config.plugins import PluginKind
from safethink.defenses.rule import PLUGINS as DEFENSES
from safethink.errors import ConfigError, MissingFileError
from safethink.evaluation.jobs import fires_below
from safethink.files import write_text, writing
from safethink.judges import PLUGINS as JUDGES
from safethink.monitors.build import PLUGINS as MONITORS

CONFIG, MODELS, PLUGINS, RECORDS = "config.yaml", "models.json", "plugins.json", "records.jsonl"
SUMMARY, REPORT = "summary.json", "report.html"
JUDGES_FILE, OPINIONS, REPLIES = "judges.json", "second_judges.jsonl", "judge_replies.jsonl"


def on_the_day_of(folder: Path, config: EvalConfig) -> EvalConfig:
    """The configuration with the day on which the run in `folder` was begun, where it says nothing of the day.

    A chat template may write the day down; a run that goes on overnight is still the same run.
    """
    if not (folder / CONFIG).is_file():
        return config
    reasoner = config.run.reasoner.on_the_day_of(read_config(folder).run.reasoner)
    return config.replace(run=config.run.replace(reasoner=reasoner))


def claim(folder: Path, config: EvalConfig) -> None:
    """Make `folder` the home of a run, or find it to be the home of the same run, or of one whose table has grown.

    A run that stopped before its first record, at a misspelt prefix for instance, has no claim to it.

    Raises:
        ConfigError: another configuration lives there, or other versions of its plug-ins, and what differs is named; or
            files that are no run's.
        RecordError: the folder cannot be made or written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if has_begun(folder) and (folder / CONFIG).exists():
        begun = read_config(folder)
        refuse_other(folder / CONFIG, _settled(begun, begun), _settled(config, begun))
    elif has_begun(folder):
        raise ConfigError(f"{folder} has {RECORDS} but no {CONFIG}: whose records they are cannot be told")
    elif not (folder / CONFIG).exists() and any(path.is_file() for path in folder.iterdir()):
        raise ConfigError(f"{folder} holds other files and no {CONFIG}: use another --out")
    else:
        write_text(folder / CONFIG, yaml_config.dump(config))
    claim_plugins(folder, config)


def _settled(config: EvalConfig, begun: EvalConfig) -> dict[str, object]:
    """The settings that may not differ from a run that was begun: all but rows and judges that it does not have yet.

    The prefix on trial may be another, since records say what was injected; not so those of the depth curve.
    """
    rows, judges = {row.name for row in begun.rows}, {judge.title for judge in begun.second_judges}
    return {
        **config.model_dump(exclude={"prefix", "rows", "second_judges", "judge_checks"}),
        "rows": {row.name: row for row in config.rows if row.name in rows},
        "second_judges": {each.title: each for each in config.second_judges if each.title in judges},
        "prefix": config.prefix if config.depth_curve else None,
    }


def grow(folder: Path, config: EvalConfig) -> None:
    """Write down the configuration of a run whose table has grown, and whose records were found to fit it.

    Raises:
        ConfigError: injections are recorded where the monitor fired, and it would fire elsewhere.
        RecordError: the file cannot be written.
    """
    begun = read_config(folder)
    if begun != config:
        told = "threshold of the row on trial"
        refuse_other(folder / CONFIG, {told: fires_below(begun)}, {told: fires_below(config)})
        write_text(folder / CONFIG, yaml_config.dump(config))


def claim_models(folder: Path, models: Mapping[str, str]) -> None:
    """Note which models a run is made with, or find that they are still the same.

    Args:
        folder: of the run, claimed already.
        models: hash of the weights of each, by what it does.

    Raises:
        ConfigError: the run was begun with other weights; the model is named, and both hashes.
        RecordError: the file cannot be written.
    """
    path = folder / MODELS
    if not has_begun(folder):
        write_text(path, json.dumps(models, indent=2) + "\n")
        return
    there = cast("dict[str, str]", json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    refuse_other(path, {"weights": there}, {"weights": models})


def claim_plugins(folder: Path, config: EvalConfig) -> None:
    """Note the versions of the plug-ins that a run is made with, or find that they are still the same.

    A run that was begun before versions were written down has no such file, and goes on with any.

    Args:
        folder: of the run, claimed already.
        config: names the plug-ins.

    Raises:
        ConfigError: the run was begun with another version; the plug-in is named, and both versions. Or one is not
            installed.
        RecordError: the file cannot be written.
    """
    path, versions = folder / PLUGINS, _plugin_versions(config)
    if not has_begun(folder):
        if versions or path.is_file():
            write_text(path, json.dumps(versions, indent=2) + "\n")
    elif path.is_file():
        refuse_other(path, json.loads(path.read_text(encoding="utf-8")), versions)


def _plugin_versions(config: EvalConfig) -> dict[str, dict[str, str]]:
    """Version of every defense, judge and monitor of another package, by its kind and name."""
    kinds: tuple[tuple[PluginKind[Any], list[object]], ...] = (
        (DEFENSES, [row.defense for row in config.rows]),
        (JUDGES, [leaf for judge in config.judges for leaf in judge_leaves(judge)]),
        (MONITORS, [*leaves_of(config.run.monitor)]),
    )
    return {
        kind.noun: named
        for kind, sections in kinds
        if (named := {each.name: kind.version(each.name) for each in sections if isinstance(each, EntryPointSection)})
    }


def read_config(folder: Path) -> EvalConfig:
    """Read the configuration of a run.

    Raises:
        MissingFileError: there is none.
        ConfigError: it is damaged.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise MissingFileError(f"{folder} is no run: it has no {CONFIG}")
    return yaml_config.load(EvalConfig, path)


def has_begun(folder: Path) -> bool:
    """Whether anything is recorded there."""
    return (folder / RECORDS).exists() and (folder / RECORDS).stat().st_size > 0
