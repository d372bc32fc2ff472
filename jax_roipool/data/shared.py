"""Memory that processes share: objects that all workers read, and what they send.

Two ways for NumPy arrays to other processes. `Shared` is an object that many
processes only read. A parcel is an object that one process makes and another takes:
`Packer` writes it into a block of shared memory, `Parcels` opens it there, and when its
last array is gone the block serves again. Blocks are reused because fresh pages are
dear: clearing them took as long as decoding the images.
"""

import contextlib
import itertools
import mmap
import os
import pickle
import secrets
import weakref
from multiprocessing import shared_memory
from typing import Any

import numpy as np

_ALIGNMENT = 64
# First byte of a block: whether a parcel is in it.
_FREE, _TAKEN = 0, 1
# Where Linux has shared memory as files.
_SHM = "/dev/shm"

Spans = list[tuple[int, int]]


def _apart(value: Any) -> tuple[bytes, list[memoryview]]:
    """A pickle without the bytes of the arrays, and those."""
    arrays: list[pickle.PickleBuffer] = []
    data = pickle.dumps(value, protocol=5, buffer_callback=arrays.append)
    return data, [array.raw() for array in arrays]


def _laid_out(arrays: list[memoryview], end: int) -> tuple[Spans, int]:
    """Where arrays lie one after another, behind `end`, and the end of all."""
    spans = []
    for array in arrays:
        begin = -(-end // _ALIGNMENT) * _ALIGNMENT
        end = begin + array.nbytes
        spans.append((begin, end))
    return spans, end


def _create(size: int, name: str | None = None) -> shared_memory.SharedMemory:
    # Shared memory is not reserved: a write beyond what there is kills the process.
    if os.path.isdir(_SHM):
        status = os.statvfs(_SHM)
        free = status.f_bavail * status.f_frsize
        if size > free:
            raise MemoryError(
                f"{size} bytes of shared memory are needed and {_SHM} has {free} "
                "left; a container gets more with --shm-size"
            )
    return shared_memory.SharedMemory(name, create=True, size=max(size, 1))


def _buffer(block: shared_memory.SharedMemory) -> memoryview:
    assert block.buf is not None
    return block.buf


def _unlink(block: shared_memory.SharedMemory) -> None:
    block.close()
    block.unlink()


# --- Read by many -------------------------------------------------------------


class Shared:
    """An object that pickles without its arrays: they lie in shared memory.

    Unpickled in another process it is the object itself, its arrays not writeable.
    `close()` removes the memory; whoever has it keeps it.

    Raises:
      MemoryError: There is too little shared memory.
    """

    def __init__(self, value: Any) -> None:
        self._data, arrays = _apart(value)
        self._spans, size = _laid_out(arrays, 0)
        block = _create(size)
        for (begin, end), array in zip(self._spans, arrays, strict=True):
            _buffer(block)[begin:end] = array
        self._name = block.name
        self.close = weakref.finalize(self, _unlink, block)

    def __reduce__(self) -> Any:
        return _attach, (self._name, self._spans, self._data)

    def __getitem__(self, i: int) -> Any:
        raise TypeError("items are made in workers")  # for type checkers, and Grain


# Blocks of this process: their arrays need them to the end.
_attached: list[shared_memory.SharedMemory] = []


def _attach(name: str, spans: Spans, data: bytes) -> Any:
    block = shared_memory.SharedMemory(name)
    _attached.append(block)
    view = _buffer(block).toreadonly()
    return pickle.loads(data, buffers=[view[begin:end] for begin, end in spans])


# --- From one to another --------------------------------------------------------


def _name_of(parcels: str, packer: int, block: int) -> str:
    return f"{parcels}_{packer}_{block}"


class Packer:
    """Puts objects into blocks, in the process that makes them.

    Args:
      parcels: The name of the `Parcels` that open them.
      number: Of this packer, among those that send there.
      largest: Bytes that hold any of the objects: so does every block then, and
        none has to be made because the free ones are too small. What is not
        written takes no memory.
    """

    def __init__(self, parcels: str, number: int, largest: int = 0) -> None:
        self._parcels, self._number, self._largest = parcels, number, largest
        self._blocks: list[shared_memory.SharedMemory] = []

    def pack(self, value: Any) -> Any:
        """The parcel: a few names and numbers, whatever the size of the arrays.

        Raises:
          MemoryError: There is too little shared memory.
        """
        data, arrays = _apart(value)
        begin, end = 1, 1 + len(data)
        spans, size = _laid_out(arrays, end)
        block = self._block(size)
        buffer = _buffer(block)
        buffer[begin:end] = data
        for (first, last), array in zip(spans, arrays, strict=True):
            buffer[first:last] = array
        buffer[0] = _TAKEN
        return block.name, (begin, end), spans

    def _block(self, size: int) -> shared_memory.SharedMemory:
        free = [b for b in self._blocks if b.size >= size and _buffer(b)[0] == _FREE]
        if free:
            return min(free, key=lambda block: block.size)
        name = _name_of(self._parcels, self._number, len(self._blocks))
        block = _create(max(size, self._largest), name)
        self._blocks.append(block)
        return block


class Parcels:
    """Opens parcels, in the process that takes them; `name` is for the packers."""

    def __init__(self) -> None:
        self.name = f"roi{secrets.token_hex(4)}"  # macOS allows 30 characters
        self._mapped: dict[str, mmap.mmap] = {}

    def open(self, parcel: Any) -> Any:
        """The object. Its arrays are views of the block, which they keep."""
        name, (begin, end), spans = parcel
        if os.path.isdir(_SHM):
            mapped = self._mapped.get(name)
            if mapped is None:
                with open(os.path.join(_SHM, name), "r+b") as file:
                    mapped = self._mapped[name] = mmap.mmap(file.fileno(), 0)
            whole = np.frombuffer(mapped, np.uint8)
            # When no array refers to the block any more.
            weakref.finalize(whole, mapped.__setitem__, 0, _FREE).atexit = False
        else:
            block = shared_memory.SharedMemory(name)
            # A block may be larger than what is in it.
            whole = np.array(_buffer(block)[: max([end, *(last for _, last in spans)])])
            _buffer(block)[0] = _FREE
            block.close()
        arrays = [whole[first:last] for first, last in spans]
        return pickle.loads(whole[begin:end].data, buffers=arrays)

    def close(self, packers: int) -> None:
        """Removes the blocks of so many packers, which have ended."""
        self._mapped.clear()
        for packer in range(packers):
            for i in itertools.count():
                name = _name_of(self.name, packer, i)
                try:
                    _unlink(shared_memory.SharedMemory(name))
                except FileNotFoundError:
                    break
                except ValueError:
                    # Empty: its packer was killed while it made it.
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(os.path.join(_SHM, name))
