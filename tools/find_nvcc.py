"""Which nvcc compiles the CUDA kernels: decided here alone.

CMake runs this file, the build backend imports it. In this order:

  CUDACXX, the path, CUDA_HOME, CUDA_PATH, /usr/local/cuda   of the machine
  nvidia/cu13/bin/nvcc                                       of the package index

A machine's nvcc that is too old is passed over, and that is said.

  python tools/find_nvcc.py            prints the path
  python tools/find_nvcc.py package    that of the package index
  python tools/find_nvcc.py PATH       that one, where it will do
"""

import importlib.metadata
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

MINIMUM = (13, 0)
PACKAGE = "package"

# All of one version: nvcc's own requirements let pip mix them, and then ptxas
# refuses what cicc wrote. cccl has the headers that cuda_fp16.h includes.
REQUIREMENTS = tuple(
    f"{name}==13.0.*"
    for name in (
        "nvidia-cuda-nvcc",
        "nvidia-nvvm",
        "nvidia-cuda-crt",
        "nvidia-cuda-runtime",
        "nvidia-cuda-cccl",
    )
)


class NvccNotFoundError(Exception):
    """No nvcc that will do; the text says what was looked at."""


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _fault(nvcc: str) -> str:
    """What is wrong with this nvcc; empty where it will do."""
    try:
        done = subprocess.run(
            [nvcc, "--version"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        return f"{nvcc} does not run ({error})"
    found = re.search(r"release (\d+)\.(\d+)", done.stdout)
    if found is None:
        return f"{nvcc} does not tell its version"
    version = int(found[1]), int(found[2])
    if version < MINIMUM:
        return (
            f"{nvcc} is version {_dotted(version)}, and "
            f"{_dotted(MINIMUM)} or newer is needed"
        )
    return ""


def _machine_candidates() -> Iterator[str]:
    if os.environ.get("CUDACXX"):
        yield shutil.which(os.environ["CUDACXX"]) or os.environ["CUDACXX"]
    on_path = shutil.which("nvcc")
    if on_path:
        yield on_path
    homes = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"))
    for home in (*homes, "/usr/local/cuda"):
        if home and os.path.exists(nvcc := os.path.join(home, "bin", "nvcc")):
            yield nvcc


def find_on_machine() -> tuple[str | None, list[str]]:
    """The machine's nvcc or None, and what is wrong with those passed over."""
    faults: list[str] = []
    for nvcc in dict.fromkeys(_machine_candidates()):
        fault = _fault(nvcc)
        if not fault:
            return nvcc, faults
        faults.append(fault)
    return None, faults


def find_in_packages() -> tuple[str | None, list[str]]:
    """The nvcc of installed packages or None, and why none."""
    versions = {}
    for requirement in REQUIREMENTS:
        name = requirement.split("=")[0]
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None, [f"the package {name} is not installed"]
    if len({version.split(".")[1] for version in versions.values()}) > 1:
        mixed = ", ".join(f"{name} {version}" for name, version in versions.items())
        return None, [f"packages of different versions of CUDA: {mixed}"]
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec and spec.submodule_search_locations) or ():
        nvcc = pathlib.Path(folder, "cu13", "bin", "nvcc")
        if nvcc.exists():
            fault = _fault(str(nvcc))
            return (None, [fault]) if fault else (str(nvcc), [])
    return None, ["the packages are installed and have no nvidia/cu13/bin/nvcc"]


def find(choice: str = "") -> tuple[str, list[str]]:
    """The nvcc to compile with, and what is wrong with those passed over.

    Args:
      choice: "" for the order above, "package", or the path of an nvcc.

    Raises:
      NvccNotFoundError: None will do.
    """
    if choice not in ("", PACKAGE):
        fault = _fault(choice)
        if fault:
            raise NvccNotFoundError(fault)
        return choice, []
    nvcc, faults = (None, []) if choice == PACKAGE else find_on_machine()
    if nvcc is None:
        nvcc, missing = find_in_packages()
        if nvcc is None:
            lines = "".join(f"\n  {fault}" for fault in [*faults, *missing])
            wanted = " ".join(f"'{requirement}'" for requirement in REQUIREMENTS)
            raise NvccNotFoundError(
                f"No nvcc {_dotted(MINIMUM)} or newer was found:{lines}\n"
                "A build in an isolated environment installs it there by itself; "
                f"without one: pip install {wanted}"
            )
    return nvcc, faults


def main() -> int:
    """Prints the path to stdout, everything else to stderr."""
    try:
        nvcc, faults = find(*sys.argv[1:])
    except NvccNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    for fault in faults:
        print(f"passed over: {fault}", file=sys.stderr)
    print(nvcc)
    return 0


if __name__ == "__main__":
    sys.exit(main())
