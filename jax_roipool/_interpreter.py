"""Refuses to be imported in a subinterpreter, before jax is.

JAX works in the main interpreter alone. In another one its modules refuse from
Python 3.12 on, unless that interpreter shares the GIL; where they do not, the
process ends.
"""

import importlib
import sys
from typing import Any


def known_interpreters() -> Any:
    """Python's module that tells them apart, or None where it has none."""
    # Private: there is a public one (concurrent.interpreters) from 3.14 on.
    newer = sys.version_info >= (3, 13)
    try:
        name = "_interpreters" if newer else "_xxsubinterpreters"
        return importlib.import_module(name)
    except ImportError:  # no cover: the Pythons tested have it
        return None


def refuse_subinterpreters(interpreters: Any) -> None:
    """Raises where the current interpreter is not the main one.

    Raises:
      ImportError: It is not.
    """
    if interpreters and interpreters.get_current() != interpreters.get_main():
        raise ImportError(
            "jax_roipool cannot be imported in a subinterpreter, because jax "
            "cannot; import it in the main one (mod_wsgi: WSGIApplicationGroup "
            "%{GLOBAL})"
        )


refuse_subinterpreters(known_interpreters())
