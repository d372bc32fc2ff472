"""RoI max pooling on a GPU, beside torchvision and plain JAX.

  make bench-cuda
  python benchmarks/roi_pool_cuda.py --workload vgg16_train,tiny --json gpu.json
  python benchmarks/roi_pool_cuda.py --predict       # needs no GPU

One table per workload (workloads.py): median and minimum of the time that the
device takes for a call, in microseconds; the ratio to torchvision, whose forward
pass always writes the argmax; the least time that the bytes which must move take
at the bandwidth of a large copy, and what share of that bandwidth the median is
(floors.py).

Time on the device is that of every kernel, memset and copy that a call starts, as
jax.profiler and torch.profiler see them. "chained" is the wall time per call of
100 calls in one jit, of which each waits for the last by way of one small kernel;
"queued" that of calls dispatched one by one from Python, which takes longer than
a short call itself. Calls rotate between so many sets of inputs, and keep as many
results, that they touch more than twice what L2 holds: "sets".

Ours must give what the CPU kernels give, bit for bit, before it is timed;
torchvision's differing values are counted. torchvision is given its native
contiguous NCHW. Peers run in processes of their own, plain JAX (our lowering for
platforms without kernels) with a limit of time. Memory is not preallocated.
"""

import argparse
import json
import os
import pathlib
import sys
import time
from typing import Any

import floors
from workloads import DETECTORS, WORKLOADS, Workload

MODES = ("forward", "argmax", "backward")
LAYOUTS = ("NHWC", "NCHW")
DTYPES = ("float32", "bfloat16", "float16")
_TORCH_SECONDS = 60.0  # for a workload: a limit, not what it takes


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--workload", default=",".join(WORKLOADS), help="default: all")
    add("--layout", default=",".join(LAYOUTS), help="ours; default: %(default)s")
    add("--dtype", default="float32", choices=DTYPES, help="default: %(default)s")
    add("--seconds", type=float, default=3.0, help="per workload; default: 3")
    limit = "limit of plain JAX, per workload; 0 leaves it out; default: 25"
    add("--plain-seconds", type=float, default=25.0, help=limit)
    add(
        "--minutes", type=float, default=7.0, help="begin no workload after; default: 7"
    )
    add("--predict", action="store_true", help="bytes and floors, no measurement")
    add("--json", type=pathlib.Path, help="also write the numbers here")
    args = parser.parse_args(given)
    for name, known in (("workload", WORKLOADS), ("layout", LAYOUTS)):
        chosen = getattr(args, name).split(",")
        if unknown := [x for x in chosen if x not in known]:
            parser.error(
                f"no such {name}: {', '.join(unknown)}; there are {', '.join(known)}"
            )
        setattr(args, name, chosen)
    return args


