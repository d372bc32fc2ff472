"""The GPU that some tests need, and work that keeps it busy."""

import ctypes
import threading

import jax
import pytest

from jax_roipool import backends


def cuda_device():
    """The first one that jax has, or None."""
    try:
        return jax.devices("cuda")[0]
    except RuntimeError:
        return None


def need_cuda():
    """That device; skips where there is none, or no kernels for it."""
    device = cuda_device()
    if device is None:
        pytest.skip("jax has no CUDA GPU here")
    if backends.CUDA.choice != "kernels":
        pytest.skip(backends.CUDA.problem or "the CUDA kernels are not in use")
    return device


class Busy:
    """Fills and copies memory of the device on a stream that XLA does not know.

    By the driver's own functions, because JAX puts all that it runs on one
    stream. `rounds` counts what is done.
    """

    BYTES = 128 << 20
    NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING

    def __init__(self, ordinal):
        self.rounds = 0
        self._ordinal = ordinal
        self._cuda = ctypes.CDLL("libcuda.so.1")
        self._failure = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        while self._thread.is_alive() and self.rounds == 0:
            self._stop.wait(0.01)
        return self

    def __exit__(self, *exception):
        self._stop.set()
        self._thread.join()
        assert not self._failure

    def _call(self, name, *arguments):
        status = getattr(self._cuda, name)(*arguments)
        if status:
            raise RuntimeError(f"{name}: CUDA error {status}")

    def _run(self):
        try:
            self._work()
        except RuntimeError as error:
            self._failure = str(error)

    def _work(self):
        context, stream = ctypes.c_void_p(), ctypes.c_void_p()
        memory, device = ctypes.c_uint64(), ctypes.c_int()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(device), self._ordinal)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        self._call("cuStreamCreate", ctypes.byref(stream), self.NON_BLOCKING)
        self._call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(self.BYTES))
        half = ctypes.c_size_t(self.BYTES // 2)
        upper = ctypes.c_uint64(memory.value + self.BYTES // 2)
        words = ctypes.c_size_t(self.BYTES // 4)
        while not self._stop.is_set():
            for _ in range(8):
                self._call("cuMemsetD32Async", memory, self.rounds, words, stream)
                self._call("cuMemcpyDtoDAsync_v2", memory, upper, half, stream)
            self._call("cuStreamSynchronize", stream)
            self.rounds += 1
        self._call("cuMemFree_v2", memory)
        self._call("cuStreamDestroy_v2", stream)
        self._call("cuDevicePrimaryCtxRelease_v2", device)
