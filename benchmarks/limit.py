"""The limit: how long memory takes to be read and written as a call must.

A bare handler (limit.cc) reads the features once and fills results of the call's
size; for the backward pass it reads cotangent and argmax and fills a gradient.
It stores in three ways, and the fastest is the limit. Results lie in fresh
memory, as those of a jitted call do, or in reused memory: donated buffers that
the program writes into again and again, which is verified by their addresses.

"Fresh" is what the allocator gives. glibc maps a result of more than 32 MB anew
in each call and keeps the memory of smaller ones.
"""

import ctypes
import functools
import os
import pathlib
import shlex
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from inputs import Inputs, WrongAnswer
from measure import Contestant

# Of limit.cc: ask for huge pages, store past the caches.
WAYS = {"plain": (False, False), "huge pages": (True, False), "streamed": (False, True)}

READ = {"backward": ("pooled", "argmax")}  # the others read the features
WRITTEN = {
    "forward": ("pooled",),
    "argmax": ("pooled", "argmax"),
    "backward": ("gradient",),
    "forward+backward": ("pooled", "argmax", "gradient"),
}
_WORD = 0x3F800000  # what limit.cc writes

Arrays = dict[str, jax.Array]


def build(directory: str) -> str:
    """Compiles limit.cc with $CXX into a library and gives its path.

    Raises:
      OSError: There is no such compiler, or it fails.
    """
    here = pathlib.Path(__file__).parent
    library = os.path.join(directory, "limit.so")
    command = [
        *shlex.split(os.environ.get("CXX") or "c++"),
        *["-std=c++17", "-O3", "-march=native", "-shared", "-fPIC"],
        *("-I", str(here.parent / "csrc"), "-isystem", jax.ffi.include_dir()),
        *(str(here / "limit.cc"), "-o", library),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        words = done.stderr.strip() or "no message"
        raise OSError(f"{command[0]} fails: {words.splitlines()[0]}")
    return library


@functools.cache
def register(library: str) -> None:
    """Makes the handlers of what `build` compiled known to JAX."""
    handlers = ctypes.CDLL(library)
    for name in ("jax_roipool_limit", "jax_roipool_nothing"):
        capsule = jax.ffi.pycapsule(getattr(handlers, name))
        jax.ffi.register_ffi_target(name, capsule, platform="cpu")


def empty_call() -> Contestant:
    """A jitted call of a handler that does nothing: JAX's dispatch."""
    number = jax.ShapeDtypeStruct((1,), jnp.float32)
    run = jax.jit(lambda x: jax.ffi.ffi_call("jax_roipool_nothing", number)(x))
    x = jnp.ones(1)
    compiled = run.lower(x).compile()
    return Contestant(
        "empty call", [lambda: jax.block_until_ready(compiled(x))], lambda result: ""
    )


def contestants(
    prefix: str, inputs: Inputs, features: jax.Array, modes: Sequence[str]
) -> dict[tuple[str, str], dict[str, Contestant]]:
    """(limit's name, "fresh" or "reused") -> way of storing -> contestant.

    Args:
      prefix: Of the names, which end in the mode.
      inputs: What ours is given, too.
      features: Its features on the device; the layout makes no difference.
      modes: Of ours.
    """
    pooled = inputs.pooled_shape
    shapes = {
        "pooled": jax.ShapeDtypeStruct(pooled, inputs.dtype),
        "argmax": jax.ShapeDtypeStruct(pooled, jnp.int32),
        "gradient": jax.ShapeDtypeStruct(inputs.load.shape, inputs.dtype),
    }
    needed = {x for mode in modes for x in WRITTEN[mode] + READ.get(mode, ())}
    # Two sets of results to write again, for all modes: one in small pages, one
    # in huge ones. Streaming stores take the latter, which suit them at least as
    # well.
    small, huge = (
        jax.block_until_ready(
            _fill(way, [features], {x: shapes[x] for x in sorted(needed)})
        )
        for way in ("plain", "huge pages")
    )
    kept = {"plain": small, "huge pages": huge, "streamed": huge}

    found = {}
    for mode in modes:
        for memory in ("fresh", "reused"):
            found[prefix + mode, memory] = {
                way: Contestant(
                    f"limit {prefix}{mode}, {memory}, {way}",
                    [_caller(mode, way, features, shapes, kept[way], memory)],
                    _check,
                )
                for way in WAYS
            }
    return found


def _fill(way: str, read: list[Any], shapes: dict[str, Any], into: Any = ()) -> Any:
    """A call of the handler: results by name, written over `into` if given."""
    huge_pages, stream = WAYS[way]
    over = [into[name] for name in shapes] if into else []
    call = jax.ffi.ffi_call(
        "jax_roipool_limit",
        list(shapes.values()),
        input_output_aliases={len(read) + i: i for i in range(len(over))},
    )
    results = call(
        *read,
        *over,
        reads=np.int64(len(read)),
        huge_pages=huge_pages,
        stream=stream,
    )
    return dict(zip(shapes, results, strict=True))


def _caller(
    mode: str,
    way: str,
    features: jax.Array,
    shapes: dict[str, Any],
    kept: Arrays,
    memory: str,
) -> Callable[[], Any]:
    """A function of no arguments that makes the call.

    It gives its results if they are fresh. `kept` holds the buffers to reuse: a
    call donates those it writes and puts the results in their place.
    """
    written = WRITTEN[mode]

    def program(read: list[Any], into: Arrays) -> Arrays:
        made: Arrays = {}
        if mode != "backward":
            wanted = {x: shapes[x] for x in written if x != "gradient"}
            made = _fill(way, read, wanted, into)
            read = [made.get("pooled"), made.get("argmax")]
        if "gradient" in written:
            made |= _fill(way, read, {"gradient": shapes["gradient"]}, into)
        if memory == "fresh" and mode == "forward+backward":
            del made["argmax"]  # nobody gets it
        return made

    def operands() -> tuple[Any, Any]:
        read = [kept[x] for x in READ.get(mode, ())] or [features]
        return read, {x: kept[x] for x in written} if memory == "reused" else {}

    compiled = jax.jit(program, donate_argnums=1).lower(*operands()).compile()

    def fresh() -> Arrays:
        return jax.block_until_ready(compiled(*operands()))

    def reused() -> Arrays:
        kept.update(jax.block_until_ready(compiled(*operands())))
        return {}

    if memory == "fresh":
        return fresh
    before = _addresses(kept)
    reused()
    if _addresses(kept) != before:
        raise RuntimeError("this JAX does not write into donated buffers")
    return reused


def _addresses(arrays: Arrays) -> dict[str, int]:
    return {name: array.unsafe_buffer_pointer() for name, array in arrays.items()}


def _check(results: Arrays) -> str:
    """Every page of a fresh result has been written."""
    for array in results.values():
        flat = np.asarray(array).reshape(-1).view(np.uint8)
        words = flat[: flat.size // 4 * 4].view(np.uint32)
        if (words[::1021] != _WORD).any():
            raise WrongAnswer("the limit was not written")
    return ""
