"""Mixed calls for a long time: memory flat, results the oracle's throughout.

    python -m tests.soak --seconds 600

Every call is drawn at random: form, layout, dtypes, shapes, instruction set or
plain JAX, under jit or not, with NaN and bits of no sense in boxes and features
(tests/ops/test_fuzz.py); its pooled values, argmax, gradient and derivative are
compared with the oracle's. Beside these run calls of a shape that is compiled
once, from several threads. What JAX has compiled is dropped now and then, and
memory is measured right after that: a leak of ours would be left.
"""

import argparse
import collections
import concurrent.futures
import ctypes
import gc
import os
import statistics
import sys
import time
import warnings

import hypothesis
import jax
import numpy as np

from jax_roipool import backends, roi_pool
from tests import table
from tests.cases import LAYOUTS, assert_same, few_values, in_layout, random_rois
from tests.ops import test_fuzz
from tests.oracle import roi_pool as oracle

THREADS = 3
MIB = 1 << 20
# What may be found more at the end, of the memory of the process: noise of the
# allocator, which a leak of ten minutes is well above.
TOLERANCE = 0.03


def resident():
    """Bytes of memory in use, after what is not needed is given back."""
    jax.clear_caches()
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Repeated:
    """Calls of one shape per layout from several threads, as a server makes them."""

    def __init__(self):
        self.features = few_values(2, 20, 21, 64)
        self.rois = random_rois(100, 2, 20, 21)
        pooled, argmax = oracle.roi_pool(self.features, self.rois, (7, 7), (1, 1))
        gradient = oracle.scatter(2 * pooled, self.rois, argmax, self.features.shape)
        self.want = pooled, gradient

    def run(self, count):
        with concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
            for layout in LAYOUTS:
                features = in_layout(self.features, layout)

                @jax.jit
                def step(f, layout=layout):
                    pooled, pull = jax.vjp(
                        lambda f: roi_pool(f, self.rois, 7, layout=layout), f
                    )
                    return pooled, pull(2 * pooled)[0]

                want = [in_layout(x, layout) for x in self.want]
                for got in threads.map(step, [features] * (count // 2)):
                    for x, y in zip(got, want, strict=True):
                        assert_same(x, y)
        return count // 2 * 2


def random_calls(count, seed, counted):
    """That many calls of `test_fuzz`, and what they were."""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(test_fuzz.calls())
    def run(call):
        test_fuzz.check(table.ROI_POOL, call)
        counted[call.layout, str(call.features.dtype)] += 1

    run()


def soak(seconds):
    """Rounds until the time is over; the bytes in use after each."""
    start = time.monotonic()
    repeated, memory, counted = Repeated(), [], collections.Counter()
    targets = collections.Counter()
    again = 0
    print(f"{'seconds':>8} {'random':>8} {'repeated':>9} {'MiB':>8}", flush=True)
    while time.monotonic() - start < seconds:
        supported = backends.CPU.choices()
        # Plain JAX, slow to compile, in every eighth round.
        kernels = [target for target in supported if target != backends.PLAIN]
        target = kernels[len(memory) % len(kernels)] if kernels else supported[-1]
        if len(memory) % 8 == 3:
            target = backends.PLAIN
        backends.CPU.use(target)
        before = counted.total()
        random_calls(5 if target == backends.PLAIN else 25, len(memory), counted)
        targets[target] += counted.total() - before
        again += repeated.run(200)
        memory.append(resident())
        print(
            f"{time.monotonic() - start:8.0f} {counted.total():8} {again:9} "
            f"{memory[-1] / MIB:8.1f}  {target}",
            flush=True,
        )
    return memory, counted, targets, again


def main(arguments=None):
    """Prints the numbers; 1 where memory grew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    seconds = parser.parse_args(arguments).seconds
    if not os.path.exists("/proc/self/statm"):
        sys.exit("the soak reads its memory from /proc, which is not here")
    with warnings.catch_warnings(), np.printoptions(threshold=40):
        warnings.simplefilter("error")
        memory, counted, targets, again = soak(seconds)
    print("random calls equal to the oracle's:", counted.total())
    for (layout, dtype), count in sorted(counted.items()):
        print(f"  {layout} {dtype}: {count}")
    print("on", ", ".join(f"{name}: {count}" for name, count in targets.items()))
    print(f"repeated calls, from {THREADS} threads: {again}")
    # The first third fills caches that are never dropped: imports, code, arenas.
    third = len(memory) // 3
    if third < 3:
        print(f"too short to judge memory: {len(memory)} rounds")
        return 0
    middle = statistics.median(memory[third : 2 * third])
    end = statistics.median(memory[2 * third :])
    growth = end / middle - 1
    print(
        f"memory: {middle / MIB:.1f} MiB in the middle third, {end / MIB:.1f} MiB in "
        f"the last: {growth:+.2%}, allowed {TOLERANCE:+.0%}"
    )
    return int(growth > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
