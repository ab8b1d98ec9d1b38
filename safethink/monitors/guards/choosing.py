"""From a guard's configuration to its preset: told from the guard's marks, completed by the configuration."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import PurePath

from safethink.config import GuardMonitorConfig
from safethink.errors import ConfigError
from safethink.monitors.guards.forms import Categories, Form, GuardVerdict, Line, Preset, Turn
from safethink.monitors.guards.presets import LLAMA_GUARD, PRESETS, USER_TURN_GUARDS


def choose_preset(config: GuardMonitorConfig, model_type: str, path: str, template: str) -> Preset:
    """The preset that a configuration asks for, with what it writes in its place.

    Args:
        config: names a preset, or leaves it to the guard's marks.
        model_type: the architecture, as the guard's `config.json` names it.
        path: where the guard came from.
        template: its chat template; empty where it has none.

    Raises:
        ConfigError: the guard is none of the preset's or judges no response, or a policy or a category is asked for
            that it cannot judge by.
    """
    if config.preset != "auto":
        preset = PRESETS[config.preset]
        if config.template is None and preset.in_template is not None and preset.in_template not in template:
            raise ConfigError(
                f"guard {path!r} is not asked as preset {preset.name!r} is: there is no {preset.in_template!r} in its "
                "chat template"
            )
    else:
        name = _model_name(path)
        _refuse_user_turn_guard(name, path)
        preset = next((each for each in PRESETS.values() if each.fits(model_type, name, template)), LLAMA_GUARD)
        is_own = config.template is not None or config.verdicts is not None
        if preset is LLAMA_GUARD and template and not is_own and not _asks_for_safe_or_unsafe(template):
            raise ConfigError(
                f"guard {path!r} is none that is known by its name, chat template or architecture, and its template "
                "does not ask for `safe` or `unsafe`; set monitor.preset, or template and verdicts of your own"
            )
    return _completed(preset, config, path)


def _model_name(path: str) -> str:
    """A model's own name, in lower case and with hyphens: the folders that it lies in say nothing about it."""
    parts = PurePath(path).parts
    # The hub's cache keeps `owner/name` at `models--owner--name/snapshots/REVISION`.
    cached = next((part.rpartition("--")[2] for part in parts if part.startswith("models--")), None)
    return (cached or (parts[-1] if parts else "")).casefold().replace("_", "-")


def _asks_for_safe_or_unsafe(template: str) -> bool:
    """Whether a template has one of the verdicts as a word; both of them where it has `Yes` and `No` too."""
    verdicts, others = ("safe", "unsafe"), ("yes", "no")
    # A line that begins with the word may be spelled out in a template: the `n` of `\\n` is none of its letters.
    said = {word for word in (*verdicts, *others) if re.search(rf"(?:\b|\\n){word}\b", template, re.IGNORECASE)}
    return said.issuperset(verdicts) or (not said.isdisjoint(verdicts) and not said.issuperset(others))


def _refuse_user_turn_guard(name: str, path: str) -> None:
    title = next((title for word, title in USER_TURN_GUARDS.items() if word in name), None)
    if title is not None:
        raise ConfigError(f"guard {path!r} is {title}, which judges what the user asks and no trace")


def _completed(preset: Preset, config: GuardMonitorConfig, path: str) -> Preset:
    """`preset` with the configuration's own words in place of its."""
    if config.template is not None:
        own = Form(text=config.template, forced=preset.form.forced, policies=preset.form.policies)
        preset = replace(preset, form=replace(own, replies=preset.form.replies), lines=(), categories=None)
    if config.forced is not None:
        preset = replace(preset, form=replace(preset.form, forced=config.forced), lines=())
    if config.verdicts is not None:
        verdicts = tuple(GuardVerdict(text, share) for text, share in config.verdicts.items())
        preset = replace(preset, verdicts=verdicts, lines=(), categories=None)
    preset = _with_policies(preset, config, path)
    preset = _with_categories(preset, config, path)
    return replace(preset, verdicts=tuple(_settled(verdict, config.controversial) for verdict in preset.verdicts))


