"""What the build produced: symbols that must not be there."""

import pathlib
import shutil
import subprocess

import pytest

_cpu = pytest.importorskip("jax_roipool._cpu")

BUILD = pathlib.Path(__file__).parents[2] / "build"

needs_nm = pytest.mark.skipif(shutil.which("nm") is None, reason="no nm here")


def symbols(path, *options):
    done = subprocess.run(
        ["nm", *options, str(path)], capture_output=True, text=True, check=True
    )
    return [line.split()[-2:] for line in done.stdout.splitlines() if line]


@needs_nm
def test_kernels_share_no_code_between_instruction_sets():
    """A weak symbol may be merged with its twin from another instruction set."""
    # Of every op, in every instruction set.
    objects = list(BUILD.glob("*/CMakeFiles/kernels_*.dir/csrc/ops/*/cpu_kernels.cc.o"))
    if not objects:
        pytest.skip("not built here")
    for path in objects:
        shared = [s for s in symbols(path) if s[0] in "VvWwu"]
        assert shared == [], path


@needs_nm
def test_the_module_exports_its_init_function_alone():
    defined = symbols(_cpu.__file__, "-D", "--defined-only")
    assert [name for _, name in defined] == ["PyInit__cpu"]
