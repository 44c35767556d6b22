"""Who wants to know of a new disk: registered by the layers above, when the application starts."""

from __future__ import annotations

from collections.abc import Callable

from agents.models import Disk

_listeners: list[Callable[[Disk], object]] = []


def on_new_disk(listener: Callable[[Disk], object]) -> None:
    """The listener runs in the transaction that adds the disk, and raises nothing for what a person has to mend."""
    if listener not in _listeners:
        _listeners.append(listener)


def tell_of_new_disk(disk: Disk) -> None:
    for listener in _listeners:
        listener(disk)
