"""Worker processes: the items of a sequence, made elsewhere and ahead of time.

Grain runs the processes and their queues. Here are what it leaves to its users: the
arrays that all workers read lie in shared memory once, a worker ends with its parent,
and whatever goes wrong there is an error here.
"""

import ctypes
import functools
import multiprocessing
import multiprocessing.connection
import os
import platform
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from jax_roipool.data import shared

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")

# The exit code of a worker whose script wants workers of its own; no signal's.
_NO_GUARD = 94
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


class WorkerError(RuntimeError):
    """A worker process ended; nothing is lost, and `next` starts others."""


class Items(Protocol[T_co]):
    """A sequence of no certain length."""

    def __getitem__(self, i: int, /) -> T_co: ...


class Stream(Generic[T]):
    """The items from `start` on, in order, made by workers.

    `close()` ends the workers and frees what they share.

    Args:
      items: Picklable; its NumPy arrays are shared, not copied to every worker.
      start: Number of the first item.
      stop: From here on nothing is made, and nothing is to be asked for.
      workers: How many processes.
      ahead: How many items may wait, besides those that workers are making.
      finish: What becomes of every item in a thread of this process, such as a
        transfer to a device.
      largest: Bytes that hold the arrays of any item.

    Raises:
      ImportError: Grain is not installed.
      MemoryError: Shared memory is too small for the arrays.
    """

    def __init__(
        self,
        items: Items[T],
        start: int,
        stop: int | None,
        *,
        workers: int,
        ahead: int,
        finish: Callable[[T], T],
        largest: int,
    ) -> None:
        try:
            import grain
        except ImportError as error:
            raise ImportError(
                "workers need Grain: pip install 'jax_roipool[data]'"
            ) from error
        from absl import flags

        # A private name, as spawn's own check of it comes with Grain's tracebacks.
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            # A worker that imports a script without a guard: its parent says so.
            raise SystemExit(_NO_GUARD)

        # Grain reads flags, which fail in a program that does not parse them.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        self._parcels = shared.Parcels()
        self._items = shared.Shared(items)
        dataset = (
            grain.MapDataset.source(
                _Range(self._items, self._parcels.name, start, stop, largest)
            )
            # One item at a time in every worker.
            .to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
            .mp_prefetch(
                grain.MultiprocessingOptions(
                    num_workers=workers,
                    per_worker_buffer_size=max(ahead // workers, 1),
                ),
                worker_init_fn=_begin_worker,
            )
            .map(functools.partial(_receive, self._parcels, finish))
        )
        dataset = grain.experimental.ThreadPrefetchIterDataset(
            dataset, prefetch_buffer_size=1
        )
        self._iterator: Any = iter(dataset)
        # Also at exit, before Python's own end of its processes.
        self.close = weakref.finalize(
            self, _close, self._iterator, self._items, self._parcels, workers
        )

    def __next__(self) -> T:
        try:
            return next(self._iterator)
        except RuntimeError as error:
            if "Worker process was terminated" not in str(error):
                raise
            if f"exit code {_NO_GUARD}" in str(error):
                raise WorkerError(
                    "workers are started with 'spawn', which imports the script "
                    'again: it needs `if __name__ == "__main__":` around what it does'
                ) from None
            raise WorkerError(
                f"a worker process ended: {error} Workers are started with 'spawn': "
                'a script needs `if __name__ == "__main__":`. An exit code of -9 is '
                f"mostly lack of memory, -7 lack of shared memory."
            ) from None


def _receive(parcels: shared.Parcels, finish: Callable[[T], T], parcel: Any) -> Any:
    return finish(parcels.open(parcel)) if parcel else parcel


def _close(
    iterator: Any,
    items: shared.Shared,
    parcels: shared.Parcels,
    workers: int,
    again: bool = False,
) -> None:
    try:
        iterator.close()
    except RuntimeError:
        if again:
            raise
        # This is Grain's own thread, where garbage happened to be collected: it
        # cannot wait for its own end.
        arguments = (iterator, items, parcels, workers, True)
        threading.Thread(target=_close, args=arguments).start()
        return
    items.close()
    parcels.close(workers)


class _Range:
    """Items as the sequence that Grain wants; made in the workers.

    It has no end, only nothing more to do: the end of Grain's iterators leaves cycles
    of exceptions and frames behind.
    """

    def __init__(
        self,
        items: shared.Shared,
        parcels: str,
        start: int,
        stop: int | None,
        largest: int,
    ) -> None:
        self._items, self._start, self._stop = items, start, stop
        self._parcels, self._largest = parcels, largest
        self._packer: shared.Packer | None = None

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, i: int) -> Any:
        number = self._start + i
        if self._stop is not None and number >= self._stop:
            return ()
        if self._packer is None:
            self._packer = shared.Packer(self._parcels, _number, self._largest)
        return self._packer.pack(self._items[number])


# --- In the worker ------------------------------------------------------------


_number = 0  # of this worker


def _begin_worker(worker: int, workers: int) -> None:
    global _number
    _number = worker
    # Ctrl-C reaches all processes of a terminal; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        import cv2
    except ImportError:
        pass
    else:
        # Processes are the parallelism.
        cv2.setNumThreads(1)
    _keep_freed_memory()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _keep_freed_memory() -> None:
    """Has glibc's allocator keep what is freed, to use it again.

    By default megabytes go back to the kernel and come again page by page, which
    took half the time of a minibatch.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**30)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**25)  # its greatest


def _end_with_parent() -> None:
    """Ends this process when its parent is gone, also by a signal."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
