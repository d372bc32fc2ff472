"""What the numbers depend on besides the code."""

import contextlib
import importlib.metadata
import os
import platform
import re


def processor() -> str:
    """The processor's name, as far as the system tells."""
    found = re.search(r"^model name\s*:\s*(.+)", _text("/proc/cpuinfo"), re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def allocator() -> str:
    """The C library, and the variables that set its allocator or replace it."""
    settings = [
        f"{name}={value}"
        for name, value in sorted(os.environ.items())
        if name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD")
    ]
    library = " ".join(platform.libc_ver()).strip() or "C library"
    return f"{library}, {' '.join(settings) or 'default settings'}"


def huge_pages() -> str:
    """Whether the kernel gives transparent huge pages, and to whom."""
    found = re.search(
        r"\[(\w+)\]", _text("/sys/kernel/mm/transparent_hugepage/enabled")
    )
    return found[1] if found else "unknown"


def versions() -> dict[str, str]:
    """Of the packages that are measured, where they are installed."""
    installed = {}
    for name in (
        *("jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin"),
        *("onnxruntime", "openvino", "torch", "torchvision"),
    ):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""
