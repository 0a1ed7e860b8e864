"""Untrusted text, normalized and limited before a step receives it."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from mlkit.errors import DefinitionError, InputError, PayloadTooLarge

__all__ = ["Text", "TextOptions"]

MAX_CHARS = 10_000
"""Default limit for texts, in code points: several pages."""

# Control characters (Unicode category Cc) without tab and line feed, and halves of surrogate pairs.
_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """Options of a `Text` argument: ``Annotated[str, TextOptions(max_chars=200)]``.

    Text is normalized to composed characters (Unicode NFC), and its line breaks to line feeds, so
    that equal texts are equal strings, whatever keyboard or system they come from. Results are not
    changed.

    Attributes:
        max_chars: maximum length in code points, before and after normalization.

    Raises:
        DefinitionError: a limit is not positive.
    """

    max_chars: int = MAX_CHARS

    def __post_init__(self) -> None:
        if self.max_chars <= 0:
            raise DefinitionError("max_chars must be positive", got=repr(self.max_chars))

    def normalized(self, text: str) -> str:
        """Return a text in normalized form.

        Raises:
            PayloadTooLarge: it is longer than the limit.
            InputError: it contains control characters, or half a surrogate pair.
        """
        self._check_length(text)
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        forbidden = _FORBIDDEN.search(text)
        if forbidden is not None:
            raise InputError(
                "the text contains a control character",
                expected="printable characters, tabs and line breaks",
                got=f"U+{ord(forbidden[0]):04X} at position {forbidden.start():,}",
            )
        text = unicodedata.normalize("NFC", text)
        self._check_length(text)
        return text

    def _check_length(self, text: str) -> None:
        if len(text) > self.max_chars:
            raise PayloadTooLarge(
                "the text is too long",
                expected=f"at most {self.max_chars:,} characters",
                got=f"{len(text):,}",
            )

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Normalize after the annotated type is validated."""
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self.normalized, handler(source))

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> Any:
        """Document the limit of what is accepted."""
        limit = {"maxLength": self.max_chars} if handler.mode == "validation" else {}
        return {**limit, **handler(core)}


Text: TypeAlias = Annotated[str, TextOptions()]
"""A normalized text of at most 10,000 characters; a plain ``str`` is taken as it is."""
