"""The ops as Flax Linen modules, which have no parameters. Needs flax."""

from jax_roipool import modules

with modules.needs_flax(__name__):
    from flax import linen as nn

__all__ = ["RoIAlign", "RoIAveragePool", "RoIPool"]

_modules = modules.make_all(nn.Module, __name__, "pool.apply({}, ")
RoIAlign = _modules["RoIAlign"]
RoIAveragePool = _modules["RoIAveragePool"]
RoIPool = _modules["RoIPool"]
