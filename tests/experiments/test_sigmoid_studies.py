"""The four Sigmoid_network commands end to end, small: numbers in their run folders, figures, and one-line errors."""

import importlib.util
import logging
from pathlib import Path

import numpy as np
import pytest

from surgrad.errors import UserError
from surgrad.experiments.sigmoid_network.estimator_study import Problem, random_problem, sample_curve, study
from surgrad.experiments.sigmoid_network.neuron_study import as_probability
from surgrad.runs.record import load_runs

REPO = Path(__file__).parents[2]
SMALL = {
    "integrate_closed_circle": ["nb_rules=4", "max_points=2000", "nb_grid=9", "nb_radii=2"],
    "sign_bias": ["flow.nb_starts=[1,1]", "flow.duration=100", "planes.nb_grid=9"],
    "single_neuron": ["lif.nb_steps=20", "lif.nb_samples=50", "perceptron.nb_weights=5", "perceptron.nb_samples=50"],
    "gradient_estimators": [
        "depths=[1,2]",
        "betas=[1,4]",
        "nb_networks=2",
        "nb_samples=20",
        "nb_averaged=5",
        "sample_counts=[1,4]",
        "sample_repeats=3",
        "coverage_repetitions=3",
        "coverage_samples=20",
        "chain.nb_samples=50",
    ],
}
FIGURES = {
    "integrate_closed_circle": {"closed_loop", "convergence", "curl"},
    "sign_bias": {"sweep", "phase_line", "planes", "phase_portrait", "surface_and_paths"},
    "single_neuron": {"perceptron", "lif"},
    "gradient_estimators": {"estimators", "coverage"},
}


@pytest.fixture(autouse=True)
def _root_logger_as_before():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def command(name, folder, *overrides):
    spec = importlib.util.spec_from_file_location(name, REPO / "Sigmoid_network" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main([f"hydra.run.dir={folder}", "wandb.mode=disabled", *overrides])


def check_closed_circle(run):
    assert run.summary["beta_sg=20/loop_integral"] == pytest.approx(1.81760, abs=1e-4)
    assert run.summary["beta_sg=20/rule_1500_points"] == pytest.approx(1.494, abs=1e-3)
    assert abs(run.summary["beta_sg=5/control_true_gradient"]) < 1e-10
    running = run.state("loop/running_integral")
    assert np.ptp(running, axis=0) == pytest.approx([0.4037, 0.9241, 1.9034], abs=1e-3)


def check_sign_bias(run):
    assert run.summary["sweep/beta_sg=30/crossings"] == pytest.approx([0.0088], abs=1e-4)
    assert run.state("flow/end_outputs").shape == (3, 1)


def check_single_neuron(run):
    assert run.summary["lif/relative_error/deterministic, no reset"] < 1e-10
    differences = [value for key, value in run.summary.items() if key.endswith("largest_difference_sg_exact")]
    assert len(differences) == 3
    assert max(differences) < 1e-12


def check_estimators(run):
    assert run.summary["chain/v=2/exact"] == pytest.approx(2.49977, abs=1e-4)
    assert run.summary["chain/v=0.6/sg"] == pytest.approx(0.13281, abs=1e-4)
    assert run.summary["depth=1/sg/bias"] < 1e-10


CHECKS = {
    "integrate_closed_circle": check_closed_circle,
    "sign_bias": check_sign_bias,
    "single_neuron": check_single_neuron,
    "gradient_estimators": check_estimators,
}


@pytest.mark.parametrize("name", SMALL)
def test_command_writes_its_numbers_and_figures(tmp_path, name):
    command(name, tmp_path / name, *SMALL[name])
    (run,) = load_runs(tmp_path / name)
    assert run.status == "done"
    assert {path.stem for path in (tmp_path / name / "Plots").glob("*.png")} == FIGURES[name]
    CHECKS[name](run)


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("integrate_closed_circle", "plane.first=[1,0,0,0,0] plane.second=[1,1,0,0,0]", "not orthogonal"),
        ("integrate_closed_circle", "plane.first=[1,0,0,0,0] plane.second=[2,0,0,0,0]", "parallel"),
        ("integrate_closed_circle", "plane.first=[1,0,0,0] plane.second=[0,1,0,0]", "5 weights"),
        ("integrate_closed_circle", "plane.first=[1,0,0,0,0]", "both directions"),
        ("integrate_closed_circle", "x=[1,2]", "one value for each of the sizes[0]=1 inputs"),
        ("integrate_closed_circle", "beta=0", "beta=0"),
        ("integrate_closed_circle", "betas_sg=[-1]", "betas_sg=[-1.0]: must be positive"),
        ("sign_bias", "sweep.weights=[0,0.05,0.1,1]", "has 5 weights, not 4"),
        ("single_neuron", "perceptron.nb_inputs=30", "too many to enumerate"),
        ("single_neuron", "lif.noise=sigmoyd", "allowed: sigmoid, exponential, Gaussian"),
        ("gradient_estimators", "width=12", "enumeration takes at most 20"),
        ("gradient_estimators", "methods=[sgg]", "'sgg' is unknown"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, caplog, name, override, message):
    with pytest.raises(SystemExit) as exit_:
        command(name, tmp_path / "run", *SMALL[name], *override.split())
    assert exit_.value.code == 1
    said = [line for line in (capsys.readouterr().err + caplog.text).splitlines() if message in line]
    assert said
    assert "Traceback" not in caplog.text


def test_study_of_one_layer_finds_the_surrogate_gradient_exact():
    problems = {1: [random_problem([2, 2], beta=2.0, gain=1.0, seed=0)]}
    result = study("depth", problems, ["sg", "stochastic_ad_both"], nb_samples=20, nb_averaged=10)
    assert result.bias[0, 0, 0] < 1e-12
    assert result.runs[0].tolist() == [2, 3]
    assert result.cosine.shape == (1, 2, 1)


def test_cosine_grows_with_the_number_of_samples():
    problems = [random_problem([3, 3, 3], beta=2.0, gain=2.0, seed=k) for k in range(3)]
    curve = sample_curve(problems, ["score_loo"], (1, 30, 300), repeats=10)
    middle = np.median(curve.cosine[:, 0], -1)
    assert np.all(np.diff(middle) > 0)
    assert middle[-1] > 0.9
    with pytest.raises(UserError, match="must increase"):
        sample_curve(problems, ["score_loo"], (3, 1), repeats=2)


def test_random_problems_keep_their_network_at_every_slope():
    one, two = (random_problem([3, 3], beta=b, gain=2.0, seed=4) for b in (1.0, 9.0))
    assert isinstance(one, Problem)
    assert np.array_equal(one.stack.parameters(), two.stack.parameters())
    assert one.x.sum() >= 1


def test_an_escape_noise_must_be_callable():
    with pytest.raises(UserError, match="no escape noise"):
        as_probability(3)
