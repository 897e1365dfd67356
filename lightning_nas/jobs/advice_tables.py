"""Advice in words: its tables, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lightning_nas.budget.suggestion import NetworkCost, Suggestion
from lightning_nas.budget.together import Step
from lightning_nas.estimator.bounds import LayerBound
from lightning_nas.io.units import bytes_text
from lightning_nas.report.advice import AdviceTable

__all__ = ["advice_tables", "advice_title"]

_MOST_LAYERS, _MOST_ALONE, _MOST_BY_HAND = 12, 20, 8
_MOST_TEXT, _MOST_PATH = 42, 28
_BUSY = (
    "busy: multipliers at work; lanes: those with a channel. Bound by compute where the multipliers work, by lanes"
    " where too few have a channel, by memory where neither holds, so that time goes into moving values."
)
_NO_DATA = "Without data: only what leaves the network about as large. With images, all of the above count."
_HARM = (
    "Harm: how far what the last layers give is from what the network's own give, relative to its variance, once the"
    " blocks are refitted and before any training; it adds up."
)
_BY_HAND = "~ is done by hand; the others are applied by the space around the network (apply=true)."


def advice_title(network: str, device: str, cost: NetworkCost) -> str:
    """Return what a network costs, as a line.

    Args:
        network: What it is.
        device: Name of the device.
        cost: What it costs.
    """
    sizes = f"{bytes_text(cost.parameter_bytes)} parameters, {bytes_text(cost.peak_bytes)} peak activations"
    return f"{network} on {device}: {cost.latency_ms:.4g} ms, {sizes}"


def advice_tables(
    cost: NetworkCost,
    layers: Sequence[LayerBound],
    suggestions: Sequence[Suggestion],
    steps: Sequence[Step],
    compiled_ms: tuple[float, float] | None = None,
) -> list[AdviceTable]:
    """Return the tables of an advice.

    Args:
        cost: What the network costs.
        layers: Its layers.
        suggestions: What to change, in their order.
        steps: What to change one after the other.
        compiled_ms: Latency before and after all steps by the compiler of the device; None for none.
    """
    return [
        _layers(layers),
        _alone(cost, [one for one in suggestions if one.kind not in ("stock", "widen")]),
        _together(cost, steps, compiled_ms),
        _plain("Channels that cost no time", [one for one in suggestions if one.kind == "widen"]),
        _stock([one for one in suggestions if one.kind == "stock"]),
    ]


def _layers(layers: Sequence[LayerBound]) -> AdviceTable:
    dearest = sorted(layers, key=lambda layer: -layer.latency_ms)[:_MOST_LAYERS]
    rows = (
        (
            f"{layer.latency_ms:.4f}",
            f"{layer.share:.1%}",
            "-" if layer.utilisation is None else f"{min(layer.utilisation, 1.0):.0%}",
            f"{layer.lanes_filled:.0%}",
            f"{layer.bytes_per_s / 1e9:.1f}",
            layer.bound or "-",
            _short(layer.name, _MOST_TEXT),
            _short_path(layer.path),
        )
        for layer in dearest
    )
    head = ("ms", "share", "busy", "lanes", "GB/s", "bound by", "layer", "module")
    title = f"Where the time goes: the costliest {len(dearest)} of {len(layers)} layers"
    return AdviceTable(title, head, tuple(rows), _BUSY)


def _alone(cost: NetworkCost, suggestions: Sequence[Suggestion]) -> AdviceTable:
    has_harm = any(one.harm is not None for one in suggestions)
    rows = []
    # What is done by hand has no harm, and so comes last; it is not to be hidden by the others.
    by_hand = [one for one in suggestions[_MOST_ALONE:] if one.change is None][:_MOST_BY_HAND]
    for one in [*suggestions[:_MOST_ALONE], *by_hand]:
        harm = (_harm_text(one.harm),) if has_harm else ()
        figures = (f"{one.saved_ms:.4f}", f"{one.saved_ms / cost.latency_ms:.1%}", _bytes(one.saved_parameter_bytes))
        rows.append((*figures, _bytes(one.saved_peak_bytes), *harm, *_what(one)))
    head = ("saves ms", "share", "parameters", "peak", *(("harm",) if has_harm else ()), "what", "where")
    hidden = len(suggestions) - len(rows)
    more = f" {hidden} more save less." if hidden > 0 else ""
    return AdviceTable("What to change, each alone", head, tuple(rows), f"{_BY_HAND}{more}")


def _together(cost: NetworkCost, steps: Sequence[Step], compiled_ms: tuple[float, float] | None) -> AdviceTable:
    has_harm = any(step.harm is not None for step in steps)
    rows = (
        (
            f"{step.cost.latency_ms:.4f}",
            f"{1 - step.cost.latency_ms / cost.latency_ms:.1%}",
            bytes_text(step.cost.parameter_bytes),
            bytes_text(step.cost.peak_bytes),
            *((_harm_text(step.harm),) if has_harm else ()),
            *_what(step.suggestion),
        )
        for step in steps
    )
    head = ("ms then", "saved", "parameters", "peak", *(("harm",) if has_harm else ()), "what", "where")
    notes = [_HARM if has_harm else _NO_DATA]
    if compiled_ms is not None:
        before, after = compiled_ms
        notes.append(f"By the device's compiler: {before:.4f} -> {after:.4f} ms, {1 - after / before:.1%} saved.")
    note = " ".join(notes)
    return AdviceTable("Together, one after the other", head, tuple(rows), note)


def _stock(suggestions: Iterable[Suggestion]) -> AdviceTable:
    rows = (
        (f"{one.saved_ms:.4f}", _bytes(one.saved_parameter_bytes), _bytes(one.saved_peak_bytes), one.text)
        for one in suggestions
    )
    head = ("saves ms", "parameters", "peak", "network")
    return AdviceTable("Stock networks that are no slower", head, tuple(rows))


def _plain(title: str, suggestions: Iterable[Suggestion]) -> AdviceTable:
    return AdviceTable(title, ("what", "where"), tuple((one.text, _short_path(one.path)) for one in suggestions))


def _what(one: Suggestion) -> tuple[str, str]:
    mark = "" if one.change is not None else "~"
    return _short(f"{mark}{one.text}", _MOST_TEXT), _short_path(one.path)


def _bytes(count: int) -> str:
    """Return bytes that are saved, with a minus where there are more of them."""
    return f"{'-' if count < 0 else ''}{bytes_text(abs(count))}" if count else "0"


def _harm_text(harm: float | None) -> str:
    return "-" if harm is None else f"{harm:.4f}"


def _short(text: str, most: int) -> str:
    """Return the beginning of a text."""
    return text if len(text) <= most else f"{text[: most - 2]}.."


def _short_path(path: str) -> str:
    """Return the end of a path, which tells it from others."""
    return path if len(path) <= _MOST_PATH else f"..{path[2 - _MOST_PATH :]}"
