"""What the search warns of, for its record."""

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


@contextmanager
def heard_warnings() -> Iterator[list[str]]:
    """Return a list that fills with what the search's modules warn of meanwhile; the log has it all the same."""
    listener, logger = _Listener(), logging.getLogger(__package__)
    logger.addHandler(listener)
    try:
        yield listener.messages
    finally:
        logger.removeHandler(listener)
