"""Handlers against malformed calls: C++ itself answers each with an error.

The right calls of every op, each with one thing wrong; by `jax.ffi.ffi_call` and
as StableHLO, which can say more. tests/native/malformed.cc has what XLA would not
hand over, or takes minutes to: negative, huge and overflowing sizes.
"""

import dataclasses
import re

import jax
import jax.extend.mlir.dialects.stablehlo as stablehlo
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from tests.conftest import ON_GPU
from tests.cuda import on_host

F32, I32, BF16 = np.float32, np.int32, ml_dtypes.bfloat16

# In two groups three maps of 4 x 5 cells and 3 channels, six RoIs of 2 x 2 bins.
MAP, BOXES, IMAGE, POOLED = (2, 3, 4, 5, 3), (2, 6, 4), (2, 6), (2, 6, 2, 2, 3)
SCALES = {"scale_height": F32(1), "scale_width": F32(1)}
LAYOUT = {"layout": "NHWC"}


@dataclasses.dataclass(frozen=True)
class Call:
    """Operands and results as (shape, dtype), by their names, and attributes."""

    op: str
    operands: dict
    results: dict
    attributes: dict

    def but(self, changes, **attributes):
        """With other shapes and dtypes, or without what becomes None."""

        def changed(these, those):
            both = these | {k: v for k, v in those.items() if k in these}
            return {k: v for k, v in both.items() if v is not None}

        return Call(
            self.op,
            changed(self.operands, changes),
            changed(self.results, changes),
            {k: v for k, v in (self.attributes | attributes).items() if v is not None},
        )


CALLS = {
    "roi_pool": Call(
        "roi_pool",
        {"map": (MAP, F32), "boxes": (BOXES, F32), "image": (IMAGE, I32)},
        {"pooled": (POOLED, F32)},
        SCALES | LAYOUT,
    ),
    "roi_pool_argmax": Call(
        "roi_pool_argmax",
        {"map": (MAP, F32), "boxes": (BOXES, F32), "image": (IMAGE, I32)},
        {"pooled": (POOLED, F32), "argmax": (POOLED, I32)},
        SCALES | LAYOUT,
    ),
    "roi_gather": Call(
        "roi_gather",
        {"map": (MAP, F32), "image": (IMAGE, I32), "argmax": (POOLED, I32)},
        {"pooled": (POOLED, F32)},
        LAYOUT,
    ),
    "roi_scatter": Call(
        "roi_scatter",
        {"pooled": (POOLED, F32), "image": (IMAGE, I32), "argmax": (POOLED, I32)},
        {"map": (MAP, F32)},
        LAYOUT,
    ),
}


def of_levels(call):
    """Such a call of three maps, of 4 x 5, 2 x 3 and 0 x 1 cells."""
    maps = {"map": (MAP, F32), "coarse": ((2, 3, 2, 3, 3), F32)}
    maps["none"] = ((2, 3, 0, 1, 3), F32)
    scatter = "map" in call.results
    operands = call.operands if scatter else maps | call.operands
    return Call(
        call.op,
        operands | {"level": (IMAGE, I32)},
        maps if scatter else call.results,
        {
            name: value if name == "layout" else np.ones(3, F32)
            for name, value in call.attributes.items()
        },
    )


PYRAMIDS = {f"{name} of levels": of_levels(call) for name, call in CALLS.items()}

TYPES = "share one of the types float16, bfloat16, float32 and float64"
DECODE = "Failed to decode all FFI handler operands"

