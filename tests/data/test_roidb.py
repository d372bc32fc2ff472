"""Records, the roidb and the readers: right in the details, loud when wrong."""

import copy
import dataclasses
import json
import os
import pickle
import sys
import time
from xml.etree import ElementTree

import jax.numpy as jnp
import numpy as np
import pytest

from jax_roipool import data
from jax_roipool.data import Record, Roidb
from tests.oracle import boxes as boxes_oracle
from tests.oracle import data as data_oracle

CLASSES = ["a", "b", "c", "d"]


def record(**fields):
    base = {"id": "7", "image": "7.jpg", "height": 60, "width": 100}
    base |= {"boxes": [[0, 3, 4, 8]], "classes": [1]}
    return Record(**(base | fields))


def random_roidb(count=20, seed=0, **kwargs):
    fields = data_oracle.random_records(count, seed, **kwargs)
    return Roidb.from_records([Record(**f) for f in fields], CLASSES), fields


def assert_same_record(got, want):
    for field in dataclasses.fields(Record):
        a, b = getattr(got, field.name), getattr(want, field.name)
        if isinstance(b, np.ndarray):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        else:
            assert a == b


# --- Records


def test_record_has_one_form():
    r = record(boxes=np.array([[0, 3, 4, 8]], np.uint16), classes=np.array([2], "i8"))
    assert (r.boxes.dtype, r.classes.dtype) == (np.float32, np.int32)
    assert (r.difficult.dtype, r.crowd.dtype) == (bool, bool)
    assert not r.boxes.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        r.boxes[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        r.height = 3
    assert record(boxes=[], classes=[]).boxes.shape == (0, 4)
    assert record(image=b"\xff\xd8").image == b"\xff\xd8"


def test_record_copies_what_it_is_given():
    boxes = np.array([[0, 3, 4, 8]], np.float32)
    r = record(boxes=boxes)
    boxes[:] = 1
    np.testing.assert_array_equal(r.boxes, [[0, 3, 4, 8]])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id": 7}, "id must be a str, got 7"),
        ({"image": 3}, "'7': image must be a path or bytes, got int"),
        ({"height": 0}, r"'7': height must be from 1 to 16777216, got 0"),
        ({"width": 10.0}, "'7': width must be an int, got 10.0"),
        ({"flipped": 2}, "'7': flipped must be a bool, got 2"),
        ({"boxes": [[1, 2, 3]]}, r"'7': boxes must have shape \[n, 4\].*\(1, 3\)"),
        ({"boxes": [["x"] * 4]}, "'7': boxes must be real numbers, got dtype <U1"),
        ({"boxes": [[5, 3, 4, 8]]}, r"'7': boxes\[0\] must satisfy.*\[5.0, 3.0"),
        ({"boxes": [[0, 3, 100, 8]]}, r"boxes\[0\].*image of 100 x 60"),
        ({"boxes": [[-1, 3, 4, 8]]}, r"boxes\[0\] must satisfy"),
        ({"boxes": [[0, 3, np.nan, 8]]}, r"boxes\[0\] must satisfy.*nan"),
        ({"proposals": [[0, 3, 4, 60]]}, r"'7': proposals\[0\] must satisfy"),
        ({"classes": [0]}, "'7': classes must be at least 1.*got 0"),
        ({"classes": [1.0]}, "'7': classes must be int32, got dtype float64"),
        ({"classes": [1, 1]}, r"'7': classes must have shape \(1,\).*\(2,\)"),
        (
            {"classes": [2**32 + 1]},
            r"'7': classes must be below 2\*\*31, got 4294967297",
        ),
        ({"id": "\ud800"}, r"id must be text for UTF-8, got '\\ud800'"),
        ({"difficult": [1]}, "'7': difficult must be bool, got dtype int64"),
        ({"crowd": [True, False]}, r"'7': crowd must have shape \(1,\)"),
    ],
)
def test_bad_records(fields, message):
    with pytest.raises((TypeError, ValueError), match=message):
        record(**fields)


def test_copies_of_records_are_records():
    r = record(proposals=[[0, 3, 4, 6]])
    for other in (pickle.loads(pickle.dumps(r)), copy.deepcopy(r), copy.copy(r)):
        assert_same_record(other, r)
        for name in ("boxes", "proposals", "proposal_overlaps"):
            with pytest.raises(ValueError, match="read-only"):
                getattr(other, name)[:] = 0


def test_record_in_words():
    r = record(image=bytes(10**6), proposals=[[0, 3, 4, 6]]).flip()
    assert repr(r) == (
        "<Record '7' flipped: 1000000 bytes, 100 x 60, 1 boxes, 1 proposals>"
    )
    assert "7.jpg" in repr(record())


def test_boxes_to_match():
    r = record(boxes=[[0, 0, 9, 9]])
    assert r.match([])[0].shape == (0,)
    for bad in (np.ones((1, 8)), np.ones(4), np.ones((1, 2, 4))):
        for call in (lambda: r.match(bad), lambda: r.overlaps(2, bad)):  # noqa: B023
            with pytest.raises(ValueError, match=r"boxes must have shape \[n, 4\]"):
                call()
    with pytest.raises(ValueError, match=r"num_classes must be above .* '7', 1, got 1"):
        r.overlaps(1)
    some = jnp.asarray([[0, 0, 9, 4]], jnp.bfloat16)
    np.testing.assert_array_equal(record(proposals=some).proposals, [[0, 0, 9, 4]])


def test_flip_of_a_record():
    r = record(proposals=[[90, 0, 99, 5]])
    flipped = r.flip()
    assert flipped.flipped
    np.testing.assert_array_equal(flipped.boxes, [[95, 3, 99, 8]])
    np.testing.assert_array_equal(flipped.proposals, [[0, 0, 9, 5]])
    assert_same_record(flipped.flip(), r)
    assert not flipped.boxes.flags.writeable


