"""Others that pool RoIs on a CPU; float32."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import ours
from inputs import AlignInputs, Inputs
from measure import Contestant
from workloads import AlignWorkload, Workload


def _nchw(inputs: Inputs) -> list[np.ndarray]:
    def make() -> list[np.ndarray]:
        return [np.ascontiguousarray(np.moveaxis(x, -1, 1)) for x in inputs.maps]

    return inputs.once("nchw", make)


def _channels_last(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, 1, -1)


def _of_levels(inputs: Inputs) -> list[tuple[np.ndarray, ...]]:
    """What an operator takes that knows one level only: once for each level.

    RoIs are sorted into levels beforehand, and nobody puts the results together: that
    is the best that a graph of such operators can do.
    """

    def make() -> list[tuple[np.ndarray, ...]]:
        if not isinstance(inputs, AlignInputs):
            return [(_nchw(inputs)[0], inputs.rois)]
        of_levels = []
        for number, x in enumerate(_nchw(inputs)):
            rois = inputs.rois[inputs.level == number]
            of_levels.append((x, rois[:, 1:].copy(), rois[:, 0].astype(np.int64)))
        return of_levels

    return inputs.once("of levels", make)


def _together(inputs: Inputs, pooled: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The results of `_of_levels` as `Inputs.check` takes them."""
    (joined,) = pooled if len(pooled) == 1 else [np.concatenate(pooled)]
    if len(pooled) > 1 and isinstance(inputs, AlignInputs):
        order = np.argsort(inputs.level, kind="stable")
        joined = joined[np.argsort(order)]
    return {"pooled": _channels_last(joined)}


def onnxruntime(
    inputs: Sequence[Inputs], threads: int, modes: Sequence[str]
) -> list[Contestant]:
    """ONNX Runtime's MaxRoiPool; its RoiAlign."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    first = inputs[0]

    def value(name: str, array: np.ndarray) -> Any:
        kind = TensorProto.INT64 if array.dtype == np.int64 else TensorProto.FLOAT
        shape = array.shape if array.ndim == 4 else (None, *array.shape[1:])
        return helper.make_tensor_value_info(name, kind, shape)

    nodes, given, results = [], [], []
    for level, arrays in enumerate(_of_levels(first)):
        names = [f"{name}{level}" for name in ("x", "rois", "image")][: len(arrays)]
        kind, settings = _onnx_operator(first.load, level)
        nodes.append(helper.make_node(kind, names, [f"y{level}"], **settings))
        given += [value(*pair) for pair in zip(names, arrays, strict=True)]
        results.append(helper.make_tensor_value_info(f"y{level}", 1, None))
    graph = helper.make_graph(nodes, "pool", given, results)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    _, size, _, channels = first.pooled_shape

    # The results stay in memory of their own from call to call, which is the best
    # it can do: `session.run` would copy them into fresh arrays.
    def call(x: Inputs) -> Callable[[], Any]:
        binding, of_levels = session.io_binding(), _of_levels(x)
        arrays = [array for level in of_levels for array in level]
        for name, array in zip(session.get_inputs(), arrays, strict=True):
            value = ort.OrtValue.ortvalue_from_numpy(array)
            binding.bind_ortvalue_input(name.name, value)
        results = [
            ort.OrtValue.ortvalue_from_shape_and_type(
                [len(level[1]), channels, size, size], np.float32
            )
            for level in of_levels
        ]
        for number, y in enumerate(results):
            binding.bind_ortvalue_output(f"y{number}", y)

        def run() -> Any:
            session.run_with_iobinding(binding)
            return results

        return run

    def check(result: Any) -> str:
        return first.check(_together(first, [y.numpy() for y in result]))

    calls = [call(x) for x in inputs]
    return [Contestant("onnxruntime reused", calls, check, ours.FORWARD)]


def _onnx_operator(load: Workload, level: int) -> tuple[str, dict[str, Any]]:
    size = load.size
    if not isinstance(load, AlignWorkload):
        return "MaxRoiPool", {"pooled_shape": [size] * 2, "spatial_scale": load.scale}
    return "RoiAlign", {
        "output_height": size,
        "output_width": size,
        "spatial_scale": load.scales[level],
        "sampling_ratio": load.ratio,
        "coordinate_transformation_mode": "output_half_pixel",
    }


def openvino(
    inputs: Sequence[Inputs], threads: int, modes: Sequence[str]
) -> list[Contestant]:
    """OpenVINO's ROIPooling and ROIAlign, the result copied to the user and not."""
    # Its usage report starts a process, of which JAX would warn.
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
    import openvino as ov
    from openvino import opset9

    first = inputs[0]
    nodes, given = [], []
    for level, (x, *rois) in enumerate(_of_levels(first)):
        parameters = [opset9.parameter(x.shape, x.dtype)] + [
            opset9.parameter((-1, *array.shape[1:]), array.dtype) for array in rois
        ]
        given += parameters
        nodes.append(_openvino_operator(opset9, first.load, level, parameters))
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    model = ov.Core().compile_model(ov.Model(nodes, given), "CPU", settings)

    def tensors(inputs: Inputs) -> list[Any]:
        return [
            ov.Tensor(array, shared_memory=True)
            for level in _of_levels(inputs)
            for array in level
        ]

    def check(result: Any) -> str:
        pooled = [np.asarray(result[i]) for i in range(len(nodes))]
        return first.check(_together(first, pooled), own_rounding=True)

    # What `infer` does unless told otherwise: a copy, in a fresh array.
    request = model.create_infer_request()

    def copied(inputs: Inputs) -> Callable[[], Any]:
        given = tensors(inputs)
        return lambda: request.infer(given)

    # The least it can do: inputs set beforehand, the result left in the memory
    # of the request, where the next call overwrites it.
    def reused(inputs: Inputs) -> Callable[[], Any]:
        request = model.create_infer_request()
        for number, tensor in enumerate(tensors(inputs)):
            request.set_input_tensor(number, tensor)
        return lambda: request.infer(share_outputs=True)

    return [
        Contestant(name, [make(x) for x in inputs], check, ours.FORWARD)
        for name, make in (("openvino", copied), ("openvino reused", reused))
    ]


