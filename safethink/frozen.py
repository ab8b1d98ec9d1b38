"""Base of every record and every section: an immutable model whose copies are validated."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

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
