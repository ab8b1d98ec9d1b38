"""YAML files as frozen models; every mistake in a file is reported at once, by its path in the YAML.

Files that ship with the package are found by name, in a checkout and in an installed wheel alike. A file may extend
another one, and then says only what differs.
"""

from __future__ import annotations

import os
import types
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, Union, cast, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from safethink.errors import ConfigError, MissingFileError

Schema = TypeVar("Schema", bound=BaseModel)

EXTENDS: Final = "extends"
"""Key of a file by which it names the one that it extends; read away before anything is validated."""


def shipped_config(name: str, section: str = "run", folder: Path = Path()) -> Path:
    """Find a configuration by path or by the name of a shipped one.

    Args:
        name: path of a YAML file; or a shipped one's name, with its folder (`run/testbed`) or without (`testbed`).
        section: the folder that a name without one is looked up in.
        folder: where a relative path begins.

    Raises:
        MissingFileError: if there is neither such a file nor such a name; lists the section's.
    """
    path = folder / Path(name).expanduser()
    # Unlike Path's own, it takes a whole sentence for a name that no file has.
    if os.path.isfile(path):
        return path
    known = shipped_names()
    bare = name.removeprefix("configs/").removesuffix(".yaml")
    for candidate in (bare, f"{section}/{bare}"):
        if candidate in known:
            return configs_folder() / f"{candidate}.yaml"
    own = [each.partition("/")[2] for each in known if each.startswith(f"{section}/")]
    hint = did_you_mean(bare, known if "/" in bare else own)
    raise MissingFileError(f"no configuration {name!r}: neither a file nor one of {', '.join(own)}{hint}")


def example_config(section: str) -> str:
    """Name of the shipped configuration of a section whose values help shows: the testbed's, or its first."""
    names = [name for name in shipped_names() if name.startswith(f"{section}/")]
    return next((name for name in names if name == f"{section}/testbed"), names[0])


def shipped_names() -> tuple[str, ...]:
    """Names of all shipped configurations, with their folders."""
    folder = configs_folder()
    return tuple(sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")))


def configs_folder() -> Path:
    """Folder of the shipped configurations: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return next((path for path in (package / "configs", package.parent / "configs") if path.is_dir()), package)


class _Loader(yaml.SafeLoader):
    """YAML in which a date is a text, as every value that takes one expects."""


def _as_written(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:timestamp", _as_written)


def read(text: str) -> object:
    """YAML as plain values; a date stays a text.

    Raises:
        yaml.YAMLError: it is not YAML.
    """
    return yaml.load(text, _Loader)


def load(schema: type[Schema], path: Path, section: str = "run") -> Schema:
    """Read and validate a configuration, with what it extends.

    A file with the key `extends` says what differs from the one that is named there: `merged` tells how.

    Args:
        schema: what the whole must fit.
        path: YAML file.
        section: the folder of shipped configurations in which a bare name behind `extends` is looked up; the names in a
            shipped file are those of its own folder.

    Raises:
        MissingFileError: if there is no such file, or none that it extends.
        ConfigError: if it is not YAML, extends itself or does not fit `schema`; one line that names every mistake.
    """
    files = _lineage(schema, path, section)
    values = reduce(merged, reversed(files.values()))
    return validate(schema, values, ", extending ".join(map(str, files)))


def merged(parent: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    """Values of a file put over those of the one that it extends.

    Mappings are merged key by key. Lists and single values replace the parent's, and so does a section of another
    `kind`: no key of the old kind is left in it.
    """
    return parent | {key: _over(parent[key], value) if key in parent else value for key, value in child.items()}


def validate(schema: type[Schema], values: dict[str, Any], source: str) -> Schema:
    """Validate values that came from `source`.

    Raises:
        ConfigError: one line that names every mistake by its path, with the likeliest correct spelling.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}: {explain(schema, error)}") from error


