"""Names of run folders, made of what differs: surrogate=Gaussian+beta=10+seed=1."""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from surgrad.config.build import is_own
from surgrad.runs.record import NOT_IDENTITY

#: Keys that the sweep sweeps whose runs are being planned; None outside of sweeps.
_swept: ContextVar[Sequence[str] | None] = ContextVar("swept", default=None)
#: The id of the run that is being named, where it is known already.
_id: ContextVar[str] = ContextVar("id", default="")
known_id = _id.get
MOST_CHARACTERS = 100


@contextmanager
def sweep_of(products: Sequence[Sequence[str]]) -> Iterator[None]:
    """Name the runs that are planned inside by the keys of the overrides that not all jobs of a sweep share.

    A single job is named by all of its overrides, as without a sweep.
    """
    if len(products) < 2:
        yield
        return
    shared = set(products[0]).intersection(*products)
    own = (override for product in products for override in product if override not in shared)
    token = _swept.set(list(dict.fromkeys(override.lstrip("+").partition("=")[0] for override in own)))
    try:
        yield
    finally:
        _swept.reset(token)


@contextmanager
def run_of(id_: str) -> Iterator[None]:
    """Name a run inside of which the id is known."""
    token = _id.set(id_)
    try:
        yield
    finally:
        _id.reset(token)


def named(leaf: str, above: Collection[str], overrides: Iterable[str]) -> str:
    """A leaf such as "seed=1+lr=0.01" with the overrides that neither it nor the folders above it say.

    Within `sweep_of` those of the swept keys; never paths, nodes, and what does not change a run.

    Args:
        leaf: what the name of every run of the script says.
        above: names of the folders above.
        overrides: of the command line.
    """
    parts = dict(_short(overrides, _swept.get()))
    said = [part for part in parts if part not in leaf.split("+") and not {part, part.partition("=")[2]} & {*above}]
    while said and len("+".join([*said, leaf])) > MOST_CHARACTERS:  # what the data are goes first
        said.remove(next((part for part in said if parts[part].startswith("dataset.")), said[-1]))
    return "+".join([*said, leaf] if "=" in leaf else [leaf, *said])


def _short(overrides: Iterable[str], keys: Sequence[str] | None) -> Iterator[tuple[str, str]]:
    """What a name says of each override, and its key."""
    for override in overrides:
        key, equals, value = override.lstrip("+").partition("=")
        named_key = keys is None or key in keys
        if not equals or not named_key or key.split(".")[0] in NOT_IDENTITY or re.search(r"[/\\{}$]", value):
            continue
        *parents, last = key.split("@")[0].split(".")
        if last == "_target_" and parents:
            last = parents[-1]
        if is_own(value) and re.fullmatch(r"[^\W\d]\w*(\.\w+)+", value):
            value = value.rpartition(".")[2]
        plain = re.sub(r"[^\w.=-]+", "-", value).strip("-")
        yield f"{last}={plain}", key
