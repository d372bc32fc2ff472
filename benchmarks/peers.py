"""Others that pool RoIs on a CPU; float32, NCHW."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from inputs import Inputs
from measure import Contestant


def _nchw(inputs: Inputs) -> np.ndarray:
    return inputs.once(
        "nchw", lambda: np.ascontiguousarray(np.moveaxis(inputs.features, -1, 1))
    )


def _channels_last(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, 1, -1)


def onnxruntime(inputs: Sequence[Inputs], threads: int, grad: bool) -> list[Contestant]:
    """ONNX Runtime's MaxRoiPool."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    first = inputs[0]
    node = helper.make_node(
        "MaxRoiPool",
        ["x", "rois"],
        ["y"],
        pooled_shape=[first.load.size] * 2,
        spatial_scale=first.load.scale,
    )

    def value(name: str, shape: tuple[int, ...] | None) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [node],
        "roi_pool",
        [value("x", _nchw(first).shape), value("rois", first.rois.shape)],
        [value("y", None)],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    # The result stays in memory of its own from call to call, which is the best
    # it can do: `session.run` would copy it into a fresh array.
    rois, size, _, channels = first.pooled_shape
    y = ort.OrtValue.ortvalue_from_shape_and_type(
        [rois, channels, size, size], np.float32
    )

    def call(x: Inputs) -> Callable[[], Any]:
        binding = session.io_binding()
        for name, array in (("x", _nchw(x)), ("rois", x.rois)):
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        binding.bind_ortvalue_output("y", y)

        def run() -> Any:
            session.run_with_iobinding(binding)
            return y

        return run

    return [
        Contestant(
            "onnxruntime reused",
            [call(x) for x in inputs],
            lambda result: first.check({"pooled": _channels_last(result.numpy())}),
            "forward",
        )
    ]


def openvino(inputs: Sequence[Inputs], threads: int, grad: bool) -> list[Contestant]:
    """OpenVINO's ROIPooling, with its result copied to the user and without."""
    # Its usage report starts a process, of which JAX would warn.
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
    import openvino as ov
    from openvino import opset8

    first = inputs[0]
    x = opset8.parameter(_nchw(first).shape, np.float32)
    boxes = opset8.parameter(first.rois.shape, np.float32)
    node = opset8.roi_pooling(x, boxes, [first.load.size] * 2, first.load.scale, "max")
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    model = ov.Core().compile_model(ov.Model([node], [x, boxes]), "CPU", settings)

    def tensors(inputs: Inputs) -> list[Any]:
        return [
            ov.Tensor(array, shared_memory=True)
            for array in (_nchw(inputs), inputs.rois)
        ]

    def check(result: Any) -> str:
        pooled = _channels_last(np.asarray(result[0]))
        return first.check({"pooled": pooled}, integer_bins=True)

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
        Contestant("openvino", [copied(x) for x in inputs], check, "forward"),
        Contestant("openvino reused", [reused(x) for x in inputs], check, "forward"),
    ]


def torchvision(inputs: Sequence[Inputs], threads: int, grad: bool) -> list[Contestant]:
    """The roi_pool of torchvision, which always computes the argmax."""
    import torch
    import torchvision.ops

    torch.set_num_threads(threads)
    first = inputs[0]

    def pool(x: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        return torchvision.ops.roi_pool(x, boxes, first.load.size, first.load.scale)

    def forward(inputs: Inputs) -> Callable[[], Any]:
        x, boxes = torch.from_numpy(_nchw(inputs)), torch.from_numpy(inputs.rois)
        return lambda: {"pooled": pool(x, boxes)}

    def both(inputs: Inputs) -> Callable[[], Any]:
        x, boxes = torch.from_numpy(_nchw(inputs)), torch.from_numpy(inputs.rois)
        x = x.detach().requires_grad_()
        cotangent = torch.from_numpy(
            np.moveaxis(first.cotangent().astype(np.float32), -1, 1).copy()
        )

        def run() -> Any:
            pooled = pool(x, boxes)
            (gradient,) = torch.autograd.grad(pooled, x, cotangent)
            return {"pooled": pooled.detach(), "gradient": gradient}

        return run

    def check(result: dict[str, Any]) -> str:
        return first.check({k: _channels_last(v.numpy()) for k, v in result.items()})

    modes = [("forward", forward)] + [("forward+backward", both)] * grad
    return [
        Contestant(f"torchvision {mode}", [make(x) for x in inputs], check, mode)
        for mode, make in modes
    ]


PEERS = {"onnxruntime": onnxruntime, "openvino": openvino, "torchvision": torchvision}


def present(
    inputs: Sequence[Inputs], threads: int, grad: bool
) -> tuple[list[Contestant], list[str]]:
    """Those that can be imported, and a line about each of the others."""
    contestants, absent = [], []
    for name, make in PEERS.items():
        if inputs[0].dtype != np.float32:
            absent.append(f"{name}: float32 only")
            continue
        try:
            contestants += make(inputs, threads, grad)
        except ImportError as error:
            absent.append(f"{name}: not installed ({error.name})")
    return contestants, absent
