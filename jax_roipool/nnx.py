"""The ops as Flax NNX modules, which have no parameters. Needs flax."""

import dataclasses

from jax_roipool import modules

with modules.needs_flax(__name__):
    from flax import nnx

__all__ = ["RoIAlign", "RoIAveragePool", "RoIPool"]

_modules = modules.make_all(nnx.Module, __name__, "pool(")
_as_fields = dataclasses.dataclass(repr=False, eq=False)
RoIAlign = _as_fields(_modules["RoIAlign"])
RoIAveragePool = _as_fields(_modules["RoIAveragePool"])
RoIPool = _as_fields(_modules["RoIPool"])
