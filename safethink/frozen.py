"""Bases of every record and every section: an immutable model whose copies are validated, and one that may grow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, model_serializer

Some = TypeVar("Some", bound="Frozen")


class Frozen(BaseModel):
    """An immutable model: no unknown keys, descriptions from the docstrings under the fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def replace(self: Some, **changes: Any) -> Some:
        """The same model with other values, validated as if they had been read; what is private stays as it is.

        Raises:
            pydantic.ValidationError: an unknown key, or a value that does not fit.
        """
        held = {name: getattr(self, name) for name in self.model_fields_set}
        checked = type(self).model_validate(held | changes)
        return super().model_copy(update={name: getattr(checked, name) for name in changes})

    def model_copy(self: Some, *, update: None = None, deep: bool = False) -> Some:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A copy; other values go through `replace`, for pydantic's `update` validates nothing.

        Raises:
            TypeError: `update` was given; the type checker says so before.
        """
        if update is not None:
            raise TypeError("model_copy(update=...) validates nothing: use replace(...)")
        return super().model_copy(deep=deep)


class Growing(Frozen):
    """An immutable model that may gain keys without changing what was made before it had them."""

    LATER_KEYS: ClassVar[frozenset[str]] = frozenset()
    """Keys that are written down only where they differ from their default: what was made before there were such keys
    stays the same run and keeps its hashes."""

    @model_serializer(mode="wrap")
    def _without_later_keys(self, dump: Callable[[Growing], dict[str, Any]]) -> dict[str, Any]:
        left_out = {key for key in self.LATER_KEYS if self._is_default(key)}
        return {key: value for key, value in dump(self).items() if key not in left_out}

    def _is_default(self, key: str) -> bool:
        """Whether a key holds what it would hold if it had not been given."""
        return bool(getattr(self, key) == type(self).model_fields[key].get_default(call_default_factory=True))
