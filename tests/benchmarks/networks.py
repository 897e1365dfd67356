"""What can be chosen in 54 networks as people have them: width groups, blocks and residual modules of each.

``python tests/benchmarks/networks.py`` writes networks.json and networks.md beside itself; names as arguments do only
these again. Each network's groups are checked by narrower networks, and its priced parts compared with those of a
narrower network.
"""

import json
import logging
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.modules.conv import _ConvNd

sys.path.insert(0, str(Path(__file__).parents[1]))

import zoo

from lightning_nas.graph.blocks import blocks_of
from lightning_nas.graph.decompose import decompose
from lightning_nas.graph.elastic_network import elastic_network
from lightning_nas.graph.elastic_parts import cut_alike, elastic_parts
from lightning_nas.graph.group_check import checked_groups
from lightning_nas.graph.narrowing import narrowed
from lightning_nas.graph.residuals import residuals

log = logging.getLogger(__name__)

FILE = Path(__file__).with_suffix(".json")
PAGE = FILE.with_suffix(".md")
HEAD = """# What can be chosen in a network

Written by `python tests/benchmarks/networks.py` from [networks.json](networks.json). 54 networks with random weights;
the class of no block is known. *Groups*: width groups that can be narrowed, of those that are no output of the network.
*Convolutions*: those of which a width can be chosen. *Exact*: of six narrower networks, of random widths, those that
have exactly the priced parts that the whole network says they have. *Blocks*, told from the groups: inverted
bottlenecks (ibn), fused ones, and pairs of KxK convolutions (basic). *Residual*: modules that can be left out. Seconds
are those of one core.

"""


def measured(name):
    network, images = zoo.build(name)
    start = time.perf_counter()
    elastic = elastic_network(network, images)
    labelled = time.perf_counter()
    elastic = replace(elastic, groups=checked_groups(network, images, elastic.groups))
    checked = time.perf_counter()
    try:
        priced = cut_alike(elastic)
        parts = elastic_parts(priced)
        exact = sum(is_exact(network, images, priced, parts, seed) for seed in range(6))
    except ValueError as error:  # such as crops of objects that random weights do not find
        exact = 0
        log.warning("%s is not priced: %s", name, error)
    groups = elastic.groups
    convs = {f"{path}.weight" for path, module in network.named_modules() if isinstance(module, _ConvNd)}
    inner = [group for group in groups.groups if "output of the network" not in group.frozen]
    return {
        "groups": len(groups.open),
        "of_groups": len(inner),
        "convolutions": len(convs & {slot for slot, _ in groups.slots_of(groups.open)}),
        "of_convolutions": len(convs),
        "exact": exact,
        "blocks": dict(Counter(block.kind for block in blocks_of(network, elastic))),
        "residual": len(residuals(network, images)),
        "label_s": round(labelled - start, 1),
        "check_s": round(checked - labelled, 1),
        "reasons": dict(Counter(group.frozen for group in inner if group.frozen)),
    }


def is_exact(network, images, elastic, parts, seed):
    widths = zoo.drawn(elastic.groups, seed)
    return [part.at(widths) for part in parts] == decompose(narrowed(network, elastic.groups, widths), images, "bytes")


def page(rows):
    lines = [
        "| network | groups | convolutions | exact | blocks | residual | labels, s | check, s |",
        "| --- " * 8 + "|",
    ]
    for name, row in sorted(rows.items()):
        blocks = ", ".join(f"{count} {kind}" for kind, count in sorted(row["blocks"].items())) or "-"
        lines.append(
            f"| {name} | {row['groups']} of {row['of_groups']} | {row['convolutions']} of {row['of_convolutions']} |"
            f" {row['exact']} of 6 | {blocks} | {row['residual']} | {row['label_s']} | {row['check_s']} |"
        )
    total = sum(row["convolutions"] for row in rows.values()), sum(row["of_convolutions"] for row in rows.values())
    whole = sum(row["convolutions"] == row["of_convolutions"] for row in rows.values())
    lines += ["", f"{len(rows)} networks; in {whole} of them every convolution, in all {total[0]} of {total[1]}."]
    fixed = {name: row["reasons"] for name, row in sorted(rows.items()) if row["reasons"]}
    lines += ["", "What stays as it is, and why:", ""]
    for name, reasons in fixed.items():
        commonest = sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))
        shown = "; ".join(f"{count}x {reason.replace('|', '/')[:110]}" for reason, count in commonest[:3])
        lines.append(f"* {name}: {shown}" + ("; ..." if len(reasons) > 3 else ""))
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    rows = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    for name in sys.argv[1:] or zoo.ZOO:
        if zoo.is_available(name):
            rows[name] = measured(name)
            log.info("%s: %s", name, rows[name])
            FILE.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            PAGE.write_text(page(rows), encoding="utf-8")
