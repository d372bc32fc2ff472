"""Builds driver.cu, the CUDA kernels without JAX, and runs it.

  python tests/cuda/driver/run.py              with nvcc for the GPU that is here:
                                               plainly, memcheck, racecheck
  python tests/cuda/driver/run.py plain        plainly alone
  python tests/cuda/driver/run.py --build --arch sm_90      build it, run nothing
  python tests/cuda/driver/run.py --host       as C++, one fiber per CUDA thread
  python tests/cuda/driver/run.py --host --sanitize

What is built lies in build/cuda_driver.
"""

import argparse
import hashlib
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
HERE = ROOT / "tests" / "cuda" / "driver"
DEFINITION = ROOT / "tests" / "native"
ON_HOST = ROOT / "tests" / "cuda" / "on_host"
CSRC = ROOT / "csrc"
BUILD = ROOT / "build" / "cuda_driver"
KERNELS = sorted(CSRC.glob("ops/*/cuda_*.cu"))

sys.path.insert(0, str(ROOT / "tools"))

import find_nvcc  # noqa: E402

# What compute-sanitizer is told; what it finds is this exit status.
_FOUND = "99"
TOOLS = {
    "memcheck": ["--tool=memcheck", "--leak-check=full"],
    "racecheck": ["--tool=racecheck", "--racecheck-report=all"],
}
MODES = ("plain", *TOOLS)


class Failure(Exception):
    """Something that does not build or run; the text says what."""


def build_for_device(architecture: str) -> pathlib.Path:
    """The driver for a GPU; "native" is the one that is here."""
    try:
        nvcc, _ = find_nvcc.find()
    except find_nvcc.NvccNotFoundError as error:
        raise Failure(str(error)) from None
    link = [nvcc, f"-arch={architecture}"]
    # The packages' nvcc looks for its libraries in lib64, and they are in lib.
    libraries = pathlib.Path(nvcc).parent.parent / "lib"
    if (libraries / "libcudart_static.a").exists():
        link.append(f"-L{libraries}")
    flags = ["-std=c++17", "-lineinfo", "-Xcompiler=-ffp-contract=off,-Wall,-Wextra"]
    includes = [f"-I{path}" for path in (HERE / "on_device", DEFINITION, CSRC)]
    sources = [*KERNELS, HERE / "driver.cu"]
    return _build("device", [*link[:2], *flags, *includes], link, sources)


def build_for_host(sanitize: bool = False) -> pathlib.Path:
    """The driver with its kernels as C++, perhaps under ASan and UBSan."""
    compiler = shlex.split(os.environ.get("CXX") or "c++")
    if sanitize:
        compiler += ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    flags = ["-std=c++17", "-O1", "-g", "-ffp-contract=off", "-Wall", "-Wextra"]
    includes = [f"-I{path}" for path in (ON_HOST, HERE / "on_host", DEFINITION, CSRC)]
    sources = [*KERNELS, HERE / "driver.cu", ON_HOST / "fibers.cc"]
    return _build(
        "host", [*compiler, *flags, *includes, "-x", "c++"], compiler, sources
    )


def _build(
    kind: str, compile_: list[str], link: list[str], sources: list[pathlib.Path]
) -> pathlib.Path:
    """Compiles each source at once, unless that was done."""
    digest = hashlib.sha256(repr(compile_).encode())
    for folder in (CSRC, HERE, DEFINITION, ON_HOST):
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".cc", ".cu", ".h"):
                digest.update(path.read_bytes())
    folder = BUILD / f"{kind}-{digest.hexdigest()[:16]}"
    driver = folder / "driver"
    # Another GPU may be the native one by now.
    if driver.exists() and "-arch=native" not in compile_:
        return driver
    folder.mkdir(parents=True, exist_ok=True)
    objects = [
        folder / f"{source.parent.name}-{source.name}.{os.getpid()}.o"
        for source in sources
    ]
    running = [
        subprocess.Popen([*compile_, "-c", source, "-o", target])
        for source, target in zip(sources, objects, strict=True)
    ]
    made = folder / f"driver.{os.getpid()}"
    try:
        if any([process.wait() for process in running]):
            raise Failure("the driver does not compile")
        if subprocess.run([*link, *objects, "-o", made]).returncode:
            raise Failure("the driver does not link")
        made.rename(driver)
    finally:
        for path in (*objects, made):
            path.unlink(missing_ok=True)
    return driver


def run_on_device(driver: pathlib.Path, mode: str) -> None:
    """Once, plainly or under a tool of compute-sanitizer."""
    command = [driver]
    if mode != "plain":
        beside = pathlib.Path(find_nvcc.find()[0]).with_name("compute-sanitizer")
        sanitizer = shutil.which("compute-sanitizer")
        if not sanitizer and not beside.exists():
            raise Failure(f"{mode}: compute-sanitizer is not installed")
        options = [*TOOLS[mode], f"--error-exitcode={_FOUND}"]
        command = [sanitizer or beside, *options, driver]
    status = subprocess.run(command).returncode
    if status:
        raise Failure(f"{mode}: exit status {status}")


def run_on_host(driver: pathlib.Path) -> None:
    """A process per core, each with its part of the sizes."""
    parts = len(os.sched_getaffinity(0))
    running = [
        subprocess.Popen([driver, str(part), str(parts)]) for part in range(parts)
    ]
    if any([process.wait() for process in running]):
        raise Failure("host: a check failed")


def main() -> int:
    """Builds, runs, and says how long each took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("modes", nargs="*", help=f"of {', '.join(MODES)}; default: all")
    add("--host", action="store_true", help="as C++, without a GPU")
    add("--sanitize", action="store_true", help="with --host: ASan and UBSan")
    add("--build", action="store_true", help="run nothing")
    add("--arch", default="native", help="nvcc's -arch; default: %(default)s")
    args = parser.parse_args()
    if unknown := set(args.modes) - set(MODES):
        parser.error(f"no such mode: {', '.join(sorted(unknown))}")

    def timed(name, function, *arguments):
        start = time.perf_counter()
        result = function(*arguments)
        print(f"{name}: {time.perf_counter() - start:.1f} s", flush=True)
        return result

    try:
        if args.host:
            driver = timed("build", build_for_host, args.sanitize)
            steps = [("host", run_on_host, driver)]
        else:
            driver = timed("build", build_for_device, args.arch)
            modes = args.modes or MODES
            steps = [(mode, run_on_device, driver, mode) for mode in modes]
        for step in [] if args.build else steps:
            timed(*step)
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