def _openvino_operator(
    opset: Any, load: Workload, level: int, parameters: list[Any]
) -> Any:
    if not isinstance(load, AlignWorkload):
        return opset.roi_pooling(*parameters, [load.size] * 2, load.scale, "max")
    sizes = (load.size, load.size, load.ratio, load.scales[level])
    return opset.roi_align(*parameters, *sizes, "avg", "asymmetric")


def torchvision(
    inputs: Sequence[Inputs], threads: int, modes: Sequence[str]
) -> list[Contestant]:
    """Torchvision's roi_pool, always with the argmax; its roi_align, its pooler."""
    import torch

    torch.set_num_threads(threads)
    first = inputs[0]

    def forward(inputs: Inputs) -> Callable[[], Any]:
        pool, _ = _torchvision_call(inputs)

        def run() -> Any:
            with torch.no_grad():
                return {"pooled": (pool(),)}

        return run

    def both(inputs: Inputs) -> Callable[[], Any]:
        pool, maps = _torchvision_call(inputs)
        cotangent = torch.from_numpy(
            np.moveaxis(first.cotangent().astype(np.float32), -1, 1).copy()
        )

        def run() -> Any:
            pooled = pool()
            gradient = torch.autograd.grad(pooled, maps, cotangent)
            return {"pooled": (pooled.detach(),), "gradient": gradient}

        return run

    def check(result: dict[str, Any]) -> str:
        got: dict[str, Any] = {}
        for name, tensors in result.items():
            arrays = [_channels_last(x.numpy()) for x in tensors]
            got[name] = arrays if len(arrays) > 1 else arrays[0]
        return first.check(got)

    makes = {ours.FORWARD: forward, ours.BOTH: both}
    return [
        Contestant(f"torchvision {x}", [makes[x](y) for y in inputs], check, x)
        for x in modes
    ]


def _torchvision_call(inputs: Inputs) -> tuple[Callable[[], Any], list[Any]]:
    """What pools, and the maps that it pools."""
    import torch
    import torchvision.ops

    load = inputs.load

    def make() -> tuple[Callable[[], Any], list[Any]]:
        maps = [torch.from_numpy(x).requires_grad_() for x in _nchw(inputs)]
        rois = torch.from_numpy(inputs.rois)
        arguments = (maps[0], rois, load.size, load.scale)
        if not isinstance(load, AlignWorkload):
            return partial(torchvision.ops.roi_pool, *arguments), maps
        if load.levels == 1:
            return partial(torchvision.ops.roi_align, *arguments, load.ratio), maps
        named = {str(number): x for number, x in enumerate(maps)}
        pooler = torchvision.ops.MultiScaleRoIAlign([*named], load.size, load.ratio)
        images, height, width, _ = load.shape
        boxes = [rois[rois[:, 0] == image, 1:] for image in range(images)]
        sizes = [(int(height / load.scale), int(width / load.scale))] * images
        return partial(pooler, named, boxes, sizes), maps

    return inputs.once("torchvision", make)


def plain_jax(
    inputs: Sequence[Inputs], threads: int, modes: Sequence[str]
) -> list[Contestant]:
    """The package without kernels, and the same written in a function; NHWC."""
    first = inputs[0]
    if not isinstance(first.load, AlignWorkload):
        return []
    from jax_peers import taps

    from jax_roipool import backends

    def contestant(name: str, mode: str, op: Callable[..., Any]) -> Contestant:
        name = f"plain JAX, {name} {mode}"
        return ours.contestant(name, inputs, "NHWC", mode, mode, op=op)

    kernels = backends.CPU.choice
    backends.CPU.use(backends.PLAIN)
    try:
        found = [contestant("ours", mode, ours.op_of(first.load)) for mode in modes]
    finally:
        backends.CPU.use(kernels)
    if first.load.ratio:
        found.append(contestant("taps", ours.FORWARD, partial(taps, first.load)))
    return found


PEERS = {
    "plain JAX": plain_jax,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "torchvision": torchvision,
}


def present(
    inputs: Sequence[Inputs], threads: int, modes: Sequence[str]
) -> tuple[list[Contestant], list[str]]:
    """Those that can be imported, and a line about each of the others.

    Args:
      inputs: To rotate.
      threads: For everybody.
      modes: Of ours; peers have the forward pass and both.
    """
    contestants, absent = [], []
    modes = [x for x in modes if x in (ours.FORWARD, ours.BOTH)]
    for name, make in PEERS.items():
        if inputs[0].dtype != np.float32:
            absent.append(f"{name}: float32 only")
            continue
        try:
            contestants += make(inputs, threads, modes)
        except ImportError as error:
            absent.append(f"{name}: not installed ({error.name})")
    return contestants, absent
