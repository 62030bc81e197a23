"""Holds the GPU's kernels to the reference, in Triton's interpreter, with other versions of PyTorch.

python3 scripts/torch_versions.py 2.9.1 2.13.0

Every version gets an environment build/torch-VERSION, of that PyTorch as the index has it (for Linux a CUDA build of
some 3 GB, unless PIP_FIND_LINKS names a smaller one), the Triton that belongs to it, and a NumPy that its interpreter
takes. The exit status is 1 where a test fails.
"""

import argparse
import os
import subprocess
import sys
import venv
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
#: By version of PyTorch: its Triton, which CPU builds do not bring, and the NumPy that this one's interpreter takes.
PARTNERS = {
    "2.9": ("triton==3.5.1", "numpy<2.4"),
    "2.10": ("triton==3.6.0", "numpy<2.4"),
    "2.11": ("triton==3.6.0", "numpy<2.4"),
    "2.13": ("triton==3.7.1", "numpy"),
}
TESTS = [f"tests/kernels/test_kernel_cuda{part}.py" for part in ("", "_adaptive", "_delays", "_layer", "_memory")]
TESTS += ["tests/kernels/test_spike_products.py"]


def holds(version: str) -> bool:
    """Whether all parity tests pass with a version of PyTorch."""
    folder = REPO / "build" / f"torch-{version}"
    venv.create(folder, with_pip=True)
    python = str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")
    partners = PARTNERS.get(".".join(version.split(".")[:2]), ("triton", "numpy"))
    packages = [f"torch=={version}", *partners, "pytest", "hypothesis", "-e", str(REPO)]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    told = "import torch, triton, numpy; print('torch', torch.__version__, triton.__name__, triton.__version__, "
    subprocess.run([python, "-c", told + "'numpy', numpy.__version__)"], check=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", *TESTS]
    return subprocess.run(command, cwd=REPO, env=environment, check=False).returncode == 0


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="+", metavar="version", help="of PyTorch, as in 2.13.0")
    failed = [version for version in parser.parse_args().versions if not holds(version)]
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
