"""The epoch plan: everything exactly once, on every host, alike in every run."""

import itertools
from collections import Counter

import numpy as np
import pytest

pytest.importorskip("cv2")

from jax_roipool.data import EpochPlan, ImageConfig, Record, Roidb

SIZES = [(60, 80), (80, 60), (50, 120), (64, 64), (200, 40), (61, 79)]
CONFIG = ImageConfig(scales=(48,), max_size=96, buckets=[(48, 64), (64, 48), (96, 96)])


def size_of(i):
    return SIZES[(5 * i + i // 7) % 6]


def roidb_of(count):
    records = [Record(str(i), "x.jpg", *size_of(i), [], []) for i in range(count)]
    return Roidb.from_records(records, ["cat"])


def plan_of(count, config=CONFIG, **settings):
    return EpochPlan(roidb_of(count), config, **{"batch_size": 2, **settings})


def steps_of(plan, epoch=0, host=0):
    return list(plan.epoch(epoch, host))


@pytest.mark.parametrize("grouping", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_image_exactly_once(grouping, shuffle):
    for count, batch, hosts in itertools.product(
        [1, 2, 5, 12, 37], [1, 2, 3, 16], [1, 2, 5]
    ):
        plan = plan_of(
            count,
            batch_size=batch,
            hosts=hosts,
            aspect_grouping=grouping,
            shuffle=shuffle,
        )
        for epoch in (0, 1, 7):
            of_hosts = [steps_of(plan, epoch, host) for host in range(hosts)]
            assert {len(steps) for steps in of_hosts} == {plan.steps_per_epoch}
            served = Counter(
                i for steps in of_hosts for s in steps for i in s.image_index.tolist()
            )
            padding = served.pop(-1, 0)
            assert served == Counter(range(count))
            assert count + padding == plan.steps_per_epoch * batch * hosts
            for together in zip(*of_hosts, strict=True):
                # One program runs on all hosts: one shape.
                assert len({(s.bucket, s.target) for s in together}) == 1
                assert (np.concatenate([s.image_index for s in together]) >= 0).any()


def resized(height, width, short, most):
    scale = min(short / min(height, width), most / max(height, width))
    return round(height * scale), round(width * scale)


def test_wide_with_wide_in_the_smallest_bucket_that_holds_them():
    plan, sizes = plan_of(37), [size_of(i) for i in range(37)]
    for step in steps_of(plan):
        own = [sizes[i] for i in step.image_index if i >= 0]
        assert len({width >= height for height, width in own}) == 1
        buckets = set()
        for size in own:
            h, w = resized(*size, 48, 96)
            holding = [b for b in CONFIG.buckets if h <= b[0] and w <= b[1]]
            buckets.add(min(holding, key=lambda b: b[0] * b[1]))
        assert buckets == {step.bucket}
    assert plan.buckets == ((48, 64), (64, 48), (96, 96))


def test_as_few_batches_as_the_groups_allow():
    """Padding only in the last batch of a group."""
    plan = plan_of(37, batch_size=4)
    groups = Counter()
    for i in range(37):
        height, width = size_of(i)
        short = resized(height, width, 48, 96)
        groups[width >= height, short[0] > 64 or short[1] > 64] += 1
    assert plan.steps_per_epoch == sum(-(-n // 4) for n in groups.values())


def test_a_pure_function_of_its_arguments():
    def order(epoch=0, **settings):
        return [
            s.image_index.tolist() for s in steps_of(plan_of(12, **settings), epoch)
        ]

    assert order() == order()
    others = [order(1), order(seed=1), order(hosts=2), order(batch_size=3)]
    for other in others:
        assert other != order()
    # Other content, another order: the first eleven do not stay where they were.
    more = [s.image_index.tolist() for s in steps_of(plan_of(13))]
    assert [[i for i in s if i < 12] for s in more] != order()


def test_epochs_do_not_repeat():
    plan = plan_of(37)
    orders = {
        str([s.image_index.tolist() for s in steps_of(plan, e)]) for e in range(20)
    }
    assert len(orders) == 20


def test_without_shuffling_in_the_order_of_the_roidb():
    plan = plan_of(12, shuffle=False, aspect_grouping=False)
    assert [s.image_index.tolist() for s in steps_of(plan)] == [
        [i, i + 1] for i in range(0, 12, 2)
    ]
    for step in steps_of(plan_of(37, shuffle=False)):
        own = [i for i in step.image_index if i >= 0]
        assert own == sorted(own)


def test_without_grouping_one_bucket_holds_all():
    assert plan_of(12, aspect_grouping=False).buckets == ((96, 96),)
    default = ImageConfig(scales=(48,), max_size=96)
    assert plan_of(12, default, aspect_grouping=False).buckets == ((96, 96),)
    flat = ImageConfig(scales=(48,), max_size=96, buckets=[(48, 96), (96, 48)])
    with pytest.raises(ValueError, match=r"without aspect_grouping one bucket must"):
        plan_of(12, flat, aspect_grouping=False)


def test_scales_are_drawn_per_step():
    config = ImageConfig(scales=(24, 48), max_size=96, buckets=[(32, 32), (96, 96)])
    steps = [s for e in range(10) for s in steps_of(plan_of(12, config), e)]
    assert {s.target for s in steps} == {24, 48}
    for step in steps:
        for i in step.image_index[step.image_index >= 0]:
            size = resized(*size_of(i), step.target, 96)
            fits = max(size) <= 32
            assert step.bucket == ((32, 32) if fits else (96, 96))


def test_images_have_their_own_chance():
    plan = plan_of(12)
    draws = {plan.image_rng(epoch, i).random() for epoch in range(3) for i in range(12)}
    assert len(draws) == 36
    other = plan_of(12, batch_size=3)
    assert plan.image_rng(2, 5).random() == other.image_rng(2, 5).random()


def test_an_image_that_fits_no_bucket_is_named():
    small = ImageConfig(scales=(48,), max_size=96, buckets=[(48, 64), (64, 48)])
    with pytest.raises(ValueError, match=r"record '\d+': an image of .* fits none of"):
        plan_of(12, small)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"batch_size": 2.0}, TypeError, "batch_size must be an int, got 2.0"),
        ({"hosts": 0}, ValueError, "hosts must be at least 1, got 0"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"seed": True}, TypeError, "seed must be an int, got True"),
        ({"shuffle": "no"}, TypeError, "shuffle must be a bool, got 'no'"),
        ({"aspect_grouping": 1}, TypeError, "aspect_grouping must be a bool, got 1"),
        ({"config": 600}, TypeError, "images must be an ImageConfig, got 600"),
    ],
)
def test_bad_settings(settings, error, message):
    with pytest.raises(error, match=message):
        plan_of(3, **settings)


def test_no_roidb():
    with pytest.raises(TypeError, match="roidb must be a Roidb, got 5"):
        EpochPlan(5, ImageConfig(), batch_size=2)


def test_bad_epochs_and_no_images():
    plan = plan_of(3, hosts=2)
    for host in (-1, 2):
        with pytest.raises(ValueError, match=f"host must be from 0 to 1, got {host}"):
            plan.epoch(0, host)
    with pytest.raises(ValueError, match="epoch must be at least 0, got -1"):
        plan.epoch(-1)
    for grouping in (True, False):
        with pytest.raises(ValueError, match="roidb must not be empty: no images"):
            EpochPlan(
                roidb_of(3)[:0],
                ImageConfig(),
                batch_size=2,
                aspect_grouping=grouping,
            )
