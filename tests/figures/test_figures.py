"""Figures show what they are given: as many dots as spikes, the right curves; and no window holds on to them."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from surgrad.figures import plots as figures

RNG = np.random.default_rng(0)
POPULATIONS = [(RNG.random((30, 2, *shape)) < 0.2).astype(np.uint8) for shape in ((1, 12), (4, 5), (8,))]
READOUT = RNG.normal(size=(30, 2, 3))


def dots(ax):
    """Number of markers drawn in an axes."""
    return sum(len(line.get_xdata()) for line in ax.lines if line.get_marker() == ".")


@pytest.fixture(autouse=True)
def no_figure_is_left_open():
    yield
    assert plt.get_fignums() == []


def test_a_raster_has_a_dot_for_every_spike_at_its_time_and_unit():
    spikes = np.zeros((10, 3, 2), np.uint8)
    spikes[4, 2, 1] = 1
    _, ((ax,),) = figures.panels(1, 1, (1, 1))
    figures.raster(ax, spikes, dt=2e-3)
    assert ax.lines[0].get_xdata() == pytest.approx([8.0])  # ms
    assert ax.lines[0].get_ydata() == pytest.approx([5])


def test_activity_stacks_readout_hidden_layers_and_input():
    figure = figures.activity(POPULATIONS, READOUT, [0, 2], dt=1e-3)
    axes = np.reshape(figure.axes, (4, 2))
    assert [ax.get_ylabel() for ax in axes[:, 0]] == [
        *("readout $u$\n(grey: others)", "hidden 1", "hidden 0", "input"),
    ]
    for row, spikes in enumerate(reversed(POPULATIONS), start=1):
        for sample in range(2):
            assert dots(axes[row, sample]) == spikes[:, sample].sum()
    np.testing.assert_array_equal(axes[0, 1].lines[-1].get_ydata(), READOUT[:, 1, 2])  # the true class is on top
    assert axes[0, 1].get_title() == "class 2"


def test_two_classes_share_each_panel():
    figure = figures.two_classes(POPULATIONS, READOUT, [0, 2], dt=1e-3)
    assert [dots(ax) for ax in figure.axes[1:]] == [spikes.sum() for spikes in reversed(POPULATIONS)]
    assert len(figure.axes[0].lines) == 4


def test_trials_have_a_panel_for_each_neuron():
    spikes = POPULATIONS[2]
    figure = figures.trials(spikes, range(8), dt=1e-3, title="all")
    assert [dots(ax) for ax in figure.axes] == [spikes[:, :, k].sum() for k in range(8)]


def test_training_curves_leave_out_what_is_not_a_number():
    metrics = {
        "epoch": np.arange(3),
        "train_loss": np.array([np.nan, 2.0, 1.0]),
        "valid_loss": np.array([3.0, 2.0, 1.5]),
    }
    metrics |= {"train_acc": np.array([np.nan, 0.1, 0.5]), "firing_rate-hid_0": np.array([5.0, 6.0, 7.0])}
    figure = figures.training_curves(metrics, chance=0.1)
    train, valid = figure.axes[0].lines
    assert train.get_xdata().tolist() == [1, 2]
    assert valid.get_ydata().tolist() == [3.0, 2.0, 1.5]
    assert len(figure.axes) == 3


def test_twenty_classes_have_twenty_colours():
    assert len({figures.class_color(label) for label in range(20)}) == 20
    assert figures.method_color("superspike") == figures.METHOD_COLORS["superspike"]
    assert figures.method_color("mine", 1) != figures.method_color("mine", 2)


def test_of_curves_that_lie_on_each_other_both_are_seen():
    curve = (np.arange(5), np.ones(5), np.zeros(5), np.full(5, 2.0))
    figure = figures.curves_by_layer({"superspike": [curve], "stochasticsuperspike": [curve]}, "firing rate (Hz)")
    below, above = figure.axes[0].lines
    assert below.get_linewidth() > above.get_linewidth()
    assert below.get_zorder() <= above.get_zorder()


def test_a_long_name_in_a_legend_is_wrapped_and_stays_inside():
    with figures.style():
        figure, ((ax,),) = figures.panels(1, 1, (3.0, 2.0))
        ax.plot([0, 1], label="a setting whose name says much more than there is room for in three inches of width")
        figures.legend_outside(figure, [ax])
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert "\n" in legend.get_texts()[0].get_text()
    assert legend.get_window_extent().x0 >= 0
    assert legend.get_window_extent().x1 <= figure.bbox.x1
