"""Error of an estimator as text."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["format_error"]


def format_error(error: Mapping[str, Mapping[str, float]]) -> str:
    """Return what a verdict says as a table of text.

    Example::

        >>> print(format_error({"rows": {"count": 9, "mape": 0.02, "within_5": 0.9, "within_10": 1, "spearman": 1}}))
                                           count    MAPE   within 5 %   within 10 %  Spearman
        rows                                   9   2.00 %       90.0 %       100.0 %    1.0000
    """
    lines = [f"{'':32} {'count':>7} {'MAPE':>7}   within 5 %   within 10 %  Spearman"]
    for name, row in error.items():
        if "mape" in row:
            shares = f"{row['mape']:>7.2%} {row['within_5']:>11.1%} {row['within_10']:>12.1%}".replace("%", " %")
            rank = f"{row['spearman']:>9.4f}" if "spearman" in row else f"{'-':>9}"
            lines.append(f"{name:32} {row['count']:>7} {shares} {rank}")
    for name, row in error.items():
        if "off" in row:
            off = f"{row['off']:+.2%}".replace("%", " %")
            lines.append(f"{name:32} measured {row['true_ms']:.4g} ms, estimated {row['predicted_ms']:.4g} ms, {off}")
    others = (_sentence(name, row) for name, row in error.items() if "mape" not in row and "off" not in row)
    return "\n".join([*lines, *others])


def _sentence(name: str, row: Mapping[str, float]) -> str:
    if name == "pairs":
        clear = f"{row['right_where_clear']:.1%} where they differ by more than 10%"
        text = f"faster of ibn and fused: {row['right']:.1%} right of {row['count']} unseen pairs, {clear}"
    else:
        text = (
            f"{name} of {row['level']:.0%}: holds {row['coverage']:.1%}, half width {row['half_width']:.1%} on average"
        )
    return text.replace("%", " %")