def main() -> None:
    """Measures or predicts what the arguments name and prints it."""
    args = arguments()
    results = predict(args) if args.predict else run(args)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def predict(args: argparse.Namespace) -> dict[str, Any]:
    """Prints bytes and floors, and gives them."""
    print(f"floors at {floors.BANDWIDTH / 1e12:.1f} TB/s, read and written together")
    results: dict[str, Any] = {
        "bandwidth_bytes_per_s": floors.BANDWIDTH,
        "workloads": {},
    }
    for name in args.workload:
        predicted = floors.predictions(WORKLOADS[name], args.dtype)
        results["workloads"][name] = {"predicted": predicted}
        print(f"\n{name}: {WORKLOADS[name]}")
        for mode, numbers in predicted.items():
            megabytes = numbers["bytes"] / 1e6
            print(f"  {mode:20}{megabytes:10.2f} MB{numbers['floor_us']:10.2f} us")
    return results


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints tables, and gives the numbers; exits where there is no GPU."""
    # Before JAX is imported. The CPU gives the right answers.
    os.environ["JAX_PLATFORMS"] = "cuda,cpu"
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    import jax
    import machine

    from jax_roipool import backends

    try:
        device = jax.devices("cuda")[0]
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise SystemExit(f"no GPU that jax can use: {reason}") from None

    import gpu_ours
    import gpu_time
    from gpu_peers import Child

    about = {
        "date": time.strftime("%Y-%m-%d"),
        "gpu": device.device_kind,
        "l2_bytes": gpu_time.l2_bytes(),
        "bandwidth_bytes_per_s": gpu_ours.bandwidth(),
        "dtype": args.dtype,
        "kernels": backends.CUDA.describe()[0],
        **machine.versions(),
        "command": " ".join(["python", *sys.argv]),
    }
    for key, value in about.items():
        print(f"{key}: {value}")
    results: dict[str, Any] = {"about": about, "workloads": {}}
    start = time.monotonic()
    with Child(JAX_PLATFORMS="cpu") as torch:
        for name in args.workload:
            if time.monotonic() - start > 60 * args.minutes:
                print(f"\n{name}: left out, {args.minutes:g} minutes are over")
                continue
            results["workloads"][name] = one_workload(name, args, about, torch)
    about["seconds"] = round(time.monotonic() - start)
    print(f"\n{about['seconds']} seconds in all")
    return results


def one_workload(
    name: str, args: argparse.Namespace, about: dict[str, Any], torch: Any
) -> dict[str, Any]:
    """Measures everybody, prints the table, gives the numbers."""
    import gpu_peers

    load = WORKLOADS[name]
    l2, bandwidth = about["l2_bytes"], about["bandwidth_bytes_per_s"]
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for dtype in load.dtypes or (args.dtype,):
        rows += measure_ours(load, dtype, args, l2, name in DETECTORS, notes)
        if load.forms != "padded":  # it knows no padding
            theirs, why = torch.ask(
                _TORCH_SECONDS, gpu_peers.torchvision, load, dtype, l2, args.seconds / 3
            )
            rows += theirs
            if why:
                notes.append(f"torchvision {dtype}: {why}")
    if name in DETECTORS and args.plain_seconds:
        with gpu_peers.Child() as plain:
            theirs, why = plain.ask(
                *(args.plain_seconds, gpu_peers.plain_jax, load, args.dtype),
                *(args.layout[0], MODES, args.seconds / 3),
            )
        rows += theirs
        if why:
            notes.append(f"plain JAX: {why}")
    compare(rows, bandwidth)
    show(f"{name}: {load}", rows, notes)
    predicted = floors.predictions(load, args.dtype)
    return {"predicted": predicted, "times": rows, "notes": notes}


def measure_ours(
    load: Workload,
    dtype: str,
    args: argparse.Namespace,
    l2: int,
    chain: bool,
    notes: list[str],
) -> list[dict[str, Any]]:
    """The numbers of our rows; what is missing goes into `notes`."""
    import gpu_ours
    from gpu_time import measure
    from inputs import WrongAnswer

    from jax_roipool import backends

    if backends.CUDA.choice == backends.PLAIN:
        why = backends.CUDA.problem or "JAX_ROIPOOL_CUDA_TARGET says so"
        notes.append(f"ours: not measured ({why})")
        return []
    found, sets = [], gpu_ours.Sets(load, dtype)
    try:
        for layout in args.layout:
            made = list(gpu_ours.rows(sets, layout, MODES, l2, chain))
            seconds = args.seconds / len(args.layout)
            numbers = measure([row for row, _ in made], gpu_ours.PROFILER, seconds)
            for one, (_, chained) in zip(numbers, made, strict=True):
                if chained is not None:
                    one["chained_us"] = chained
            found += numbers
            del made  # gigabytes, before the next layout's
    except WrongAnswer as wrong:
        raise SystemExit(str(wrong)) from None
    return found


def compare(rows: list[dict[str, Any]], bandwidth: float) -> None:
    """Adds what a row's time is beside torchvision's and beside the floor."""
    theirs = {
        (row["dtype"], row["mode"]): row["median_us"]
        for row in rows
        if row["name"].startswith("torchvision")
    }
    for row in rows:
        # torchvision's only forward pass stands beside both of ours.
        mode = "backward" if row["mode"] == "backward" else "argmax"
        if (row["dtype"], mode) in theirs:
            row["to_torchvision"] = row["median_us"] / theirs[row["dtype"], mode]
        row["floor_us"] = row["bytes"] / bandwidth * 1e6
        row["bandwidth_share"] = row["floor_us"] / row["median_us"]


_HEADS = {
    "median us": ("median_us", "{:.1f}"),
    "min us": ("min_us", "{:.1f}"),
    "to tv": ("to_torchvision", "{:.2f}x"),
    "floor us": ("floor_us", "{:.2f}"),
    "share": ("bandwidth_share", "{:.0%}"),
    "chained": ("chained_us", "{:.1f}"),
    "queued": ("queued_us", "{:.1f}"),
    "sets": ("sets", "{}"),
}


def show(title: str, rows: list[dict[str, Any]], notes: list[str]) -> None:
    """Prints a table."""
    width = max((len(row["name"]) for row in rows), default=0) + 2
    print(f"\n{title}")
    print(" " * (width + 2) + "".join(f"{head:>10}" for head in _HEADS))
    for row in rows:
        text = "".join(
            f"{form.format(row[key]) if key in row else '':>10}"
            for key, form in _HEADS.values()
        )
        print(f"  {row['name']:{width}}{text}  {row.get('note', '')}".rstrip())
    for note in notes:
        print(f"  {note}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
