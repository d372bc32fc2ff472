"""In the root of a clone, the installed package in place of the sources.

There `import jax_roipool` finds the clone's folder before what `pip install .` has
put elsewhere, and sources have no kernels. So where they have none and an
installation has, the installation is what is imported, as from any other folder.
An editable installation (`make`, `pip install -e .`) brings its kernels along, and
runs the sources.
"""

import importlib.metadata
import importlib.util
import pathlib
import sys
from typing import Any


def use_installation(package: str, path: Any) -> None:
    """Makes a package that has no kernels find the modules of one that has.

    Args:
      package: Its name.
      path: Where it looks for modules, changed in place.
    """
    if importlib.util.find_spec(f"{package}._cpu") is not None:
        return
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return
    for file in files:
        if file.parts[:-1] == (package,) and file.stem.split(".")[0] == "_cpu":
            installed = pathlib.Path(str(file.locate()))
            # An editable one has its kernels there, and nothing else.
            if installed.is_file() and installed.with_name("__init__.py").is_file():
                path[:] = [str(installed.parent)]
                return


use_installation("jax_roipool", sys.modules["jax_roipool"].__path__)
