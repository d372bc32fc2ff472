"""RoI max pooling and RoIAlign on CPU: ours beside peers and the limit, in one run.

    make bench
    python benchmarks/roi_pool_cpu.py --workload vgg16_test,tiny --layout NCHW
    python benchmarks/roi_pool_cpu.py --op roi_align --workload fpn --grad
    python benchmarks/roi_pool_cpu.py --workload none --plots .

One table per workload (workloads.py): median and minimum in milliseconds, the
ratio to ours, the ratio to what memory allows (limit.py), and the memory that a
call takes at its peak. With `--grad` also the forward pass with argmax, the
backward pass alone, and both together; the largest workload then needs 17 GB.

Peers (peers.py) are ONNX Runtime's MaxRoiPool, OpenVINO's ROIPooling and
torchvision's roi_pool, each used where it is importable and given its own layout
(NCHW). All get the same number of threads, take turns, and rotate between two
inputs. RoIAlign has theirs of that, one operator for each level of a pyramid, given
RoIs sorted by level beforehand; torchvision's `MultiScaleRoIAlign`, which sorts them
itself; and plain JAX, NHWC: the package's own, and the best that we can write in one
function (jax_peers.py). It has no limit yet.

Everybody's results are checked before they are timed, against maxima, argmax and
sums taken bin by bin in NumPy (inputs.py). OpenVINO divides bins in integers
instead of float32, so its differing values are counted and not held against it.
RoIAlign is checked against weights in float64: its note is the largest error.

"cpu ms" is the time of all threads. Where other things run on the machine it says
more than the clock, but of two threads that share a call it does not tell.

A time includes dispatch (JAX's, of ours) and the allocation of results, as users
pay it, by the C library's allocator unless the environment sets another. It does
not include freeing them: a result is dropped when the clock has stopped, whoever
made it. Rows named "reused" allocate nothing: they write where their last result
lies, as a server can and a JAX user cannot.

In each turn a contestant first makes one to three calls that do not count.
Without them, a call that comes seconds after the last of its size can take five
times as long on a virtual machine: its kernel hands free memory back to the host
and must get it again, page by page.
"""

import argparse
import json
import os
import pathlib
import sys
import tempfile
import time
from typing import Any

from workloads import OPS


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cores = len(os.sched_getaffinity(0))
    add = parser.add_argument
    add("--op", choices=OPS, default="roi_pool", help="default: %(default)s")
    add("--workload", action="append", help='repeatable; or "none"; default: all')
    add("--layout", default="NHWC,NCHW", help="ours; default: %(default)s")
    add("--dtype", default="float32", help="features; default: %(default)s")
    add("--threads", type=int, default=cores, help="default: all cores")
    add("--grad", action="store_true", help="also argmax, backward, and both passes")
    add("--seconds", type=float, default=8.0, help="per workload; default: 8")
    add("--turns", type=int, default=5, help="at least, per workload; default: 5")
    add("--json", type=pathlib.Path, help="also write the numbers here")
    add("--plots", type=pathlib.Path, help="also write PNGs into this directory")
    args = parser.parse_args()
    if not 1 <= args.threads <= cores:
        parser.error(f"--threads must be 1 to {cores} here")
    loads = OPS[args.op]
    named = ",".join(args.workload or loads).split(",")
    args.workload = [name for name in named if name != "none"]
    if unknown := set(args.workload) - set(loads):
        parser.error(
            f"no such workload: {', '.join(sorted(unknown))}; there are "
            f"{', '.join(loads)}"
        )
    return args


def main() -> None:
    """Measures what the arguments name and prints it."""
    args = arguments()
    # Before JAX is imported: XLA takes as many threads as the process may use
    # cores.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    os.environ["JAX_PLATFORMS"] = "cpu"

    import machine

    from jax_roipool import backends

    about = {
        "date": time.strftime("%Y-%m-%d"),
        "processor": machine.processor(),
        "threads": args.threads,
        "load": f"{os.getloadavg()[0]:.1f} before",
        "dtype": args.dtype,
        "cpu_target": backends.CPU.choice,
        "allocator": machine.allocator(),
        "transparent_hugepage": machine.huge_pages(),
        **machine.versions(),
        "command": " ".join(["python", *sys.argv]),
    }
    for key, value in about.items():
        print(f"{key}: {value}")
    results = measure(args, about)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def measure(args: argparse.Namespace, about: dict[str, Any]) -> dict[str, Any]:
    """Prints tables, draws plots, and gives the numbers."""
    import limit
    import ours
    import table
    from inputs import WrongAnswer
    from lineup import Settings, line_up
    from measure import time_in_turns
    from verify import Verifier

    if args.plots:
        import plots  # matplotlib, if it is missing, is missed at once

    results: dict[str, Any] = {"about": about, "workloads": {}}
    with tempfile.TemporaryDirectory() as directory, Verifier() as verifier:
        no_limit, library = "", ""
        try:
            library = limit.build(directory)
        except OSError as error:
            no_limit = f"limit: not measured ({error})"
        settings = Settings(
            layouts=tuple(args.layout.split(",")),
            modes=ours.MODES if args.grad else (ours.FORWARD,),
            dtype=args.dtype,
            threads=args.threads,
            limit_library=library,
        )
        print(table.EXPLANATION)
        try:
            for name in args.workload:
                load = OPS[args.op][name]
                first_calls = verifier.first_calls(load, settings, name)
                lineup = line_up(load, settings)
                time_in_turns(lineup.everybody(), args.seconds, name, args.turns)
                rows = table.rows(lineup, first_calls)
                notes = lineup.notes + ([no_limit] if no_limit else [])
                table.show(f"{name}: {load}", rows, notes)
                results["workloads"][name] = {"times": rows, "notes": notes}
                del lineup  # gigabytes, before the next one's
            if args.plots:
                results["plots"] = plots.make(
                    args.plots, settings, verifier, args.seconds / 4, about
                )
        except WrongAnswer as wrong:
            raise SystemExit(str(wrong)) from None
    return results


if __name__ == "__main__":
    main()
