"""Warnings of a search, collected for its record."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from typing_extensions import override

__all__ = ["heard_warnings"]


class _Listener(logging.Handler):
    """Keeps the messages of warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        # Python shows warnings where no handler is set up at all; this one must not be what hides them.
        if logging.lastResort and not self._has_others(record.name):
            logging.lastResort.handle(record)

    def _has_others(self, name: str) -> bool:
        logger: logging.Logger | None = logging.getLogger(name)
        while logger is not None:
            if any(handler is not self for handler in logger.handlers):
                return True
            logger = logger.parent if logger.propagate else None
        return False


@contextmanager
def heard_warnings() -> Iterator[list[str]]:
    """Collect the warnings of the search's modules in the returned list; they are logged as usual."""
    listener, logger = _Listener(), logging.getLogger(__package__)
    logger.addHandler(listener)
    try:
        yield listener.messages
    finally:
        logger.removeHandler(listener)
