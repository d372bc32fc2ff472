"""How CUDA kernels are built: which nvcc, what it made, what ptxas counted."""

import importlib.util
import io
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from tests.cuda import usage

ROOT = pathlib.Path(__file__).parents[2]
TOOLS = ROOT / "tools"


@pytest.fixture(autouse=True)
def tools(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))


# --- Which nvcc ------------------------------------------------------------


@pytest.fixture
def nvcc(tmp_path, monkeypatch):
    """Makes nvcc of a version; the machine's own are out of sight."""
    for variable in ("CUDACXX", "CUDA_HOME", "CUDA_PATH", "CMAKE_ARGS"):
        monkeypatch.delenv(variable, raising=False)
    # The C++ compiler stays in sight.
    monkeypatch.setenv("CXX", shutil.which("c++") or "c++")
    monkeypatch.setenv("PATH", "/nowhere")
    real = os.path.exists
    monkeypatch.setattr(
        os.path, "exists", lambda p: not str(p).startswith("/usr/local/") and real(p)
    )

    def make(version, folder="cuda"):
        path = tmp_path / folder / "bin" / "nvcc"
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {version}'")
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def packages(monkeypatch):
    """Says which versions of the packages are installed; none at first."""
    import find_nvcc

    installed = {}

    def version(name):
        if name not in installed:
            raise find_nvcc.importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(find_nvcc.importlib.metadata, "version", version)
    return installed


@pytest.mark.parametrize("variable", ["CUDA_HOME", "CUDA_PATH", "CUDACXX", "PATH"])
def test_the_machines_nvcc_is_found(variable, nvcc, monkeypatch):
    import find_nvcc

    path = nvcc("13.1")
    value = {"CUDACXX": path, "PATH": path.parent}.get(variable, path.parents[1])
    monkeypatch.setenv(variable, str(value))
    assert find_nvcc.find() == (str(path), [])


def test_an_old_nvcc_is_passed_over_and_named(nvcc, packages, monkeypatch):
    import find_nvcc

    old, new = nvcc("12.9", "old"), nvcc("13.0", "new")
    monkeypatch.setenv("CUDACXX", str(old))
    fault = f"{old} is version 12.9, and 13.0 or newer is needed"
    with pytest.raises(find_nvcc.NvccNotFoundError) as error:
        find_nvcc.find()
    assert fault in str(error.value)
    assert "the package nvidia-cuda-nvcc is not installed" in str(error.value)
    assert "pip install 'nvidia-cuda-nvcc==13.0.*'" in str(error.value)
    monkeypatch.setenv("CUDA_HOME", str(new.parents[1]))
    assert find_nvcc.find() == (str(new), [fault])
    with pytest.raises(find_nvcc.NvccNotFoundError, match=r"is version 12\.9"):
        find_nvcc.find(str(old))


def test_packages_of_several_versions_are_refused(nvcc, packages):
    import find_nvcc

    for requirement in find_nvcc.REQUIREMENTS:
        packages[requirement.split("=")[0]] = "13.0.88"
    packages["nvidia-nvvm"] = "13.5.37"
    with pytest.raises(find_nvcc.NvccNotFoundError, match=r"nvidia-nvvm 13\.5\.37"):
        find_nvcc.find("package")


@pytest.mark.parametrize(
    ("settings", "environment", "expected"),
    [
        ({}, {}, False),
        ({"cmake.define.JAX_ROIPOOL_CUDA": "OFF"}, {}, False),
        ({"cmake.define.JAX_ROIPOOL_CUDA": "ON"}, {}, True),
        ({"cmake.args": "-DJAX_ROIPOOL_CUDA:BOOL=ON"}, {}, True),
        ({}, {"CMAKE_ARGS": "-DX=1 -DJAX_ROIPOOL_CUDA=1"}, True),
        ({}, {"SKBUILD_CMAKE_DEFINE": "JAX_ROIPOOL_CUDA=ON"}, True),
    ],
)
@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_packages_are_required_where_kernels_are_asked_for(
    kind, settings, environment, expected, nvcc, packages, monkeypatch
):
    scikit_build_core = pytest.importorskip("scikit_build_core.build")
    import build_backend
    import find_nvcc

    monkeypatch.chdir(ROOT)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    name = f"get_requires_for_build_{kind}"
    require = getattr(build_backend, name)
    usual = getattr(scikit_build_core, name)(settings)
    nvccs = list(find_nvcc.REQUIREMENTS) if expected else []
    assert require(settings) == usual + nvccs

    path = nvcc("13.0")
    monkeypatch.setenv("CUDACXX", str(path))
    assert require(settings) == usual
    forced = settings | {"cmake.define.JAX_ROIPOOL_NVCC": "package"}
    assert require(forced) == usual + nvccs


# --- What ptxas counted ----------------------------------------------------


VERBOSE = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z4goodPf' for 'sm_75'
ptxas info    : Function properties for _Z4goodPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 22 registers, used 1 barriers, 512 bytes smem, 376 bytes cmem[0]
ptxas info    : Compiling entry function '_Z4goodPf' for 'sm_90'
ptxas info    : Function properties for _Z4goodPf
    16 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Function properties for _Z6callee
    0 bytes stack frame, {spilled} bytes spill stores, 0 bytes spill loads
