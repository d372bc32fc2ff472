"""The benchmark on CPU finds right answers right, and wrong ones wrong."""

import importlib
import pathlib

import numpy as np
import pytest

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    """Imports a module of the benchmarks by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.mark.parametrize("kind", ["roi_pool", "roi_align", "a pyramid", "adaptive"])
def test_answers_are_checked(bench, kind):
    workloads, ours, inputs = bench("workloads"), bench("ours"), bench("inputs")
    sizes = ((2, 20, 30, 3), 40, 3, 1 / 16)
    load = {
        "roi_pool": workloads.Workload(*sizes),
        "roi_align": workloads.AlignWorkload(*sizes),
        "a pyramid": workloads.AlignWorkload(*sizes, levels=3),
        "adaptive": workloads.AlignWorkload(*sizes, ratio=0),
    }[kind]
    x = inputs.make_inputs(load, "float32", 1)
    made = ours.program([x], "NCHW", ours.BOTH)
    got = made.named(made.run(*made.operands[0]))
    x.check(got)
    if kind in ("roi_align", "a pyramid"):
        features, rois, *_ = ours.program([x], "NHWC", ours.FORWARD).operands[0]
        pooled = np.asarray(bench("jax_peers").taps(load, features, rois))
        x.check({"pooled": pooled}, own_rounding=True)
    gradients = got["gradient"] if kind == "a pyramid" else [got["gradient"]]
    for array in [got["pooled"], *gradients]:
        wrong = array.copy()
        wrong[-1, -1, -1, -1] += 0.01
        changed = [wrong if y is array else y for y in gradients]
        answers = {
            "pooled": wrong if array is got["pooled"] else got["pooled"],
            "gradient": changed if kind == "a pyramid" else changed[0],
        }
        with pytest.raises(inputs.WrongAnswer):
            x.check(answers)
