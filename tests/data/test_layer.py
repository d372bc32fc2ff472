"""The layer: one stream, whatever the workers, and nothing lost or served twice."""

import dataclasses
import gc
import json
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("cv2")
pytest.importorskip("grain")

from jax_roipool import data, roi_pool
from jax_roipool.data import (
    ImageConfig,
    ImageError,
    LayerConfig,
    RoIDataLayer,
    Roidb,
    SamplingConfig,
    WorkerError,
)
from jax_roipool.data import layer as layer_module
from tests.data.sets import CLASSES, K, png, roidb_of, write_voc
from tests.process import run_python

IMAGES = ImageConfig(scales=(32, 48), max_size=64, buckets=[(48, 64), (64, 48)])
CONFIG = LayerConfig(
    images=IMAGES, sampling=SamplingConfig(batch_rois=12, images_per_batch=3)
)
COUNT = 23


@pytest.fixture(scope="module")
def roidb():
    return roidb_of(COUNT)


def layer_of(roidb, config=CONFIG, **settings):
    return RoIDataLayer(roidb, K, config, **{"seed": 5, **settings})


@pytest.fixture(scope="module")
def stream(roidb):
    """Two epochs without workers."""
    return list(layer_of(roidb, epochs=2))


def assert_same(got, want):
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)


# --- The stream ---------------------------------------------------------------


def test_every_image_of_every_epoch_is_served_exactly_once(roidb, stream):
    steps = layer_of(roidb).steps_per_epoch
    assert len(stream) == 2 * steps
    for epoch in (stream[:steps], stream[steps:]):
        served = Counter(i for batch in epoch for i in batch.image_index.tolist())
        padding = served.pop(-1, 0)
        assert served == Counter(range(COUNT))
        assert padding == 3 * steps - COUNT
        weights = [w for batch in epoch for w in batch.image_weights.tolist()]
        assert sum(weights) == COUNT
    orders = [
        [b.image_index.tolist() for b in e] for e in (stream[:steps], stream[steps:])
    ]
    assert orders[0] != orders[1]


def test_the_spec_is_known_before_the_first_batch(roidb, stream):
    spec = layer_of(roidb).spec
    assert {batch.data.shape[1:3] for batch in stream} == set(spec)
    for batch in stream:
        want = spec[batch.data.shape[1:3]]
        assert jax.tree.map(lambda a: (a.shape, a.dtype), batch) == jax.tree.map(
            lambda a: (a.shape, a.dtype), want
        )


def test_the_seed_decides(roidb, stream):
    assert_same(list(layer_of(roidb, epochs=2)), stream)
    other = next(layer_of(roidb, seed=6))
    assert not np.array_equal(other.image_index, stream[0].image_index)


def test_rois_are_sampled_anew_in_every_epoch(roidb, stream):
    of_image = {}
    for batch in stream:
        for i, rois in zip(batch.image_index.tolist(), batch.rois, strict=True):
            of_image.setdefault(i, []).append(rois)
    changed = sum(not np.array_equal(*both) for i, both in of_image.items() if i >= 0)
    assert changed > COUNT / 2


