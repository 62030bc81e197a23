"""Import paths of release 0.1.0 still give the very same objects."""

from importlib import import_module

import pytest

from surgrad.former import FORMER

NAMES = {
    "surgrad.layers": ("Conv", "Dense", "DelayedDense", "Readout", "SpikingLayer", "TimeConstant"),
    "surgrad.network": ("Network",),
    "surgrad.neurons": ("LIF", "AdaptiveLIF", "LIFState", "spike"),
    "surgrad.surrogate": ("SuperSpike",),
    "surgrad.escape_noise": ("Sigmoid",),
    "surgrad.initializers": ("FluctuationDriven", "kernel_moments"),
    "surgrad.state": ("NetworkState",),
    "surgrad.datasets.hdf5": ("read_shd", "write_shd"),
    "surgrad.heterogeneity": ("gamma", "trained"),
    "surgrad.kernels": ("lif", "readout"),
    "surgrad.runs": ("load_runs", "open_run"),
    "surgrad.training": ("train_epoch", "evaluate", "Fit"),
    "surgrad.study": ("interval",),
}


@pytest.mark.parametrize(("path", "name"), [(path, name) for path, names in NAMES.items() for name in names])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_former_path_gives_the_object(path, name):
    found = getattr(import_module(path), name)
    assert getattr(found, "__module__", "surgrad").startswith("surgrad")


@pytest.mark.parametrize("path", sorted(FORMER))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_former_module_imports(path):
    import_module(path)


def test_a_former_path_says_where_the_names_are(recwarn):
    import sys

    sys.modules.pop("surgrad.layers", None)
    import_module("surgrad.layers")
    assert any("surgrad.network.connections" in str(w.message) for w in recwarn)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_all_names_of_a_former_module_are_imported_by_a_star():
    found = {}
    exec("from surgrad.layers import *", found)
    assert set(NAMES["surgrad.layers"]) <= found.keys()


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing"):
        import_module("surgrad.network").nothing  # noqa: B018
