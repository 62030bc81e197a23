"""Builds the documentation site into build/site; a warning is an error.

    python3 scripts/docs_site.py

The home page is the README, the reference is the docstrings, and tutorials are the notebooks, executed here: their
outputs are kept in .cache/docs until a notebook or the library changes. Links of the pages, which lead to files of the
repository, are turned to the pages of the site.
"""

import base64
import concurrent.futures
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import nbformat
from latex2mathml.converter import convert
from nbclient import NotebookClient

REPOSITORY = Path(__file__).resolve().parents[1]
CACHE = REPOSITORY / ".cache" / "docs"
TIMEOUT = 600  # s for one cell
NOTEBOOKS = {
    f"tutorials/{path.stem.lower()}.md": path
    for folder in ("Classification/tutorials", "Sigmoid_network")
    for path in sorted((REPOSITORY / folder).glob("*.ipynb"))
}


def pages() -> dict[str, str | bytes]:
    """Files of the site, by their path in it: Markdown with the links of the repository, and all else as it is."""
    found: dict[str, str | bytes] = {"index.md": (REPOSITORY / "README.md").read_text()}
    for path in sorted((REPOSITORY / "docs").rglob("*")):
        if path.is_file() and path.suffix not in (".yaml", ".csv"):
            uri = path.relative_to(REPOSITORY / "docs").as_posix()
            found[uri] = path.read_text() if path.suffix == ".md" else path.read_bytes()
    for name, modules in packages().items():
        found[f"reference/{name}.md"] = reference_page(name, modules)
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for uri, notebook in zip(NOTEBOOKS, pool.map(executed, NOTEBOOKS.values()), strict=True):
            found |= notebook_page(notebook, uri)
    return found


