"""Log lines and progress bars that do not write over each other."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


class ConsoleHandler(logging.Handler):
    """Writes above a running progress bar: errors to stderr, everything else to stdout."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            stream = sys.stderr if record.levelno >= logging.ERROR else sys.stdout
            tqdm.write(self.format(record), file=stream)
        except Exception:
            self.handleError(record)


def progress(iterable: Iterable[Any] | None = None, **options: Any) -> tqdm[Any]:
    """A tqdm bar on stderr; none where stderr is no terminal (log files, clusters, tests)."""
    return tqdm(iterable, **({"disable": None, "dynamic_ncols": True, "leave": False} | options))
