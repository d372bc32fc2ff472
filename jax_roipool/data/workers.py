"""Worker processes: the items of a sequence, made elsewhere and ahead of time.

Grain runs the processes and their queues. Here are what it leaves to its users: the
arrays that all workers read lie in shared memory once, a worker ends with its parent,
and whatever goes wrong there is an error here.
"""

import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import threading
import weakref
from collections.abc import Callable
from multiprocessing import shared_memory
from typing import Any, Generic, Protocol, TypeVar

import jax
import numpy as np

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")

_ALIGNMENT = 64
_SHM = "/dev/shm"


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
    ) -> None:
        try:
            import grain
        except ImportError as error:
            raise ImportError(
                "workers need Grain: pip install 'jax_roipool[data]'"
            ) from error
        from absl import flags

        # Grain reads flags, which fail in a program that does not parse them.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        self._shared = _Shared(items)
        dataset = (
            grain.MapDataset.source(_Range(self._shared, start, stop))
            # One item at a time in every worker.
            .to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
            .mp_prefetch(
                grain.MultiprocessingOptions(
                    num_workers=workers,
                    per_worker_buffer_size=max(ahead // workers, 1),
                ),
                worker_init_fn=_begin_worker,
            )
            .map(lambda item: finish(_own(item)) if item else item)
        )
        dataset = grain.experimental.ThreadPrefetchIterDataset(
            dataset, prefetch_buffer_size=1
        )
        self._iterator: Any = iter(dataset)
        # Also at exit, before Python's own end of its processes.
        self.close = weakref.finalize(self, _close, self._iterator, self._shared)

    def __next__(self) -> T:
        try:
            return next(self._iterator)
        except RuntimeError as error:
            if "Worker process was terminated" not in str(error):
                raise
            raise WorkerError(
                f"a worker process ended: {error} Workers are started with 'spawn': "
                'a script needs `if __name__ == "__main__":`. An exit code of -9 is '
                f"mostly lack of memory, -7 lack of shared memory ({_SHM})."
            ) from None


def _close(iterator: Any, shared: "_Shared") -> None:
    iterator.close()
    shared.close()


def _own(item: Any) -> Any:
    """Grain's arrays over shared memory as arrays of this process.

    Those that live at exit would be reported as leaks, and each has a file open.
    """
    return jax.tree.map(
        lambda leaf: np.array(leaf) if isinstance(leaf, np.ndarray) else leaf, item
    )


class _Range:
    """Items as the sequence that Grain wants; made in the workers.

    It has no end, only nothing more to do: the end of Grain's iterators leaves cycles
    of exceptions and frames behind, which hold arrays over shared memory.
    """

    def __init__(self, items: "_Shared", start: int, stop: int | None) -> None:
        self._items, self._start, self._stop = items, start, stop

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, i: int) -> Any:
        number = self._start + i
        if self._stop is not None and number >= self._stop:
            return ()
        return self._items[number]


# --- In the worker ------------------------------------------------------------


def _begin_worker(worker: int, workers: int) -> None:
    # Ctrl-C reaches all processes of a terminal; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        import cv2
    except ImportError:
        pass
    else:
        # Processes are the parallelism.
        cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when its parent is gone, also by a signal."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


# --- Memory that processes share ----------------------------------------------


class _Shared:
    """An object that pickles without its arrays: they lie in shared memory."""

    def __init__(self, value: Any) -> None:
        self._value = value
        arrays: list[pickle.PickleBuffer] = []
        self._data = pickle.dumps(value, protocol=5, buffer_callback=arrays.append)
        views = [array.raw() for array in arrays]
        self._spans = []
        end = 0
        for view in views:
            begin = -(-end // _ALIGNMENT) * _ALIGNMENT
            end = begin + view.nbytes
            self._spans.append((begin, end))
        # Shared memory is not reserved: the first write beyond its end kills.
        if os.path.isdir(_SHM):
            status = os.statvfs(_SHM)
            free = status.f_bavail * status.f_frsize
            if end > free:
                raise MemoryError(
                    f"the roidb takes {end} bytes of shared memory and {_SHM} has "
                    f"{free} left; a container has more with --shm-size"
                )
        block = shared_memory.SharedMemory(create=True, size=max(end, 1))
        for (begin, end), view in zip(self._spans, views, strict=True):
            _buffer(block)[begin:end] = view
        self._name = block.name
        self.close = weakref.finalize(self, _free, block)

    def __getitem__(self, i: int) -> Any:
        return self._value[i]

    def __reduce__(self) -> Any:
        return _attach, (self._name, self._spans, self._data)


def _buffer(block: shared_memory.SharedMemory) -> memoryview:
    assert block.buf is not None
    return block.buf


def _free(block: shared_memory.SharedMemory) -> None:
    block.close()
    block.unlink()


# Blocks of this worker: their arrays need them to the end.
_attached: list[shared_memory.SharedMemory] = []


def _attach(name: str, spans: list[tuple[int, int]], data: bytes) -> Any:
    block = shared_memory.SharedMemory(name)
    _attached.append(block)
    view = _buffer(block).toreadonly()
    return pickle.loads(data, buffers=[view[begin:end] for begin, end in spans])