# Changes to shapes and dtypes, for the ops that have all of them, and words.
SHAPES = {
    "map of rank 3": ({"map": (MAP[2:], F32)}, "at least 4 dimensions"),
    "map of rank 0": ({"map": ((), F32)}, "at least 4 dimensions"),
    "map of rank 6": ({"map": ((1, *MAP), F32)}, "shapes disagree"),
    "map of other groups": ({"map": ((3, *MAP[1:]), F32)}, "shapes disagree"),
    "map of more channels": (
        {"map": ((*MAP[:-1], 4), F32)},
        "the map has 4 channels, pooled has 3",
    ),
    "boxes of 5": ({"boxes": ((2, 6, 5), F32)}, "4 numbers each"),
    "boxes of rank 0": ({"boxes": ((), F32)}, "4 numbers each"),
    "boxes of rank 4": ({"boxes": ((*BOXES, 1), F32)}, "4 numbers each"),
    "fewer boxes": ({"boxes": ((2, 5, 4), F32)}, "4 numbers each"),
    "no boxes": ({"boxes": ((2, 0, 4), F32)}, "4 numbers each"),
    "image of rank 0": ({"image": ((), I32)}, "shapes disagree"),
    "image of rank 3": ({"image": ((2, 6, 1), I32)}, "shapes disagree"),
    "fewer images": ({"image": ((2, 5), I32)}, "shapes disagree"),
    "no images": ({"image": ((2, 0), I32)}, "shapes disagree"),
    "pooled of rank 0": ({"pooled": ((), F32)}, "shapes disagree"),
    "pooled of rank 4": ({"pooled": (POOLED[:-1], F32)}, "shapes disagree"),
    "more pooled": ({"pooled": ((2, 7, 2, 2, 3), F32)}, "shapes disagree"),
    "pooled of more channels": (
        {"pooled": ((2, 6, 2, 2, 4), F32)},
        "the map has 3 channels, pooled has 4",
    ),
    "no bins": (
        {"pooled": ((2, 6, 0, 2, 3), F32), "argmax": ((2, 6, 0, 2, 3), I32)},
        r"1 to 2\^24 bins",
    ),
    "argmax of rank 0": ({"argmax": ((), I32)}, "argmax must have pooled's shape"),
    "argmax of other bins": (
        {"argmax": ((2, 6, 2, 3, 3), I32)},
        "argmax must have pooled's shape",
    ),
    "integers": ({"map": (MAP, I32), "pooled": (POOLED, I32)}, TYPES),
    "booleans": ({"map": (MAP, bool), "pooled": (POOLED, bool)}, TYPES),
    "complex": ({"map": (MAP, np.complex64), "pooled": (POOLED, np.complex64)}, TYPES),
    "map of bfloat16": ({"map": (MAP, BF16)}, TYPES),
    "pooled of float16": ({"pooled": (POOLED, np.float16)}, TYPES),
    "boxes of float16": ({"boxes": (BOXES, np.float16)}, "boxes must be float32"),
    "boxes of integers": ({"boxes": (BOXES, I32)}, "boxes must be float32"),
    "image of floats": ({"image": (IMAGE, F32)}, "image index must be int32"),
    "image of int16": ({"image": (IMAGE, np.int16)}, "image index must be int32"),
    "argmax of uint32": ({"argmax": (POOLED, np.uint32)}, "argmax must be int32"),
    "argmax of floats": ({"argmax": (POOLED, F32)}, "argmax must be int32"),
    "without image": ({"image": None}, "wrong number of operands"),
}
# Attributes, of the ops that have them.
ATTRIBUTES = {
    "no layout": ({"layout": None}, "Wrong number of attributes"),
    "layout of a new kind": ({"layout": "HWC"}, "layout must be NHWC or NCHW"),
    "layout in small letters": ({"layout": "nhwc"}, "layout must be NHWC or NCHW"),
    "an empty layout": ({"layout": ""}, "layout must be NHWC or NCHW"),
    "a long layout": ({"layout": "NHWC" * 9999}, "layout must be NHWC or NCHW"),
    "layout as a number": ({"layout": I32(0)}, DECODE),
    "layout as numbers": ({"layout": np.zeros(3, I32)}, DECODE),
    "one more": ({"extra": F32(1)}, "Wrong number of attributes"),
    "no scale": ({"scale_width": None}, "Wrong number of attributes"),
    "another name": (
        {"scale_width": None, "scale": F32(1)},
        DECODE,
    ),
    "a scale of 0": ({"scale_height": F32(0)}, "must be finite and above 0"),
    "a scale below 0": ({"scale_width": F32(-1)}, "must be finite and above 0"),
    "a scale of NaN": ({"scale_width": F32(np.nan)}, "must be finite and above 0"),
    "a scale of inf": ({"scale_height": F32(np.inf)}, "must be finite and above 0"),
    "a scale of float64": ({"scale_height": np.float64(0.3)}, DECODE),
    "a scale of an integer": ({"scale_height": I32(7)}, DECODE),
    "a scale in words": ({"scale_height": "1"}, DECODE),
    "a scale of numbers": ({"scale_height": np.ones(2, F32)}, "needs a scale"),
    "an array of one scale": ({"scale_height": np.ones(1, F32)}, "needs a scale"),
}
# Of calls of several levels.
LEVELS = {
    # Fewer maps, the last of which are taken for what follows them.
    "no level": ({"level": None}, {}, "must be int32|wrong number of operands"),
    "level of floats": ({"level": (IMAGE, F32)}, {}, "level must be int32"),
    "level of rank 0": ({"level": ((), I32)}, {}, "level must have the image indices"),
    "fewer levels": ({"level": ((2, 5), I32)}, {}, "level must have the image indices"),
    "flat levels": ({"level": ((12,), I32)}, {}, "level must have the image indices"),
    "a map of other images": (
        {"coarse": ((2, 4, 2, 3, 3), F32)},
        {},
        "levels disagree",
    ),
    "a map of other groups": ({"none": ((1, 3, 0, 1, 3), F32)}, {}, "levels disagree"),
    "a map of less rank": ({"coarse": ((3, 2, 3, 3), F32)}, {}, "levels disagree"),
    "a map of other channels": (
        {"none": ((2, 3, 0, 1, 4), F32)},
        {},
        "levels disagree",
    ),
    "a map of float16": ({"coarse": ((2, 3, 2, 3, 3), np.float16)}, {}, TYPES),
    "no maps": (
        dict.fromkeys(("map", "coarse", "none")),
        {},
        "at least 4 dimensions|share one of|wrong number of operands",
    ),
    "one map": (dict.fromkeys(("map", "coarse")), {}, "wrong number of operands"),
    "two scales": ({}, {"scale_width": np.ones(2, F32)}, "3 levels needs a scale"),
    "one scale": ({}, {"scale_height": F32(1)}, "3 levels needs a scale"),
    "a scale of 0": (
        {},
        {"scale_height": np.arange(3, dtype=F32)},
        "finite and above 0",
    ),
    "scales of float64": ({}, {"scale_height": np.full(3, 0.3)}, DECODE),
    "scales of integers": ({}, {"scale_height": np.ones(3, I32)}, DECODE),
}


