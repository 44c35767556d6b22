"""What a text may hold that people write and others read: signs that are seen, in the order in which they stand.

Control signs act on terminals, logs and CSV readers; signs that turn the direction of writing let a name look like
another one. Both are refused where text comes in (models, bodies of the API, forms), never silently taken out.
"""

from __future__ import annotations

import re
import unicodedata

from django.core.exceptions import ValidationError
from django.utils.deconstruct import deconstructible

# C0, DEL and C1; separators of lines and paragraphs; embeddings, overrides and isolates of the writing direction.
_HIDDEN = r"\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069"
_HIDDEN_BUT_LINES = _HIDDEN.replace(r"\u0000-\u001f", r"\u0000-\u0008\u000b\u000c\u000e-\u001f")
# Fields in which people write more than one line, with tabs.
LINES = frozenset({"note", "description", "excludes"})


@deconstructible
class PlainText:
    """A validator of Django and DRF. `lines`: line ends and tabs are allowed."""

    code = "control_sign"

    def __init__(self, *, lines: bool = False) -> None:
        self.lines = lines
        hidden = _HIDDEN_BUT_LINES if lines else _HIDDEN
        # Of ECMA as well as of Python, for the OpenAPI document; the second where a text may not be blank.
        self.pattern = f"^[^{hidden}]*$"
        self.filled_pattern = f"^[^{hidden}]*[^{hidden}\\s][^{hidden}]*$"
        self._refused = re.compile(f"[{hidden}\ud800-\udfff]")

    def __call__(self, text: object) -> None:
        """Raises ValidationError that names the first sign by its number."""
        found = self._refused.search(str(text))
        if found is None:
            return
        sign = found[0]
        name = unicodedata.name(sign, "a control sign")
        message = f"The text holds U+{ord(sign):04X} ({name}), which is not seen. Take it out."
        raise ValidationError(message, code=self.code)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlainText) and other.lines == self.lines

    def __hash__(self) -> int:
        return hash(self.lines)


def plain_text_of(field_name: str) -> PlainText:
    """The validator of the field with this name."""
    return PlainText(lines=field_name in LINES)
