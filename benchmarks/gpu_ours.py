"""This package on a GPU: its rows, their answers, and the device's bandwidth."""

import copy
import glob
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import floors
import gpu_trace
import jax
import jax.numpy as jnp
import numpy as np
import ours
from gpu_time import Profiler, Row, sets_needed
from gpu_trace import Event
from inputs import Inputs, WrongAnswer
from lineup import forms
from ours import Program
from workloads import Workload

CHAIN = 100  # calls in one jit


def _record(run: Callable[[], None]) -> list[Event]:
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    options.host_tracer_level = 1
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            run()
        pattern = os.path.join(folder, "**", "*.xplane.pb")
        (path,) = glob.glob(pattern, recursive=True)
        return gpu_trace.of_jax(jax.profiler.ProfileData.from_file(path))


PROFILER = Profiler(_record, jax.block_until_ready)


def bandwidth(profiler: Profiler = PROFILER) -> float:
    """Bytes per second, read and written together, of a large copy."""
    device = jax.devices()[0]
    free = (device.memory_stats() or {}).get("bytes_limit", 1 << 30)
    size = min(2 << 30, free // 8)
    x = jax.block_until_ready(jnp.ones(size // 4, jnp.float32))
    run = jax.jit(jnp.copy).lower(x).compile()
    calls = 10
    jax.block_until_ready(run(x))

    def several() -> None:
        for _ in range(calls):
            jax.block_until_ready(run(x))

    events = profiler.record(several)
    if events:
        took = float(np.median(gpu_trace.per_call(events, calls))) / 1e6
    else:
        start = time.perf_counter()
        several()
        took = (time.perf_counter() - start) / calls
    return 2 * x.nbytes / took


# --- The right answers ---------------------------------------------------------


def answers(inputs: Inputs) -> dict[str, np.ndarray]:
    """The right answers, channels last, by the package's CPU kernels.

    Those are held against NumPy loops by the tests and by the CPU benchmark.
    """

    def make() -> dict[str, np.ndarray]:
        fresh = copy.copy(inputs)  # whose arrays will lie on the CPU
        fresh._kept = {}
        found: dict[str, np.ndarray] = {}
        with jax.default_device(jax.devices("cpu")[0]):
            for mode in (ours.ARGMAX, ours.BACKWARD):
                made = ours.program([fresh], "NHWC", mode)
                found |= made.named(made.run(*made.operands[0]))
        return found

    return inputs.once("answers", make)


def differing(got: np.ndarray, wanted: np.ndarray) -> int:
    """How many numbers differ; of bfloat16, too, which NumPy compares slowly."""
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        raise WrongAnswer(f"{got.dtype}{got.shape}, not {wanted.dtype}{wanted.shape}")
    if got.dtype.itemsize == 2:
        if np.array_equal(got.view(np.uint16), wanted.view(np.uint16)):
            return 0
        got, wanted = got.astype(np.float32), wanted.astype(np.float32)
    return int(np.count_nonzero(got != wanted))


def check(made: Program, run: Any, inputs: Inputs, name: str) -> None:
    """Raises `WrongAnswer` unless the first call gives the right results.

    Arrays of other values come and go first, so that the results lie where no
    right answer was left behind.

    Args:
      made: What was compiled.
      run: The compiled function.
      inputs: Of its first operands.
      name: Of the row.
    """
    for shape in jax.tree.leaves(jax.eval_shape(made.run, *made.operands[0])):
        jax.block_until_ready(jnp.full(shape.shape, -7, shape.dtype))
    for what, array in made.named(run(*made.operands[0])).items():
        if wrong := differing(array, answers(inputs)[what]):
            raise WrongAnswer(f"{name}: {wrong} of {array.size} of {what} differ")


# --- Rows ------------------------------------------------------------------------


class Sets:
    """Sets of inputs of a workload in one dtype, made when asked for."""

    def __init__(self, load: Workload, dtype: str):
        self.load = load
        self.dtype = dtype
        self._made: list[Inputs] = []

    def first(self, count: int) -> list[Inputs]:
        """So many of them."""
        for seed in range(len(self._made) + 1, count + 1):
            self._made.append(Inputs(self.load, self.dtype, seed))
        return self._made[:count]


def moved(inputs: Inputs, mode: str) -> int:
    """Bytes; see `floors`."""
    return floors.must_move(
        inputs.load, mode, inputs.dtype.name, inputs.rois, inputs.valid
    )


def compiled_row(made: Program, inputs: Inputs, name: str) -> Row:
    """Compiles a program and checks what it gives for its first inputs."""
    run = made.run.lower(*made.operands[0]).compile()
    check(made, run, inputs, name)
    return Row(
        name,
        made.mode,
        inputs.dtype.name,
        moved(inputs, made.mode),
        [lambda given=given: run(*given) for given in made.operands],
    )


def rows(sets: Sets, layout: str, modes: Sequence[str], l2: int, chain: bool) -> Any:
    """Rows of ours and, with `chain`, microseconds of chained calls, one by one."""
    load, prefix = sets.load, f"{sets.dtype} " if sets.load.dtypes else ""
    for mode in modes:
        count = sets_needed(moved(sets.first(1)[0], mode), l2)
        for inputs, form, says in forms(load, sets.first(count)):
            name = f"ours {prefix}{layout} {mode}{says}"
            made = ours.program(inputs, layout, mode, form)
            row = compiled_row(made, inputs[0], name)
            yield row, chained(made) if chain else None


def chained(made: Program, calls: int = CHAIN) -> float | None:
    """Microseconds of wall time per call of `calls` calls in one jit.

    Each waits for the one before it: its smallest operand becomes 0 where the last
    result begins with a NaN, which none does and XLA cannot know. That takes one
    kernel over a few thousand numbers. None where XLA has not kept all calls.
    """

    @jax.jit
    def run(sets: Any) -> Any:
        last = None
        for number in range(calls):
            leaves, tree = jax.tree.flatten(sets[number % len(sets)])
            if last is not None:
                first = jax.tree.leaves(last)[0]
                first = first[(0,) * first.ndim]
                small = min(range(len(leaves)), key=lambda i: leaves[i].size)
                zero = jnp.zeros_like(leaves[small])
                leaves[small] = jnp.where(first != first, zero, leaves[small])
            last = made.run(*jax.tree.unflatten(tree, leaves))
        return last

    sets = made.operands[:calls]
    compiled = run.lower(sets).compile()
    if compiled.as_text().count('custom_call_target="jax_roipool_') != calls:
        return None
    best = float("inf")
    for turn in range(6):
        start = time.perf_counter()
        jax.block_until_ready(compiled(sets))
        if turn:  # the first records graphs and warms
            best = min(best, (time.perf_counter() - start) / calls * 1e6)
    return best
