"""Writes the trained network of a run folder in the Neuromorphic Intermediate Representation: docs/nir.md.

python3 scripts/export_nir.py "Classification/Runs/superspike/dataset=randman/seed=1+lr=0.01-1a2b3c4d" network.nir
python3 scripts/export_nir.py RUN_FOLDER network.nir --weights=last --decay=euler
python3 scripts/export_nir.py RUN_FOLDER network.nir --for norse
"""

import argparse
import sys

from surgrad.errors import UserError
from surgrad.experiments.trained import WEIGHTS, trained_network
from surgrad.runs.record import load_runs


def main(arguments: list[str]) -> None:
    """Export, and say what the file cannot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="run folder of deep_convSNN.py, dense_SNN.py or run_image_task_1hid.py")
    parser.add_argument("out", help="file to write")
    parser.add_argument("--weights", choices=WEIGHTS, default="best", help="of the best validation epoch, or the last")
    parser.add_argument(
        "--decay",
        choices=("exponential", "euler"),
        default="exponential",
        help="how the importer turns time constants into decays: exp(-dt/tau), or 1 - dt/tau (Norse, snnTorch)",
    )
    parser.add_argument("--for", dest="dialect", help="a simulator that reads less: norse, snntorch or spikingjelly")
    parser.add_argument("--trust", action="store_true", help="build any class that the run's configuration names")
    given = parser.parse_args(arguments)
    try:
        from surgrad.network import nir as nir_export
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed: pip install -e '.[nir]'") from error
    records = load_runs(given.run)
    if len(records) > 1:
        raise UserError(f"{given.run} holds {len(records)} runs: name one, e.g. {records[0].folder}")
    said = nir_export.write(
        trained_network(records[0], given.weights, trust=given.trust), given.out, given.decay, given.dialect
    )
    print(f"{given.out}: what an importer must know besides (also in its metadata)")
    for sentence in said:
        print(f"- {sentence}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (UserError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
