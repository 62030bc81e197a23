"""Tables, figures and published rows of the robustness and heterogeneity studies from finished runs.

python3 scripts/report_sweeps.py [--runs FOLDER] [--figures docs/figures] [--rows Classification/analysis]
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from surgrad.analysis.rows import write_rows
from surgrad.experiments.dense import figures as figures_sweeps
from surgrad.experiments.dense import heterogeneity, robustness
from surgrad.runs.record import REPO


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", default=str(REPO / "Classification/Runs"), help="folder or glob of run folders")
    parser.add_argument("--figures", type=Path, default=REPO / "docs/figures")
    parser.add_argument("--rows", type=Path, default=REPO / "Classification/analysis", help="where CSV files go")
    options = parser.parse_args(arguments)
    surrogates, source = robustness.load(options.runs)
    conditions, het_source = heterogeneity.load(options.runs)
    taus = heterogeneity.load_taus(options.runs)
    print(f"{source}\n\n{robustness.tables(surrogates)}\n\n{het_source}\n\n{heterogeneity.tables(conditions, taus)}")
    drawn = {
        "robustness": figures_sweeps.of_robustness(surrogates),
        "heterogeneity": figures_sweeps.of_heterogeneity(conditions, taus),
    }
    for study, found in drawn.items():
        for name, figure in found.items():
            figure.savefig(options.figures / f"{study}_{name}.png")
    for path, rows in (
        (robustness.PUBLISHED, surrogates),
        (heterogeneity.PUBLISHED, conditions),
        (heterogeneity.PUBLISHED_TAUS, taus),
    ):
        write_rows(options.rows / path.name, rows)


if __name__ == "__main__":
    main()