def test_match_and_overlaps_are_the_oracles():
    seen = 0
    for fields in data_oracle.random_records(10, 3):
        r = Record(**fields)
        overlap, index = r.match(r.proposals)
        want = data_oracle.match(r, r.proposals)
        np.testing.assert_array_equal(overlap, [w[0] for w in want])
        np.testing.assert_array_equal(index, [w[1] for w in want])
        np.testing.assert_array_equal(r.proposal_overlaps, overlap)
        np.testing.assert_array_equal(r.proposal_matches, index)
        table = r.overlaps(5)
        assert table.shape == (30, 5)
        for k in range(5):
            which = r.trainable & (r.classes == k)
            one = boxes_oracle.all_pairs(
                boxes_oracle.iou, r.proposals, r.boxes[which], inclusive=True
            )
            np.testing.assert_array_equal(table[:, k], one.max(axis=1, initial=0))
        seen += (overlap >= 0.5).sum()
    assert seen > 30
    # Of the ground truth where there are no proposals; crowds have none.
    r = record(boxes=[[0, 0, 9, 9], [0, 0, 9, 9]], classes=[1, 2], crowd=[False, True])
    np.testing.assert_array_equal(r.overlaps(3), [[0, 1, 0], [0, 1, 0]])
    assert r.match(r.boxes)[1].tolist() == [0, 0]
    r = record(crowd=[True])
    assert r.match(r.boxes)[1].tolist() == [-1]


# --- The roidb


def test_from_records_and_back():
    roidb, fields = random_roidb()
    assert len(roidb) == 20
    assert roidb.classes == ("__background__", *CLASSES)
    assert roidb.num_classes == 5
    for got, want in zip(roidb, fields, strict=True):
        assert_same_record(got, Record(**want))
        assert not got.boxes.flags.writeable
    assert_same_record(roidb[-1], roidb[19])
    np.testing.assert_array_equal(roidb.heights, [f["height"] for f in fields])
    np.testing.assert_array_equal(roidb.widths, [f["width"] for f in fields])
    with pytest.raises(IndexError):
        roidb[20]
    with pytest.raises(ValueError, match="read-only"):
        roidb.columns["boxes"][0] = 0
    mixed = Roidb.from_records([record(), record(image=b"abc")], CLASSES)
    assert [r.image for r in mixed] == ["7.jpg", b"abc"]
    assert mixed[0].proposals is None


