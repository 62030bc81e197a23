"""From one's own recordings to a figure, a trained network and its file for other simulators, in one go.

python3 examples/compare_surrogates.py my_study            # a minute; everything is in my_study/
jupyter lab examples/compare_surrogates.ipynb              # the same study, looked at

Three sounds by four voices are written as wav files, turned into spikes by the cochlea, and learned by networks with
three surrogate derivatives, one of them from examples/my_parts.py, from three seeds each. The best by validation is
trained longer, read back, drawn and exported. Every step is a command or a call that works on its own.
"""

import argparse
from contextlib import chdir
from pathlib import Path

import numpy as np
from scipy.io import wavfile

import surgrad
from surgrad.cli import main as command
from surgrad.experiments.trained import TrainedRun

EXAMPLES = Path(__file__).resolve().parent
RATE, DURATION = 16_000, 0.2  # Hz, s
SURROGATES = "superspike,esser,my_parts.Gaussian"
NETWORK = ["hidden=[32]", "dataset.nu=10", "batch_size=12", "plot=false", "wandb.mode=disabled"]
NETWORK += ["optimizer=adam", "lr=1e-2", "loss_type=mean_ce"]


def record(folder: Path) -> None:
    """Write sounds as {label}_{speaker}_{index}.wav: tones that rise, fall, or rise and fall."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(1)
    t = np.arange(int(RATE * DURATION)) / RATE
    share = t / DURATION
    melodies = {"rising": share, "falling": 1 - share, "wave": np.sin(np.pi * share)}
    for voice, base in (("anna", 240), ("ben", 200), ("cleo", 220), ("dan", 210)):
        for label, melody in melodies.items():
            for index in range(4):
                pitch = base * (1 + 4 * melody) * generator.uniform(0.9, 1.1)  # Hz
                sound = np.sin(2 * np.pi * np.cumsum(pitch) / RATE) * np.sin(np.pi * share)
                sound += 0.02 * generator.standard_normal(len(t))
                wavfile.write(folder / f"{label}_{voice}_{index}.wav", RATE, np.int16(12_000 * sound))


def study(folder: Path, nb_seeds: int, nb_epochs: int) -> TrainedRun:
    """Recordings, spikes, runs, figure; returns the best run, trained for twice as long.

    Args:
        folder: where everything goes, made if need be.
        nb_seeds: runs of each surrogate.
        nb_epochs: of each run.
    """
    if not (folder / "spikes" / "test.h5").exists():
        record(folder / "wav")
        # dan is never heard in training; cleo, the last of the others, validates
        command(["data", "convert", f"{folder}/wav", f"{folder}/spikes", "--test-speakers", "dan", "--channels", "50"])

    data = [
        "dataset=hdf5",
        f"dataset.train_path={folder}/spikes/train.h5",
        f"dataset.test_path={folder}/spikes/test.h5",
    ]
    data += ["dataset.validation=speaker", f"dataset.duration={DURATION}", "dataset.time_step=4e-3"]
    runs = f"hydra.sweep.dir={folder}/Runs"
    seeds = ",".join(str(seed) for seed in range(1, nb_seeds + 1))
    sweep = ["run", "dense", "-m", *data, *NETWORK, runs]
    with chdir(EXAMPLES):  # where my_parts.py is
        command([*sweep, f"surrogate={SURROGATES}", f"seed={seeds}", f"nb_epochs={nb_epochs}"])

        score = "valid_acc_best_valid"
        figure = f"{folder}/surrogates.png"
        command(["runs", "plot", f"{folder}/Runs", "--x", "surrogate._target_", "--y", score, "--out", figure])

        best = surgrad.best_run(score, f"{folder}/Runs")
        same = [part for part in best.overrides if not part.startswith("nb_epochs")]
        command(["run", "dense", "-m", *same, f"nb_epochs={2 * nb_epochs}", runs])  # goes on where the best ended
    (longer,) = (run for run in surgrad.load_runs(f"{folder}/Runs") if run.get("nb_epochs") == 2 * nb_epochs)
    return surgrad.load_run(longer.folder, trust=True)  # it may name a class of my_parts


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where everything goes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args(arguments)
    folder = options.folder.absolute()
    run = study(folder, options.seeds, options.epochs)

    print(f"\n{run.name}: validation {run.evaluate('valid').acc:.2f}, unheard voice {run.evaluate('test').acc:.2f}")
    batch = run.batch("test", 3)
    for name, spikes in run.spikes(batch).items():
        print(f"  {name:<6} {float(spikes.sum()) / len(batch):6.0f} spikes per sample")
    run.figure.activity(batch).savefig(folder / "activity.png")
    print(f"figures: {folder}/surrogates.png, {folder}/activity.png")
    try:
        from surgrad.network import nir
    except ModuleNotFoundError:
        print("no file for other simulators: pip install nir")
    else:
        nir.write(run.network, folder / "network.nir")
        print(f"for other simulators: {folder}/network.nir")


if __name__ == "__main__":
    main()
