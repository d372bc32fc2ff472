"""The ops, a row each, over which most tests of `tests/ops` run.

A row says what an op is called, how it is called, and what its results must be. A new
op needs a row here and a file in `tests/oracle`: values, gradients, `vmap`, sharding,
export, limits, random and hostile calls then run on it, by the fixture `op`. What is
true of one op alone stands in a file that says so (`ops/test_argmax.py`).

Everything here is in the flat form with channels last.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

import jax_roipool
from tests.cases import CASES, CHANNEL_CASES, Case, assert_same
from tests.oracle import roi_align, roi_average_pool, roi_pool

# Of the sum of |weight * feature|, for results that are compared with a tolerance.
TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """An op with its extra static arguments.

    Attributes:
      name: What tests are called by.
      function: The public function.
      oracle: `(features, rois, size, scale, valid, **static)` to the result; a tuple
        `(result, argmax)` where the op has an argmax.
      oracle_gradient: `(cotangent, features, rois, size, scale, valid, **static)` to
        the gradient of features, in float64.
      exact: Whether results equal the oracle's, to the bit. Else the op is linear with
        weights of 0 or more, the oracle computes in float64, and results may be off by
        `TOLERANCE` and half a unit of their dtype.
      with_argmax: The function that gives `(result, argmax)`, where there is one.
      static: Further static arguments of all calls, and fields of its Flax modules.
      forward_mode: Arguments that make forward mode work.
      module: The name of its Flax modules.
      calls: The custom calls of a forward pass, of a gradient. Where there are none
        the op has no kernels, and tests run it on plain JAX alone.
      cases: What values and gradients are tried on.
      channel_cases: The same, for what only kernels know.
    """

    name: str
    function: Callable[..., Any]
    oracle: Callable[..., Any]
    oracle_gradient: Callable[..., np.ndarray]
    calls: tuple[Mapping[str, int], Mapping[str, int]]
    module: str
    exact: bool = True
    with_argmax: Callable[..., Any] | None = None
    static: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    forward_mode: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    cases: tuple[Case, ...] = tuple(CASES)
    channel_cases: tuple[Case, ...] = tuple(CHANNEL_CASES)

    def __str__(self) -> str:
        return self.name

    @property
    def kernels(self) -> bool:
        return any(self.calls)

    # --- Calling it

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **self.static, **kwargs)

    def results(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The result; where there is an argmax once more, and that."""
        out = (self(*args, **kwargs),)
        if self.with_argmax is not None:
            out += tuple(self.with_argmax(*args, **self.static, **kwargs))
        return out

    # --- What it must be

    def wanted(self, features, rois, size, scale=(1.0, 1.0), valid=None):
        """What `results` must be, and how far the first may be off."""
        out = self.oracle(features, rois, size, scale, valid, **self.static)
        if self.with_argmax is not None:
            out = (out[0], *out)
        else:
            out = (out,)
        if self.exact:
            return out, None
        slack = self.oracle(np.abs(features), rois, size, scale, valid, **self.static)
        return out, TOLERANCE * slack

    def wanted_gradient(
        self, cotangent, features, rois, size, scale=(1.0, 1.0), valid=None
    ):
        """The gradient, and how far it may be off."""
        rest = rois, size, scale, valid
        out = self.oracle_gradient(cotangent, features, *rest, **self.static)
        if self.exact:
            return out, None
        # Linear: no feature matters.
        slack = self.oracle_gradient(np.abs(cotangent), features, *rest, **self.static)
        return out, TOLERANCE * slack

    def wanted_derivative(
        self, tangent, features, rois, size, scale=(1.0, 1.0), valid=None
    ):
        """The derivative in forward mode along a tangent, and how far it may be off."""
        if not self.exact:
            (out,), slack = self.wanted(tangent, rois, size, scale, valid)
            return out, slack
        _, argmax = self.oracle(features, rois, size, scale, valid, **self.static)
        return roi_pool.gather(tangent, rois, argmax, valid), None

    # --- Comparing

    def assert_near(self, got: Any, want: Any, slack: Any = None) -> None:
        """Equal, or where slack is given within it and half a unit of the dtype."""
        if slack is None:
            assert_same(got, want)
            return
        got = np.asarray(got)
        want = np.asarray(want, np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = want.astype(got.dtype).astype(np.float64)
            info = jnp.finfo(got.dtype)
            # Below the least normal number a product may be flushed to 0.
            unit = np.maximum(np.abs(want) * float(info.eps), float(info.tiny))
            near = np.abs(got.astype(np.float64) - want) <= slack + unit / 2
            same = (rounded == got) | (np.isnan(rounded) & np.isnan(got))
        bad = ~(near | same)
        assert not bad.any(), (got[bad][:5], want[bad][:5], np.argwhere(bad)[:5])

    def assert_agrees(self, got: Any, want: Any) -> None:
        """Two results of the op: equal, or as near as results of two orders are."""
        if self.exact or not jnp.issubdtype(jnp.asarray(got).dtype, jnp.inexact):
            assert_same(got, want)
        else:
            want = np.asarray(want)
            self.assert_near(got, want, 2 * TOLERANCE * (1 + np.abs(want)))


ROI_POOL = Row(
    name="roi_pool",
    function=jax_roipool.roi_pool,
    with_argmax=jax_roipool.roi_pool_with_argmax,
    oracle=roi_pool.roi_pool,
    oracle_gradient=roi_pool.gradient,
    forward_mode={"forward_mode": True},
    calls=({"roi_pool": 1}, {"roi_pool_argmax": 1, "roi_scatter": 1}),
    module="RoIPool",
)

ROI_AVERAGE_POOL = Row(
    name="roi_average_pool",
    function=jax_roipool.roi_average_pool,
    oracle=roi_average_pool.roi_average_pool,
    oracle_gradient=roi_average_pool.gradient,
    calls=(
        {"roi_average_pool": 1},
        {"roi_average_pool": 1, "roi_average_pool_transpose": 1},
    ),
    module="RoIAveragePool",
    exact=False,
)


def _roi_align(name: str, **static: Any) -> Row:
    return Row(
        name=name,
        function=jax_roipool.roi_align,
        oracle=roi_align.roi_align,
        oracle_gradient=roi_align.gradient,
        calls=({"roi_align": 1}, {"roi_align": 1, "roi_align_transpose": 1}),
        module="RoIAlign",
        exact=False,
        static=static,
    )


ROI_ALIGN = _roi_align("roi_align")
ROI_ALIGN_TORCHVISION = _roi_align(
    "roi_align of torchvision", sampling_ratio=2, aligned=False
)

ROWS = (ROI_POOL, ROI_AVERAGE_POOL, ROI_ALIGN, ROI_ALIGN_TORCHVISION)

# One of each kind: what follows from signatures and rules of derivatives alone is tried
# on these.
KINDS = (ROI_POOL, ROI_ALIGN)

# All public functions that pool.
FUNCTIONS = list(
    dict.fromkeys(f for op in ROWS for f in (op.function, op.with_argmax) if f)
)


@functools.cache
def case_answers(op: Row, case: Case, dtype: str) -> Any:
    """What a case must give, once for all implementations."""
    features = case.features_as(dtype)
    return op.wanted(features, case.rois, case.size, case.scale, case.valid)