def test_bad_roidbs():
    def make(records, classes=CLASSES, **kwargs):
        return Roidb.from_records(records, classes, **kwargs)

    for call, message in [
        (lambda: make([]), "records must not be empty"),
        (lambda: make([3]), "records must be Record, got int"),
        (lambda: make([record().flip()]), "'7': flipped must be false"),
        (lambda: make([record(classes=[5])]), "'7': classes must be at most 4.*got 5"),
        (
            lambda: make([record(), record(id="8", proposals=[])]),
            "'8': proposals must be in all records or in none",
        ),
        (lambda: make([record()], "abc"), "classes must be a list of names"),
        (lambda: make([record()], ["a", "a"]), "classes must be different names"),
        (lambda: make([record()], ["__background__"]), "without '__background__'"),
        (lambda: make([record()], category_ids=[1]), "one number per class, 4, got 1"),
        (lambda: make([record()]).take([0.5]), "indices must be ints"),
        (lambda: make([record()]) + make([record()], ["a"]), "the same classes"),
        (lambda: make([record()]).target_statistics(), "call add_proposals"),
        (lambda: make([record()]).take([[0]]), r"indices must have shape \[k\], got"),
        (lambda: make([record()]).take(0), r"indices must have shape \[k\], got \(\)"),
        (lambda: make([record()], [1]), r"classes must be names, got \(1,\)"),
        (
            lambda: Roidb({"proposals": np.zeros((0, 4))}, ["a"]),
            "proposal_overlaps and proposal_matches where they have proposals",
        ),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            call()


def test_with_flips():
    roidb, _ = random_roidb()
    flips = roidb.with_flips()
    assert len(flips) == 40
    for i, r in enumerate(roidb):
        assert_same_record(flips[i], r)
        assert_same_record(flips[20 + i], r.flip())
        assert (flips[20 + i].boxes[:, 0] >= 0).all()
        assert (flips[20 + i].boxes[:, 2] <= r.width - 1).all()
    assert np.shares_memory(flips.columns["boxes"], roidb.columns["boxes"])
    with pytest.raises(ValueError, match="with_flips was called already"):
        flips.with_flips()


def test_flips_of_narrow_boxes_do_not_wrap():
    # A box from VOC's column 0, as 65535 in the original's uint16.
    r = record(
        boxes=np.array([[0, 0, 0, 0], [99, 0, 99, 0]], np.uint16), classes=[1, 1]
    )
    roidb = Roidb.from_records([r], CLASSES).with_flips()
    np.testing.assert_array_equal(roidb[1].boxes, [[99, 0, 99, 0], [0, 0, 0, 0]])


def test_filter_take_and_slices():
    roidb, fields = random_roidb()
    kept = roidb.filter(lambda r: len(r.boxes) > 2)
    want = [f["id"] for f in fields if len(f["boxes"]) > 2]
    assert [r.id for r in kept] == want
    assert 0 < len(want) < 20
    assert kept.report.counts == {"record filtered out": 20 - len(want)}
    assert not roidb.report
    assert [r.id for r in roidb[3:9:2]] == ["0-3", "0-5", "0-7"]
    assert [r.id for r in roidb.take([4, -1, 4])] == ["0-4", "0-19", "0-4"]
    assert len(roidb.take([])) == 0


def test_add_proposals():
    roidb, fields = random_roidb(proposals=0)
    assert not roidb.has_proposals
    part = roidb.take([5, 2, 9])
    more = part.add_proposals([[[0, 0, 5, 5]], np.zeros((0, 4)), np.ones((3, 4), "i4")])
    assert [len(r.proposals) for r in more] == [1, 0, 3]
    for a, b in zip(more, part, strict=True):
        assert_same_record(dataclasses.replace(a, proposals=None), b)
    assert not part.has_proposals
    assert more.columns["height"].shape == (3,)  # only what is wanted
    for r in more:
        overlap, match = r.match(r.proposals)
        np.testing.assert_array_equal(r.proposal_overlaps, overlap)
        np.testing.assert_array_equal(r.proposal_matches, match)
    flips = more.with_flips()
    assert flips[3].proposal_overlaps is not None
    np.testing.assert_array_equal(flips[3].proposal_overlaps, more[0].proposal_overlaps)
    np.testing.assert_array_equal(flips[3].proposal_matches, more[0].proposal_matches)
    width = fields[5]["width"]
    np.testing.assert_array_equal(flips[3].proposals, [[width - 6, 0, width - 1, 5]])
    for call, message in [
        (lambda: flips.add_proposals([[]] * 6), "must come before with_flips"),
        (lambda: part.add_proposals([[]]), "one array per record, 3, got 1"),
        (
            lambda: part.add_proposals([[], [[0, 0, 999, 5]], []]),
            r"record '0-2': proposals\[0\] must satisfy",
        ),
        (lambda: part.add_proposals([[], [], np.ones((2, 5))]), r"'0-9'.*\(2, 5\)"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            call()
    again = more.add_proposals([] for _ in range(3))
    assert [len(r.proposals) for r in again] == [0, 0, 0]


def test_matches_among_more_boxes_than_two_bytes_count():
    many = [[0, 0, 1, 1]] * 2**15 + [[5, 5, 9, 9]]
    crowded = record(boxes=many, classes=[1] * len(many), proposals=[[5, 5, 9, 8]])
    others = [record(id=i, proposals=[[0, 3, 4, 8], [50, 50, 59, 59]]) for i in "89"]
    few, much = (Roidb.from_records(r, CLASSES) for r in (others, [crowded]))
    for roidb in (
        few + much,
        much + few,
        Roidb.from_records([crowded, *others], CLASSES),
    ):
        found = {r.id: r.proposal_matches.tolist() for r in roidb}
        assert found == {"7": [2**15], "8": [0, -1], "9": [0, -1]}
    assert few.columns["proposal_matches"].dtype == np.int16


def test_joined():
    a, _ = random_roidb(seed=1)
    b, _ = random_roidb(seed=2)
    a, b = a.take([3, 1]).with_flips(), b[5:8]
    both = a + b
    assert len(both) == 7
    for got, want in zip(both, [*a, *b], strict=True):
        assert_same_record(got, want)


def test_fingerprint_is_of_the_content():
    roidb, fields = random_roidb()
    prints = {roidb.fingerprint}
    same = Roidb.from_records([Record(**f) for f in fields], CLASSES)
    moved = [dict(f, image="elsewhere/" + f["image"]) for f in fields]
    shuffled = roidb.take(np.arange(20)[::-1]).take(np.arange(20)[::-1])
    for other in (
        same,
        Roidb.from_records([Record(**f) for f in moved], CLASSES),
        shuffled,
        roidb[:9] + roidb[9:],
        roidb.take([7, *range(20)])[1:],
        roidb.add_proposals([f["proposals"] for f in fields]),
        pickle.loads(pickle.dumps(roidb)),
    ):
        assert other.fingerprint == roidb.fingerprint
    first = next(i for i, f in enumerate(fields) if len(f["boxes"]) > 1)
    changes = [
        {"id": "x"},
        {"height": 1000},
        {"boxes": fields[first]["boxes"] * np.float32(0.99)},
        {"classes": 5 - fields[first]["classes"]},
        {"crowd": ~fields[first]["crowd"]},
        {"difficult": ~fields[first]["difficult"]},
        {"proposals": fields[first]["proposals"][:-1]},
    ]
    others = [roidb.with_flips(), roidb[:-1], roidb.take(np.arange(20)[::-1])]
    for change in changes:
        some = [dict(f) for f in fields]
        some[first] |= change
        others.append(Roidb.from_records([Record(**f) for f in some], CLASSES))
    others.append(Roidb.from_records([Record(**f) for f in fields], [*CLASSES, "e"]))
    for other in others:
        assert other.fingerprint not in prints
        prints.add(other.fingerprint)


def test_pickle_and_shared_columns():
    roidb = random_roidb()[0].with_flips()
    for other in (
        pickle.loads(pickle.dumps(roidb)),
        Roidb(roidb.columns, roidb.classes, roidb.category_ids, roidb.report),
    ):
        for a, b in zip(other, roidb, strict=True):
            assert_same_record(a, b)
        assert not other.columns["boxes"].flags.writeable
    assert all(isinstance(a, np.ndarray) for a in roidb.columns.values())
    assert all(a.dtype != object for a in roidb.columns.values())


def test_target_statistics():
    roidb, _ = random_roidb(40, proposals=20)
    roidb = roidb.with_flips()
    before = roidb.fingerprint
    got = roidb.target_statistics()
    means, stds, counts = data_oracle.target_statistics(roidb, 5)
    np.testing.assert_array_equal(got.counts, counts)
    assert min(counts[1:]) > 10
    np.testing.assert_allclose(got.means, means, atol=1e-5)
    np.testing.assert_allclose(got.stds, stds, rtol=1e-4)
    assert got.means.dtype == got.stds.dtype == np.float32
    whole = roidb.target_statistics(per_class=False)
    assert whole.means.shape == (4,)
    assert whole.counts == sum(counts)
    again = Roidb(roidb.columns, roidb.classes).target_statistics()
    np.testing.assert_array_equal(again.means, got.means)  # nothing was changed
    assert Roidb(roidb.columns, roidb.classes).fingerprint == before


def test_target_statistics_of_little():
    r = record(proposals=[[0, 3, 4, 8]])
    got = Roidb.from_records([r], CLASSES).target_statistics()
    np.testing.assert_array_equal(got.counts, [0, 2, 0, 0, 0])
    np.testing.assert_array_equal(got.means, np.zeros((5, 4)))
    np.testing.assert_array_equal(got.stds, np.ones((5, 4)))
    r = record(boxes=[], classes=[], proposals=[[0, 3, 4, 8]])
    got = Roidb.from_records([r], CLASSES).target_statistics(per_class=False)
    assert got.counts == 0
    assert np.isfinite(got.means).all()
    assert (got.stds == 1).all()


# --- Pascal VOC

OBJECT = """<object><name>{name}</name><pose>Left</pose>{extra}<bndbox>
<xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax>
</bndbox></object>"""
PART = """<part><name>head</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>3</xmax>
<ymax>3</ymax></bndbox></part>"""


def voc_xml(*objects, size="<width>100</width><height>60</height>"):
    body = "".join(
        o if isinstance(o, str) else OBJECT.format(**({"extra": ""} | o))
        for o in objects
    )
    return f"<annotation><size>{size}</size>{body}</annotation>"


@pytest.fixture
def voc(tmp_path):
    """Writes a VOC directory: the text of each annotation by id."""

    def write(annotations, listing=None):
        for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
        for name, text in annotations.items():
            (tmp_path / f"Annotations/{name}.xml").write_text(text, encoding="utf-8")
            (tmp_path / f"JPEGImages/{name}.jpg").touch()
        lines = "".join(f"{name}\n" for name in annotations)
        file = tmp_path / "ImageSets/Main/train.txt"
        file.write_text(lines if listing is None else listing)
        return tmp_path

    return write


def test_voc(voc, caplog):
    cat = {"name": "cat", "box": (1, 4, 5, 9)}
    root = voc(
        {
            "000005": voc_xml(
                cat,
                # A part before the box, and flags around it.
                {"name": "person", "box": ("45.5", "1", "100", "60.0"), "extra": PART},
                {
                    "name": "dog",
                    "box": (2, 2, 2, 2),
                    "extra": "<difficult>1</difficult>",
                },
            ),
            "2008_000001": voc_xml(),
            "000001": voc_xml(cat | {"extra": "<difficult>0</difficult>"}),
        }
    )
    roidb = data.read_voc(root, "train")
    assert [r.id for r in roidb] == ["000005", "2008_000001", "000001"]
    r = roidb[0]
    assert r.image == str(root / "JPEGImages/000005.jpg")
    assert (r.height, r.width, r.flipped) == (60, 100, False)
    np.testing.assert_array_equal(
        r.boxes, [[0, 3, 4, 8], [44.5, 0, 99, 59], [1, 1, 1, 1]]
    )
    assert [roidb.classes[k] for k in r.classes] == ["cat", "person", "dog"]
    assert r.classes.tolist() == [8, 15, 12]
    assert r.difficult.tolist() == [False, False, True]
    assert not r.crowd.any()
    assert len(roidb[1].boxes) == 0
    assert roidb.report.counts == {"image without boxes": 1}
    assert roidb.report.examples == {"image without boxes": ("image 2008_000001",)}
    assert "1 × image without boxes (image 2008_000001)" in caplog.text
    assert roidb.category_ids == tuple(range(21))


def test_voc_sets_of_one_class(voc):
    root = voc({"1": voc_xml(), "2": voc_xml()}, "1  1\n2 -1\n\n")
    assert [r.id for r in data.read_voc(root, "train")] == ["1", "2"]


def test_voc_bad_boxes_are_counted(voc):
    boxes = [
        (1, 4, 5, 9),
        (0, 0, 5, 9),  # some annotators counted from 0
        (90, 4, 120, 70),
        (5, 4, 1, 9),
        (101, 4, 110, 9),
        (-9, 4, 0, 9),
    ]
    root = voc({"1": voc_xml(*({"name": "cat", "box": b} for b in boxes))})
    roidb = data.read_voc(root, "train")
    np.testing.assert_array_equal(
        roidb[0].boxes, [[0, 3, 4, 8], [0, 0, 4, 8], [89, 3, 99, 59]]
    )
    assert roidb.report.counts == {
        "box inverted": 1,
        "box outside the image": 2,
        "box clipped to the image": 2,
    }
    place = f"{root}/Annotations/1.xml: object 3: bndbox"
    assert roidb.report.examples["box inverted"] == (place,)
    with pytest.raises(ValueError, match=r"1.xml: object 3: bndbox: box inverted"):
        data.read_voc(root, "train", bad_boxes="error")


BOMB = """<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;&x;&x;&x;&x;&x;">]>
<annotation>&y;</annotation>"""
CAT = {"name": "cat", "box": (1, 4, 5, 9)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1.xml: the annotation is empty"),
        ("  \n", "1.xml: the annotation is empty"),
        ("<annotation><size>", "1.xml: not well-formed XML: no element found"),
        ("\0\1", "1.xml: not well-formed XML"),
        (BOMB, "1.xml: a document type declaration is refused"),
        ('<!DOCTYPE a SYSTEM "file:///x"><a/>', "1.xml: a document type declaration"),
        ("<annotations/>", "1.xml: the root must be annotation, got annotations"),
        ('<?xml version="1.0" encoding="foo"?><a/>', "1.xml: not well-formed .*foo"),
        ("<annotation/>", "1.xml: no size/width"),
        (voc_xml(size="<width>9</width>"), "1.xml: no size/height"),
        (
            voc_xml(size="<width>0</width><height>5</height>"),
            "1.xml: size/width must be a whole number from 1, got 0",
        ),
        (
            voc_xml(size="<width>x</width><height>5</height>"),
            "1.xml: size/width must be a number, got 'x'",
        ),
        (voc_xml("<object/>"), "1.xml: object 0: no name"),
        (voc_xml("<object><name>cat</name></object>"), "object 0: no bndbox/xmin"),
        (voc_xml(CAT | {"box": (1, 4, "nan", 9)}), "object 0: bndbox/xmax.*'nan'"),
        (voc_xml(CAT | {"box": (1, "", 5, 9)}), "object 0: no bndbox/ymin"),
        (voc_xml(CAT, CAT | {"name": "cow boy"}), "object 1: name 'cow boy' is none"),
        (
            voc_xml(CAT | {"extra": "<difficult>2</difficult>"}),
            "object 0: difficult must be 0 or 1, got '2'",
        ),
    ],
)
def test_voc_bad_annotations(voc, text, message):
    with pytest.raises(ValueError, match=message):
        data.read_voc(voc({"1": text}), "train")


BOX = "<xmin>3</xmin><ymin>3</ymin><xmax>9</xmax><ymax>9</ymax>"
ANNOTATION = f"""<annotation><size><width>50</width><height>40</height></size>
<object><name>cat</name><difficult>1</difficult><bndbox>{BOX}</bndbox></object>
</annotation>"""


def mutants(text):
    """The annotation with one element twice, respelt, wrapped, moved, or odd inside."""
    for i, old in enumerate(ElementTree.fromstring(text).iter()):
        for change in (
            *("twice", "capital", "plural", "wrapped", "attribute", "text"),
            *("capital too", "attribute too"),
        ):
            root = ElementTree.fromstring(text)
            element = list(root.iter())[i]
            if (change, old.tag) == ("twice", "object"):
                continue  # two objects
            parent = next((p for p in root.iter() if element in list(p)), None)
            if parent is None and change not in ("capital", "plural", "text"):
                continue
            if change == "twice":
                parent.append(element)
            elif change == "capital too":
                copied = copy.deepcopy(element)
                copied.tag = copied.tag.upper()
                parent.append(copied)
            elif change == "attribute too":
                parent.set(element.tag, element.text or "")
            elif change == "capital":
                element.tag = element.tag.capitalize()
            elif change == "plural":
                element.tag += "s"
            elif change == "wrapped":
                parent.remove(element)
                ElementTree.SubElement(parent, "wrapper").append(element)
            elif change == "attribute":
                parent.remove(element)
                parent.set(element.tag, element.text or "")
            elif len(element):
                element[-1].tail = "3 3 9 9"
            else:
                ElementTree.SubElement(element, "b").text = "7"
            yield f"{change} {old.tag}", ElementTree.tostring(root, "unicode")


def test_voc_reads_or_refuses_every_construct(voc):
    for where, text in mutants(ANNOTATION):
        # "plural difficult" is another element of text alone.
        if where == "plural difficult":
            continue
        with pytest.raises(ValueError, match=r"1\.xml: "):
            pytest.fail(f"{where}: {data.read_voc(voc({'1': text}), 'train').report}")


def within(place, inside):
    return ANNOTATION.replace(f"</{place}>", f"{inside}</{place}>", 1)


CAT_OBJECT = f"<object><name>cat</name><bndbox>{BOX}</bndbox></object>"


@pytest.mark.parametrize("place", ["annotation", "size", "object", "bndbox"])
@pytest.mark.parametrize(
    "inside",
    [
        f"<Object>{CAT_OBJECT}</Object>",
        f"<objects>{CAT_OBJECT}</objects>",
        f"<source><deep><deeper>{CAT_OBJECT}</deeper></deep></source>",
        f"<x:object xmlns:x='y'>{BOX}</x:object>",
        f"<BndBox>{BOX}</BndBox>",
        f"<thing>{BOX}</thing>",
        "<bbox>3 3 9 9</bbox>",
        "<box xmin='3'/>",
        "<Difficult>1</Difficult>",
        "<thing difficult='1'/>",
        "loose text",
    ],
)
def test_voc_refuses_what_could_be_an_object_anywhere(voc, place, inside):
    with pytest.raises(ValueError, match=r"1\.xml: .*(not read|must hold elements)"):
        data.read_voc(voc({"1": within(place, inside)}), "train")
    # A part has a box of its own, and no objects.
    part = f"<part><name>head</name><bndbox>{BOX}</bndbox>{{}}</part>"
    assert len(data.read_voc(voc({"1": within("object", part.format(""))}), "train"))
    root = voc({"1": within("object", part.format(CAT_OBJECT))})
    with pytest.raises(ValueError, match=r"1\.xml: object 0: object in part is not"):
        data.read_voc(root, "train")


def test_voc_passes_over_what_data_sets_carry(voc):
    text = within(
        "object",
        "<pose>Left</pose><truncated>0</truncated><occluded>1</occluded><score>1"
        "</score><attributes><attribute><name>rotation</name><value>0.0</value>"
        "</attribute></attributes><polygon><x1>3</x1><y1>3</y1></polygon><actions>"
        "<jumping>1</jumping></actions><point><x>4</x><y>5</y></point><id/>" + PART,
    )
    text = text.replace(
        "<annotation>",
        '<annotation verified="yes"><folder>VOC2007</folder><filename>1.jpg</filename>'
        "<path>/x/1.jpg</path><source><database>d</database><annotation>PASCAL VOC"
        "</annotation><image>flickr</image></source><owner><flickrid>f</flickrid>"
        "<name>n</name></owner><segmented>0</segmented><num_objects>1</num_objects>"
        "<!-- <object/> -->",
    ).replace("</size>", "<depth>3</depth></size>")
    roidb = data.read_voc(voc({"1": text}), "train")
    np.testing.assert_array_equal(roidb[0].boxes, [[2, 2, 8, 8]])
    assert roidb[0].difficult.tolist() == [True]
    assert not roidb.report
    for inside in (
        "<extra><more>3</more></extra>",
        "<extra>3 3, 9.5 9</extra>",
        "<extra x='3' y='3' w='7' h='7'/>",
        "<extra><![CDATA[<object/>]]></extra>",
    ):
        roidb = data.read_voc(voc({"1": within("object", inside)}), "train")
        assert roidb.report.counts == {"extra, which is not read": 1}
    roidb = data.read_voc(voc({"1": within("object", "<day>1 2 3</day>")}), "train")
    assert not roidb.report


@pytest.mark.parametrize(
    "encoding",
    ["UTF-8", "utf8", "gb2312", "gbk", "gb18030", "big5", "shift_jis", "euc_jp"]
    + ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"],
)
def test_voc_annotations_in_every_declared_encoding(voc, encoding):
    root = voc({"1": ""})
    text = f'<?xml version="1.0" encoding="{encoding}"?>\r\n' + ANNOTATION
    file = root / "Annotations/1.xml"
    file.write_bytes(text.replace("cat", "犬").encode(encoding))
    roidb = data.read_voc(root, "train", classes=["犬"])
    assert len(roidb[0].boxes) == 1
    for wrong in (text.replace(encoding, "foo"), text.replace(encoding, "hex")):
        file.write_bytes(wrong.encode())
        with pytest.raises(ValueError, match=r"1.xml: not well-formed .*(foo|hex)"):
            data.read_voc(root, "train")


def test_voc_annotations_that_are_not_in_their_encoding(voc):
    root = voc({"1": ""})
    file = root / "Annotations/1.xml"
    for encoding in ("utf-8", "gb2312", "ascii", "utf-16"):
        text = f'<?xml version="1.0" encoding="{encoding}"?>{ANNOTATION} '
        file.write_bytes(text.encode() + b"\xff")
        with pytest.raises(ValueError, match=r"1.xml: not well-formed XML"):
            data.read_voc(root, "train")


@pytest.mark.parametrize(
    "line",
    ["a\0b", "../1", "/1", "a/../../1", "1 2", "1 1 1", "1 x", "my cat"],
)
def test_voc_image_sets_hold_names_of_files(voc, line):
    root = voc({"1": voc_xml(CAT)}, f"1\n{line}\n")
    with pytest.raises(ValueError, match=r"train.txt: line 2 must be"):
        data.read_voc(root, "train", check_images=False)


def test_voc_says_what_to_install(voc, monkeypatch):
    monkeypatch.setitem(sys.modules, "defusedxml", None)
    with pytest.raises(ImportError, match="read_voc needs defusedxml: pip install"):
        data.read_voc(voc({"1": voc_xml(CAT)}), "train")


def test_voc_sets_with_any_ends_of_lines(voc):
    root = voc({"1": voc_xml(CAT), "2": voc_xml(CAT)}, "")
    for text in (b"1\r2\r", b"1\n2", b"1\r\n\r\n2"):
        (root / "ImageSets/Main/train.txt").write_bytes(text)
        assert [r.id for r in data.read_voc(root, "train")] == ["1", "2"]


def test_paths(voc, coco, tmp_path):
    root = voc({"1": voc_xml(CAT)})
    assert len(data.read_voc(os.fsencode(root), "train")) == 1
    coco(coco_data([]))
    file = tmp_path / "instances.json"
    assert len(data.read_coco(os.fsencode(file), os.fsencode(tmp_path))) == 2
    calls = {
        "directory": lambda p: data.read_voc(p, "train"),
        "annotation_file": lambda p: data.read_coco(p, tmp_path),
        "image_directory": lambda p: data.read_coco(file, p),
        "record '7': image": lambda p: record(image=p),
    }
    for name, call in calls.items():
        for bad in (3, None, [root]):
            with pytest.raises(TypeError, match=f"^{name} must be a path.* got"):
                call(bad)
        for bad in ("a\0b", "", "\ud800"):
            with pytest.raises(ValueError, match=f"^{name} must be a path.* got"):
                call(bad)
    for name in ("image_set", "image_extension"):
        values = {"image_set": "train"}
        for bad in (b"train", None, 3):
            with pytest.raises(TypeError, match=f"{name} must be a str, got"):
                data.read_voc(root, **(values | {name: bad}))
        for bad in ("a\0", "/../../x", "\ud800"):
            with pytest.raises(ValueError, match=f"{name} must be part of a file's"):
                data.read_voc(root, **(values | {name: bad}))
    assert data.read_voc(root, "train", image_extension="", check_images=False)


# --- Arguments that have an order


def test_an_order_is_not_taken_from_a_set(voc):
    root = voc({"1": voc_xml(CAT)})
    roidb = Roidb.from_records([record()], CLASSES)
    config = data.SamplingConfig()
    calls = {
        "classes": [
            lambda s: data.read_voc(root, "train", classes=s),
            lambda s: Roidb.from_records([record()], s),
            lambda s: Roidb(roidb.columns, s),
            lambda s: record(classes=s),
        ],
        "category_ids": [
            lambda s: Roidb.from_records([record()], CLASSES, category_ids=s),
            lambda s: Roidb(roidb.columns, CLASSES, s),
        ],
        "records": [lambda s: Roidb.from_records(s, CLASSES)],
        "proposals": [roidb.add_proposals, lambda s: record(proposals=s)],
        "indices": [roidb.take],
        "boxes": [
            lambda s: record(boxes=s),
            record().match,
            lambda s: record().overlaps(2, s),
        ],
        "difficult": [lambda s: record(difficult=s)],
        "crowd": [lambda s: record(crowd=s)],
        "rois": [lambda s: data.bbox_targets(s, [[0] * 4], [1], 2, config)],
        "targets": [lambda s: data.bbox_targets([[0] * 4], s, [1], 2, config)],
        "labels": [lambda s: data.bbox_targets([[0] * 4], [[0] * 4], s, 2, config)],
        "bbox_means": [lambda s: data.SamplingConfig(bbox_means=s)],
        "bbox_stds": [lambda s: data.SamplingConfig(bbox_stds=s)],
        "bbox_inside_weights": [lambda s: data.SamplingConfig(bbox_inside_weights=s)],
    }
    for name, functions in calls.items():
        for call in functions:
            for value in ({1, 2, 3, 4}, frozenset(["a", "b"]), set()):
                with pytest.raises(TypeError, match=rf"{name} must be .* no order"):
                    call(value)
    names = dict.fromkeys(["b", "cat", "a"])
    for value in (names, names.keys(), iter(names), np.array(["b", "cat", "a"])):
        assert Roidb.from_records([record()], value).classes[1:] == ("b", "cat", "a")


def test_wrong_kinds_of_arguments_are_named():
    roidb = Roidb.from_records([record()], CLASSES)
    config = data.SamplingConfig()
    rng = np.random.default_rng(0)
    calls = {
        "classes": lambda: Roidb.from_records([record()], 5),
        "records": lambda: Roidb.from_records(record(), CLASSES),
        "category_ids": lambda: Roidb.from_records(
            [record()], CLASSES, category_ids=["a"] * 4
        ),
        "columns": lambda: Roidb(5, CLASSES),
        "proposals": lambda: roidb.add_proposals(5),
        "predicate": lambda: roidb.filter(5),
        "index": lambda: roidb[[0]],
        "indices": lambda: roidb.take("0"),
        "overlap": lambda: roidb.add_proposals([[]]).target_statistics(overlap="x"),
        "num_classes": lambda: record().overlaps("x"),
        "record": lambda: data.candidates({}, config),
        "found": lambda: data.choose([], rng, config),
        "config": lambda: data.sample(record(), rng, {}, 2),
    }
    for name, call in calls.items():
        with pytest.raises(TypeError, match=f"^{name} must be"):
            call()
    ragged = [[1, 2], [3]]
    for name in ("boxes", "classes", "crowd", "proposals"):
        with pytest.raises(ValueError, match=f"^record '7': {name} must be an array"):
            record(**{name: ragged})
    with pytest.raises(IndexError, match="indices must be from -1 to 0, got 5"):
        roidb.take([0, 5])
    with pytest.raises(ValueError, match="columns must have box_offsets, boxes, class"):
        Roidb({}, CLASSES)
    with pytest.raises(ValueError, match=r"^indices must be an array"):
        roidb.take(ragged)


@pytest.mark.parametrize(
    ("box", "problem"),
    [
        ([5, 3, 4, 8], "inverted, x2 < x1"),
        ([0, 8, 4, 3], "inverted"),
        ([200, 3, 150, 8], "inverted"),
        ([0, 3, np.nan, 8], "not finite"),
        ([0, 3, np.inf, 8], "not finite"),
        ([0, 3, 100, 8], "outside; boxes.clip cuts"),
        ([-1, 3, 4, 8], "outside; boxes.clip cuts"),
    ],
)
def test_the_problem_of_a_box_is_named(box, problem):
    roidb = Roidb.from_records([record()], CLASSES)
    clips = "outside" in problem
    for call in (
        lambda: record(boxes=[box]),
        lambda: record(proposals=[box]),
        lambda: roidb.add_proposals([[box]]),
    ):
        with pytest.raises(ValueError, match=problem) as error:
            call()
        assert ("boxes.clip" in str(error.value)) == clips


def test_voc_missing_and_empty(voc):
    root = voc({"1": voc_xml(CAT)})
    with pytest.raises(FileNotFoundError, match=r"ImageSets/Main/val.txt"):
        data.read_voc(root, "val")
    with pytest.raises(FileNotFoundError, match=r"Annotations/2.xml"):
        data.read_voc(voc({"1": voc_xml(CAT)}, "1\n2\n"), "train")
    with pytest.raises(ValueError, match=r"train.txt: image '1' stands there twice"):
        data.read_voc(voc({"1": voc_xml(CAT)}, "1\n1\n"), "train")
    with pytest.raises(ValueError, match=r"train.txt: no images in this set"):
        data.read_voc(voc({}, "\n"), "train")
    root = voc({"1": voc_xml(CAT)})
    (root / "JPEGImages/1.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"train.txt: no image file .*1.jpg"):
        data.read_voc(root, "train")
    assert len(data.read_voc(root, "train", check_images=False)) == 1


def test_voc_sets_in_other_encodings(voc):
    root = voc({"1": voc_xml(CAT), "2": voc_xml(CAT)})
    file = root / "ImageSets/Main/train.txt"
    file.write_bytes(b"\xef\xbb\xbf1\r\n2\r\n")
    assert [r.id for r in data.read_voc(root, "train")] == ["1", "2"]
    file.write_bytes("1\n2\n".encode("utf-16"))
    with pytest.raises(ValueError, match=r"train.txt: not UTF-8"):
        data.read_voc(root, "train")


def test_voc_choices(voc):
    root = voc({"1": voc_xml(CAT, CAT | {"name": "bus"})})
    roidb = data.read_voc(root, "train", classes=["cat"], unknown_classes="skip")
    assert roidb.classes == ("__background__", "cat")
    assert len(roidb[0].boxes) == 1
    assert roidb.report.counts == {"object of unknown class": 1}
    with pytest.raises(ValueError, match=r"bad_boxes must be one of .*'drop'"):
        data.read_voc(root, "train", bad_boxes="drop")
    with pytest.raises(ValueError, match="unknown_classes must be one of"):
        data.read_voc(root, "train", unknown_classes=None)


# --- COCO


def coco_image(number, **fields):
    name = f"{number:012d}.jpg"
    base = {"id": number, "file_name": name, "height": 60, "width": 100}
    return base | fields


def annotation(**fields):
    base = {"image_id": 9, "category_id": 90, "iscrowd": 0, "bbox": [0, 3, 5, 6]}
    return base | fields


def coco_data(annotations, images=None, categories=None):
    names = {90: "toothbrush", 1: "person", 17: "cat"}
    return {
        "images": images or [coco_image(139), coco_image(9)],
        "annotations": annotations,
        "categories": categories or [{"id": k, "name": n} for k, n in names.items()],
    }


@pytest.fixture
def coco(tmp_path):
    """Writes COCO's JSON (or any text) and empty images, and reads it."""

    def read(content, **kwargs):
        file = tmp_path / "instances.json"
        is_text = isinstance(content, str)
        file.write_text(content if is_text else json.dumps(content))
        for number in (9, 139):
            (tmp_path / f"{number:012d}.jpg").touch()
        return data.read_coco(file, tmp_path, **kwargs)

    return read


def test_coco(coco, tmp_path):
    rows = [
        annotation(),
        annotation(image_id=139, category_id=17, bbox=[10.25, 20.5, 0.5, 39.5]),
        annotation(category_id=1, bbox=[50, 0, 50, 60], iscrowd=1),
    ]
    roidb = coco(coco_data(rows))
    assert roidb.classes == ("__background__", "person", "cat", "toothbrush")
    assert roidb.category_ids == (0, 1, 17, 90)
    assert [r.id for r in roidb] == ["139", "9"]
    assert roidb[0].image == str(tmp_path / "000000000139.jpg")
    # x2 = x + w - 1, and not less than x.
    np.testing.assert_array_equal(roidb[0].boxes, [[10.25, 20.5, 10.25, 59]])
    np.testing.assert_array_equal(roidb[1].boxes, [[0, 3, 4, 8], [50, 0, 99, 59]])
    assert roidb[1].classes.tolist() == [3, 1]
    assert roidb[1].crowd.tolist() == [False, True]
    assert roidb[1].trainable.tolist() == [True, False]
    assert not roidb[1].difficult.any()
    assert not roidb.report


def test_coco_bad_boxes_are_counted(coco):
    boxes = [[0, 3, 5, 6], [10, 10, 0, 5], [10, 10, -3, 5], [100, 0, 5, 5]]
    boxes += [[-9, 0, 9, 5], [-9, 0, 10, 5], [90, 50, 20, 20], [99.5, 0, 0.5, 5]]
    roidb = coco(coco_data([annotation(bbox=b) for b in boxes]))
    np.testing.assert_array_equal(
        roidb[1].boxes,
        [[0, 3, 4, 8], [0, 0, 0, 4], [90, 50, 99, 59], [99, 0, 99, 4]],
    )
    assert roidb.report.counts == {
        "box inverted": 1,
        "box of no size": 1,
        "box outside the image": 2,
        "box clipped to the image": 3,
        "image without boxes": 1,
    }
    assert "instances.json: annotations[2].bbox" in str(roidb.report)
    with pytest.raises(ValueError, match=r"annotations\[1\].bbox: box of no size"):
        coco(coco_data([annotation(bbox=b) for b in boxes[:2]]), bad_boxes="error")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "instances.json: not JSON"),
        ("{", "instances.json: not JSON"),
        ("[" * 100_000, "instances.json: not JSON"),
        ([], "instances.json: must be an object with images.*got a list"),
        ({"images": []}, "annotations must be a list, got None"),
        (coco_data({}), "annotations must be a list, got {}"),
        (coco_data([]) | {"images": []}, "images is empty: no images"),
        (coco_data([], [3]), r"images\[0\] must be an object, got 3"),
        (coco_data([], [{}]), r"images\[0\] has no id"),
        (coco_data([], [coco_image(9), coco_image(9)]), "images: id 9 twice"),
        (coco_data([], [coco_image(9, id="9")]), r"images\[0\].id must be.*'9'"),
        (coco_data([], [coco_image(9, height=0)]), r"images\[0\].height must be.*0"),
        (coco_data([], [coco_image(9, width=2**70)]), r"images\[0\].width must be"),
        (coco_data([], [coco_image(9, file_name="")]), r"images\[0\].file_name"),
        (coco_data([], [coco_image(9, file_name="../x")]), r"file_name.*'../x'"),
        (coco_data([], [coco_image(9, file_name="/x")]), "a path below the image"),
        (coco_data([], [coco_image(9, file_name="a\\..\\..\\x")]), "a path below"),
        (coco_data([], [coco_image(9, file_name="\ud800")]), "a path below the image"),
        (coco_data([annotation(image_id=3)]), r"annotations\[0\].image_id: 3 is the"),
        (coco_data([annotation(category_id=2)]), r"category_id: 2 is the id of no"),
        (coco_data([annotation(), {}]), r"annotations\[1\] has no image_id"),
        (coco_data([annotation(bbox=None)]), r"annotations\[0\].bbox.*None"),
        (coco_data([annotation(bbox=[1, 2, 3])]), r"\[0\].bbox must be four finite"),
        (coco_data([annotation(bbox=[1, 2, 3, "4"])]), r"annotations\[0\].bbox"),
        (coco_data([annotation(bbox=[1, 2, 3, np.nan])]), r"\[0\].bbox.*nan"),
        (coco_data([annotation(bbox=[1, 2, 3, 10**400])]), r"annotations\[0\].bbox"),
        (coco_data([annotation(iscrowd=2)]), r"annotations\[0\].iscrowd.*got 2"),
        (
            coco_data([], categories=[{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]),
            r"categories\[...\].name must be different names",
        ),
        (coco_data([annotation()]) | {"categories": []}, "categories is empty"),
    ],
)
def test_coco_bad_files(coco, content, message):
    with pytest.raises(ValueError, match=message):
        coco(content)


@pytest.mark.parametrize(
    ("old", "place"),
    [
        ('"images": [', r"'images' stands twice"),
        ('"bbox": [0', r"annotations\[0\]: 'bbox' stands twice"),
        ('"iscrowd": 0', r"annotations\[0\]: 'iscrowd' stands twice"),
        ('"image_id": 9', r"annotations\[0\]: 'image_id' stands twice"),
        ('"width": 100', r"images\[0\]: 'width' stands twice"),
        ('"file_name": "000000000009.jpg"', r"images\[1\]: 'file_name' stands twice"),
        ('"name": "cat"', r"categories\[2\]: 'name' stands twice"),
    ],
)
def test_coco_refuses_a_key_that_stands_twice(coco, old, place):
    text = json.dumps(coco_data([annotation()]))
    key = old.split(":")[0]
    assert old in text
    with pytest.raises(ValueError, match=f"instances.json: {place}"):
        coco(text.replace(old, f"{key}: [], {old}", 1))


def test_coco_counts_what_may_be_of_boxes_and_is_not_read(coco):
    rows = [annotation(), annotation(ignore=1, bboxes=[[0, 0, 3, 3]], area=3, box=None)]
    rows += [annotation(is_crowd=1, segmentation=[[1, 2]], attributes={"occluded": 1})]
    images = [coco_image(139, objects=[{"bbox": [1, 2, 3, 4]}]), coco_image(9)]
    extra = {"info": {"year": 1}, "licenses": [{}], "videos": [{}], "version": 3}
    roidb = coco(coco_data(rows, images) | extra)
    assert roidb.report.counts == {
        "image without boxes": 1,
        "table that is not read": 1,
        "objects, which is not read": 1,
        "bboxes, which is not read": 1,
        "ignore, which is not read": 1,
        "is_crowd, which is not read": 1,
    }
    assert "instances.json: annotations[1]" in str(roidb.report)


def test_coco_missing_files(coco, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing.json"):
        data.read_coco(tmp_path / "nothing.json", tmp_path)
    content = coco_data([], [coco_image(9), coco_image(10)])
    message = r"images\[1\].file_name: no image file .*000000000010.jpg"
    with pytest.raises(FileNotFoundError, match=message):
        coco(content)
    with pytest.raises(FileNotFoundError, match=r"images\[0\].*no image file"):
        coco(coco_data([], [coco_image(9, file_name="nowhere/9.jpg")]))
    assert len(coco(content, check_images=False)) == 2


def synthetic_coco(images, seed=0):
    """About 7 boxes per image, as in COCO's train2017."""
    r = np.random.default_rng(seed)
    ids = np.arange(images) * 5 + 9
    owners = r.choice(ids, images * 7)
    low = r.uniform(0, 400, (len(owners), 2)).round(2)
    size = r.uniform(1, 79, (len(owners), 2)).round(2)
    bbox = np.concatenate([low, size], axis=1).tolist()
    category = r.integers(1, 91, len(owners)).tolist()
    rows = [
        {"image_id": i, "category_id": k, "iscrowd": 0, "bbox": b}
        for i, k, b in zip(owners.tolist(), category, bbox, strict=True)
    ]
    return {
        "images": [coco_image(i, height=480, width=640) for i in ids.tolist()],
        "annotations": rows,
        "categories": [{"id": k, "name": f"name {k}"} for k in range(1, 91)],
    }


def assert_compact(roidb, images):
    assert len(roidb) == images
    assert len(roidb.columns["boxes"]) == images * 7
    assert roidb.nbytes < 350 * images
    assert len(pickle.dumps(roidb)) < 350 * images
    # Flips cost an index and a flag.
    assert roidb.with_flips().nbytes - roidb.nbytes < 10 * images


def test_coco_is_compact(tmp_path):
    file = tmp_path / "instances.json"
    content = synthetic_coco(1000)
    file.write_text(json.dumps(content))
    roidb = data.read_coco(file, "/data/coco/train2017", check_images=False)
    assert_compact(roidb, 1000)
    for number in (0, 500, 999):
        image = content["images"][number]["id"]
        rows = [a for a in content["annotations"] if a["image_id"] == image]
        xywh = np.array([a["bbox"] for a in rows]).reshape(-1, 4)
        low, size = xywh[:, :2], xywh[:, 2:]
        want = np.concatenate([low, low + size - 1], axis=1)
        np.testing.assert_allclose(roidb[number].boxes, want, rtol=1e-6)
        assert roidb[number].classes.tolist() == [a["category_id"] for a in rows]


@pytest.mark.nightly
def test_coco_of_118000_images(tmp_path):
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(synthetic_coco(118_000)))
    start = time.process_time()
    roidb = data.read_coco(file, "/data/coco/train2017", check_images=False)
    assert time.process_time() - start < 60
    assert_compact(roidb, 118_000)
