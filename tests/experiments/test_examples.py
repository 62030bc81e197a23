"""The whole task of the examples: from recordings to a figure, a run trained longer, read back, drawn and exported."""

import logging
import sys

import notebooks
import pytest

from surgrad.runs.record import REPO, load_runs

EXAMPLES = REPO / "examples"


@pytest.fixture
def example(monkeypatch):
    """examples/compare_surrogates.py as a module; what it leaves in the process is put back."""
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    import compare_surrogates

    yield compare_surrogates
    root.handlers[:], root.level = handlers, level
    for name in ("compare_surrogates", "my_parts"):
        sys.modules.pop(name, None)


def test_the_study_runs_from_recordings_to_an_exported_network_and_its_notebook_shows_it(
    example, tmp_path, monkeypatch, capsys
):
    study = tmp_path / "my_study"
    example.main([str(study), "--seeds", "1", "--epochs", "2"])
    said = capsys.readouterr().out
    assert "surrogate=Gaussian+seed=1" in said
    assert "| all runs | Gaussian | " in said
    assert "spikes per sample" in said
    for name in ("surrogates.png", "activity.png"):
        assert (study / name).stat().st_size > 10_000
    runs = load_runs(study / "Runs")
    assert sorted(run.get("nb_epochs") for run in runs) == [2, 2, 2, 4]
    (longer,) = (run for run in runs if run.get("nb_epochs") == 4)
    assert longer.metrics["epoch"].tolist() == [0, 1, 2, 3, 4]
    if (study / "network.nir").exists():
        nir = pytest.importorskip("nir")
        assert "readout" in nir.read(str(study / "network.nir")).nodes

    monkeypatch.chdir(tmp_path)
    shown = notebooks.execute(EXAMPLES / "compare_surrogates.ipynb")
    assert sum("image/png" in output for output in shown) == 3
    text = "".join(str(output.get("text/plain", "")) for output in shown)
    assert "3 runs: Esser, Gaussian, SuperSpike" in text
    assert "rising" in text