def malformed_calls():
    for key, call in PYRAMIDS.items():
        for name, (changes, attributes, words) in LEVELS.items():
            if attributes and len(call.attributes) == 1:
                continue
            wrong = call.but(changes, **attributes)
            yield pytest.param(wrong, words, id=f"{key}: {name}")
        one = CALLS[call.op]
        with_level = one.operands | {"level": (IMAGE, I32)}
        wrong = dataclasses.replace(one, operands=with_level)
        yield pytest.param(wrong, "wrong number of operands", id=f"{key}: of one map")
        many = {f"map {i}": (MAP, F32) for i in range(14)}
        which = "results" if call.op == "roi_scatter" else "operands"
        attributes = {name: np.ones(17, F32) for name in {*call.attributes} - {*LAYOUT}}
        wrong = dataclasses.replace(
            call,
            **{which: many | getattr(call, which)},
            attributes=call.attributes | attributes,
        )
        yield pytest.param(wrong, "1 to 16 levels, got 17", id=f"{key}: 17 maps")
    for call in CALLS.values():
        named = call.operands | call.results
        for name, (changes, words) in SHAPES.items():
            # One that would still be right, or be wrong twice, is for others.
            if name == "pooled of more channels" and "argmax" in named:
                changes = changes | {"argmax": ((2, 6, 2, 2, 4), I32)}
            if not all(changed in named for changed in changes if changed != "argmax"):
                continue
            if not any(changed in named for changed in changes):
                continue
            yield pytest.param(call.but(changes), words, id=f"{call.op}: {name}")
        for name, (attributes, words) in ATTRIBUTES.items():
            if "scale" in name + str([*attributes]) and len(call.attributes) == 1:
                continue
            wrong = call.but({}, **attributes)
            yield pytest.param(wrong, words, id=f"{call.op}: {name}")


def one_of_each_kind():
    """Of the calls that are refused in the same words, one for each op."""
    kinds = {(p.values[0].op, p.values[1]): p for p in malformed_calls()}
    return list(kinds.values())


@pytest.fixture(params=["cpu", on_host.NAME])
def prefix(request, kernels):
    """Of the targets' names: the CPU's handlers, and CUDA's as C++."""
    if ON_GPU:
        pytest.skip("these are calls on CPU")
    if request.param == on_host.NAME:
        return f"{on_host.library().prefix}."
    return "jax_roipool_"


def run(call, prefix):
    """Calls the target; operands are zeros.

    Attributes that are equal are one to JAX, whatever their types, and calls of
    which nothing is left over are none, but for their side effects.
    """
    results = [jax.ShapeDtypeStruct(*result) for result in call.results.values()]
    if prefix != "jax_roipool_" and call.op == "roi_scatter":
        image, _ = call.operands.get("image", (IMAGE, I32))
        results.append(jax.ShapeDtypeStruct((*image, 2), I32))
    operands = [jnp.zeros(*operand) for operand in call.operands.values()]
    return jax.block_until_ready(
        jax.ffi.ffi_call(prefix + call.op, results, has_side_effect=True)(
            *operands, **call.attributes
        )
    )


@pytest.mark.parametrize("call", (CALLS | PYRAMIDS).values(), ids=CALLS | PYRAMIDS)
def test_the_right_calls_are_right(prefix, call):
    first, *_ = run(call, prefix)
    np.testing.assert_array_equal(first, 0)


