"""The plan of the library: which package may import which, and how large a file, a function and a call may be."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

#: From the ground up. A package imports only packages of lower levels; packages of one level do not import each other.
LEVELS = (
    ("errors", "paths", "former"),
    ("neurons", "figures"),
    ("runs", "kernels"),
    ("datasets",),
    ("analysis", "config", "network"),
    ("eventprop", "search", "training"),
    ("experiments",),
    ("traces",),
    ("cli",),
)
#: The public front: short names of what the packages hold, and the command.
FRONT = {"__init__", "__main__", "surrogate", "escape_noise", "losses", "initializers"}

#: Libraries that only these parts may import.
RESERVED = {
    "hydra": ("surgrad/config/", "surgrad/experiments/", "hydra_plugins/"),
    "omegaconf": ("surgrad/config/", "surgrad/experiments/", "hydra_plugins/"),
    "wandb": ("surgrad/runs/wandb_process.py",),
}

MAX_LINES_FILE, MAX_LINES_FUNCTION, MAX_PARAMETERS = 400, 80, 10
KERNELS = "surgrad/kernels/"  # a launch of compiled code passes what the compiled code takes

LIBRARY = ("surgrad",)
CODE = (*LIBRARY, "hydra_plugins", "scripts", "examples", "Classification")
CODE += ("Sigmoid_network", "Spike_train_matching", "benchmarks")


@cache
def files(*folders: str) -> list[str]:
    """The Python files below these folders, by their path from the repository."""
    found = [path for folder in folders for path in sorted((REPOSITORY / folder).rglob("*.py"))]
    return [path.relative_to(REPOSITORY).as_posix() for path in found if "Runs" not in path.parts]


@cache
def nodes(path: str) -> list[ast.AST]:
    """All nodes of the syntax tree of a file."""
    return list(ast.walk(ast.parse((REPOSITORY / path).read_text())))


def imports(path: str) -> list[str]:
    """Dotted names of all that a file imports, those inside functions and for type checkers included."""
    names: list[str] = []
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports are not used here"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def package_of(path: str) -> str:
    """surgrad/runs/record.py -> runs, surgrad/errors.py -> errors."""
    return path.removeprefix("surgrad/").partition("/")[0].removesuffix(".py")


@cache
def arrows() -> dict[tuple[str, str], list[str]]:
    """Who imports whom, among the packages: (importing, imported) -> where."""
    found = defaultdict(list)
    for path in files(*LIBRARY):
        for name in imports(path):
            library, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            if (
                library == "surgrad"
                and target[:2] != "__"
                and package_of(path) not in FRONT
                and target != package_of(path)
            ):
                found[package_of(path), target].append(f"{path}: {name}")
    return dict(found)


def test_every_package_has_a_level():
    packages = {package_of(path) for path in files(*LIBRARY)} - FRONT
    assert packages <= {name for level in LEVELS for name in level}


def test_packages_import_only_from_lower_levels():
    level = {name: k for k, packages in enumerate(LEVELS) for name in packages}
    upward = {arrow for arrow in arrows() if level.get(arrow[1], len(LEVELS)) >= level[arrow[0]]}
    assert not upward, [place for arrow in upward for place in arrows()[arrow]]


def test_no_private_name_crosses_a_package():
    found = set()
    for path in files(*CODE):
        own = f"surgrad.{package_of(path)}" if path.startswith("surgrad/") else ""
        for name in imports(path):
            parts = name.split(".")
            private = any(part.startswith("_") and not part.endswith("__") for part in parts)
            if parts[0] == "surgrad" and private and ".".join(parts[:2]) != own:
                found.add(f"{path}: {name}")
    assert not found


def test_libraries_stay_where_they_belong():
    found = set()
    for path in files(*CODE):
        libraries = {name.partition(".")[0] for name in imports(path)}
        for library, places in RESERVED.items():
            if library in libraries and not path.startswith(places) and not path.startswith("benchmarks/"):
                found.add(f"{library} in {path}")
    assert not found


def test_files_are_short():
    found = {path for path in files(*CODE, "tests") if length(REPOSITORY / path) > MAX_LINES_FILE}
    assert not found


def length(path: Path) -> int:
    return len(path.read_text().splitlines())


def functions(path: str) -> list[ast.FunctionDef]:
    return [node for node in nodes(path) if isinstance(node, ast.FunctionDef)]


def test_functions_are_short():
    found = {
        f"{path}: {function.name}"
        for path in files(*CODE)
        for function in functions(path)
        if function.end_lineno - function.lineno >= MAX_LINES_FUNCTION
    }
    assert not found


def test_functions_take_few_parameters():
    found = set()
    for path in files(*CODE):
        for function in functions(path) if not path.startswith(KERNELS) else ():
            names = [a.arg for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
            if len([name for name in names if name not in ("self", "cls")]) > MAX_PARAMETERS:
                found.add(f"{path}: {function.name}")
    assert not found


def test_calls_pass_few_arguments():
    found = set()
    for path in files(*CODE):
        for node in nodes(path) if not path.startswith(KERNELS) else ():
            if isinstance(node, ast.Call) and len(node.args) + len(node.keywords) > MAX_PARAMETERS:
                found.add(f"{path}: {ast.unparse(node.func).rpartition('.')[2]}")
    assert not found


def documented() -> Iterator[tuple[str, str, ast.FunctionDef | ast.ClassDef]]:
    """File, docstring and definition of everything that has a docstring."""
    for path in files(*CODE):
        for node in nodes(path):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
                yield path, text, node


@cache
def classes() -> dict[str, list[ast.ClassDef]]:
    """The classes of the code by name."""
    found = defaultdict(list)
    for path in files(*CODE):
        for node in nodes(path):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(node)
    return dict(found)


def accepted(node: ast.FunctionDef | ast.ClassDef) -> set[str]:
    """Names of the arguments of a function; of a class, of its ``__init__`` and its fields, inherited ones included."""
    if isinstance(node, ast.FunctionDef):
        given = node.args
        starred = [a for a in (given.vararg, given.kwarg) if a is not None]
        return {a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs, *starred)}
    names = {
        part.target.id for part in node.body if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
    }
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name in ("__init__", "__new__"):
            names |= accepted(part)
    for base in node.bases:
        for above in classes().get(ast.unparse(base).rpartition(".")[2], []):
            names |= accepted(above) if above is not node else set()
    return names


def test_arguments_are_documented_one_by_one():
    """``Args:`` opens a list of names, none of which the signature lacks."""
    found = []
    for path, text, node in documented():
        if re.search(r"Args: \S", text):
            found.append(f"{path}: {node.name} has its Args: on one line")
        for section in re.findall(r"^Args:\n((?:(?: .*)?\n?)*)", text, re.MULTILINE):
            names = set(re.findall(r"^    \*{0,2}(\w+):", section, re.MULTILINE))
            found += [f"{path}: {node.name} has no argument {name}" for name in sorted(names - accepted(node))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", [name for level in LEVELS for name in level])
def test_packages_say_what_they_are(name):
    package = REPOSITORY / "surgrad" / name
    path = package / "__init__.py" if package.is_dir() else package.with_suffix(".py")
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"
