"""Refuses to be imported in a subinterpreter, before jax is.

JAX works in the main interpreter alone. In another one its modules refuse from
Python 3.12 on, unless that interpreter shares the GIL; where they do not, the
process ends.
"""

from typing import Any


def _known_interpreters() -> Any:
    """Python's module that tells them apart, or None where it has none."""
    # Private: there is a public one (concurrent.interpreters) from 3.14 on.
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            return __import__(name)
        except ImportError:
            continue
    return None


def _refuse_subinterpreters(interpreters: Any) -> None:
    if interpreters and interpreters.get_current() != interpreters.get_main():
        raise ImportError(
            "jax_roipool cannot be imported in a subinterpreter, because jax "
            "cannot; import it in the main one (mod_wsgi: WSGIApplicationGroup "
            "%{GLOBAL})"
        )


_refuse_subinterpreters(_known_interpreters())
