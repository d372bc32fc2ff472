"""Whether the CUDA sources are those that `make cuda-usage` last found no spill in.

    python tests/cuda/usage.py changed         1 where they are, 0 where they are not
    python tests/cuda/usage.py keep < REPORT   writes usage.txt: their hash, the report

CI compiles the CUDA kernels only where they changed; nightly it always does. It needs
no package, because it runs before anything is built.
"""

import hashlib
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
KEPT = pathlib.Path(__file__).with_name("usage.txt")


def sources(root=ROOT):
    """All that the CUDA module is made of and built by."""
    found = {root / "CMakeLists.txt", *(root / "tools").glob("*.py")}
    shared = (root / "csrc").rglob("*.h")
    found |= {path for path in shared if not path.name.startswith("cpu_")}
    found |= {*(root / "csrc").rglob("*.cu"), *(root / "csrc").glob("cuda/*.cc")}
    found |= {*(root / "csrc").glob("core/*.cc"), *(root / "csrc").rglob("cuda_*.cc")}
    return sorted(path for path in found if "cpu" not in path.parent.parts)


def digest(root=ROOT):
    """The hash of the sources, and of where they stand."""
    total = hashlib.sha256()
    for path in sources(root):
        total.update(f"{path.relative_to(root).as_posix()}\0".encode())
        total.update(path.read_bytes() + b"\0")
    return total.hexdigest()


def kept():
    """The hash in usage.txt, or nothing."""
    if not KEPT.exists():
        return ""
    return KEPT.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("sources ")


def main(arguments):
    if arguments == ["changed"]:
        return int(digest() == kept())
    if arguments == ["keep"]:
        report = sys.stdin.read()
        KEPT.write_text(f"sources {digest()}\n\n{report}", encoding="utf-8")
        return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