# ---------------------------------------------------------------- links
def relinked(text: str, uri: str, site: set[str]) -> str:
    """The text of the page `uri` with links, relative to its source in the repository, leading to pages of the site.

    A link to a file that is on no page becomes its label alone.
    """
    here = PurePosixPath(uri).parent
    source = PurePosixPath(source_of(uri)).parent

    def replace(match: re.Match[str]) -> str:
        mark, label, target, anchor = match.groups()
        if not target or ":" in target or os.path.normpath(here / target) in site:
            return match.group()
        found = page_of(os.path.normpath(source / target), site)
        return f"{mark}[{label}]({os.path.relpath(found, here)}{anchor or ''})" if found else label

    return re.sub(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]*)(#[^)]*)?\)", replace, text)


def source_of(uri: str) -> str:
    """The file of the repository that a page of the site is made of."""
    if uri in NOTEBOOKS:
        return NOTEBOOKS[uri].relative_to(REPOSITORY).as_posix()
    return "README.md" if uri == "index.md" else f"docs/{uri}"


def page_of(path: str, site: set[str]) -> str | None:
    """The page of the site that shows a file of the repository."""
    first, _, rest = path.partition("/")
    if first == "surgrad":
        uri = f"reference/{rest.partition('/')[0].removesuffix('.py')}.md"
        return uri if uri in site else None
    return next((uri for uri in (*NOTEBOOKS, "index.md", rest) if path == source_of(uri) and uri in site), None)


def outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """Apply a change to the parts of a page that are no code."""
    pieces = re.split(r"(^```.*?^```|`(?!\])[^`\n]+`(?!\]))", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(piece if k % 2 else change(piece) for k, piece in enumerate(pieces))


# ---------------------------------------------------------------- the reference
def packages() -> dict[str, list[str]]:
    """Packages of the library, and the modules that each page of the reference shows."""
    found: dict[str, list[str]] = {}
    for path in sorted((REPOSITORY / "surgrad").rglob("*.py")):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        if parts[-1] not in ("__init__", "__main__"):
            found.setdefault(parts[1] if len(parts) > 2 else "surgrad", []).append(".".join(parts))
    return found


def reference_page(name: str, modules: list[str]) -> str:
    """The page of a package, for mkdocstrings to fill."""
    package = "surgrad" if name == "surgrad" else f"surgrad.{name}"
    title = f"# {package}\n\n::: {package}\n    options: {{members: false, show_root_heading: false}}\n"
    return title + "".join(f"\n::: {module}\n" for module in modules)


# ---------------------------------------------------------------- notebooks
def executed(path: Path) -> Any:
    """A notebook with its outputs, from the cache if nothing has changed. Raises CellExecutionError if a cell fails."""
    cached = CACHE / f"{path.stem}-{fingerprint(path)}.ipynb"
    if cached.exists():
        return nbformat.read(cached, as_version=4)
    notebook = nbformat.read(path, as_version=4)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    client = NotebookClient(notebook, timeout=TIMEOUT, resources={"metadata": {"path": str(path.parent)}})
    client.execute(env=environment)
    for old in CACHE.glob(f"{path.stem}-*.ipynb"):
        old.unlink()
    CACHE.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, cached)
    return notebook


def fingerprint(path: Path) -> str:
    """Changes with the notebook and with the library."""
    digest = hashlib.sha256(path.read_bytes())
    for source in sorted((REPOSITORY / "surgrad").rglob("*")):
        if source.suffix in (".py", ".cpp", ".h"):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def notebook_page(notebook: Any, uri: str) -> dict[str, str | bytes]:
    """A notebook as a page, with its images beside it."""
    parts: list[str] = []
    images: dict[str, str | bytes] = {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(outside_code(cell.source, with_mathml))
        elif cell.cell_type == "code":
            parts.append(f"```python\n{cell.source}\n```")
            for output in cell.outputs:
                parts += output_of(output, images, f"{uri.removesuffix('.md')}_{len(images)}.png")
    return {uri: "\n\n".join(parts), **images}


def output_of(output: Any, images: dict[str, str | bytes], image: str) -> Iterator[str]:
    """What a cell shows: a figure, or text."""
    data = {"text/plain": output.text} if output.output_type == "stream" else output.get("data", {})
    if "image/png" in data:
        images[image] = base64.b64decode(data["image/png"])
        yield f"![Figure drawn by the code above]({PurePosixPath(image).name})"
    elif "text/markdown" in data:
        yield data["text/markdown"]
    elif "text/plain" in data:
        yield f"```text\n{data['text/plain'].rstrip()}\n```"


def with_mathml(text: str) -> str:
    """`text` with its formulas, $...$ and $$...$$, as MathML, which browsers show without further code."""
    display = re.sub(r"\$\$(.+?)\$\$", lambda m: convert(m[1], display="block"), text, flags=re.DOTALL)
    return re.sub(r"\$([^$\n]+)\$", lambda m: convert(m[1]), display)


def write(folder: Path) -> None:
    """Write the files of the site into a folder, which is emptied first."""
    site = pages()
    shutil.rmtree(folder, ignore_errors=True)
    for uri, content in site.items():
        path = folder / uri
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(outside_code(content, partial(relinked, uri=uri, site=set(site))))
        else:
            path.write_bytes(content)


def main() -> None:
    write(REPOSITORY / "build" / "docs")
    zensical = Path(sys.executable).with_name("zensical")
    # cleaned, for a page that is kept from before does not warn again
    command = [str(zensical), "build", "--clean", "--strict", "--config-file", str(REPOSITORY / "mkdocs.yml")]
    built = subprocess.run(
        command, cwd=REPOSITORY, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    print(built.stdout, end="")
    # what mkdocstrings says of docstrings does not count as an issue there
    warnings = [line for line in built.stdout.splitlines() if line.startswith("griffe:")]
    if built.returncode or warnings:
        raise SystemExit(f"the site has {len(warnings)} warnings of docstrings" if warnings else built.returncode)


if __name__ == "__main__":
    main()
