"""Messages of a search that are seen on the command line and in a script."""

from __future__ import annotations

import logging

from lightning.pytorch.utilities import rank_zero_info

__all__ = ["tell"]


def tell(log: logging.Logger, text: str) -> None:
    """Log a message where its user looks.

    The command line shows what this package logs and silences Lightning; in a script it is the other way round.

    Args:
        log: Logger of the module that tells it.
        text: The message.
    """
    if log.isEnabledFor(logging.INFO):
        log.info("%s", text)
    else:
        rank_zero_info(text)
