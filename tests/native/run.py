"""Builds the C++ tests of csrc with sanitizers or without, and runs them.

  python tests/native/run.py asan      the driver and some fuzzing under ASan and UBSan
  python tests/native/run.py tsan      the driver's threads and cases under TSan
  python tests/native/run.py plain     the driver and some fuzzing, compiled as shipped
  python tests/native/run.py fuzz      clang's guided fuzzer, until it is stopped
  python tests/native/run.py coverage  lines of csrc that corpus and driver reach
  python tests/native/run.py ... --cuda           the fuzzing of CUDA's kernels as C++
  python tests/native/run.py ... --executions N   how long to fuzz
  python tests/native/run.py ... --seed S         other inputs

What is built lies in build/native. No jaxlib runs; its headers are needed.
"""

import argparse
import hashlib
import importlib.util
import os
import pathlib
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "native"
ON_HOST = ROOT / "tests" / "cuda_on_host"
CSRC = ROOT / "csrc"
BUILD = ROOT / "build" / "native"
CORPUS = HERE / "corpus"

# As CMakeLists.txt has them.
TARGETS = {"baseline": []}
if platform.machine() in ("x86_64", "AMD64"):
    TARGETS["avx2"] = ["-mavx2"]
    TARGETS["avx512"] = [
        *("-mavx2", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
    ]

# At -O0 nothing that a sanitizer would see is optimised away, and GCC compiles
# kernels under both sanitizers in a quarter of the time.
FLAGS = {
    "plain": ["-O3"],
    "asan": ["-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "tsan": ["-O1", "-fsanitize=thread"],
    "coverage": ["-O0", "--coverage"],
    "fuzz": [
        *("-O1", "-fsanitize=fuzzer-no-link,address,undefined"),
        *("-fno-sanitize-recover=all", "-Wno-psabi"),
    ],
}
# Reports that name lines, exits that do not look like success.
ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_stack_use_after_return=1:strict_string_checks=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}
PARTS = {
    "plain": ["cases", "threads", "lies", "limits", "memory"],
    "asan": ["cases", "threads", "lies", "limits"],
    # Its shadow memory leaves no room for arrays past 2^31 elements.
    "tsan": ["cases", "threads"],
    "coverage": ["cases", "threads", "lies", "limits", "memory"],
}
EXECUTIONS = {"plain": 100_000, "asan": 7_000, "coverage": 10_000}
EXECUTIONS_CUDA = {"plain": 4_000, "asan": 400, "coverage": 400}

CORE = ["problem.cc"]
CPU = ["cpu/plan.cc", "cpu/blocks.cc", "cpu/dispatch.cc"]
KERNELS_CUDA = ["cuda/pool.cu", "cuda/gather.cu", "cuda/scatter.cu"]


class Failure(Exception):
    """Something that does not build or run; the text says what."""


def compiler(mode: str) -> list[str]:
    if mode != "fuzz":
        return shlex.split(os.environ.get("CXX") or "g++")
    found = os.environ.get("CLANGXX") or shutil.which("clang++")
    if not found:
        raise Failure("fuzz: clang++ is not installed; say CLANGXX=...")
    return shlex.split(found)


def ffi_include() -> pathlib.Path:
    """Where jaxlib has XLA's FFI headers; it is not imported."""
    found = importlib.util.find_spec("jaxlib")
    if found is None or found.origin is None:
        raise Failure("no jaxlib here, whose headers the handlers include")
    return pathlib.Path(found.origin).parent / "include"


def _digest(command: list[str]) -> str:
    digest = hashlib.sha256(repr(command).encode())
    for folder in (CSRC, HERE, ON_HOST):
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".cc", ".cu", ".h"):
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _run_all(commands: list[list[str]]) -> None:
    """As many at once as there are cores."""
    waiting, running, failed = list(commands), [], False
    while waiting or running:
        while waiting and len(running) < len(os.sched_getaffinity(0)):
            running.append(subprocess.Popen(waiting.pop(0)))
        failed = running.pop(0).wait() != 0 or failed
    if failed:
        raise Failure("it does not compile")


def build(mode: str, program: str, csrc: pathlib.Path = CSRC) -> pathlib.Path:
    """The program "driver", "fuzz" or "fuzz_cuda", made unless it is there."""
    base = [*compiler(mode), "-std=c++17", "-g1", "-ffp-contract=off"]
    base += ["-Wall", "-Wextra", "-Wno-psabi", *FLAGS[mode]]
    folder = BUILD / f"{mode}-{_digest([*base, str(csrc)])}"
    made = folder / program
    if made.exists():
        return made
    folder.mkdir(parents=True, exist_ok=True)
    cuda = program == "fuzz_cuda"
    include = [f"-I{path}" for path in ([ON_HOST] if cuda else []) + [csrc, HERE]]
    if len(TARGETS) > 1:
        include.append("-DJAX_ROIPOOL_X86")
    if program == "driver":
        include += ["-isystem", str(ffi_include())]
        sources = [csrc / name for name in [*CORE, *CPU, "cpu/handlers.cc"]]
        sources += [HERE / name for name in ("call.cc", "driver.cc", "limits.cc")]
    else:
        sources = [csrc / n for n in CORE + (KERNELS_CUDA if cuda else CPU)]
        names = ["call.cc", "fuzz.cc", "ops_cuda.cc" if cuda else "ops_cpu.cc"]
        sources += [HERE / name for name in names]
        sources += [] if mode == "fuzz" else [HERE / "fuzz_main.cc"]
        sources += [ON_HOST / "fibers.cc"] if cuda else []
    objects, commands = [], []
    if not cuda:
        for name, flags in TARGETS.items():
            # TSan looks at what threads share, of which kernels know nothing.
            if mode == "tsan" and name != "baseline":
                continue
            objects.append(folder / f"kernels_{name}.o")
            if not objects[-1].exists():
                source = ["-c", csrc / "cpu/kernels.cc", "-o", objects[-1]]
                target = f"-DJAX_ROIPOOL_TARGET={name}"
                commands.append([*base, f"-I{csrc}", target, *flags, *source])
    if mode == "tsan" and "-DJAX_ROIPOOL_X86" in include:
        include.remove("-DJAX_ROIPOOL_X86")
    for source in sources:
        # CUDA's have headers of the host before those of csrc.
        objects.append(folder / f"{'cuda-' if cuda else ''}{source.name}.o")
        if not objects[-1].exists():
            command = [*base, *include, "-x", "c++", "-c", source, "-o", objects[-1]]
            commands.append(command)
    _run_all([[str(word) for word in command] for command in commands])
    link = [*base, *objects, "-o", made, "-pthread"]
    if mode == "fuzz":
        link[link.index("-fsanitize=fuzzer-no-link,address,undefined")] = (
            "-fsanitize=fuzzer,address,undefined"
        )
    if subprocess.run([str(word) for word in link]).returncode:
        raise Failure("it does not link")
    return made