def check_refusal(call, prefix, words):
    with (
        jax.enable_x64(True),
        pytest.raises(jax.errors.JaxRuntimeError, match=words) as error,
    ):
        run(call, prefix)
    assert "INVALID_ARGUMENT" in str(error.value)


@pytest.mark.parametrize("prefix", ["cpu"], indirect=True)
@pytest.mark.parametrize(("call", "words"), list(malformed_calls()))
def test_malformed_calls_are_refused(prefix, call, words):
    check_refusal(call, prefix, words)


@pytest.mark.parametrize("prefix", [on_host.NAME], indirect=True)
@pytest.mark.parametrize(("call", "words"), one_of_each_kind())
def test_cuda_refuses_malformed_calls(prefix, call, words):
    """What both read buffers with (csrc/core/buffers.h) is tested on the CPU's."""
    check_refusal(call, prefix, words)


# --- StableHLO ---------------------------------------------------------------

TENSOR = {F32: "f32", I32: "i32"}

RIGHT = {
    "api_version": "4 : i32",
    "backend_config": '{layout = "NHWC", scale_height = 1.0 : f32, '
    "scale_width = 1.0 : f32}",
}


def tensor(shape, dtype):
    return f"tensor<{'x'.join([*map(str, shape), TENSOR[dtype]])}>"


def run_text(call, prefix, config):
    """A module of one custom call of roi_pool, with attributes in MLIR's words."""
    operands = [tensor(*operand) for operand in call.operands.values()]
    (result,) = [tensor(*result) for result in call.results.values()]
    names = [f"%arg{i}" for i in range(len(operands))]
    signature = ", ".join(map(": ".join, zip(names, operands, strict=True)))
    attributes = ", ".join(map(" = ".join, config.items()))
    text = f"""
    module @jit_pool {{
      func.func public @main({signature}) -> {result} {{
        %0 = stablehlo.custom_call @"{prefix}{call.op}"({", ".join(names)})
          {{{attributes}}} : ({", ".join(operands)}) -> {result}
        return %0 : {result}
      }}
    }}"""
    inputs = [jax.ShapeDtypeStruct(*operand) for operand in call.operands.values()]
    (output,) = call.results.values()
    program = jax.export.export(jax.jit(lambda *_: jnp.zeros(*output)))(*inputs)
    program = dataclasses.replace(
        program,
        mlir_module_serialized=stablehlo.serialize_portable_artifact_str(
            text, stablehlo.get_current_version()
        ),
        module_kept_var_idx=tuple(range(len(inputs))),
    )
    operands = [jnp.zeros(*operand) for operand in call.operands.values()]
    return jax.block_until_ready(jax.jit(program.call)(*operands))


def test_right_stablehlo_is_right(prefix):
    result = run_text(CALLS["roi_pool"], prefix, RIGHT)
    np.testing.assert_array_equal(result, np.zeros(POOLED))


def config(**changes):
    old = dict(re.findall(r"(\w+) = ([^,}]*)", RIGHT["backend_config"]))
    words = ", ".join(f"{k} = {v}" for k, v in (old | changes).items() if v)
    return RIGHT | {"backend_config": f"{{{words}}}"}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (config(layout=None), "Wrong number of attributes"),
        (config(layout="0 : i64"), DECODE),
        (config(layout="{}"), DECODE),
        (config(layout='"NWHC"'), "layout must be NHWC or NCHW"),
        (config(scale_width="1.0 : f64"), DECODE),
        (config(scale_width="1 : i32"), DECODE),
        (config(scale_width="true"), DECODE),
        (config(scale_width="dense<1.0> : tensor<2xf32>"), "needs a scale"),
        (config(scale_width="0x7FC00000 : f32"), "must be finite and above 0"),
        (config(scale_width="0x00000000 : f32"), "must be finite and above 0"),
        (RIGHT | {"backend_config": "{}"}, "Wrong number of attributes"),
    ],
    ids=lambda value: value["backend_config"] if isinstance(value, dict) else "",
)
def test_wrong_stablehlo_is_refused(prefix, wrong, words):
    with pytest.raises(jax.errors.JaxRuntimeError, match=words):
        run_text(CALLS["roi_pool"], prefix, wrong)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pooled": ((2, 6, 2, 2, 4), F32)}, "the map has 3 channels, pooled has 4"),
        ({"pooled": ((), F32)}, "shapes disagree"),
        ({"boxes": ((), F32)}, "4 numbers each"),
        ({"map": (MAP[2:], F32)}, "at least 4 dimensions"),
    ],
    ids=str,
)
def test_stablehlo_of_wrong_shapes_is_refused(prefix, changes, words):
    with pytest.raises(jax.errors.JaxRuntimeError, match=words):
        run_text(CALLS["roi_pool"].but(changes), prefix, RIGHT)
