"""Names that a person types before something is lost for good."""

from __future__ import annotations

from common.errors import InvalidInputError


def refuse_unconfirmed(typed: str, *, name: str, of: str, lost: str) -> None:
    """Raise InvalidInputError (`not_confirmed`, at `confirmation`) unless the name was typed.

    `of` says whose name it is, `lost` is a sentence. Where something else was typed it says that, too.
    """
    typed = typed.strip()
    if typed == name:
        return
    wrong = ""
    if typed:
        capitals = " Capitals count." if typed.casefold() == name.casefold() else ""
        wrong = f"What was typed is another name.{capitals} "
    raise InvalidInputError(
        f"{wrong}{lost} To confirm, type the name of {of}: {name}", code="not_confirmed", field="confirmation"
    )