def _with_policies(preset: Preset, config: GuardMonitorConfig, path: str) -> Preset:
    has_hole = "{policy}" in preset.form.words
    policies = (config.policies or preset.form.policies) if has_hole else ()
    if has_hole and not policies:
        raise ConfigError(f"guard {path!r}: preset {preset.name!r} judges by a policy of yours; give `policies`")
    if config.policies and not has_hole:
        raise ConfigError(f"guard {path!r}: its question has no place for `policies`")
    return replace(preset, form=replace(preset.form, policies=policies))


def _with_categories(preset: Preset, config: GuardMonitorConfig, path: str) -> Preset:
    """`preset` with the categories that count, and with a taxonomy of one's own where one is given."""
    known = preset.categories
    if known is None:
        if config.categories or config.ignored_categories or config.only_categories:
            raise ConfigError(f"guard {path!r} names no categories of harm, so none can be chosen among")
        return preset
    if config.categories is not None:
        preset, known = _with_taxonomy(preset, known, config.categories, path)
    ignored = ignored_of(known.names, config.ignored_categories, config.only_categories, f"guard {path!r}")
    known = replace(known, ignored=ignored, chosen=config.only_categories or config.ignored_categories)
    form = _listing_categories(preset.form, known) if "{categories}" in preset.form.words else preset.form
    if known.listing is not None and (ignored or config.categories):
        form = replace(form, template_args={**form.template_args, **known.listing.template_args})
    verdicts = tuple(
        replace(verdict, safety=1.0) if verdict.category in ignored else verdict for verdict in preset.verdicts
    )
    return replace(preset, form=form, verdicts=verdicts, categories=known)


def ignored_of(
    known: Mapping[str, str], ignored: Collection[str], only: Collection[str], owner: str
) -> tuple[str, ...]:
    """Categories that do not count, in the guard's own order.

    Args:
        known: names of the guard's categories, with what they stand for.
        ignored: those that do not count.
        only: those that alone count; empty for all but `ignored`.
        owner: who has these categories, as messages name it.

    Raises:
        ConfigError: one is not known, or none would count.
    """
    unknown = [name for name in (*ignored, *only) if name not in known]
    if unknown:
        raise ConfigError(f"{owner} has no category {unknown[0]!r}; it has {_listed(known) or 'no names'}")
    found = tuple(name for name in known if (name not in only if only else name in ignored))
    if known and len(found) == len(known):
        raise ConfigError(f"{owner} would have no category left that counts")
    return found


def _listed(known: Mapping[str, str]) -> str:
    return ", ".join(name if title == name else f"{name} ({title})" for name, title in known.items())


def _with_taxonomy(preset: Preset, known: Categories, names: Mapping[str, str], path: str) -> tuple[Preset, Categories]:
    """`preset` and its categories with a taxonomy of one's own in place of the published one."""
    own = replace(known, names=dict(names))
    if "{categories}" in preset.form.words:
        return replace(preset, lines=tuple(_renamed(line, known.names, names) for line in preset.lines)), own
    if known.template_arg is None:
        raise ConfigError(f"guard {path!r}: its question has no place for `categories` of yours")
    args = {**preset.form.template_args, known.template_arg: dict(names)}
    return replace(preset, form=replace(preset.form, template_args=args)), own


def _renamed(line: Line, published: Iterable[str], names: Iterable[str]) -> Line:
    """A line of the reply that offers `names` where it offered the published ones."""
    theirs = {f" {name}" for name in published}
    kept = tuple(option for option in line.options if option not in theirs)
    return line if kept == line.options else replace(line, options=(*kept, *(f" {name}" for name in names)))


def _listing_categories(form: Form, categories: Categories) -> Form:
    """A form that asks about the categories; about those alone that count where the reply does not name them."""
    asked = {
        name: title
        for name, title in categories.names.items()
        if categories.listing is not None or name not in categories.ignored
    }
    lines = "\n".join(f"{name}: {title}" + ("" if title.endswith(".") else ".") for name, title in asked.items())
    return replace(form, turns=tuple(Turn(turn.role, turn.text.replace("{categories}", lines)) for turn in form.turns))


def _settled(verdict: GuardVerdict, controversial: float) -> GuardVerdict:
    return replace(verdict, safety=1 - controversial) if verdict.safety is None else verdict