ptxas info    : Used 18 registers, used 1 barriers
"""


@pytest.mark.parametrize("spilled", [0, 8])
def test_usage_report(spilled, tmp_path):
    (tmp_path / "pool.cu.o.ptxas").write_text(VERBOSE.format(spilled=spilled))
    done = subprocess.run(
        [sys.executable, TOOLS / "cuda_usage.py", "report", tmp_path],
        capture_output=True,
        text=True,
    )
    assert re.search(r"sm_75 +22 +0 +0 +512 +\S*good", done.stdout)
    assert re.search(rf"sm_90 +18 +16 +{spilled} +0 +\S*good", done.stdout)
    assert done.returncode == (1 if spilled else 0), done.stderr
    assert ("8 bytes stored" in done.stderr) == bool(spilled)


def test_usage_report_of_nothing_fails(tmp_path):
    import cuda_usage

    assert cuda_usage.report(tmp_path) == 1


def test_compiling_keeps_what_ptxas_says(tmp_path, capfd):
    import cuda_usage

    output = tmp_path / "pool.cu.o"
    says = VERBOSE.format(spilled=0) + "pool.cu(1): warning: odd\n"
    code = f"import sys; sys.stderr.write({says!r}); sys.exit({{}})"
    command = [sys.executable, "-c", code.format(0), "-o", str(output)]
    assert cuda_usage.compile_and_keep(command) == 0
    assert capfd.readouterr().err == "pool.cu(1): warning: odd\n"
    kept = output.with_name("pool.cu.o.ptxas").read_text()
    assert [u.architecture for u in cuda_usage.parse(kept)] == ["sm_75", "sm_90"]
    assert cuda_usage.compile_and_keep([sys.executable, "-c", code.format(3)]) == 3


# --- The module ------------------------------------------------------------


@pytest.fixture
def cuda():
    """The module with CUDA kernels; skips where it was not built."""
    if importlib.util.find_spec("jax_roipool._cuda") is None:
        pytest.skip("built without CUDA kernels")
    return importlib.import_module("jax_roipool._cuda")


def dynamic_section(module):
    done = subprocess.run(
        ["readelf", "--dynamic", module.__file__],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_the_module_loads_and_tells_its_ffi(cuda):
    from jax_roipool import _cpu

    assert cuda.FFI_API_VERSION == _cpu.FFI_API_VERSION
    assert isinstance(cuda.ffi_targets(), dict)


@pytest.mark.skipif(shutil.which("readelf") is None, reason="no readelf here")
def test_the_module_needs_no_cuda_library(cuda):
    dynamic = dynamic_section(cuda)
    needed = re.findall(r"NEEDED.*\[(.*)\]", dynamic)
    assert "libc.so.6" in needed
    assert [name for name in needed if "cu" in name or "nv" in name] == []
    assert re.search(r"\((RPATH|RUNPATH)\)", dynamic) is None


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm here")
def test_the_module_exports_its_init_function_alone(cuda):
    done = subprocess.run(
        ["nm", "-D", "--defined-only", cuda.__file__],
        capture_output=True,
        text=True,
        check=True,
    )
    names = [line.split()[-1] for line in done.stdout.splitlines()]
    assert names == ["PyInit__cuda"]


@pytest.mark.skipif(shutil.which("cuobjdump") is None, reason="no cuobjdump here")
def test_the_module_has_code_for_what_was_asked(cuda):
    asked = cuda.ARCHITECTURES.split()
    if asked == ["native"]:
        pytest.skip("which GPU that was, only the build knew")
    for option, other in (("--list-elf", "virtual"), ("--list-ptx", "real")):
        done = subprocess.run(
            ["cuobjdump", option, cuda.__file__], capture_output=True, text=True
        )
        expected = {a.split("-")[0] for a in asked if not a.endswith(f"-{other}")}
        assert set(re.findall(r"sm_(\d+)", done.stdout)) == expected


# --- Which sources were checked --------------------------------------------


def test_the_hash_is_of_all_cuda_sources(tmp_path):
    names = {path.relative_to(ROOT).as_posix() for path in usage.sources()}
    assert {path.relative_to(ROOT).as_posix() for path in ROOT.rglob("csrc/**/*.cu")}
    assert names >= {
        *(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("csrc/**/*.cu")),
        "CMakeLists.txt",
        "csrc/core/caffe_bins.h",
        "csrc/cuda/device.h",
        "csrc/cuda/module.cc",
        "csrc/ops/max/cuda_handlers.cc",
        "tools/cuda_usage.py",
    }
    assert not [name for name in names if "cpu" in name]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    assert usage.digest(tmp_path) == usage.digest()
    with (tmp_path / "csrc/cuda/device.h").open("a") as file:
        file.write("\n")
    assert usage.digest(tmp_path) != usage.digest()


def test_ci_compiles_them_where_they_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(usage, "KEPT", tmp_path / "usage.txt")
    assert usage.main(["changed"]) == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("kernels: 3, on sm_90\n"))
    assert usage.main(["keep"]) == 0
    assert usage.KEPT.read_text().endswith("\n\nkernels: 3, on sm_90\n")
    assert usage.main(["changed"]) == 1
