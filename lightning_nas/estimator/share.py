"""An estimator as one file to hand on: a table and its device in a zip archive of plain text.

Whoever reads one runs nothing of it. The members have fixed names, a bounded size and the checksums that the archive
lists, and the table inside is checked line by line as any other. Checksums tell of damage and of careless edits; they
are no signature.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lightning_nas.estimator.device import check_name
from lightning_nas.io.reading import parse_json
from lightning_nas.io.writing import write_bytes

__all__ = ["SUFFIX", "pack", "unpacked"]

SUFFIX = ".estimator.zip"

FORMAT = 1

_LIST = "estimator.json"
# Of a table, by what follows the name of the device: needed or not.
_PARTS = {".csv": True, ".json": True, "_operators.csv": False}
# A hundred times the tables of this package.
_MAX_BYTES = 128 * 1024**2
# Of members, so that equal tables make equal archives.
_DATE = (1980, 1, 1, 0, 0, 0)
_DAMAGE = (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, KeyError, TypeError, AttributeError)
_DAMAGED_DATA = (zipfile.BadZipFile, zlib.error, lzma.LZMAError)


def pack(table: Path, path: Path) -> Path:
    """Write the table, the device beside it, and the table of its stock operators if there is one, as one file.

    Args:
        table: The ``.csv`` file.
        path: The archive; its name must end with `SUFFIX`. It is there whole or not at all.

    Raises:
        ValueError: A name that is not valid, or no device beside the table.
    """
    if not path.name.endswith(SUFFIX):
        raise ValueError(f"The file of an estimator must be named *{SUFFIX}; got {path.name}.")
    name = table.stem
    check_name(name)
    files = {suffix: table.with_name(name + suffix) for suffix in _PARTS}
    missing = [file.name for suffix, file in files.items() if _PARTS[suffix] and not file.exists()]
    if missing:
        raise ValueError(f"An estimator is a table and its device; there is no {' and no '.join(missing)}.")
    content = {suffix: file.read_bytes() for suffix, file in files.items() if file.exists()}
    listed = {"format": FORMAT, "name": name, "sha256": {key: _sum(data) for key, data in content.items()}}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, data in {_LIST: json.dumps(listed, indent=1).encode(), **content}.items():
            archive.writestr(zipfile.ZipInfo(key if key == _LIST else name + key, _DATE), data, zipfile.ZIP_DEFLATED)
    write_bytes(path, buffer.getvalue())
    return path


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Check an archive and give the path of its table, beside its device, for as long as the context lasts.

    Raises:
        ValueError: There is no such file, or it is not as `pack` wrote it.
    """
    if not path.exists():
        raise ValueError(f"There is no estimator at {path}.")
    try:
        name, content = _read(path)
    except (*_DAMAGE, *_DAMAGED_DATA) as error:
        raise ValueError(f"{path.name} is no estimator, or it is damaged: {error}") from error
    with tempfile.TemporaryDirectory() as folder:
        for key, data in content.items():
            Path(folder, name + key).write_bytes(data)
        yield Path(folder, f"{name}.csv")


def _read(path: Path) -> tuple[str, dict[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        # An archive may hold a name twice, of which readers would take either.
        if len(members) != len(archive.infolist()) or sum(member.file_size for member in members.values()) > _MAX_BYTES:
            raise ValueError(f"its members are there twice, or larger than {_MAX_BYTES} bytes.")
        listed = parse_json(_member(archive, _LIST), _LIST)
        if listed.get("format") != FORMAT:
            raise ValueError(f"its format must be {FORMAT}; got {listed.get('format')!r}.")
        name, sums = listed["name"], _checked_sums(listed["sha256"])
        check_name(name)
        expected = {_LIST, *(name + key for key in sums)}
        if set(members) != expected:
            raise ValueError(f"it must hold {', '.join(sorted(expected))}; got {', '.join(sorted(members))}.")
        content = {key: _member(archive, name + key) for key in sums}
    changed = [name + key for key, data in content.items() if _sum(data) != sums[key]]
    if changed:
        raise ValueError(f"{' and '.join(changed)} is not what was packed, its checksum differs.")
    return name, content


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    # What the archive says of sizes may be wrong.
    with archive.open(name) as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError(f"{name} is larger than {_MAX_BYTES} bytes.")
    return data


def _checked_sums(sums: object) -> Mapping[str, str]:
    needed = {key for key, is_needed in _PARTS.items() if is_needed}
    if not isinstance(sums, dict) or not needed <= set(sums) <= set(_PARTS):
        raise ValueError(f"it must list the checksums of {', '.join(_PARTS)}; got {sums!r}.")
    return sums


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
