"""A value is written once: in the dataclass of a suite or in YAML."""

from functools import cache

from hydra import initialize_config_dir
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from suites import SCHEMAS, schema_of

from surgrad.config.command_line import options
from surgrad.config.hydra_setup import CONFIGS

SHARED = CONFIGS / "shared"
ABSENT = object()


def flat(content, prefix=""):
    """Leaves by dotted key; a list is one leaf."""
    if isinstance(content, dict) and content:
        for key, value in content.items():
            yield from flat(value, f"{prefix}{key}.")
    else:
        yield prefix.removesuffix("."), content


@cache
def leaves(file):
    content = OmegaConf.to_container(OmegaConf.load(file))
    return tuple((key, value) for key, value in flat(content) if key.split(".")[0] not in ("defaults", "hydra"))


@cache
def defaults_of(schema):
    return dict(flat(OmegaConf.to_container(OmegaConf.structured(schema), enum_to_str=True)))


def read(repository, suite, name, *overrides):
    """(file, package) in the order in which they are merged."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    listed = create_defaults_list(repository, name, parsed, prepend_hydra=False, skip_missing=False).defaults
    for default in listed:
        for folder in (CONFIGS / suite, SHARED):
            if (file := folder / f"{default.config_path}.yaml").is_file():
                yield file, default.package
                break


def walks(suite, walked):
    """Every configuration of a suite, and every option of a group; those of shared groups in one suite."""
    own = {"spike_train_matching": [CONFIGS / suite]}.get(suite, [CONFIGS / suite, SHARED])  # its data sets are targets
    ConfigStore.instance().store(name="schema", node=schema_of(suite))
    with initialize_config_dir(str(CONFIGS / suite), version_base="1.3"):
        repository = CachingConfigRepository(GlobalHydra.instance().config_loader().repository)
        primaries = options(".", [CONFIGS / suite])
        for name in primaries:
            yield list(read(repository, suite, name))
        keys = defaults_of(schema_of(suite))
        folders = {path.name for folder in (CONFIGS / suite, SHARED) for path in folder.iterdir() if path.is_dir()}
        for group in sorted(folders & {key.split(".")[0] for key in keys}):
            for option in options(group, own):
                if (shared := SHARED / group / f"{option}.yaml") in walked:
                    continue
                walked.add(shared)
                yield list(read(repository, suite, primaries[0], f"{group}={option}"))


def leaves_that_move(suite, walked):
    """For every (file, key), whether it says something else than what would hold without it, wherever it is read.

    What a data set says is part of a run's identity as it stands in YAML: its dataclass does not count.
    """
    moves = {}
    for files in walks(suite, walked):
        values = dict(defaults_of(schema_of(suite)))
        for file, package in files:
            for key, value in leaves(file):
                whole = f"{package}.{key}" if package else key
                leaf = file.relative_to(CONFIGS).as_posix(), key
                moves[leaf] = moves.get(leaf, False) or values.get(whole, ABSENT) != value
                values[whole] = value
    return moves


def test_no_value_is_written_twice():
    moves, walked = {}, set()
    for suite in SCHEMAS:
        for leaf, moved in leaves_that_move(suite, walked).items():
            moves[leaf] = moves.get(leaf, False) or moved
    assert len(moves) > 400
    assert not sorted(leaf for leaf, moved in moves.items() if not moved)
