"""Code in a fresh interpreter: environments, cores, other processes."""

import os
import subprocess
import sys
import textwrap


def run_python(code, *arguments, **environment):
    """Runs `code` on CPU; the finished process with what it printed."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
