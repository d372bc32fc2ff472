"""Builds the C++ tests of csrc with sanitizers or without, and runs them.

  python tests/native/run.py asan      the driver and some fuzzing under ASan and UBSan
  python tests/native/run.py tsan      the driver's threads and cases under TSan
  python tests/native/run.py plain     the driver and some fuzzing, compiled as shipped
  python tests/native/run.py fuzz      clang's guided fuzzer, until it is stopped
  python tests/native/run.py coverage  lines of csrc that corpus and driver reach
  python tests/native/run.py keep FILE...   adds what failed to corpus.txt
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
ON_HOST = ROOT / "tests" / "cuda" / "on_host"
CSRC = ROOT / "csrc"
BUILD = ROOT / "build" / "native"
CORPUS = HERE / "corpus.txt"

# As CMakeLists.txt has them.
ISAS = {"baseline": []}
if platform.machine() in ("x86_64", "AMD64"):
    ISAS["avx2"] = ["-mavx2"]
    ISAS["avx512"] = [
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
    "plain": ["cases", "threads", "malformed", "limits", "memory"],
    "asan": ["cases", "threads", "malformed", "limits"],
    # Its shadow memory leaves no room for arrays past 2^31 elements.
    "tsan": ["cases", "threads"],
    "coverage": ["cases", "threads", "malformed", "limits", "memory"],
}
EXECUTIONS = {"plain": 100_000, "asan": 7_000, "coverage": 10_000}
EXECUTIONS_CUDA = {"plain": 4_000, "asan": 400, "coverage": 400}

# What makes a program, beside kernels: of csrc and of tests, those of every op.
# All but the driver do without XLA, and so without handlers.
_CPU = ["core/*.cc", "cpu/dispatch.cc", "cpu/work.cc", "ops/*/cpu_*.cc"]
_CALLS = ["call.cc", "arrays.cc", "op.cc", "*/op.cc"]
_FUZZ = [*_CALLS, "run_ops.cc", "fuzz.cc"]
PROGRAMS = {
    "driver": (
        _CPU,
        [
            *(*_CALLS, "frames.cc", "*/frames.cc", "driver.cc", "malformed.cc"),
            "limits.cc",
        ],
    ),
    "fuzz": (_CPU, [*_FUZZ, "on_cpu/*.cc", "*/on_cpu.cc"]),
    "fuzz_cuda": (
        ["core/*.cc", "ops/*/cuda_*.cu"],
        [*_FUZZ, "on_cuda/*.cc", "*/on_cuda.cc"],
    ),
}


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


def sources(program: str, csrc: pathlib.Path, mode: str = "") -> list[pathlib.Path]:
    """What makes a program, but for the kernels of instruction sets."""
    of_csrc, of_tests = PROGRAMS[program]
    patterns = [(csrc, name) for name in of_csrc] + [(HERE, name) for name in of_tests]
    if program != "driver" and mode != "fuzz":
        patterns.append((HERE, "fuzz_main.cc"))
    if program == "fuzz_cuda":
        patterns.append((ON_HOST, "fibers.cc"))
    found = [path for root, name in patterns for path in sorted(root.glob(name))]
    left_out = {"cpu_kernels.cc"}
    if program != "driver":
        left_out.add("cpu_handlers.cc")
    return [path for path in found if path.name not in left_out]


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
    backend = HERE / ("on_cuda" if cuda else "on_cpu")
    folders = [*([ON_HOST] if cuda else []), csrc, HERE, backend]
    include = [f"-I{path}" for path in folders]
    # TSan looks at what threads share, of which kernels know nothing.
    isas = {"baseline": []} if mode == "tsan" else ISAS
    if len(isas) > 1:
        base.append("-DJAX_ROIPOOL_X86")
    if program == "driver":
        include += ["-isystem", str(ffi_include())]
    objects, commands = [], []

    def add(source, name, *options):
        objects.append(folder / f"{name}.o")
        if not objects[-1].exists():
            commands.append([*base, *options, "-c", source, "-o", objects[-1]])

    if not cuda:
        for isa, flags in isas.items():
            for source in sorted(csrc.glob("ops/*/cpu_kernels.cc")):
                options = [f"-I{csrc}", f"-DJAX_ROIPOOL_ISA={isa}", *flags]
                add(source, f"{source.parent.name}-kernels-{isa}", *options)
    for source in sources(program, csrc, mode):
        # CUDA's have headers of the host before those of csrc.
        place = "-".join(source.parts[-3:])
        add(source, f"{'cuda-' if cuda else ''}{place}", *include, "-x", "c++")
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


def corpus() -> list[bytes]:
    lines = CORPUS.read_text().splitlines()
    return [bytes.fromhex(line) for line in lines if not line.startswith("#")]


def keep(inputs: list[pathlib.Path]) -> None:
    """Adds inputs to the corpus, those that it does not have."""
    known = set(corpus())
    for path in inputs:
        data = path.read_bytes()
        if data and data not in known:
            with CORPUS.open("a") as file:
                file.write(data.hex() + "\n")


def run_clang(program: str, seed: int) -> None:
    """Until it finds something or is stopped; what it learns is kept in build."""
    made = _timed(f"build fuzz {program}", build, "fuzz", program)
    learnt = BUILD / f"learnt-{program}"
    learnt.mkdir(exist_ok=True)
    for number, data in enumerate(corpus()):
        (learnt / f"corpus-{number}").write_bytes(data)
    options = ["-max_len=1024", "-len_control=0", f"-seed={seed}"]
    _call([made, *options, *shlex.split(os.environ.get("FUZZ_ARGS", "")), learnt])


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
    add("mode", choices=[*FLAGS, "keep"])
    add("inputs", nargs="*", type=pathlib.Path, help="files to keep")
    add("--cuda", action="store_true", help="fuzz CUDA's kernels as C++, nothing else")
    add("--executions", type=int, help="ops that reach a kernel while fuzzing")
    add("--seed", type=int, default=1, help="of the generated inputs")
    add("--fuzz-only", action="store_true", help="no driver")
    args = parser.parse_args()
    mode, program = args.mode, "fuzz_cuda" if args.cuda else "fuzz"
    usual = EXECUTIONS_CUDA if args.cuda else EXECUTIONS
    executions = usual.get(mode, 0) if args.executions is None else args.executions
    try:
        if mode == "keep":
            keep(args.inputs)
            return 0
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
