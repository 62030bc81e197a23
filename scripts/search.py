"""Searches for the hyperparameters of any script of the suite: docs/search.md; keys: surgrad/search/config.py.

python3 scripts/search.py script=Classification/deep_convSNN.py 'space.method.lr=log(1e-3,1e-1)' nb_trials=20 workers=2
python3 scripts/search.py --config-name=convsnn nb_trials=40 -- dataset=randman nb_epochs=30
"""

import argparse
import logging
import signal
import sys
from typing import Any

from surgrad.config.check import check
from surgrad.config.composing import composed
from surgrad.config.explain import CONFIG_ERRORS, explain
from surgrad.errors import UserError
from surgrad.runs.log import ConsoleHandler
from surgrad.runs.record import REPO
from surgrad.search.config import SearchConfig

CONFIGS = REPO / "configs" / "search"


def configuration(arguments: list[str]) -> SearchConfig:
    """The search that a command line asks for; what follows -- are overrides of every trial.

    Entries of the space are taken as they are, for their brackets mean something else to Hydra.
    """
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(usage="search.py [--config-name=NAME] [key=value …] [-- override of trials …]")
    parser.add_argument("--config-name", "-cn", default="config", help=f"a file in {CONFIGS} (default: config)")
    parser.add_argument("--config-path", "-cp", default=str(CONFIGS), help="another folder of such files")
    parser.add_argument("overrides", nargs="*", help="keys of the search: surgrad/search/config.py")
    given = parser.parse_args(arguments[:cut])
    own = [text for text in given.overrides if not text.startswith("space.")]
    space = dict(text.removeprefix("space.").partition("=")[::2] for text in given.overrides if text not in own)
    cfg = composed(given.config_path, given.config_name, own, SearchConfig)
    cfg.space = dict(cfg.space) | space
    cfg.overrides = [*cfg.overrides, *arguments[cut + 1 :]]
    return check(cfg, SearchConfig)


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    cells = [list(rows[0])] + [[_cell(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)


def main(arguments: list[str]) -> int:
    """Search, then print what came out; 0 if a trial finished."""
    handler = ConsoleHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    cfg = configuration(arguments)
    try:
        from surgrad.search import study as search
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed: pip install -e '.[sweep]'") from error
    logging.info("search %s in %s", cfg.study_name, cfg.search_folder)
    study = search.search(cfg)
    show(search.table(study, cfg))
    for key, share in search.importances(study, cfg).items():
        print(f"importance of {key}: {share:.2f}")
    best = search.best_command(study, cfg)
    print(f"best: {best}" if best else "no trial finished")
    return 0 if best else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        sys.exit(main(sys.argv[1:]))
    except (UserError, *CONFIG_ERRORS) as error:
        sys.exit(f"error: {explain(error)}")
    except KeyboardInterrupt:
        sys.exit(130)