def override(config: Schema, changes: Mapping[str, Any], source: str) -> Schema:
    """Set values by their dotted keys, as `{"search.kind": "random", "search.length": 8}`.

    A section whose `kind` changes keeps what its new kind has as well, and takes defaults for the rest.

    Args:
        config: what is changed.
        changes: values by key.
        source: what a mistake is blamed on.

    Raises:
        ConfigError: a key or a value that does not fit.
    """
    return validate(type(config), changed(config, changes), source)


def changed(config: BaseModel, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a configuration with some of them set by dotted keys, as `override` does, not yet validated."""
    values: dict[str, Any] = config.model_dump(mode="json")
    # Kinds first: the other changes are meant for the new ones.
    for key, value in sorted(changes.items(), key=lambda change: not change[0].endswith(".kind")):
        *parents, name = _path(values, key)
        section: Any = values
        for parent in parents:
            inner = section[parent] if isinstance(parent, int) else section.get(parent)
            if not isinstance(inner, dict | list):
                inner = section[parent] = {}
            section = cast("Any", inner)
        section[name] = value
        if name == "kind" and isinstance(section, dict):
            _drop_foreign(type(config), parents, cast("dict[str, Any]", section))
    return values


def explain(schema: type[BaseModel], error: ValidationError, mark: str = "") -> str:
    """Say on one line what is wrong and where; `mark` goes before every path, such as `--` before flags."""
    details = error.errors()
    # A list whose members are wrong is no shorter than it stands there, as pydantic says of what is left of it.
    wrong = {detail["loc"][:end] for detail in details for end in range(len(detail["loc"]))}
    found = (detail for detail in details if detail["type"] != "too_short" or detail["loc"] not in wrong)
    mistakes = [f"{mark if detail['loc'] else ''}{_mistake(schema, detail)}" for detail in found]
    count = f"{len(mistakes)} mistakes: " if len(mistakes) > 1 else ""
    return count + "; ".join(mistakes)


def did_you_mean(wrong: str, names: Iterable[str]) -> str:
    """Suggestion to end an error with: the closest of `names`, never `wrong` itself; empty where none is close."""
    close = get_close_matches(wrong, [name for name in names if name != wrong], n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def dump(*models: BaseModel) -> str:
    """Complete configurations as YAML, defaults included; several become several documents."""
    return yaml.safe_dump_all([each.model_dump(mode="json") for each in models], sort_keys=False, allow_unicode=True)


def _lineage(schema: type[BaseModel], path: Path, section: str) -> dict[Path, dict[str, Any]]:
    """Values by file: those of `path`, of the file that it extends, and so on, each without the key `extends`."""
    files: dict[Path, dict[str, Any]] = {}
    while True:
        values = files[path] = _mapping(schema, path)
        if EXTENDS not in values:
            return files
        name, shipped = values.pop(EXTENDS), path.resolve().parent
        if not isinstance(name, str):
            raise ConfigError(f"{path}: {EXTENDS}: expected one name or path of a configuration, not {name!r}")
        if shipped.is_relative_to(configs_folder()):
            section = shipped.relative_to(configs_folder()).as_posix()
        try:
            parent = shipped_config(name, section, path.parent)
        except MissingFileError as error:
            raise MissingFileError(f"{path}: {EXTENDS}: {error}") from error
        if any(parent.samefile(file) for file in files):
            raise ConfigError(f"{path}: {EXTENDS}: a circle, {' -> '.join(map(str, [*files, parent]))}")
        path = parent


def _mapping(schema: type[BaseModel], path: Path) -> dict[str, Any]:
    """Values of one file, as they stand there."""
    if not path.is_file():
        raise MissingFileError(f"no configuration file {str(path)!r}")
    try:
        values = read(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {_first_problem(error)}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys such as {', '.join(list(schema.model_fields)[:3])} at the top level")
    return cast("dict[str, Any]", values)


def _over(parent: object, child: object) -> object:
    """One value of a file over that of the file that it extends."""
    if not isinstance(parent, dict) or not isinstance(child, dict):
        return child
    old, new = cast("dict[str, Any]", parent), cast("dict[str, Any]", child)
    return new if "kind" in old and new.get("kind", old["kind"]) != old["kind"] else merged(old, new)


def _mistake(schema: type[BaseModel], detail: ErrorDetails) -> str:
    location = detail["loc"]
    if detail["type"] == "extra_forbidden":
        parents, model = _walk(schema, location[:-1])
        names = list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []
        return f"{_dotted([*parents, location[-1]])}: unknown key{did_you_mean(str(location[-1]), names)}"
    path = _dotted(_walk(schema, location)[0])
    if detail["type"] == "missing":
        return f"{path}: missing"
    context = detail.get("ctx", {})
    if detail["type"] == "union_tag_invalid":
        expected = [tag.strip("'") for tag in context["expected_tags"].split(", ")]
        hint = did_you_mean(context["tag"], expected)
        return f"{path}.kind: {context['tag']!r} is not one of {', '.join(expected)}{hint}"
    if detail["type"] == "union_tag_not_found":
        return f"{path}.kind: missing"
    message = detail["msg"].removeprefix("Value error, ")
    given = detail["input"]
    shown = f", not {given!r}" if isinstance(given, str | int | float | None) else ""
    return ": ".join(part for part in (path, message[:1].lower() + message[1:] + shown) if part)


def _walk(annotation: Any, location: Sequence[int | str]) -> tuple[list[int | str], Any]:
    """Follow a pydantic location: the path as it stands in the YAML, without union tags, and the type it leads to."""
    path: list[int | str] = []
    for part in location:
        annotation = bare(annotation)
        tagged = {tag(member): member for member in members(annotation)}
        if part in tagged:
            annotation = tagged[part]
            continue
        path.append(part)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel) and part in annotation.model_fields:
            annotation = annotation.model_fields[str(part)].annotation
        else:
            inner = get_args(annotation)
            annotation = inner[-1 if get_origin(annotation) is dict else 0] if inner else None
    return path, bare(annotation)


def _path(values: Any, key: str) -> list[str | int]:
    """A dotted key as the steps that lead to its value: keys with dots of their own in one piece, and indices."""
    path: list[str | int] = []
    while key:
        step, _, rest = key.partition(".")
        index = int(step) if step.isdigit() else -1
        if isinstance(values, list) and index < len(cast("list[Any]", values)):
            path.append(index)
            values, key = cast("list[Any]", values)[index], rest
            continue
        known = cast("dict[str, Any]", values) if isinstance(values, dict) else {}
        fitting = [name for name in known if key == name or key.startswith(f"{name}.")]
        name = max(fitting, key=len, default=step)
        path.append(name)
        values, key = known.get(name), key[len(name) + 1 :]
    return path


def _drop_foreign(schema: type[BaseModel], parents: Sequence[str | int], section: dict[str, Any]) -> None:
    """Drop the keys that the section's kind does not have; of an unknown kind none, validation will name it."""
    kinds = {tag(member): member.model_fields for member in members(_walk(schema, parents)[1])}
    known = kinds.get(section["kind"], section)
    for name in section.keys() - known.keys():
        del section[name]


def bare(annotation: Any) -> Any:
    """A type without what `Annotated` adds to it, and without None where it is optional."""
    if get_origin(annotation) is Annotated:
        return bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        others = [each for each in get_args(annotation) if each is not types.NoneType]
        return bare(others[0]) if len(others) == 1 else annotation
    return annotation


def members(annotation: Any) -> list[type[BaseModel]]:
    """The models of a union that is told apart by `kind`; none of any other type."""
    union = bare(annotation)
    if get_origin(union) not in (Union, types.UnionType):
        return []
    models = [each for each in get_args(union) if isinstance(each, type) and issubclass(each, BaseModel)]
    return [model for model in models if "kind" in model.model_fields]


def tag(model: type[BaseModel]) -> str:
    """The `kind` by which a model is told apart."""
    return model.model_fields["kind"].default


def _dotted(path: Sequence[int | str]) -> str:
    return ".".join(map(str, path))


def _first_problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem} in line {error.problem_mark.line + 1}"
    return str(error).splitlines()[0]
