"""The page of recorded errors of the devices that come with the package."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from lightning_nas.estimator.device import Device

__all__ = ["devices_page"]

_INTRO = (
    "Written by `python docs/pages/write.py` from the files of the devices in `lightning_nas/estimator/targets/`, which"
    " `lightning-nas estimator COMMAND DEVICE` records, with the"
    " commands `measure`, `lanes`, `granularity`, `error` and `memory`. *Subnets* are random members of ten search"
    " spaces, *stock* are networks of torchvision and timm at several sizes and widths: all measured whole, none in a"
    " table. *Blind*: nothing is looked up, and every row that these networks contain was kept out of the fit."
)


def devices_page(devices: Sequence[Device]) -> str:
    """Return the page as markdown, a pure function of the devices.

    Args:
        devices: Those with a recorded error are on the page.
    """
    judged = [device for device in devices if "networks" in device.record.get("error", {})]
    parts = [
        "# Recorded error of the shipped devices",
        _INTRO,
        _table("", judged, [(name, _share(name)) for name in _GROUPS]),
        "Mean error; shares within 5 % and within 10 %; rank correlation (Spearman); the largest error.",
        "## What else was found",
        _table("", judged, _FINDINGS),
        "## Stock networks, one by one",
        "Measured latency, and by how much the estimate is off.",
        _table("", judged, [(name, _one(name)) for name in _stock_names(judged)]),
        "## By kind of operator",
        "Mean error on rows that were held out of the fit, and their number.",
        _table("", judged, [(name, _rows(name)) for name in _kinds(judged)]),
        "## How they were made",
        "\n".join(f"* **{device.name}**: {_provenance(device)}" for device in judged),
    ]
    return "\n\n".join(parts) + "\n"


_GROUPS = {
    "networks": "all",
    "subnets": "subnets",
    "stock": "stock",
    "networks_predicted": "all, blind",
    "networks_uncorrected": "all, sums not corrected",
    "sums": "sums of measured parts",
    "rows": "rows, held out",
}


def _share(name: str) -> Callable[[Device], str]:
    def cell(device: Device) -> str:
        row = device.record["error"].get(name)
        if row is None:
            return ""
        rank = f", {row['spearman']:.4f}" if "spearman" in row else ""
        within = f"{_percent(row['within_5'], 1)} / {_percent(row['within_10'], 1)}"
        return f"**{_percent(row['mape'])}** of {row['count']:,}; {within}{rank}; {_percent(row['max'], 1)}"

    return cell


def _pairs(device: Device) -> str:
    row = device.record["error"].get("pairs")
    if row is None:
        return ""
    clear = f"{_percent(row['right_where_clear'], 1)} where they differ by over 10 %"
    return f"**{_percent(row['right'], 1)}** of {row['count']} unseen pairs; {clear}"


def _interval(name: str) -> Callable[[Device], str]:
    def cell(device: Device) -> str:
        row = device.record["error"].get(name)
        return f"holds {_percent(row['coverage'], 1)}, half width {_percent(row['half_width'], 1)}" if row else ""

    return cell


def _memory(device: Device) -> str:
    row = device.record.get("memory")
    if row is None:
        return ""
    default = (
        f"its default takes {_percent(row['default_excess'], 1)} more, up to {_percent(row['default_excess_max'], 0)}"
    )
    return f"equal on **{_percent(row['equal'], 1)}** of {row['count']} networks; {default}"


def _granularity(device: Device) -> str:
    row = device.record.get("granularity")
    return f"{_percent(row['operators'])} by operators, {_percent(row['subgraphs'])} by subgraphs" if row else ""


def _correction(device: Device) -> str:
    row = device.record.get("correction")
    return (
        f"{_percent(row['without'])} off without, {_percent(row['with'])} with; {row['factor']:.4g} is used"
        if row
        else ""
    )


def _lanes(device: Device) -> str:
    row = device.record.get("staircase")
    return f"documented {device.lanes}, found **{row['found']}**" if row else f"documented {device.lanes}"


_FINDINGS: list[tuple[str, Callable[[Device], str]]] = [
    ("faster of IBN and fused told", _pairs),
    ("interval of 90 %", _interval("interval")),
    ("interval of 90 %, blind", _interval("interval_predicted")),
    ("peak memory and the compiler's, without its buffers", _memory),
    ("lanes", _lanes),
    ("error by granularity, of a smaller table", _granularity),
    ("correction of sums", _correction),
]


def _one(name: str) -> Callable[[Device], str]:
    def cell(device: Device) -> str:
        row = device.record["error"].get(name)
        off = f"{100 * row['off']:+.1f} %".replace("-", "\u2212") if row else ""
        return f"{row['true_ms']:.4g} ms, {off}" if row else ""

    return cell


def _rows(name: str) -> Callable[[Device], str]:
    def cell(device: Device) -> str:
        row = device.record["error"].get(f"rows of {name}")
        return f"{_percent(row['mape'])} of {row['count']:,}" if row else ""

    return cell


def _stock_names(devices: Iterable[Device]) -> list[str]:
    rows = ((name, row) for device in devices for name, row in device.record["error"].items())
    return list(dict.fromkeys(name for name, row in rows if "off" in row))


def _kinds(devices: Iterable[Device]) -> list[str]:
    names = (name for device in devices for name in device.record["error"])
    kinds = (
        name.removeprefix("rows of ") for name in names if name.startswith("rows of ") and not name.endswith(" ms")
    )
    return sorted(set(kinds))


def _provenance(device: Device) -> str:
    record = device.record
    measured_by = ", ".join(f"{name} {value}" for name, value in record.get("measured_by", {}).items())
    settings = ", ".join(f"{name} {_plain(value)}" for name, value in device.settings.items())
    fit = record.get("fit", {}).get("by", "")
    return f"{record['rows']:,} rows, {record.get('date', '')}, by {measured_by}; {settings}; fitted by {fit}."


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _percent(value: float, digits: int = 2) -> str:
    return f"{100 * value:.{digits}f} %"


def _table(corner: str, devices: Sequence[Device], rows: Iterable[tuple[str, Callable[[Device], str]]]) -> str:
    head = [corner, *(device.name for device in devices)]
    lines = [[_GROUPS.get(name, name), *(cell(device) for device in devices)] for name, cell in rows]
    filled = [line for line in lines if any(line[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *filled))
