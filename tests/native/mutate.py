"""Changes csrc one place at a time and sees whether the C++ tests notice.

  python tests/native/mutate.py                     all of SOURCES
  python tests/native/mutate.py core/caffe_bins.h   one file
  python tests/native/mutate.py --list

Every comparison, every +1 and -1, every conversion that stands for floor, and the
step that makes a ceil of it. A change that compiles and that nothing notices is a
survivor: either a test is missing, or the change means the same.
"""

import argparse
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from tests.native import run

# What kernels are made of, and what plans know of where cells lie.
_OF_KERNELS = [
    *("core/compare.h", "core/half.h", "cpu/vectors.h", "cpu/transposes.h"),
    *(
        str(path.relative_to(run.CSRC))
        for path in sorted(run.CSRC.glob("ops/*/cpu_*.h"))
        if path.name not in ("cpu_kernels.h", "cpu_plan.h", "cpu_plans.h")
        and "JAX_ROIPOOL_ISA" in path.read_text()
    ),
]
SOURCES = ["core/boxes.h", "core/caffe_bins.h", "core/float32.h", *_OF_KERNELS]
# Operators stand between spaces; the brackets of templates do not.
CHANGES = [
    (r"(?<= )<(?= )", "<="),
    (r"(?<= )<=(?= )", "<"),
    (r"(?<= )>(?= )", ">="),
    (r"(?<= )>=(?= )", ">"),
    (r"(?<= )==(?= )", "!="),
    (r"(?<= )!=(?= )", "=="),
    (r"(?<= )\+ 1\b(?!\.|x)", "+ 0"),
    (r"(?<= )- 1\b(?!\.|x)", "- 0"),
    # caffe_bins.h: floor, and what makes ceil of it.
    (r"static_cast<int32_t>\((low|high)\)", r"static_cast<int32_t>(\1 + 0.5f)"),
    (r"static_cast<int32_t>\(scaled\)", "static_cast<int32_t>(scaled + 0.5f)"),
    (r"end \+= static_cast<int32_t>.*;", ";"),
]
# One instruction set, whose vectors leave no room in what is planned for them.
FLAGS = ["-std=c++17", "-O0", "-ffp-contract=off", "-Wno-psabi", "-w"]
ISA = ["-DJAX_ROIPOOL_ISA=baseline", *run.ISAS.get("avx512", [])]
SECONDS = 40


@dataclasses.dataclass(frozen=True)
class Mutant:
    file: str
    line: int
    column: int
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.old} -> {self.new or '-'}"


def mutants(file: str) -> list[Mutant]:
    found = []
    for number, text in enumerate((run.CSRC / file).read_text().splitlines(), 1):
        code = text.split("//")[0]
        if code.lstrip().startswith(("#", "template")) or "static_assert" in code:
            continue
        for pattern, new in CHANGES:
            for match in re.finditer(pattern, code):
                changed = match.expand(new)
                mutant = Mutant(file, number, match.start(), match[0], changed)
                found.append(mutant)
    return found


def write(mutant: Mutant, csrc: pathlib.Path) -> None:
    lines = (run.CSRC / mutant.file).read_text().splitlines(keepends=True)
    text = lines[mutant.line - 1]
    end = mutant.column + len(mutant.old)
    lines[mutant.line - 1] = text[: mutant.column] + mutant.new + text[end:]
    (csrc / mutant.file).write_text("".join(lines))


class Laboratory:
    """A copy of csrc, what is compiled of it, and the tests linked to that.

    Compiling takes most of the time, and least without optimisation.
    """

    def __init__(self, folder: pathlib.Path, executions: int) -> None:
        self.folder, self.executions = folder, executions
        self.csrc = folder / "csrc"
        shutil.copytree(run.CSRC, self.csrc)
        self.cases = folder / "cases.bin"
        subprocess.run([sys.executable, run.HERE / "cases.py", self.cases], check=True)
        kernels = sorted(self.csrc.glob("ops/*/cpu_kernels.cc"))
        others = run.sources("fuzz", self.csrc)
        self.tests = [self._object(p) for p in others if run.HERE in p.parents]
        self.kernels = [self._object(path) for path in kernels]
        self.plans = [self._object(p) for p in others if self.csrc in p.parents]
        for source in (*self.tests, *self.kernels, *self.plans):
            self._compile(*source)

    def _object(self, source: pathlib.Path):
        return source, self.folder / f"{'-'.join(source.parts[-3:])}.o"

    def _compile(self, source: pathlib.Path, target: pathlib.Path) -> bool:
        include = [f"-I{path}" for path in (self.csrc, run.HERE, run.HERE / "on_cpu")]
        command = [*run.compiler("plain"), *FLAGS, *ISA, *include]
        if run.HERE in source.parents:
            command.append("-O2")
        command += ["-c", source, "-o", target]
        return subprocess.run(command, capture_output=True).returncode == 0

    def _notices(self) -> str:
        program = self.folder / "fuzz"
        objects = [target for _, target in (*self.tests, *self.kernels, *self.plans)]
        link = [*run.compiler("plain"), *objects, "-o", program]
        subprocess.run(link, check=True)
        command = [program, "--executions", str(self.executions), run.CORPUS]
        try:
            done = subprocess.run(
                command, cwd=self.folder, capture_output=True, timeout=SECONDS
            )
        except subprocess.TimeoutExpired:
            return "it does not end"
        return "the fuzz target fails" if done.returncode else ""

    def check(self) -> None:
        """Nothing is changed yet, and nothing may be noticed."""
        if said := self._notices():
            raise run.Failure(f"unchanged sources: {said}")

    def examine(self, mutant: Mutant) -> str:
        """What notices it; empty where nothing does."""
        write(mutant, self.csrc)
        # Kernels know no boxes.
        kernels = mutant.file in _OF_KERNELS
        sources = self.kernels if kernels else self.plans
        try:
            if not all(self._compile(*source) for source in sources):
                return "it does not compile"
            return self._notices()
        finally:
            shutil.copy(run.CSRC / mutant.file, self.csrc / mutant.file)
            if not kernels:
                for source in sources:
                    self._compile(*source)


def main() -> int:
    """One line for each change, and the share of those that are noticed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", default=SOURCES)
    parser.add_argument("--executions", type=int, default=15_000)
    parser.add_argument("--list", action="store_true", help="change nothing")
    args = parser.parse_args()
    found = [mutant for file in args.files for mutant in mutants(file)]
    if args.list:
        print(*found, f"{len(found)} changes", sep="\n")
        return 0
    noticed, survivors = 0, []
    with tempfile.TemporaryDirectory() as folder:
        laboratory = Laboratory(pathlib.Path(folder), args.executions)
        laboratory.check()
        for mutant in found:
            start = time.perf_counter()
            said = laboratory.examine(mutant)
            seconds = time.perf_counter() - start
            print(f"{mutant}: {said or 'SURVIVES'} ({seconds:.1f} s)", flush=True)
            if said == "it does not compile":
                continue
            if said:
                noticed += 1
            else:
                survivors.append(mutant)
    share = 100 * noticed / max(noticed + len(survivors), 1)
    print(f"{noticed} of {noticed + len(survivors)} changes noticed, {share:.1f} %")
    print(*survivors, sep="\n")
    return 0


if __name__ == "__main__":
    os.environ.pop("UBSAN_OPTIONS", None)
    sys.exit(main())
