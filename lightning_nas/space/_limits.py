"""Limits on sizes in files: far above any network for such devices, and too small to fill a memory."""

from __future__ import annotations

from lightning_nas.io.reading import JsonObject, number, only, text, whole

__all__ = ["MAX_KERNEL", "MAX_NODES", "MAX_OPTIONS", "MAX_PATH", "MAX_WIDTH", "option_fields"]

MAX_KERNEL = 31
"""Of a convolution, in a file and in a space: that of RepLKNet (arXiv 2203.06717)."""

MAX_WIDTH = 2**16
"""Channels of a group: those of the widest stock networks, times eight."""

MAX_NODES, MAX_OPTIONS, MAX_PATH = 2**12, 2**10, 400
"""Groups or blocks of a network, options of one of them, and characters of a module's path."""

_MAX_EXPANSION = 64


def option_fields(data: object) -> JsonObject:
    """Return the fields of a `BlockOption` from an object of a file."""
    found = only(data, ("kind", "expansion", "kernel"), "The option of a block")
    return {
        "kind": text(found["kind"], "kind"),
        "expansion": number(found["expansion"], "expansion", _MAX_EXPANSION),
        "kernel": whole(found["kernel"], "kernel", MAX_KERNEL),
    }
