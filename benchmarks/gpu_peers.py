"""Others that pool RoIs on a GPU, each in a process of its own.

There a framework has the device's profiler to itself, and one that takes too
long or too much memory can be ended without ending the benchmark.
"""

import contextlib
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from workloads import Workload


class Missing(Exception):
    """Somebody cannot be measured; the text says why."""


class Child:
    """A process that answers calls of generators, row by row."""

    def __init__(self, **environment: str):
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        before = dict(os.environ)
        os.environ.update(environment)  # read when a process starts
        try:
            self._process = context.Process(target=_serve, args=(there,), daemon=True)
            self._process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        there.close()

    def ask(
        self, seconds: float, function: Callable[..., Any], *arguments: Any
    ) -> tuple[list[Any], str]:
        """What `function(*arguments)` yields, and why it ended before its end."""
        end, rows = time.monotonic() + seconds, []
        try:
            self._here.send((function, arguments))
            while self._here.poll(max(end - time.monotonic(), 0)):
                row, reason = self._here.recv()
                if reason is not None:
                    return rows, reason
                rows.append(row)
        except (EOFError, OSError):
            return rows, "its process ended"
        self.close()
        return rows, f"stopped after {seconds:.0f} s"

    def close(self) -> None:
        """Ends the process, whatever it does."""
        self._process.kill()
        self._process.join()

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _serve(connection: Any) -> None:
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            function, arguments = connection.recv()
            reason = ""
            try:
                for row in function(*arguments):
                    connection.send((row, None))
            except Missing as missing:
                reason = str(missing)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            connection.send((None, reason))


# --- torchvision ------------------------------------------------------------------


def torch_problem() -> str:
    """Why torchvision cannot be measured here, or nothing."""
    try:
        import torch
        import torchvision.ops  # noqa: F401
    except ImportError as error:
        return f"not installed ({error.name})"
    except Exception as error:  # a build for another torch
        return f"does not load ({str(error).splitlines()[0]})"
    return "" if torch.cuda.is_available() else "this torch has no CUDA GPU"


def torchvision(load: Workload, dtype: str, l2: int, seconds: float) -> Iterator[Any]:
    """The numbers of torchvision's rows: forward, which writes argmax, and backward.

    Its own layout, contiguous NCHW. It wants boxes of the features' dtype, so
    those of half precision are rounded, and it may then pool other cells.
    """
    if problem := torch_problem():
        raise Missing(problem)
    import torch
    from gpu_ours import Sets, answers, differing, moved
    from gpu_time import Row, measure, sets_needed
    from torchvision.ops import roi_pool

    sets, kind = Sets(load, dtype), getattr(torch, dtype)
    first = sets.first(1)[0]

    def on_device(array: np.ndarray, channels_last: bool) -> torch.Tensor:
        if array.dtype.itemsize == 2 or array.dtype == np.int8:
            array = array.astype(np.float32)  # torch knows no NumPy bfloat16
        array = np.moveaxis(array, -1, 1) if channels_last else array
        return torch.from_numpy(np.ascontiguousarray(array)).to("cuda", kind)

    def on_host(tensor: torch.Tensor) -> np.ndarray:
        array = tensor.detach().cpu().float().numpy()
        return np.moveaxis(array, 1, -1).astype(first.dtype)

    def operands(count: int) -> Any:
        return [
            (
                on_device(x.features, True).requires_grad_(differentiable),
                on_device(x.rois, False),
            )
            for x in sets.first(count)
        ]

    def pool(x: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        return roi_pool(x, boxes, load.size, load.scale)

    def checked(name: str, mode: str, what: str, calls: Any) -> Row:
        calls[0]().fill_(float("nan"))  # freed: where the next result may lie
        wrong = differing(on_host(calls[0]()), answers(first)[what])
        size = answers(first)[what].size
        note = f"{wrong} of {size} of {what} differ from ours" if wrong else ""
        return Row(name, mode, dtype, moved(first, mode), calls, note)

    prefix = f"{dtype} " if load.dtypes else ""
    for mode in ("forward", "backward"):
        differentiable = mode == "backward"
        given = operands(sets_needed(moved(first, "argmax"), l2))
        if differentiable:
            cotangent = on_device(first.cotangent(), True)
            graphs = [(pool(*x), x[0], cotangent.clone()) for x in given]
            calls: Any = [
                lambda y=y, x=x, g=g: torch.autograd.grad(y, x, g, retain_graph=True)[0]
                for y, x, g in graphs
            ]
            row = checked(f"torchvision {prefix}backward", mode, "gradient", calls)
        else:
            calls = [lambda x=x: pool(*x) for x in given]
            name = f"torchvision {prefix}forward (with argmax)"
            row = checked(name, "argmax", "pooled", calls)
        yield measure([row], torch_profiler(), seconds / 2)[0]
        del given, calls, row
        torch.cuda.empty_cache()


def torch_profiler() -> Any:
    """torch's, as `measure` takes it."""
    import gpu_trace
    import torch
    from gpu_time import Profiler
    from torch.profiler import ProfilerActivity, profile

    def record(run: Callable[[], None]) -> list[gpu_trace.Event]:
        both = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
        with profile(activities=both) as profiled:
            run()
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "trace.json")
            profiled.export_chrome_trace(path)
            with open(path, encoding="utf-8", errors="replace") as file:
                return gpu_trace.of_torch(json.load(file))

    return Profiler(record, lambda result: torch.cuda.synchronize())


# --- Plain JAX --------------------------------------------------------------------


def plain_jax(
    load: Workload, dtype: str, layout: str, modes: Sequence[str], seconds: float
) -> Iterator[Any]:
    """The numbers of our own plain JAX, which every platform can take.

    One set of inputs: its temporaries are larger than L2.
    """
    import gpu_ours
    import ours
    from gpu_time import measure

    from jax_roipool import backends

    backends.CUDA.use(backends.PLAIN)
    inputs = gpu_ours.Sets(load, dtype).first(1)
    for mode in modes:
        made = ours.program(inputs, layout, mode)
        row = gpu_ours.compiled_row(made, inputs[0], f"plain JAX {layout} {mode}")
        yield measure([row], gpu_ours.PROFILER, seconds / len(modes))[0]
