"""What a stranger does first: install, self-check, the README's commands in order."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import venv

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
PACKAGE = ROOT / "jax_roipool"


def sources(into: pathlib.Path) -> None:
    """The package as a clone has it: without kernels."""
    modules = ("*.so", "*.pyd", "__pycache__")
    shutil.copytree(PACKAGE, into, ignore=shutil.ignore_patterns(*modules))


def run_in(clone, *arguments, site=""):
    """Python with the installed packages of `site`, and no editable installation."""
    path = [str(site), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=clone,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "JAX_PLATFORMS": "cpu",
            "HOME": str(clone),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def clone(tmp_path):
    sources(tmp_path / "clone/jax_roipool")
    return tmp_path / "clone"


def test_the_clone_does_not_shadow_the_installation(clone, tmp_path):
    """`pip install .`, then `python -m jax_roipool`, in the same folder."""
    from jax_roipool import _cpu

    site = tmp_path / "site"
    sources(site / "jax_roipool")
    module = pathlib.Path(_cpu.__file__)
    shutil.copy(module, site / "jax_roipool")
    info = site / "jax_roipool-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: jax_roipool\n")
    files = ["jax_roipool/__init__.py", f"jax_roipool/{module.name}"]
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    done = run_in(clone, "-m", "jax_roipool", site=site)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cpu     kernels" in done.stdout
    assert done.stdout.rstrip().splitlines()[-1].startswith("all equal")
    code = "import jax_roipool.lowering as m; print(m.__file__)"
    where = run_in(clone, "-c", code, site=site)
    assert where.stdout == f"{site}/jax_roipool/lowering.py\n", where.stderr
    # An installation of plain JAX alone has nothing to lend.
    (site / "jax_roipool" / module.name).unlink()
    where = run_in(clone, "-c", code, site=site)
    assert where.stdout == f"{clone}/jax_roipool/lowering.py\n"


def test_without_kernels_the_remedy_is_told(clone):
    done = run_in(clone, "-m", "jax_roipool")
    assert done.returncode == 1
    assert "self-check: nothing to compare" in done.stdout
    assert "has no CPU kernels; `pip install .`" in done.stdout
    # Once, and where the user's own line is.
    (clone / "mine.py").write_text("import math\nimport jax_roipool\n")
    done = run_in(clone, "mine.py")
    assert done.stderr.count("jax_roipool uses its slower plain-JAX lowering") == 1
    assert "mine.py:2: UserWarning" in done.stderr


def test_a_reader_that_has_read_enough():
    command = f"{sys.executable} -m jax_roipool | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (done.stdout[:12], done.stderr) == ("jax_roipool ", "")


# What CI runs by itself, or needs a GPU's toolkit of gigabytes.
ELSEWHERE = ("make ", "pip install '.[cuda13]'")


@pytest.mark.nightly
@pytest.mark.parametrize("document", ["README.md", "docs/detector.md"])
def test_every_command_of_a_document_in_a_fresh_clone(document, tmp_path):
    """In order, with an empty HOME; each ends well, and kernels are in use."""
    clone, home, environment = (tmp_path / n for n in ("clone", "home", "venv"))
    home.mkdir()
    subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
    venv.create(environment, with_pip=True)
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) > 4
    some = [c for c in commands if not c.startswith(ELSEWHERE)]
    for command in [*some, "python -m jax_roipool"]:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=clone,
            env={
                "PATH": f"{environment}/bin{os.pathsep}{os.environ['PATH']}",
                "HOME": str(home),
                "MPLBACKEND": "agg",
                "JAX_PLATFORMS": "cpu",
            },
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        assert "plain-JAX lowering" not in done.stderr, command
    assert "cpu     kernels" in done.stdout
