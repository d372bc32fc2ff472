"""Registers, spills and stack of every CUDA kernel, as ptxas counted them.

CMake compiles each .cu file through `cuda_usage.py compile`, which keeps what
`-Xptxas -v` said beside the object. So the numbers are those of the build.

  python tools/cuda_usage.py report [BUILD_FOLDER]

prints them as a table, by default of the folder that pip builds in for this
Python, and fails where a kernel spills registers.
"""

import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from typing import NamedTuple

SUFFIX = ".ptxas"

_ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(\w+)'")
_STACK = re.compile(
    r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
)
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")
_VERBOSE = re.compile(r"^ptxas info +:|bytes stack frame")


class Usage(NamedTuple):
    """What one kernel takes on one architecture; bytes but for registers."""

    source: str
    kernel: str
    architecture: str
    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int

    @property
    def spills(self) -> bool:
        """Whether registers went to memory."""
        return self.spill_stores > 0 or self.spill_loads > 0


def parse(text: str, source: str = "") -> list[Usage]:
    """Reads what `ptxas -v` prints; kernels in their order, names as mangled.

    A function that a kernel calls and that was not inlined counts with it: its
    stack and spills come under a heading of its own.
    """
    usages: list[Usage] = []
    kernel = architecture = ""
    stack = stores = loads = 0
    for line in text.splitlines():
        if found := _ENTRY.search(line):
            kernel, architecture = found.groups()
            stack = stores = loads = 0
        elif found := _STACK.search(line):
            numbers = [int(number) for number in found.groups()]
            stack = max(stack, numbers[0])
            stores += numbers[1]
            loads += numbers[2]
        elif (found := _USED.search(line)) and kernel:
            shared = _SHARED.search(line)
            usages.append(
                Usage(
                    source,
                    kernel,
                    architecture,
                    int(found[1]),
                    stack,
                    stores,
                    loads,
                    int(shared[1]) if shared else 0,
                )
            )
            kernel = ""
    return usages


def demangle(names: Iterable[str]) -> dict[str, str]:
    """Readable names, without their parameters where c++filt is here."""
    names = list(dict.fromkeys(names))
    if not names or shutil.which("c++filt") is None:
        return {name: name for name in names}
    done = subprocess.run(
        ["c++filt", "--no-params"],
        input="\n".join(names),
        capture_output=True,
        text=True,
        check=True,
    )
    readable = [
        re.sub(r"\(anonymous namespace\)::|^void |jax_roipool::(?:cuda::)?", "", line)
        for line in done.stdout.splitlines()
    ]
    return dict(zip(names, readable, strict=True))


def compile_and_keep(command: list[str]) -> int:
    """Runs a compiler; puts ptxas's numbers beside the object, shows the rest."""
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    lines = done.stderr.splitlines(keepends=True)
    sys.stderr.writelines(line for line in lines if not _VERBOSE.search(line))
    if done.returncode == 0 and "-o" in command:
        output = pathlib.Path(command[command.index("-o") + 1])
        output.with_name(output.name + SUFFIX).write_text(done.stderr, encoding="utf-8")
    return done.returncode


def build_folder() -> pathlib.Path:
    """Where pip builds for this Python (`build-dir` in pyproject.toml)."""
    python = "cp{}{}".format(*sys.version_info)
    root = pathlib.Path(__file__).parents[1] / "build"
    return next(iter(root.glob(f"{python}-{python}{sys.abiflags}-*")), root / python)


def report(folder: pathlib.Path) -> int:
    """Prints the table; 1 where a kernel spills or nothing was built."""
    usages = [
        usage
        for path in sorted(folder.rglob(f"*{SUFFIX}"))
        for usage in parse(
            path.read_text(encoding="utf-8"),
            # Ops' files may have the same names: theirs with the op's folder.
            "/".join(path.parts[-2:]).removesuffix(f".o{SUFFIX}"),
        )
    ]
    if not usages:
        print(f"No CUDA kernel was compiled in {folder}.", file=sys.stderr)
        return 1
    names = demangle(usage.kernel for usage in usages)
    print(f"{'':8} registers  stack  spilled  shared  kernel")
    source = ""
    for usage in sorted(usages, key=lambda u: (u.source, names[u.kernel], _number(u))):
        if usage.source != source:
            source = usage.source
            print(source)
        print(
            f"{usage.architecture:>8} {usage.registers:9} {usage.stack:6} "
            f"{usage.spill_stores + usage.spill_loads:8} {usage.shared:7}  "
            f"{names[usage.kernel]}"
        )
    spilling = [usage for usage in usages if usage.spills]
    by_architecture = sorted({_number(usage) for usage in usages})
    print(
        f"kernels: {len(names)}, on sm_{', sm_'.join(map(str, by_architecture))}; "
        f"at most {max(usage.registers for usage in usages)} registers"
    )
    for usage in spilling:
        print(
            f"spills: {names[usage.kernel]} on {usage.architecture}, "
            f"{usage.spill_stores} bytes stored, {usage.spill_loads} loaded",
            file=sys.stderr,
        )
    return 1 if spilling else 0


def _number(usage: Usage) -> int:
    return int(re.sub(r"\D", "", usage.architecture))


def main() -> int:
    """Runs `compile COMMAND...` or `report [BUILD_FOLDER]`."""
    match sys.argv[1:]:
        case ["compile", *command] if command:
            return compile_and_keep(command)
        case ["report"]:
            return report(build_folder())
        case ["report", folder]:
            return report(pathlib.Path(folder))
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
