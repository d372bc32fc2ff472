"""What a user gets: the files of a wheel, and what its modules link and show."""

import importlib.util
import os
import pathlib
import shlex
import subprocess
import sys
import tomllib
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[2]

pytest.importorskip("elftools")


@pytest.fixture
def check_wheel(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import check_wheel

    return check_wheel


needs_elf = pytest.mark.skipif(sys.platform != "linux", reason="no ELF here")


@needs_elf
@pytest.mark.parametrize("name", ["_cpu", "_cuda"])
def test_modules_link_the_runtimes_alone(check_wheel, name, capsys):
    spec = importlib.util.find_spec(f"jax_roipool.{name}")
    if spec is None:
        pytest.skip(f"{name} is not built here")
    assert check_wheel.main([spec.origin]) == 0
    printed = capsys.readouterr().out
    assert "library paths none" in printed
    assert f"shows PyInit_{name}\n" in printed


@needs_elf
@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        ("", ""),
        ("-Wl,-rpath,/somewhere", "library path /somewhere"),
        ("-Wl,-rpath,/there -Wl,--disable-new-dtags", "library path /there"),
        ("-DMORE", "shows"),
        ("-Wl,-z,execstack", "executable stack"),
        ("-Wl,--no-as-needed -L{here} -lother", "links libother.so"),
    ],
)
def test_a_module_that_is_not_as_it_should_be(
    check_wheel, flags, fault, tmp_path, capsys
):
    source, module = tmp_path / "m.cc", tmp_path / "_cpu.abi3.so"
    source.write_text(
        'extern "C" int PyInit__cpu() { return 0; }\n#ifdef MORE\nint more;\n#endif\n'
    )
    compile_ = [*shlex.split(os.environ.get("CXX") or "c++"), "-shared", "-fPIC"]
    subprocess.run([*compile_, source, "-o", tmp_path / "libother.so"], check=True)
    flags = shlex.split(flags.format(here=tmp_path))
    subprocess.run(
        [*compile_, source, "-o", module, *flags], check=True, capture_output=True
    )
    assert check_wheel.main([str(module)]) == bool(fault)
    assert fault in capsys.readouterr().err


@pytest.fixture(scope="module")
def python_files(tmp_path_factory):
    """The files of a wheel without its modules, which take long to compile."""
    pytest.importorskip("scikit_build_core")
    folder = tmp_path_factory.mktemp("wheel")
    build = (
        "import sys; from scikit_build_core.build import build_wheel; "
        "build_wheel(sys.argv[1], {'wheel.cmake': 'false'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", build, folder], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        return wheel.namelist()


def test_what_a_wheel_contains(check_wheel, python_files):
    module = "jax_roipool/_cpu.cpython-311-x86_64-linux-gnu.so"
    assert check_wheel.faults_of_names([*python_files, module]) == []
    assert check_wheel.faults_of_names(python_files) == [
        "jax_roipool/_cpu.*.so is missing"
    ]
    ours = {p.relative_to(ROOT).as_posix() for p in ROOT.glob("jax_roipool/**/*.py")}
    assert {name for name in python_files if name.endswith(".py")} == ours
    for name in (
        "tests/oracle/roi_pool.py",
        "jax_roipool/libz.so.1",
        "jax_roipool/data/x.csv",
    ):
        faults = check_wheel.faults_of_names([*python_files, module, name])
        assert faults == [f"{name} does not belong in the wheel"]


def test_every_dependency_has_a_bound_and_a_reason():
    """A lower bound for what a user needs; above each list says why."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)
    needed = project["project"]["dependencies"]
    for extra in ("cuda12", "cuda13", "flax", "data"):
        needed += project["project"]["optional-dependencies"][extra]
    for requirement in [*needed, *project["build-system"]["requires"]]:
        assert ">=" in requirement or "==" in requirement, requirement
    lines = text.splitlines()
    for i, line in enumerate(lines):
        if line.startswith(("dependencies =", "requires =", "cuda12 =", "data =")):
            assert lines[i - 1].startswith("#"), line
