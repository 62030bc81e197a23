"""Which mistakes in the numerics the tests would not see: each is made in a copy of the repository, and the tests run.

python3 scripts/mutation_run.py                    # the named mistakes, and 40 drawn ones
python3 scripts/mutation_run.py --number 0         # the named ones alone
python3 scripts/mutation_run.py --number 200 --seed 1 --only surgrad/neurons

A drawn mistake changes one operator, comparison, sign, number or truth value. The score is the share of mistakes that a
test finds; those that none finds are printed, and some of them change nothing that matters.
"""

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

REPO = Path(__file__).resolve().parents[1]

#: Files in which mistakes are drawn, and the tests that must find them.
TARGETS = {
    "surgrad/neurons/lif.py": ["tests/neurons", "tests/kernels/test_reference_kernel.py"],
    "surgrad/neurons/surrogate.py": ["tests/neurons"],
    "surgrad/neurons/escape_noise.py": ["tests/neurons"],
    "surgrad/kernels/reference.py": [
        *("tests/kernels/test_reference_kernel.py", "tests/kernels/test_kernel_layerwise.py"),
        "tests/network/test_network.py",
    ],
    "surgrad/training/losses.py": ["tests/training/test_losses.py"],
    "surgrad/training/regularizers.py": ["tests/training/test_regularizers.py"],
    "surgrad/training/optimizers.py": ["tests/training/test_optimizers.py"],
    "surgrad/training/statistics.py": ["tests/training/test_statistics.py"],
    "surgrad/experiments/spike_train_matching/rules.py": ["tests/experiments/test_spike_train_matching.py"],
    "surgrad/runs/intervals.py": ["tests/runs/test_intervals.py", "-k", "not notebook"],
    "surgrad/analysis/verdicts.py": ["tests/analysis/test_claims.py", "-k", "decides or reproduced or turn"],
}


class Mistake(NamedTuple):
    """A changed file, what was changed, and the tests to run."""

    file: str
    says: str
    source: str
    tests: Sequence[str]


#: Mistakes that once passed every test: file, text, what it becomes, tests.
NAMED = (
    (
        "surgrad/training/fit.py",
        'self.best, self.done = Best(**state["best"]), int(state["epoch"])',
        'self.done = int(state["epoch"])',
        ["tests/training/test_training.py", "-k", "resumed"],
    ),
    (
        "surgrad/experiments/spike_train_matching/rules.py",
        " * task.target.shape[-1]",
        "",
        ["tests/experiments/test_spike_train_matching.py", "-k", "full_backpropagation"],
    ),
    (
        "Classification/dense_SNN.py",
        "torch.Generator().manual_seed(cfg.seed)",
        "torch.Generator().manual_seed(0)",
        ["tests/experiments/test_protocol.py", "-k", "seed and dense"],
    ),
    (
        "surgrad/training/evaluation.py",
        '("_best_valid", best.weights, best.epoch)',
        '("_best_valid", last, best.epoch)',
        ["tests/experiments/test_protocol.py", "-k", "best and dense"],
    ),
)

SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


def named() -> Iterator[Mistake]:
    """The mistakes that once passed. Raises: SystemExit where the code no longer has the text."""
    for file, text, wrong, tests in NAMED:
        source = (REPO / file).read_text(encoding="utf-8")
        if text not in source:
            raise SystemExit(f"error: {file} no longer has {text!r}: bring NAMED of {Path(__file__).name} up to date")
        yield Mistake(file, f"{text} -> {wrong or 'nothing'}", source.replace(text, wrong, 1), tests)


def places(file: str) -> list[int]:
    """Where in a file a mistake can be made: numbers of the nodes of its syntax tree."""
    tree = ast.parse((REPO / file).read_text(encoding="utf-8"))
    return [k for k, node in enumerate(ast.walk(tree)) if _changed(node)]


def mistake_at(file: str, place: int) -> Mistake:
    """The mistake at one of the `places` of a file."""
    tree = ast.parse((REPO / file).read_text(encoding="utf-8"))
    node = next(node for k, node in enumerate(ast.walk(tree)) if k == place)
    before = ast.unparse(node)
    _changed(node)
    says = f"line {getattr(node, 'lineno', '?')}: {before} -> {ast.unparse(node)}"
    return Mistake(file, says, ast.unparse(tree), TARGETS[file])


def _changed(node: ast.AST) -> bool:
    """Make a mistake of a node, if there is one to make."""
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPPED:
        node.op = SWAPPED[type(node.op)]()  # type: ignore[assignment]
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
        node.ops[0] = SWAPPED[type(node.ops[0])]()  # type: ignore[call-overload]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node.op = ast.UAdd()
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        node.value = not node.value
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        node.value = node.value + 1
    else:
        return False
    return True


def found(mistake: Mistake, copied: Path, seconds: float) -> bool:
    """Whether the tests fail, or take too long, with a mistake in the copy of the repository."""
    original = (copied / mistake.file).read_text(encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *mistake.tests]
    environment = os.environ | {"PYTHONPATH": str(copied), "OMP_NUM_THREADS": "1"}
    (copied / mistake.file).write_text(mistake.source, encoding="utf-8")
    try:
        done = subprocess.run(
            command, cwd=copied, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return True
    finally:
        (copied / mistake.file).write_text(original, encoding="utf-8")
    if done.returncode not in (0, 1, 2):
        raise SystemExit(f"error: {' '.join(command)}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode != 0


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; exit code 1 if a named mistake is not found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--number", type=int, default=40, help="mistakes that are drawn")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--only", default="", help="draw in files whose path begins so")
    parser.add_argument("--seconds", type=float, default=600, help="after which a mistake counts as found")
    options = parser.parse_args(arguments)
    known = list(named())
    possible = [(file, place) for file in TARGETS if file.startswith(options.only) for place in places(file)]
    chosen = random.Random(options.seed).sample(possible, min(options.number, len(possible)))
    drawn = [mistake_at(*one) for one in chosen]
    missed: list[Mistake] = []
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder) / "repository"
        shutil.copytree(REPO, copied, ignore=shutil.ignore_patterns(".git", ".venv", "Runs", "__pycache__", "wandb"))
        for mistake in [*known, *drawn]:
            seen = found(mistake, copied, options.seconds)
            print(f"{'found ' if seen else 'MISSED'} {mistake.file}: {mistake.says}", flush=True)
            missed += [] if seen else [mistake]
    nb_known, nb = sum(mistake not in missed for mistake in known), len(drawn)
    print(f"named mistakes: {nb_known} of {len(known)} found")
    if nb:
        print(f"drawn mistakes: {nb - sum(m in drawn for m in missed)} of {nb} found, of {len(possible)} possible")
    if nb_known < len(known):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
