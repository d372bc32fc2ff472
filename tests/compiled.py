"""Sources of csrc compiled into libraries that tests load with ctypes."""

import hashlib
import os
import pathlib
import shlex
import subprocess
import tempfile

import jax

ROOT = pathlib.Path(__file__).resolve().parents[1]
CSRC = ROOT / "csrc"
FLAGS = "-std=c++17 -O1 -shared -fPIC -ffp-contract=off -fvisibility=hidden"


def compiler():
    return shlex.split(os.environ.get("CXX") or "c++")


def build(target, sources, includes):
    """Compiles each source at once, and links them into the library `target`."""
    target = pathlib.Path(target)
    includes = [f"-I{folder}" for folder in includes]
    includes += ["-isystem", jax.ffi.include_dir()]
    with tempfile.TemporaryDirectory() as directory:
        objects, running = [], []
        for number, source in enumerate(sources):
            objects.append(f"{directory}/{number}-{source.name}.o")
            running.append(
                subprocess.Popen(
                    [
                        *compiler(), *shlex.split(FLAGS), *includes,
                        *("-x", "c++", "-c", source, "-o", objects[-1]),
                    ]
                )
            )  # fmt: skip
        assert all([process.wait() == 0 for process in running])
        made = f"{directory}/library.so"
        subprocess.run([*compiler(), "-shared", *objects, "-o", made], check=True)
        # Whoever else makes it makes the same.
        partial = target.with_name(f"{target.name}.{os.getpid()}")
        partial.write_bytes(pathlib.Path(made).read_bytes())
        partial.rename(target)


def cached(name, sources, includes):
    """The library of the sources as they are, compiled where that is not done."""
    digest = hashlib.sha256(" ".join([*compiler(), FLAGS]).encode())
    for directory in (*includes, pathlib.Path(jax.ffi.include_dir())):
        for path in sorted(directory.rglob("*")):
            if path.suffix in (".cu", ".cc", ".h"):
                digest.update(path.read_bytes())
    cache = ROOT / "build" / name
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"{digest.hexdigest()[:16]}.so"
    if not path.exists():
        build(path, sources, includes)
    return path