@pytest.mark.nightly
def test_workers_do_not_change_the_stream(roidb, stream):
    """Nor does a resume within an epoch with another number of them."""
    with layer_of(roidb, workers=2, epochs=2) as layer:
        got = [next(layer) for _ in range(len(stream) // 2 - 1)]
        state = json.loads(json.dumps(layer.state))
    assert state["batch"] == len(got)
    for count in (3, 0):
        with layer_of(roidb, workers=count, epochs=2, seed=99) as layer:
            layer.set_state(state)
            assert layer.state == state
            rest = list(layer)
            assert_same(got + rest, stream)
            assert layer.state["epoch"] == 2
            assert list(layer) == []
            # A later state is behind the end; an earlier one is served again.
            layer.set_state({**state, "epoch": 1, "batch": 0})
            assert_same([next(layer)], stream[len(stream) // 2 :][:1])


@pytest.mark.nightly
def test_a_worker_killed(roidb, stream):
    with layer_of(roidb, workers=2, epochs=2, prefetch=1) as layer:
        got = [next(layer) for _ in range(3)]
        victim = multiprocessing.active_children()[0]
        os.kill(victim.pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"a worker process ended: .* -9"):
            got.extend(layer)
        # What had been made was served; `next` goes on with other workers.
        assert 3 <= len(got) < len(stream)
        assert layer.state == state_at(layer, len(got))
        got += list(layer)
    assert_same(got, stream)


def state_at(layer, served):
    epoch, batch = divmod(served, layer.steps_per_epoch)
    return {**layer.state, "epoch": epoch, "batch": batch}


def test_hosts_share_every_step(roidb):
    hosts = [layer_of(roidb, host=h, hosts=2, epochs=1) for h in range(2)]
    served = Counter()
    for batches in zip(*hosts, strict=True):
        assert len({batch.data.shape for batch in batches}) == 1
        served.update(i for batch in batches for i in batch.image_index.tolist())
    served.pop(-1)
    assert served == Counter(range(COUNT))


def test_another_roidb(roidb, stream):
    layer = layer_of(roidb)
    next(layer)
    other = roidb_of(4, seed=1)
    layer.set_roidb(other)
    assert layer.state["epoch"] == layer.state["batch"] == 0
    assert_same([next(layer)], [next(layer_of(other))])
    with pytest.raises(ValueError, match="roidb must not be empty"):
        layer.set_roidb(roidb[:0])
    assert layer.roidb is other


def test_epochs():
    roidb = roidb_of(2)
    assert list(layer_of(roidb, epochs=0)) == []
    endless = layer_of(roidb)
    for _ in range(5 * endless.steps_per_epoch):
        next(endless)
    assert endless.state["epoch"] == 5


# --- At the device --------------------------------------------------------------


def test_minibatches_on_a_device(roidb, stream):
    device = jax.devices()[0]
    for count in (0, 1):
        with layer_of(roidb, workers=count, device=device) as layer:
            batch = next(layer)
        assert all(
            isinstance(leaf, jax.Array) and leaf.devices() == {device}
            for leaf in jax.tree.leaves(batch)
        )
        assert_same([batch], stream[:1])


def test_minibatches_over_a_mesh():
    done = run_python(
        """
        import jax, numpy as np
        from jax.sharding import NamedSharding, PartitionSpec as P
        from jax_roipool.data import LayerConfig, RoIDataLayer, SamplingConfig
        from tests.data.sets import K, roidb_of
        from tests.data.test_layer import IMAGES

        mesh = jax.make_mesh((8,), ("data",))
        sampling = SamplingConfig(batch_rois=32, images_per_batch=8)
        config = LayerConfig(images=IMAGES, sampling=sampling)
        roidb = roidb_of(9)
        sharded = RoIDataLayer(
            roidb, K, config, epochs=1, device=NamedSharding(mesh, P("data"))
        )
        for batch, want in zip(
            sharded, RoIDataLayer(roidb, K, config, epochs=1), strict=True
        ):
            for got, leaf in zip(batch, want, strict=True):
                if leaf is not None:
                    assert len(got.addressable_shards) == 8
                    assert got.addressable_shards[0].data.shape[0] == 1
                    np.testing.assert_array_equal(got, leaf)
        print("done")
        """,
        XLA_FLAGS="--xla_force_host_platform_device_count=8",
    )
    assert done.stdout == "done\n", done.stderr


def test_shardings_that_do_not_fit_are_refused_at_once():
    done = run_python(
        """
        import jax
        from jax.sharding import NamedSharding, PartitionSpec as P
        from jax_roipool.data import LayerConfig, RoIDataLayer
        from tests.data.sets import K, roidb_of
        from tests.data.test_layer import CONFIG

        mesh = jax.make_mesh((4,), ("x",))
        for spec in (P("x"), P(None, "x"), P(None, None, None, None, "x"), P()):
            try:
                RoIDataLayer(roidb_of(3), K, CONFIG, device=NamedSharding(mesh, spec))
            except ValueError as error:
                assert "device must be a sharding that divides the 3 im" in str(error)
                print("refused")
        """,
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
    )
    assert done.stdout == "refused\n" * 3, done.stderr


def test_a_step_compiles_at_most_once_per_bucket(roidb):
    layer, traced = layer_of(roidb, epochs=1), []

    @jax.jit
    def step(batch):
        traced.append(batch.data.shape)
        return jnp.sum(roi_pool(batch.data, batch.rois, 3, valid=batch.valid))

    for batch in layer:
        assert np.isfinite(step(batch))
    assert len(traced) == len(layer.spec) == 2


# --- State ----------------------------------------------------------------------


def test_a_state_of_another_stream_is_refused(roidb):
    state = layer_of(roidb).state
    assert set(state) == {"epoch", "batch", "seed", "fingerprint"}
    others = [
        layer_of(roidb[:-1]),
        layer_of(roidb, hosts=2, host=0),
        layer_of(roidb, dataclasses.replace(CONFIG, shuffle=False)),
        layer_of(
            roidb,
            dataclasses.replace(
                CONFIG, sampling=SamplingConfig(batch_rois=12, images_per_batch=2)
            ),
        ),
    ]
    for other in others:
        with pytest.raises(
            ValueError, match="state was made with another roidb, batch"
        ):
            other.set_state(state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 10**6}, r"state\['batch'\] must be below \d+, got 1000000"),
        ({"epoch": -1}, r"state\['epoch'\] must be at least 0, got -1"),
        ({"more": 1}, r"state must have the keys \('epoch', 'batch', 'seed', 'fing"),
    ],
)
def test_bad_states(roidb, change, message):
    layer = layer_of(roidb)
    before = layer.state
    with pytest.raises(ValueError, match=message):
        layer.set_state({**before, **change})
    assert layer.state == before


# --- Bad input --------------------------------------------------------------------


def broken(roidb, which):
    records = [
        dataclasses.replace(r, image=r.image[:-9]) if i in which else r
        for i, r in enumerate(roidb)
    ]
    return Roidb.from_records(records, CLASSES)


@pytest.mark.parametrize("count", [0, pytest.param(1, marks=pytest.mark.nightly)])
def test_an_image_that_cannot_be_read(roidb, stream, count, caplog):
    bad = broken(roidb, {3, 11})
    with layer_of(bad, workers=count, epochs=1) as layer:
        got = []
        for _ in range(2):  # the same error as often as it is asked for
            with pytest.raises(ImageError, match=r"record '0-\d+': truncated: PNG"):
                got.extend(layer)
        assert layer.state["batch"] == len(got)

    config = dataclasses.replace(CONFIG, bad_images="skip")
    steps = len(stream) // 2
    with (
        caplog.at_level(logging.WARNING, "jax_roipool.data"),
        layer_of(bad, config, workers=count, epochs=1) as layer,
    ):
        got = list(layer)
    for batch, whole in zip(got, stream[:steps], strict=True):
        gone = np.isin(batch.image_index, [3, 11])
        np.testing.assert_array_equal(batch.image_index, whole.image_index)
        np.testing.assert_array_equal(batch.image_weights[gone], 0)
        assert not batch.valid[gone].any()
        np.testing.assert_array_equal(batch.data[~gone], whole.data[~gone])
        np.testing.assert_array_equal(batch.rois[~gone], whole.rois[~gone])
    assert layer.report.counts["image that could not be read"] == 2
    assert caplog.text.count("image left out: record") == 2


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"workers": 1.5}, TypeError, "workers must be an int, got 1.5"),
        ({"prefetch": 0}, ValueError, "prefetch must be at least 1, got 0"),
        ({"epochs": -1}, ValueError, "epochs must be at least 0, got -1"),
        ({"hosts": 2, "host": 2}, ValueError, "host must be below hosts, 2, got 2"),
        ({"device": "cpu"}, TypeError, "device must be a jax.Device or a Shard.*'cpu'"),
        ({"device": jax.devices()}, TypeError, "device must be a jax.Device or a Sh"),
        ({"config": IMAGES}, TypeError, "config must be a LayerConfig, got ImageC"),
    ],
)
def test_bad_arguments(roidb, settings, error, message):
    with pytest.raises(error, match=message):
        RoIDataLayer(roidb, K, **settings)


