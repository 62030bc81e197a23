"""Golden traces through the library, and that a wrong trace does not pass."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from surgrad.errors import UserError
from surgrad.kernels import reference
from surgrad.kernels.cpu.build import library
from surgrad.neurons.lif import LIF
from surgrad.traces import golden, networks
from surgrad.traces.golden import NEAR_THRESHOLD, Decay, Layer, settle
from surgrad.traces.replay import replay
from surgrad.training.losses import build_loss

GOLDEN = Path(__file__).parents[1] / "reference"
TRACES = sorted([*GOLDEN.glob("*.npz"), *GOLDEN.glob("*.json")])


def script():
    path = Path(__file__).parents[2] / "scripts" / "replay_reference.py"
    spec = importlib.util.spec_from_file_location("replay_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def changed(source: str, folder: Path, **changes) -> Path:
    """A copy of a trace in which arrays are replaced by functions of them, or left out for None."""
    with np.load(GOLDEN / source) as archive:
        arrays = {key: archive[key] for key in archive.files}
    for key, change in changes.items():
        if change is None:
            del arrays[key]
        else:
            arrays[key] = np.asarray(change(arrays[key]))
    np.savez(folder / "changed.npz", **arrays)
    return folder / "changed.npz"


def scaled(factor):
    return lambda array: array * factor


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("path", TRACES, ids=lambda p: p.stem)
def test_every_trace_is_reproduced(path, precision):
    line = replay(path, precision, "reference")
    assert line["spike_mismatches"] == line["near_threshold_flips"] == 0
    assert line["pass"], line
    assert line["max_rel_error"] or line["kind"] in ("randman", "spikes")
    if precision == "float64":
        gradients = ("grad", "readout", "reg")
        for name, error in line["max_rel_error"].items():
            assert error < (1e-5 if name.startswith(gradients) else 1e-6), name


COMPILED = [p for p in TRACES if p.stem.startswith(("conv", "dense", "lif_s", "stm_superspike"))]


@pytest.mark.skipif(library() is None, reason="no C++ compiler on this machine")
@pytest.mark.parametrize("path", COMPILED, ids=lambda p: p.stem)
def test_compiled_kernel_reproduces_the_traces(path):
    line = replay(path, kernel="cpu")
    assert line["spike_mismatches"] == line["near_threshold_flips"] == 0
    assert line["pass"], line


@pytest.mark.parametrize(
    ("source", "key"),
    [
        ("lif_superspike.npz", "membrane"),
        ("lif_superspike.npz", "synapse"),
        ("lif_sigmoid.npz", "grad_current"),
        ("dense_recurrent.npz", "readout"),
        ("dense_recurrent.npz", "out_loss"),
        ("dense_recurrent.npz", "reg_loss"),
        ("dense_recurrent.npz", "grad_w1_rec"),
        ("dense_recurrent.npz", "after1_w2_ff"),
        ("dense_recurrent.npz", "step2_out_loss"),
        ("stm_superspike.npz", "mem_output"),
        ("stm_sigmoid_stochastic.npz", "mem_hidden"),
        ("stm_sigmoid_stochastic.npz", "dw_hidden"),
        ("stm_multilayerspiker_stochastic.npz", "van_rossum"),
    ],
)
def test_a_quantity_wrong_by_a_thousandth_fails(source, key, tmp_path):
    line = replay(changed(source, tmp_path, **{key: scaled(1.001)}))
    assert not line["pass"]
    assert max(line["max_rel_error"].values()) > 4e-4


def flip_one_spike(array):
    array = array.copy()
    array[(-1,) * array.ndim] ^= 1
    return array


@pytest.mark.parametrize(
    ("source", "key"),
    [
        ("lif_superspike.npz", "spikes"),
        ("dense_recurrent.npz", "spikes1"),
        ("stm_superspike.npz", "spikes_output"),
        ("randman.npz", "times"),
    ],
)
def test_one_wrong_spike_fails(source, key, tmp_path):
    line = replay(changed(source, tmp_path, **{key: flip_one_spike}))
    assert not line["pass"]
    assert line["spike_mismatches"] >= 1
    assert line["near_threshold_flips"] == 0


def test_a_wrong_reset_fails(tmp_path):
    assert not replay(changed("lif_superspike_diff_reset.npz", tmp_path, diff_reset=lambda _: False))["pass"]
    assert not replay(changed("stm_superspike.npz", tmp_path, reset_mode=lambda _: True))["pass"]
    assert not replay(changed("stm_sigmoid_stochastic.npz", tmp_path, reset_mode=lambda _: True))["pass"]


# ---------------------------------------------------------------- rounding at threshold
def touching_current(t=30, above=True):
    """A current with which u[t] of one neuron lies 3e-7 above (below) threshold, in float64; and the decays."""
    a, b = (torch.tensor(np.exp(-1 / tau)) for tau in (5.0, 10.0))
    generator = torch.Generator().manual_seed(0)
    current = 0.8 * torch.rand(60, 2, 3, dtype=torch.float64, generator=generator)
    current[: t - 1, 1, 2] = 0.0
    current[t - 2, 1, 2] = (1 + (3e-7 if above else -3e-7)) / (1 - b)
    return current, Decay(a, b)


@pytest.mark.parametrize("above", [True, False])
def test_a_decision_of_rounding_is_followed_and_counted(above):
    current, decay = touching_current(above=above)
    other, _ = touching_current(above=not above)

    def run_with(drive):
        return lambda nudges: [Layer(*reference.lif(drive + nudges[0], *decay, LIF())[:2])]

    (target,) = run_with(other)([torch.zeros_like(other)])
    (alone,) = run_with(current)([torch.zeros_like(current)])
    assert bool(alone.spikes[30, 1, 2]) == above
    assert bool(target.spikes[30, 1, 2]) != above
    (settled,), nb_wrong, flips = settle(run_with(current), [decay], [target.spikes])
    assert (nb_wrong, flips) == (0, 1)
    assert torch.equal(settled.spikes, target.spikes)
    assert float((settled.membranes - target.membranes).abs().max()) < 5 * NEAR_THRESHOLD


def test_a_trace_with_one_decision_of_rounding_passes(tmp_path):
    current, decay = touching_current(above=False)
    other, _ = touching_current(above=True)
    drive = other.clone().requires_grad_()
    spikes, membranes, end = reference.lif(drive, *decay, LIF())
    cotangent = torch.randn(spikes.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (spikes * cotangent).sum().backward()
    synapse = [torch.zeros_like(other[0])]
    for x in other:
        synapse.append(decay.a * synapse[-1] + x)
    np.savez(
        tmp_path / "trace.npz",
        current=current.numpy(),
        cotangent=cotangent.numpy(),
        spikes=spikes.detach().numpy().astype(np.uint8),
        membrane=torch.cat([membranes[1:], end.u[None]]).detach().numpy(),
        synapse=torch.stack(synapse[1:]).numpy(),
        grad_current=drive.grad.numpy(),
        dt=1e-3,
        tau_syn=5e-3,
        tau_mem=10e-3,
        surrogate="superspike",
        beta=10.0,
        diff_reset=False,
    )
    line = replay(tmp_path / "trace.npz")
    assert line["pass"], line
    assert line["near_threshold_flips"] == 1


def test_decisions_of_rounding_in_a_network_are_followed(tmp_path, monkeypatch):
    near = 5e-3  # wide, so that the shipped trace has a membrane so close to threshold
    monkeypatch.setattr(golden, "NEAR_THRESHOLD", near)
    trace = golden.read_trace(GOLDEN / "dense_recurrent.npz")
    x = networks._unpack(trace["X"], trace["X_shape"], torch.float64)
    network, _ = networks._build_network(trace, json.loads(str(trace["meta"])), (x.shape[2],), torch.float64)
    zeros = [torch.zeros((*x.shape[:2], *layer.unit_shape), dtype=torch.float64) for layer in network.layers]
    layers, _ = networks._layer_by_layer(network, x, zeros)
    t, b, n = ((layers[0].membranes - 1).abs() < near / 2).nonzero()[0].tolist()
    site = torch.zeros_like(zeros[0], dtype=torch.bool)
    site[t, b, n] = True
    golden.cross(zeros[0], site, layers[0], networks._decays(network)[0])
    other, _ = networks._layer_by_layer(network, x, zeros)
    spikes = [layer.spikes.detach().transpose(0, 1).numpy().astype(np.uint8) for layer in other]
    assert sum(int((a.spikes != b.spikes).sum()) for a, b in zip(layers, other, strict=True)) > 1
    packed = {f"spikes{k}": lambda _, s=s: np.packbits(s.reshape(len(s), -1), axis=1) for k, s in enumerate(spikes)}
    line = replay(changed("dense_recurrent.npz", tmp_path, **packed))
    assert line["spike_mismatches"] == 0
    assert line["near_threshold_flips"] == 1


def test_a_decision_of_rounding_after_the_step_is_tried_both_ways(tmp_path, monkeypatch):
    monkeypatch.setattr(golden, "NEAR_THRESHOLD", 5e-3)
    trace = golden.read_trace(GOLDEN / "dense_recurrent.npz")
    x = networks._unpack(trace["X"], trace["X_shape"], torch.float32)
    network, parameters = networks._build_network(trace, json.loads(str(trace["meta"])), (x.shape[2],), torch.float32)
    networks._load(parameters, {name: trace[f"after1_{name}"] for name in parameters})
    labels = torch.tensor(trace["y"])
    losses = [float(build_loss("mot_ce")(y, labels).detach()) for y in networks._readouts_within_rounding(network, x)]
    own, others = losses[0], [loss for loss in losses[1:] if abs(loss / losses[0] - 1) > 1e-4]
    assert own == pytest.approx(float(trace["step2_out_loss"]), rel=1e-5)
    line = replay(changed("dense_recurrent.npz", tmp_path, step2_out_loss=lambda _: others[0]))
    assert line["max_rel_error"]["step2_out_loss"] < 1e-5
    assert line["near_threshold_flips"] == 1


# ---------------------------------------------------------------- the command
def test_command_prints_one_json_line_per_file(capsys, tmp_path):
    files = [str(GOLDEN / "lif_superspike.npz"), str(GOLDEN / "lif_kernel_moments.json")]
    assert script().main([*files, "--kernel", "reference"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in lines] == files
    assert [line["kind"] for line in lines] == ["lif", "moments"]
    assert all(line["pass"] and line["precision"] == "float32" for line in lines)
    wrong = str(changed("lif_superspike.npz", tmp_path, membrane=scaled(1.01)))
    assert script().main([files[0], wrong]) == 1
    assert [json.loads(line)["pass"] for line in capsys.readouterr().out.splitlines()] == [True, False]


@pytest.mark.parametrize(
    ("content", "suffix", "message"),
    [
        (b"not an archive", ".npz", "not a readable"),
        (b"", ".npz", "not a readable"),
        (b"{", ".json", "not a readable"),
        (b"{}", ".json", "expected a list of objects"),
        (None, ".npz", "no such file"),
    ],
)
def test_an_unreadable_file_is_one_line(content, suffix, message, tmp_path, capsys):
    path = tmp_path / f"trace{suffix}"
    if content is not None:
        path.write_bytes(content)
    assert script().main([str(path), str(GOLDEN / "lif_sigmoid.npz")]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert str(path) in captured.err
    assert [json.loads(line)["pass"] for line in captured.out.splitlines()] == [False, True]


def test_truncated_and_incomplete_traces_are_named(tmp_path):
    whole = (GOLDEN / "dense_recurrent.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a readable"):
        replay(tmp_path / "cut.npz")
    with pytest.raises(UserError, match="lacks 'grad_w0_ff'"):
        replay(changed("dense_recurrent.npz", tmp_path, grad_w0_ff=None))
    with pytest.raises(UserError, match="not a trace of kind lif, network"):
        replay(changed("dense_recurrent.npz", tmp_path, X=None))
    with pytest.raises(UserError, match="surrogate 'triangle' is unknown; allowed: superspike"):
        replay(changed("lif_sigmoid.npz", tmp_path, surrogate=lambda _: "triangle"))
    with pytest.raises(UserError, match="float32, not float64"):
        replay(GOLDEN / "lif_sigmoid.npz", "float64", "cpu")
    with pytest.raises(UserError, match="does not fit together"):
        replay(changed("lif_sigmoid.npz", tmp_path, membrane=lambda m: m[1:]))
