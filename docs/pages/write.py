"""Write the pages of recorded results and devices from their files.

``python docs/pages/write.py`` writes all of them, ``--check`` writes nothing and fails where a page is out of date.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from devices_page import devices_page
from networks_page import networks_page, read_rows
from results_page import page_path, results_page

from lightning_nas.estimator.files import TARGETS, available_devices, read_device
from lightning_nas.io.writing import write_text

RESULTS = Path(__file__).parents[2] / "recipes" / "results"


def pages(results: Path) -> Iterator[tuple[Path, str]]:
    """Yield the path and the text of each page.

    Args:
        results: Folder with one folder of results a recipe.
    """
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        yield page_path(folder), results_page(folder)
    yield (
        results / "estimator.md",
        devices_page([read_device(TARGETS / f"{name}.json") for name in available_devices()]),
    )
    if rows := read_rows(results / "networks.json"):
        yield results / "networks.md", networks_page(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages or check them; return the exit status.

    Args:
        arguments: Command line, or None for that of the process.
    """
    parser = argparse.ArgumentParser("python docs/pages/write.py", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a page is out of date")
    options = parser.parse_args(arguments)
    status = 0
    for path, text in pages(RESULTS):
        if not options.check:
            write_text(path, text)
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            sys.stderr.write(f"{path} is out of date; run: python docs/pages/write.py\n")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