def test_shared_memory_is_bounded():
    """Also where each batch is larger than those before."""
    if not os.path.isdir("/dev/shm"):
        pytest.skip("no /dev/shm")
    sides = range(64, 64 * 9, 64)
    images = ImageConfig(scales=(512,), max_size=512, buckets=[(s, 512) for s in sides])
    config = LayerConfig(images=images, shuffle=False, has_rpn=True)
    records = []
    for i in range(48):
        height = 64 * (i // 6 + 1)
        image = png(np.zeros((height, 512, 3), np.uint8))
        records.append(data.Record(str(i), image, height, 512, [[0, 0, 7, 7]], [1]))
    roidb = Roidb.from_records(records, ["cat"])
    with RoIDataLayer(roidb, 2, config, workers=2, prefetch=4, epochs=1) as layer:
        blocks, served = set(), 0
        for _batch in layer:
            name = layer._stream._parcels.name
            served += 1
            time.sleep(0.02)  # so that queues fill
            blocks |= {f for f in os.listdir("/dev/shm") if f.startswith(name)}
    assert served == layer.steps_per_epoch
    assert 2 < len(blocks) <= 2 * 4 + 2 * 2 + 4
    assert not blocks & set(os.listdir("/dev/shm"))


def test_closed_where_it_cannot_wait(roidb, monkeypatch):
    """In Grain's thread, where garbage may be collected as in any other."""
    calls = []

    def send(_, item):
        calls.append(threading.current_thread())
        if len(calls) == 4:  # the second was served, the third waits
            stream.close()
        return item

    monkeypatch.setattr(layer_module, "_send", send)
    layer = layer_of(roidb, workers=1, prefetch=1)
    next(layer)
    stream, workers = layer._stream, multiprocessing.active_children()
    next(layer)

    def left():
        """Threads that close, processes, blocks: the thread waits for processes."""
        closing = [t for t in threading.enumerate() if t.name.endswith("(_close)")]
        files = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
        blocks = [f for f in files if f.startswith(stream._parcels.name)]
        # Not `join` or `is_alive`, which take a process from who waits for it.
        alive = [w.pid for w in workers if os.path.exists(f"/proc/{w.pid}")]
        return [*closing, *alive, *blocks, *[stream] * stream._items.close.alive]

    for _ in range(300):
        if len(calls) >= 4 and not left():
            break
        time.sleep(0.1)
    assert calls[3] is not threading.main_thread()
    assert not left()


def test_classes_beyond_num_classes(roidb):
    with pytest.raises(ValueError, match=r"num_classes must be at least .* 5 with"):
        RoIDataLayer(roidb, 3, CONFIG)


# --- Processes ----------------------------------------------------------------------


SCRIPT = """
import os, signal, sys
from jax_roipool.data import RoIDataLayer
from tests.data.sets import K, roidb_of
from tests.data.test_layer import CONFIG

def main(mode):
    layer = RoIDataLayer(roidb_of(9), K, CONFIG, workers=2)
    global batch  # lives to the end of the interpreter
    for i, batch in enumerate(layer):
        if i == 4:
            break
    if mode == "exit":
        return
    import multiprocessing
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

{guard}main(sys.argv[1])
"""


def run_script(tmp_path, mode, guard='if __name__ == "__main__":\n    '):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("{guard}", guard))
    return run_python(
        """
        import subprocess, sys
        done = subprocess.run([sys.executable, *sys.argv[1:]], timeout=120)
        sys.exit(done.returncode)
        """,
        str(script),
        mode,
        PYTHONPATH=os.pathsep.join([os.getcwd(), *os.sys.path]),
    )


