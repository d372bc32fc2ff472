"""The build backend: scikit-build-core, a word about compilers, and nvcc.

Where there is no C++ compiler that is said in a sentence. Where CUDA kernels are asked
for and the machine has no nvcc for them, the build environment gets one of the package
index. Nothing else differs from `scikit_build_core.build`.
"""

import os
import re
import shlex
import shutil

import find_nvcc
from scikit_build_core import build as _build
from scikit_build_core.build import *  # noqa: F403
from scikit_build_core.settings.skbuild_read_settings import SettingsReader

ConfigSettings = dict[str, str | list[str]] | None


def _cmake_variables(config_settings: ConfigSettings) -> dict[str, str]:
    """What CMake will be told, by pyproject.toml, options of pip, environment."""
    settings = SettingsReader.from_file("pyproject.toml", config_settings or {})
    cmake = settings.settings.cmake
    variables = {name: str(value) for name, value in cmake.define.items()}
    for argument in (*cmake.args, *shlex.split(os.environ.get("CMAKE_ARGS", ""))):
        found = re.fullmatch(r"(?:-D)?(\w+)(?::\w+)?=(.*)", argument)
        if found:
            variables[found[1]] = found[2]
    return variables


_COMPILERS = ("c++", "g++", "clang++")


def _check_compiler(config_settings: ConfigSettings) -> None:
    """Ends the build in a sentence where CMake would find no C++ compiler."""
    settings = SettingsReader.from_file("pyproject.toml", config_settings or {})
    if not settings.settings.wheel.cmake or "CMAKE_TOOLCHAIN_FILE" in os.environ:
        return
    named = shlex.split(os.environ.get("CXX", ""))[:1]
    if not any(map(shutil.which, named or _COMPILERS)):
        raise SystemExit(
            "jax_roipool needs a C++17 compiler for its kernels and found none as "
            f"{' or '.join(named or _COMPILERS)}: install one (Debian, Ubuntu: apt "
            "install g++; macOS: xcode-select --install), name one by CXX=..., or "
            "install plain JAX alone, which is slower: pip install . -C "
            "wheel.cmake=false"
        )


def _nvcc_requirements(config_settings: ConfigSettings) -> list[str]:
    variables = _cmake_variables(config_settings)
    cuda = variables.get("JAX_ROIPOOL_CUDA", "")
    if cuda.upper() not in ("1", "ON", "YES", "TRUE", "Y"):
        return []
    choice = variables.get("JAX_ROIPOOL_NVCC", "")
    if choice == find_nvcc.PACKAGE:
        return list(find_nvcc.REQUIREMENTS)
    if choice or find_nvcc.find_on_machine()[0]:
        return []
    return list(find_nvcc.REQUIREMENTS)


def get_requires_for_build_wheel(config_settings: ConfigSettings = None) -> list[str]:
    """What a wheel is built with besides `build-system.requires`."""
    _check_compiler(config_settings)
    return [
        *_build.get_requires_for_build_wheel(config_settings),
        *_nvcc_requirements(config_settings),
    ]


def get_requires_for_build_editable(
    config_settings: ConfigSettings = None,
) -> list[str]:
    """What an editable install is built with besides `build-system.requires`."""
    _check_compiler(config_settings)
    return [
        *_build.get_requires_for_build_editable(config_settings),
        *_nvcc_requirements(config_settings),
    ]