def _timed(name: str, function, *arguments, **options):
    start = time.perf_counter()
    result = function(*arguments, **options)
    print(f"{name}: {time.perf_counter() - start:.1f} s", flush=True)
    return result


def _call(command: list) -> None:
    folder = BUILD / "failures"
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**ENVIRONMENT, **os.environ}
    status = subprocess.run(command, env=environment, cwd=folder).returncode
    if status:
        said = " ".join(str(word) for word in command)
        raise Failure(f"{said}: exit status {status}; inputs are kept in {folder}")


def run_driver(mode: str, driver: pathlib.Path) -> None:
    cases = BUILD / "cases.bin"
    subprocess.run([sys.executable, HERE / "cases.py", cases], check=True)
    for part in PARTS[mode]:
        _timed(part, _call, [driver, part, *([cases] if part == "cases" else [])])


def run_fuzz(mode: str, program: str, executions: int, seed: int) -> None:
    made = _timed(f"build {mode} {program}", build, mode, program)
    command = [made, "--executions", str(executions), "--seed", str(seed)]
    _timed(program, _call, [*command, CORPUS])


def run_clang(program: str, seed: int) -> None:
    """Until it finds something or is stopped; what it learns is kept in build."""
    made = _timed(f"build fuzz {program}", build, "fuzz", program)
    learnt = BUILD / f"learnt-{program}"
    learnt.mkdir(exist_ok=True)
    options = ["-max_len=1024", "-len_control=0", f"-seed={seed}"]
    _call(
        [made, *options, *shlex.split(os.environ.get("FUZZ_ARGS", "")), learnt, CORPUS]
    )


def report_coverage(folder: pathlib.Path) -> float:
    """Prints the lines that were not reached, file by file; the share of all."""
    reached: dict[str, dict[int, bool]] = {}
    for notes in sorted(folder.glob("*.gcno")):
        done = subprocess.run(
            ["gcov", "--stdout", "--preserve-paths", notes],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        file = ""
        for line in done.stdout.splitlines():
            found = re.match(r"\s*(\S+?)\*?:\s*(\d+):(.*)", line)
            if not found:
                continue
            count, number, text = found[1], int(found[2]), found[3]
            if number == 0:
                if text.startswith("Source:"):
                    path = pathlib.Path(text.removeprefix("Source:"))
                    inside = path.is_absolute() and path.is_relative_to(CSRC)
                    file = str(path.relative_to(CSRC)) if inside else ""
            # A brace alone is the compiler's, which cleans up where something
            # throws: nothing of ours stands there.
            elif file and count != "-" and text.strip() not in ("}", "};"):
                lines = reached.setdefault(file, {})
                # Of a template's instances and of every instruction set, any.
                hit = not count.startswith(("#", "="))
                lines[number] = lines.get(number, False) or hit
    total = missed = 0
    for file, lines in sorted(reached.items()):
        missing = sorted(number for number, hit in lines.items() if not hit)
        total, missed = total + len(lines), missed + len(missing)
        print(f"{file}: {len(lines) - len(missing)} of {len(lines)} lines", end="")
        print(f", not {', '.join(map(str, missing))}" if missing else "")
    share = 100 * (total - missed) / max(total, 1)
    print(f"in all {total - missed} of {total} lines, {share:.1f} %")
    return share


def main() -> int:
    """Builds, runs, and says how long each took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("mode", choices=FLAGS)
    add("--cuda", action="store_true", help="fuzz CUDA's kernels as C++, nothing else")
    add("--executions", type=int, help="ops that reach a kernel while fuzzing")
    add("--seed", type=int, default=1, help="of the generated inputs")
    add("--fuzz-only", action="store_true", help="no driver")
    args = parser.parse_args()
    mode, program = args.mode, "fuzz_cuda" if args.cuda else "fuzz"
    usual = EXECUTIONS_CUDA if args.cuda else EXECUTIONS
    executions = usual.get(mode, 0) if args.executions is None else args.executions
    try:
        if mode == "fuzz":
            run_clang(program, args.seed)
            return 0
        if not (args.cuda or args.fuzz_only):
            driver = _timed(f"build {mode} driver", build, mode, "driver")
            run_driver(mode, driver)
        if executions:
            run_fuzz(mode, program, executions, args.seed)
        if mode == "coverage":
            report_coverage(build(mode, program).parent)
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