def test_workers_end_with_the_layer(roidb):
    layer = layer_of(roidb, workers=1)
    batch = next(layer)
    (child,) = multiprocessing.active_children()
    before = batch.data.copy()
    del layer
    gc.collect()
    child.join(30)
    assert not child.is_alive()
    # Minibatches live on.
    np.testing.assert_array_equal(batch.data, before)


@pytest.mark.nightly
def test_exit_without_close_is_clean(tmp_path):
    done = run_script(tmp_path, "exit")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.nightly
def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    done = run_script(tmp_path, "kill")
    children = [int(pid) for pid in done.stdout.split()]
    assert len(children) == 2
    deadline = time.monotonic() + 30
    while any(os.path.exists(f"/proc/{pid}") for pid in children):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.1)


@pytest.mark.nightly
def test_a_script_without_a_guard_is_told(tmp_path):
    done = run_script(tmp_path, "exit", guard="")
    assert done.returncode == 1
    *frames, sentence = done.stderr.splitlines()
    assert 'needs `if __name__ == "__main__":`' in sentence
    # Where the script asked for a minibatch, and nothing of the workers.
    assert done.stderr.count("Traceback") == 1
    assert len(frames) < 20
    assert "grain" not in done.stderr


# --- Real input -----------------------------------------------------------------------


def test_photographs_as_a_voc_directory(tmp_path):
    """Written out, read back, batched, pooled under jit."""
    skimage = pytest.importorskip("skimage.data")
    boxes = {"astronaut": (160, 60, 290, 220), "chelsea": (100, 40, 330, 280)}
    images = {
        name: (getattr(skimage, name)(), "cat", box) for name, box in boxes.items()
    }
    write_voc(tmp_path, "train", images)
    roidb = data.read_voc(tmp_path, "train")
    roidb = roidb.add_proposals([r.boxes + np.float32(3) for r in roidb]).with_flips()
    config = LayerConfig(
        images=ImageConfig(scales=(300,), max_size=500, transport="uint8"),
        sampling=SamplingConfig(batch_rois=16, images_per_batch=2),
    )

    @jax.jit
    def pooled_of(batch):
        features = data.to_features(batch.data, batch.im_info, config.images)
        return roi_pool(features, batch.rois, 4, valid=batch.valid)

    for batch in RoIDataLayer(roidb, 21, config, epochs=1):
        pooled = np.asarray(pooled_of(batch))
        assert pooled.shape == (2, 8, 4, 4, 3)
        # The maximum over all bins is that of the box, wherever it was cut.
        for i, j in np.argwhere(batch.valid):
            x1, y1, x2, y2 = np.floor(batch.rois[i, j] + 0.5).astype(int)
            image = batch.data[i].astype(np.float32) - np.array(
                config.images.pixel_means, np.float32
            )
            inside = image[y1 : y2 + 1, x1 : x2 + 1]
            np.testing.assert_array_equal(
                pooled[i, j].max(axis=(0, 1)), inside.max(axis=(0, 1))
            )
        cat = data.VOC_CLASSES.index("cat") + 1
        assert (batch.labels[:, :2] == cat).all()
        assert batch.valid.sum() == 4
