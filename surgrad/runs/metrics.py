"""metrics.csv: one row per epoch, appended, and proof that the rows of a checkpoint are all there."""

import csv
import hashlib
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from surgrad.runs.files import Damaged, replacing, writing

_SYNC_SECONDS = 1.0


class MetricsTable:
    """metrics.csv: one row per epoch. A new row is appended; a new column rewrites the file.

    A row is with the operating system when `add` returns, so that a killed process loses none. It is synced to the
    disk before a checkpoint is, and else at most once a second: a sync costs milliseconds, as much as an epoch of a
    small network. A damaged file counts as empty, and `damage` says why.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage = ""
        self.columns: list[str] = []
        self.rows: list[dict[str, str]] = []
        self._torn = False
        if path.exists():
            try:
                self.columns, self.rows = _read_rows(path)
                self._torn = not path.read_bytes().endswith(b"\n")
            except Damaged as error:
                self.damage, self._torn = error.why, True
        self._synced = time.monotonic()
        self._unsynced = False
        self._restart_digest()

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row; a row with the epoch of the last one is merged into it."""
        cells = {name: _cell(name, value) for name, value in row.items()}
        if self.rows and "epoch" in cells and self.rows[-1].get("epoch") == cells["epoch"]:
            self.rows[-1] |= cells
            rewrite = True
        else:
            if self.rows:
                self._digest.update(_canonical(self.rows[-1]))
            self.rows.append(cells)
            rewrite = self._torn or not self.path.exists()
        new = [name for name in cells if name not in self.columns]
        self.columns += new
        if rewrite or new:
            self._rewrite()
            return
        with writing(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow([cells.get(name, "") for name in self.columns])
            file.flush()
            self._unsynced = True
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                self._sync(file.fileno())

    def sync(self) -> None:
        """Bring all rows to the disk."""
        if self._unsynced:
            with writing(self.path), self.path.open("rb+") as file:
                self._sync(file.fileno())

    def facts(self) -> dict[str, Any]:
        """What `holds` needs to know of the rows there are now: their number, the last one, checksum of the others."""
        last = _filled(self.rows[-1]) if self.rows else {}
        return {"rows": len(self.rows), "last": last, "sha256": self._digest.hexdigest()}

    def holds(self, facts: Mapping[str, Any]) -> str:
        """Why these are not, or not all of, the rows that there were at `facts`; empty if they are."""
        nb_rows = facts["rows"]
        if self.damage:
            return f"metrics.csv is damaged: {self.damage}"
        if len(self.rows) < nb_rows:
            return f"metrics.csv holds {len(self.rows)} of its {nb_rows} rows"
        if not nb_rows:
            return ""
        digest = hashlib.sha256()
        for row in self.rows[: nb_rows - 1]:
            digest.update(_canonical(row))
        last = self.rows[nb_rows - 1]
        if digest.hexdigest() != facts["sha256"] or any(last.get(k) != v for k, v in facts["last"].items()):
            return "rows of metrics.csv are not those that were written"
        return ""

    def rewind(self, epoch: float | None) -> int:
        """Drop the rows after `epoch` (all of them for None); return how many were dropped."""
        keep = [row for row in self.rows if epoch is not None and _number(row.get("epoch", "")) <= epoch]
        dropped = len(self.rows) - len(keep)
        if dropped or self.damage:
            self.rows, self.damage = keep, ""
            self._restart_digest()
            self._rewrite()
        return dropped

    def _sync(self, handle: int) -> None:
        os.fsync(handle)
        self._synced, self._unsynced = time.monotonic(), False

    def _restart_digest(self) -> None:
        """Checksum of all rows but the last, which may still be merged into."""
        self._digest = hashlib.sha256()
        for row in self.rows[:-1]:
            self._digest.update(_canonical(row))

    def _rewrite(self) -> None:
        with replacing(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            writer.writeheader()
            writer.writerows(self.rows)
        self._torn = self._unsynced = False


def read_metrics(path: Path) -> dict[str, np.ndarray]:
    """Read metrics.csv as one array per column; empty cells are nan, whole columns of integers int64.

    Raises Damaged for what is no such table.
    """
    columns, rows = _read_rows(path) if path.exists() else ([], [])
    return {name: _column([row.get(name, "") for row in rows]) for name in columns}


def _read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise Damaged(path, str(error.strerror)) from error
    except UnicodeDecodeError as error:
        raise Damaged(path, f"no text at byte {error.start}") from error
    whole = text[: text.rfind("\n") + 1]  # a line without its end was cut by a kill: not a row
    try:
        columns, *lines = list(csv.reader(whole.splitlines(), strict=True)) or [[]]
    except csv.Error as error:
        raise Damaged(path, f"no CSV: {error}") from error
    if len(set(columns)) < len(columns) or "\0" in whole:
        raise Damaged(path, "its first line does not name columns")
    for number, line in enumerate(lines, start=2):
        if len(line) != len(columns):
            raise Damaged(path, f"line {number} has {len(line)} cells, not {len(columns)}")
    return columns, [dict(zip(columns, line, strict=True)) for line in lines]


def _filled(row: Mapping[str, str]) -> dict[str, str]:
    return {name: cell for name, cell in row.items() if cell != ""}


def _canonical(row: Mapping[str, str]) -> bytes:
    """A row as bytes, whatever columns have been added since."""
    return json.dumps(_filled(row), sort_keys=True).encode()


def _cell(name: str, value: Any) -> str:
    value = value.item() if hasattr(value, "item") else value
    if value is None:
        return ""
    if isinstance(value, str):
        return " ".join(value.split())  # a row is a line
    if isinstance(value, bool | int | float):
        return str(value)
    raise TypeError(f"metrics column {name!r} takes a number or a string, not {type(value).__name__}")


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return -math.inf


def _column(cells: list[str]) -> np.ndarray:
    for dtype, read in ((np.int64, int), (np.float64, lambda cell: float(cell) if cell else math.nan)):
        try:
            return np.array([read(cell) for cell in cells], dtype=dtype)
        except (ValueError, OverflowError):
            continue
    return np.array(cells, dtype=object)
