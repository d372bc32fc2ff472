"""The roidb: annotated images as records.

A `Record` is one image with its boxes; a `Roidb` is a sequence of them. A roidb
keeps a few flat arrays, not a list of objects, and makes a record when it is asked
for one, so that 118,000 images take tens of megabytes, and the arrays can lie in
memory that processes share. Nothing is changed in place: every method gives a new
roidb, which shares the arrays of the old one.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike

from jax_roipool import boxes as _boxes
from jax_roipool.arguments import check_int, is_real
from jax_roipool.data import checks
from jax_roipool.data.progress import progress

Array = np.ndarray[Any, Any]

BACKGROUND = "__background__"
# float32 counts pixels exactly up to here.
MAX_SIDE = 2**24
EXAMPLES = 5


# --- What was left out -------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Report:
    """What a reader or a filter left out or changed: nothing is dropped silently.

    Attributes:
      counts: How often each thing happened, by its name.
      examples: Where it happened first, for each name: up to five places.

    Example:
      >>> from jax_roipool.data import Report
      >>> report = Report({"box inverted": 2}, {"box inverted": ("7.xml: object 1",)})
      >>> print(report)
      2 × box inverted (7.xml: object 1, ...)
      >>> bool(Report())
      False
    """

    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    examples: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        lines = []
        for name, count in self.counts.items():
            places = list(self.examples.get(name, ()))
            if len(places) < count:
                places.append("...")
            lines.append(f"{count} × {name} ({', '.join(places)})")
        return "\n".join(lines) or "nothing left out"

    def __add__(self, other: "Report") -> "Report":
        if not isinstance(other, Report):
            return NotImplemented
        counts, examples = dict(self.counts), dict(self.examples)
        for name, count in other.counts.items():
            counts[name] = counts.get(name, 0) + count
            both = examples.get(name, ()) + tuple(other.examples.get(name, ()))
            examples[name] = both[:EXAMPLES]
        return Report(counts, examples)


def reported(name: str, places: Sequence[str], count: int | None = None) -> Report:
    """A report of one thing, at these places; of nothing where there are none."""
    count = len(places) if count is None else count
    if not count:
        return Report()
    return Report({name: count}, {name: tuple(places[:EXAMPLES])})


# --- Records -----------------------------------------------------------------


def _frozen(array: Array) -> Array:
    array = array.view()
    array.flags.writeable = False
    return array


def _rows(value: Any, where: str) -> Array:
    """float32 [n, 4], of its own."""
    array = checks.array(where, value)
    if array.size == 0 and array.ndim < 2:
        array = np.zeros((0, 4), np.float32)
    if not is_real(array.dtype):
        raise TypeError(f"{where} must be real numbers, got dtype {array.dtype}")
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(
            f"{where} must have shape [n, 4] = (x1, y1, x2, y2), got {array.shape}"
        )
    with np.errstate(over="ignore"):
        return np.array(array, np.float32, order="C")


def _box_array(value: Any, height: int, width: int, where: str) -> Array:
    """float32 [n, 4] in an image, checked."""
    array = _rows(value, where)
    x1, y1, x2, y2 = array.T
    # A NaN is in no range.
    good = (x1 >= 0) & (y1 >= 0) & (x2 >= x1) & (y2 >= y1)
    good &= (x2 <= width - 1) & (y2 <= height - 1)
    if not good.all():
        i = int(good.argmin())
        if not np.isfinite(array[i]).all():
            problem = "it is not finite"
        elif (array[i, 2:] < array[i, :2]).any():
            problem = "it is inverted, x2 < x1 or y2 < y1"
        else:
            problem = (
                "it is partly or wholly outside; boxes.clip cuts boxes to an image"
            )
        raise ValueError(
            f"{where}[{i}] must satisfy 0 <= x1 <= x2 <= width - 1 and 0 <= y1 <= y2 "
            f"<= height - 1 in an image of {width} x {height}, got "
            f"{array[i].tolist()}: {problem}"
        )
    return array


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Record:
    """One image and what is known of it.

    Its arrays are not writeable. Boxes are float32 `(x1, y1, x2, y2)` in pixels of
    the image, corners inclusive, `0 <= x1 <= x2 <= width - 1`.

    Attributes:
      id: What the data set calls the image; COCO's number as text.
      image: The path of the file, or its bytes (encoded, such as JPEG).
      height: Rows of the image.
      width: Columns of the image.
      boxes: float32 [n, 4], the ground truth.
      classes: int32 [n], from 1; 0 is the background.
      difficult: bool [n]: VOC's flag. Not trained on, ignored in evaluation.
      crowd: bool [n]: COCO's flag of a box around many. Never a sample.
      flipped: Whether the image is to be mirrored left to right; the boxes and
        proposals are already.
      proposals: float32 [m, 4] or `None`.
      proposal_overlaps: float32 [m], and ...
      proposal_matches: ... int32 [m]: what `match` says of the proposals, computed
        when the record is made and kept when it is mirrored. `None` without
        proposals.

    Raises:
      TypeError, ValueError: A field is not as described; named by id and field.

    Example:
      >>> from jax_roipool.data import Record
      >>> record = Record("7", "7.jpg", 60, 100, [[0, 3, 4, 8]], [1])
      >>> record.flip().boxes
      array([[95.,  3., 99.,  8.]], dtype=float32)
    """

    id: str
    image: str | bytes
    height: int
    width: int
    boxes: Array
    classes: Array
    difficult: Array = None  # type: ignore[assignment]  # None: all false
    crowd: Array = None  # type: ignore[assignment]
    flipped: bool = False
    proposals: Array | None = None
    # Arrays where there are proposals, which is asked first.
    proposal_overlaps: Any = dataclasses.field(init=False, default=None)
    proposal_matches: Any = dataclasses.field(init=False, default=None)

    def __post_init__(self) -> None:
        if not isinstance(self.id, str):
            raise TypeError(f"id must be a str, got {self.id!r}")
        try:
            self.id.encode()
        except UnicodeEncodeError:
            raise ValueError(f"id must be text for UTF-8, got {self.id!r}") from None
        where = f"record {self.id!r}: "
        image = self.image
        if not isinstance(image, bytes):
            image = checks.path(f"{where}image", image, "a path or bytes")
        if not isinstance(self.flipped, bool | np.bool_):
            raise TypeError(f"{where}flipped must be a bool, got {self.flipped!r}")
        height = check_int(where + "height", self.height, 1, MAX_SIDE)
        width = check_int(where + "width", self.width, 1, MAX_SIDE)
        fields: dict[str, Any] = {"image": image, "height": height, "width": width}
        fields["boxes"] = _box_array(self.boxes, height, width, where + "boxes")
        count = len(fields["boxes"])
        for name in ("classes", "difficult", "crowd"):
            value = getattr(self, name)
            kinds, dtype = ("iu", np.int32) if name == "classes" else ("b", np.bool_)
            array = (
                np.zeros(count, dtype)
                if value is None
                else checks.array(where + name, value)
            )
            if array.size == 0:
                array = array.astype(dtype)
            if array.dtype.kind not in kinds:
                raise TypeError(
                    f"{where}{name} must be {np.dtype(dtype)}, got dtype {array.dtype}"
                )
            if array.shape != (count,):
                raise ValueError(
                    f"{where}{name} must have shape ({count},), one per box, got "
                    f"{array.shape}"
                )
            if name == "classes" and count:
                if array.min() < 1:
                    raise ValueError(
                        f"{where}classes must be at least 1 (0 is the background), "
                        f"got {array.min()}"
                    )
                if array.max() >= 2**31:
                    raise ValueError(
                        f"{where}classes must be below 2**31, got {array.max()}"
                    )
            fields[name] = array.astype(dtype)
        if self.proposals is not None:
            where += "proposals"
            fields["proposals"] = _box_array(self.proposals, height, width, where)
        for name, value in fields.items():
            frozen = _frozen(value) if isinstance(value, np.ndarray) else value
            object.__setattr__(self, name, frozen)
        if self.proposals is not None:
            overlaps, matches = map(_frozen, self.match(self.proposals))
            object.__setattr__(self, "proposal_overlaps", overlaps)
            object.__setattr__(self, "proposal_matches", matches)

    @classmethod
    def _unchecked(cls, **fields: Any) -> "Record":
        record = object.__new__(cls)
        record.__dict__.update(fields)
        return record

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Copies of arrays are writeable.
        for name, value in state.items():
            frozen = _frozen(value) if isinstance(value, np.ndarray) else value
            self.__dict__[name] = frozen

    def __repr__(self) -> str:
        image = self.image
        if isinstance(image, bytes):
            image = f"{len(image)} bytes"
        given = "no" if self.proposals is None else len(self.proposals)
        return (
            f"<Record {self.id!r}{' flipped' * self.flipped}: {image}, {self.width} x "
            f"{self.height}, {len(self.boxes)} boxes, {given} proposals>"
        )

    @property
    def trainable(self) -> Array:
        """Which boxes may become samples, bool [n]: not difficult, not crowd."""
        return ~(self.difficult | self.crowd)

    def check_classes(self, num_classes: int) -> None:
        """Raises ValueError where there is a class of `num_classes` or above."""
        num_classes = check_int("num_classes", num_classes, 1)
        if len(self.classes) and self.classes.max() >= num_classes:
            raise ValueError(
                f"num_classes must be above the classes of record {self.id!r}, "
                f"{self.classes.max()}, got {num_classes}"
            )

    def flip(self) -> "Record":
        """The record of the mirrored image; twice is the first, as `boxes.flip`."""
        fields = dict(self.__dict__, flipped=not self.flipped)
        for name in ("boxes", "proposals"):
            if fields[name] is not None:
                fields[name] = _frozen(
                    _boxes.flip(fields[name], self.width, inclusive=True)
                )
        return Record._unchecked(**fields)

    def match(self, boxes: ArrayLike) -> tuple[Array, Array]:
        """The ground truth that each box overlaps most.

        Args:
          boxes: [m, 4].

        Returns:
          `(overlap, index)`: float32 [m], the greatest IoU with a box that may be
          a sample; int32 [m], that box among `self.boxes`, the first among
          equals, or -1 where none overlaps.
        """
        boxes = _rows(boxes, "boxes")
        which = np.flatnonzero(self.trainable)
        if not len(which):
            return np.zeros(len(boxes), np.float32), np.full(len(boxes), -1, np.int32)
        # The many in rows: NumPy is slow along a short last axis.
        table = _boxes.iou(self.boxes[which], boxes, inclusive=True)
        best = table.argmax(axis=0)
        overlap = table[best, np.arange(len(boxes))]
        index = np.where(overlap > 0, which[best], -1)
        return overlap, index.astype(np.int32)

    def overlaps(self, num_classes: int, boxes: ArrayLike | None = None) -> Array:
        """The greatest overlap of boxes with the ground truth of every class.

        Args:
          num_classes: With the background.
          boxes: [m, 4]; `None` means the proposals, or the ground truth itself
            where there are none.

        Returns:
          float32 [m, num_classes]; 0 for the background and for classes that
          have no box which may be a sample.
        """
        if boxes is None:
            boxes = self.boxes if self.proposals is None else self.proposals
        boxes = _rows(boxes, "boxes")
        self.check_classes(num_classes)
        which = np.flatnonzero(self.trainable)
        result = np.zeros((num_classes, len(boxes)), np.float32)
        table = _boxes.iou(self.boxes[which], boxes, inclusive=True)
        np.maximum.at(result, self.classes[which], table)
        return result.T


# --- The roidb ---------------------------------------------------------------

# Flat columns: which arrays are cut by which offsets.
_BOXES = ("boxes", "classes", "difficult", "crowd")
_PROPOSALS = ("proposals", "proposal_overlaps", "proposal_matches")
_RAGGED = {
    "id_offsets": ("id_bytes",),
    "image_offsets": ("image_bytes",),
    "box_offsets": _BOXES,
    "proposal_offsets": _PROPOSALS,
}
# What follows from the other columns.
_DERIVED = _PROPOSALS[1:]
_PLAIN = ("height", "width", "in_memory")
_VIEW = ("index", "flipped")


def _offsets(lengths: Any) -> Array:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _pack(items: Sequence[bytes]) -> tuple[Array, Array]:
    blob = np.frombuffer(b"".join(items), np.uint8)
    return _offsets([len(item) for item in items]), blob


def _gather(columns: Mapping[str, Array], index: Array) -> dict[str, Array]:
    """The columns of these images only, in this order."""
    result = {name: columns[name][index] for name in _PLAIN}
    for name, cut in _RAGGED.items():
        if name in columns:
            begin = columns[name][:-1][index]
            lengths = columns[name][1:][index] - begin
            result[name] = _offsets(lengths)
            rows = np.repeat(begin - result[name][:-1], lengths)
            rows += np.arange(len(rows))
            result.update({c: columns[c][rows] for c in cut})
    return result


@dataclasses.dataclass(frozen=True)
class TargetStatistics:
    """Means and standard deviations of box targets, by `Roidb.target_statistics`.

    Attributes:
      means: float32 [num_classes, 4], or [4] over all classes.
      stds: float32, likewise; never 0.
      counts: int64 [num_classes] or []: of how many targets.

    Example:
      >>> import numpy as np
      >>> from jax_roipool.data import TargetStatistics
      >>> TargetStatistics(np.zeros(4), np.ones(4), np.int64(0)).counts
      np.int64(0)
    """

    means: Array
    stds: Array
    counts: Array


class Roidb(Sequence[Record]):
    """Annotated images: a sequence of records over a few flat arrays.

    `roidb[3]` is a `Record`, `roidb[:3]` and `roidb.take([...])` are roidbs. Made
    by `read_voc`, `read_coco` and `Roidb.from_records`; the constructor takes the
    arrays of another one's `columns`, for example from shared memory.

    Attributes:
      classes: Names of the classes; `classes[0]` is "__background__".
      category_ids: The number of each class in the data set: COCO's gapped ids,
        else 0, 1, 2, ...
      report: What was left out on the way here.
      columns: The arrays by name. `index` and `flipped` say which image, and
        whether mirrored, each record is; all others are per image.

    Example:
      >>> from jax_roipool.data import Record, Roidb
      >>> record = Record("7", "7.jpg", 60, 100, [[0, 3, 4, 8]], [1])
      >>> roidb = Roidb.from_records([record], ["cat"]).with_flips()
      >>> len(roidb), roidb[1].flipped, roidb[1].boxes.tolist()
      (2, True, [[95.0, 3.0, 99.0, 8.0]])
    """

    def __init__(
        self,
        columns: Mapping[str, Array],
        classes: Sequence[str],
        category_ids: Sequence[int] | None = None,
        report: Report | None = None,
    ) -> None:
        checks.instance("columns", columns, Mapping)
        if "proposals" in columns and not all(name in columns for name in _DERIVED):
            raise ValueError(
                f"columns must have {' and '.join(_DERIVED)} where they have "
                "proposals; add_proposals makes all three"
            )
        always = [n for n in _RAGGED if n != "proposal_offsets"]
        missing = {*_VIEW, *_PLAIN, *always, *_BOXES} - columns.keys()
        if missing:
            raise ValueError(f"columns must have {', '.join(sorted(missing))}")
        self.columns = {name: _frozen(array) for name, array in columns.items()}
        self.classes = tuple(checks.ordered("classes", classes, "a list of names"))
        if category_ids is None:
            category_ids = range(len(self.classes))
        self.category_ids = _numbers(category_ids)
        self.report = report or Report()

    def __reduce__(self) -> Any:
        return Roidb, (self.columns, self.classes, self.category_ids, self.report)

    def _with(self, report: Report | None = None, **columns: Array) -> "Roidb":
        return Roidb(
            {**self.columns, **columns},
            self.classes,
            self.category_ids,
            report or self.report,
        )

    @classmethod
    def from_records(
        cls,
        records: Iterable[Record],
        classes: Sequence[str],
        *,
        category_ids: Sequence[int] | None = None,
    ) -> "Roidb":
        """A roidb of records of one's own.

        Args:
          records: Not flipped (`with_flips` does that), all of them with
            proposals or none.
          classes: The names of classes 1, 2, ...; the background is added.
          category_ids: The number of each in the data set.

        Raises:
          TypeError, ValueError: A record is not as described, has a class of no
            name, or there are none.
        """
        records = checks.ordered("records", records, "a list of Record")
        if not records:
            raise ValueError("records must not be empty: a roidb has images")
        names = class_names(classes, "classes")
        if category_ids is not None:
            category_ids = (0, *_numbers(category_ids))
            if len(category_ids) != len(names):
                raise ValueError(
                    f"category_ids must have one number per class, {len(names) - 1}, "
                    f"got {len(category_ids) - 1}"
                )
        for record in records:
            if not isinstance(record, Record):
                raise TypeError(f"records must be Record, got {type(record).__name__}")
            where = f"record {record.id!r}: "
            if record.flipped:
                raise ValueError(
                    f"{where}flipped must be false; with_flips mirrors, and take "
                    "keeps the records of a roidb as they are"
                )
            if (record.proposals is None) != (records[0].proposals is None):
                raise ValueError(f"{where}proposals must be in all records or in none")
            if len(record.classes) and record.classes.max() >= len(names):
                raise ValueError(
                    f"{where}classes must be at most {len(names) - 1}, the number of "
                    f"class names, got {record.classes.max()}"
                )
        columns = columns_of(
            ids=[r.id for r in records],
            images=[
                r.image if isinstance(r.image, bytes) else os.fsencode(r.image)
                for r in records
            ],
            in_memory=np.array([isinstance(r.image, bytes) for r in records]),
            height=np.array([r.height for r in records]),
            width=np.array([r.width for r in records]),
            lengths=[len(r.boxes) for r in records],
            **{
                name: np.concatenate([getattr(r, name) for r in records])
                for name in ("boxes", "classes", "difficult", "crowd")
            },
        )
        roidb = cls(columns, names, category_ids)
        if records[0].proposals is not None:
            roidb = roidb.add_proposals([r.proposals for r in records])
        return roidb

    # --- Records

    def __len__(self) -> int:
        return len(self.columns["index"])

    @overload
    def __getitem__(self, i: int) -> Record: ...
    @overload
    def __getitem__(self, i: slice) -> "Roidb": ...
    def __getitem__(self, i: Any) -> Any:
        columns = self.columns
        if isinstance(i, slice):
            return self._with(index=columns["index"][i], flipped=columns["flipped"][i])
        if isinstance(i, bool) or not isinstance(i, int | np.integer):
            raise TypeError(
                f"index must be an int or a slice, got {i!r:.80}; take([...]) gives "
                "the records of a list"
            )
        image = int(columns["index"][i])

        def cut(offsets: str) -> slice:
            return slice(*columns[offsets][image : image + 2].tolist())

        boxes = cut("box_offsets")
        fields: dict[str, Any] = {c: columns[c][boxes] for c in _BOXES}
        fields |= dict.fromkeys(_PROPOSALS)
        if self.has_proposals:
            proposals = cut("proposal_offsets")
            fields |= {c: columns[c][proposals] for c in _PROPOSALS}
            matches = fields["proposal_matches"].astype(np.int32)
            fields["proposal_matches"] = _frozen(matches)
        data = columns["image_bytes"][cut("image_offsets")].tobytes()
        record = Record._unchecked(
            id=columns["id_bytes"][cut("id_offsets")].tobytes().decode(),
            image=data if columns["in_memory"][image] else os.fsdecode(data),
            height=int(columns["height"][image]),
            width=int(columns["width"][image]),
            flipped=False,
            **fields,
        )
        return record.flip() if columns["flipped"][i] else record

    def __repr__(self) -> str:
        flips = int(self.columns["flipped"].sum())
        return (
            f"<Roidb of {len(self)} records ({flips} flipped), "
            f"{len(self.classes) - 1} classes>"
        )

    @property
    def num_classes(self) -> int:
        """The number of classes, with the background."""
        return len(self.classes)

    @property
    def has_proposals(self) -> bool:
        """Whether `add_proposals` was called."""
        return "proposals" in self.columns

    @property
    def heights(self) -> Array:
        """int32, rows of the image of each record."""
        return self.columns["height"][self.columns["index"]]

    @property
    def widths(self) -> Array:
        """int32, columns of the image of each record."""
        return self.columns["width"][self.columns["index"]]

    @property
    def nbytes(self) -> int:
        """Memory of all arrays, in bytes."""
        return sum(array.nbytes for array in self.columns.values())

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the content, in hexadecimal digits.

        Over ids, sizes, boxes, classes, flags, flips, proposals and class names
        in order; not over paths or pixels, so a data set may move. However the
        roidb was made, equal content has an equal fingerprint.
        """
        digest = hashlib.sha256(
            json.dumps([self.classes, self.category_ids, len(self)]).encode()
        )
        names = [*_PLAIN[:2], *_RAGGED, *(c for cut in _RAGGED.values() for c in cut)]
        left_out = {"image_offsets", "image_bytes", *_DERIVED}
        names = [n for n in names if n in self.columns and n not in left_out]
        index = self.columns["index"]
        for name in names:
            digest.update(name.encode())
            owner = next((o for o, cut in _RAGGED.items() if name in cut), name)
            alone = {owner: self.columns[owner], name: self.columns[name]}
            # A few at a time: gathering copies.
            for start in range(0, len(index), 4096):
                part = _gather_one(alone, owner, name, index[start : start + 4096])
                digest.update(part.astype(part.dtype.newbyteorder("<")).tobytes())
        digest.update(self.columns["flipped"].tobytes())
        return digest.hexdigest()

    # --- Other roidbs

    def take(self, indices: ArrayLike) -> "Roidb":
        """The records of these indices, in this order.

        Args:
          indices: int [k]; negative ones count from the end.

        Raises:
          IndexError, TypeError, ValueError: One is no record's, or they are not a
            list of ints.
        """
        indices = checks.array("indices", indices)
        if indices.size == 0:
            indices = indices.astype(np.int64)
        if indices.dtype.kind not in "iu":
            raise TypeError(f"indices must be ints, got dtype {indices.dtype}")
        if indices.ndim != 1:
            raise ValueError(f"indices must have shape [k], got {indices.shape}")
        wrong = indices[(indices < -len(self)) | (indices >= len(self))]
        if len(wrong):
            raise IndexError(
                f"indices must be from {-len(self)} to {len(self) - 1}, got {wrong[0]}"
            )
        index, flipped = (self.columns[name][indices] for name in _VIEW)
        return self._with(index=index, flipped=flipped)

    def filter(self, predicate: Callable[[Record], bool]) -> "Roidb":
        """The records for which the predicate holds; the report counts the others.

        `data.has_samples` is py-faster-rcnn's predicate (`filter_roidb`).
        """
        if not callable(predicate):
            raise TypeError(f"predicate must be a function, got {predicate!r:.80}")
        records = progress(self, "filtering", "images")
        keep = np.fromiter((bool(predicate(r)) for r in records), bool, len(self))
        gone = np.flatnonzero(~keep)
        places = [f"image {self[i].id}" for i in gone[:EXAMPLES]]
        report = reported("record filtered out", places, len(gone))
        result = self.take(np.flatnonzero(keep))
        result.report = self.report + report
        return result

    def with_flips(self) -> "Roidb":
        """All records, then all of them mirrored left to right.

        Boxes and proposals of a mirrored record are made from those of the
        image when it is asked for, so mirroring rounds at most once.

        Raises:
          ValueError: There are mirrored records already.
        """
        index, flipped = (self.columns[name] for name in _VIEW)
        if flipped.any():
            raise ValueError("with_flips was called already: there are flips")
        return self._with(
            index=np.concatenate([index, index]),
            flipped=np.concatenate([flipped, ~flipped]),
        )

    def add_proposals(self, proposals: Iterable[ArrayLike]) -> "Roidb":
        """The same records with proposals; earlier ones are replaced.

        What they overlap is computed here, once.

        Args:
          proposals: One array [m, 4] per record, any real dtype, `m` may differ
            and be 0. `0 <= x1 <= x2 <= width - 1`, likewise y; `boxes.clip` helps.

        Raises:
          TypeError, ValueError: A list of another length, an array that is not
            as described (named by the record's id), or mirrored records: add
            proposals before `with_flips`.

        Example:
          >>> from jax_roipool.data import Record, Roidb
          >>> record = Record("7", "7.jpg", 60, 100, [[0, 3, 4, 8]], [1])
          >>> roidb = Roidb.from_records([record], ["cat"])
          >>> roidb.add_proposals([[[0, 3, 4, 5]]])[0].overlaps(num_classes=2)
          array([[0. , 0.5]], dtype=float32)
        """
        if self.columns["flipped"].any():
            raise ValueError("add_proposals must come before with_flips")
        proposals = checks.ordered("proposals", proposals, "a list of arrays")
        if len(proposals) != len(self):
            raise ValueError(
                f"proposals must have one array per record, {len(self)}, got "
                f"{len(proposals)}"
            )
        heights, widths = self.heights.tolist(), self.widths.tolist()
        arrays, overlaps, matches = [], [], []
        # Two bytes count the boxes of any image but the strangest.
        most = np.diff(self.columns["box_offsets"]).max(initial=0)
        kind = np.int16 if most < 2**15 else np.int32
        for i, value in enumerate(progress(proposals, "overlaps", "images")):
            record = self[i]
            where = f"record {record.id!r}: proposals"
            arrays.append(_box_array(value, heights[i], widths[i], where))
            overlap, match = record.match(arrays[-1])
            overlaps.append(overlap)
            matches.append(match.astype(kind))
        index = self.columns["index"]
        columns = {n: a for n, a in self.columns.items() if "proposal" not in n}
        if not np.array_equal(index, np.arange(len(columns["height"]))):
            columns = _gather(columns, index)
        return Roidb(
            columns
            | {
                "index": np.arange(len(self)),
                "flipped": self.columns["flipped"],
                "proposal_offsets": _offsets([len(a) for a in arrays]),
                "proposals": np.concatenate([np.zeros((0, 4), np.float32), *arrays]),
                "proposal_overlaps": np.concatenate(
                    [np.zeros(0, np.float32), *overlaps]
                ),
                "proposal_matches": np.concatenate([np.zeros(0, kind), *matches]),
            },
            self.classes,
            self.category_ids,
            self.report,
        )

    def __add__(self, other: "Roidb") -> "Roidb":
        """The records of both, as VOC's trainval sets of 2007 and 2012 are joined."""
        if not isinstance(other, Roidb):
            return NotImplemented
        for name in ("classes", "category_ids", "has_proposals"):
            if getattr(self, name) != getattr(other, name):
                raise ValueError(
                    f"roidbs must have the same {name} to be joined, got "
                    f"{getattr(self, name)} and {getattr(other, name)}"
                )
        mine, theirs = self.columns, other.columns
        columns = {
            name: np.concatenate([array, theirs[name]]) for name, array in mine.items()
        }
        for name in _RAGGED:
            if name in mine:
                shifted = theirs[name][1:] + mine[name][-1]
                columns[name] = np.concatenate([mine[name], shifted])
        columns["index"][len(self) :] += len(mine["height"])
        return Roidb(
            columns, self.classes, self.category_ids, self.report + other.report
        )

    # --- Targets

    def target_statistics(
        self, *, overlap: float = 0.5, per_class: bool = True
    ) -> TargetStatistics:
        """Means and stds of the box targets, to normalise them by.

        Fast R-CNN (Girshick 2015, section 2.3) normalises targets to zero mean
        and unit variance. Samples are the proposals whose IoU with their ground
        truth is at least `overlap`, and the ground truth itself, as both are
        sampled in training. Summed in float64 by merging means and squared
        deviations (Chan et al. 1979), which does not cancel. Neither records nor
        targets change: `SamplingConfig` takes the numbers, so nothing can be
        normalised twice.

        Args:
          overlap: Least IoU of a sample (`TRAIN.BBOX_THRESH`).
          per_class: One row per class, or all together.

        Returns:
          The statistics. A class without samples has mean 0 and std 1; where all
          samples are equal the std is 1.

        Raises:
          ValueError: There are no proposals.
        """
        if not self.has_proposals:
            raise ValueError("target_statistics needs proposals: call add_proposals")
        overlap = checks.number("overlap", overlap)
        rows = self.num_classes if per_class else 1
        counts = np.zeros(rows, np.int64)
        means, squares = np.zeros((rows, 4)), np.zeros((rows, 4))
        for record in progress(self, "statistics of targets", "images"):
            assert record.proposals is not None
            found, index = record.proposal_overlaps, record.proposal_matches
            some = (index >= 0) & (found >= np.float32(overlap))
            truth = np.flatnonzero(record.trainable)
            index = np.concatenate([index[some], truth])
            rois = np.concatenate([record.proposals[some], record.boxes[truth]])
            deltas = _boxes.encode(rois, record.boxes[index], inclusive=True).astype(
                np.float64
            )
            row = record.classes[index] if per_class else np.zeros(len(index), int)
            for k in np.unique(row):
                part = deltas[row == k]
                mean = part.mean(axis=0)
                total = counts[k] + len(part)
                step = mean - means[k]
                squares[k] += ((part - mean) ** 2).sum(axis=0)
                squares[k] += step**2 * (counts[k] * len(part) / total)
                means[k] += step * (len(part) / total)
                counts[k] = total
        stds = np.sqrt(squares / np.maximum(counts, 1)[:, None])
        stds[stds == 0] = 1
        means, stds = means.astype(np.float32), stds.astype(np.float32)
        if per_class:
            return TargetStatistics(means, stds, counts)
        return TargetStatistics(means[0], stds[0], counts[0])


def _numbers(category_ids: Any) -> tuple[int, ...]:
    values = checks.ordered("category_ids", category_ids, "a list of ints")
    return tuple(check_int("category_ids", v, -(2**63), 2**63 - 1) for v in values)


def _gather_one(
    columns: Mapping[str, Array], owner: str, name: str, index: Array
) -> Array:
    """One column of these images; lengths for offsets."""
    if owner == name and name not in _RAGGED:
        return columns[name][index]
    begin = columns[owner][:-1][index]
    lengths = columns[owner][1:][index] - begin
    if owner == name:
        return lengths
    rows = np.repeat(begin - _offsets(lengths)[:-1], lengths)
    return columns[name][rows + np.arange(len(rows))]


def class_names(classes: Sequence[str], where: str) -> tuple[str, ...]:
    """The names with the background before them, checked."""
    classes = tuple(checks.ordered(where, classes, "a list of names"))
    if not all(isinstance(c, str) for c in classes):
        raise TypeError(f"{where} must be names, got {classes!r}")
    names = (BACKGROUND, *classes)
    if len(set(names)) != len(names):
        raise ValueError(
            f"{where} must be different names, without {BACKGROUND!r}, got {classes}"
        )
    return names


def columns_of(
    *,
    ids: Sequence[str],
    images: Sequence[bytes],
    in_memory: Array,
    height: Array,
    width: Array,
    lengths: Any,
    boxes: Array,
    classes: Array,
    difficult: Array,
    crowd: Array,
) -> dict[str, Array]:
    """The columns of a roidb without flips and proposals; `lengths`: boxes of each."""
    id_offsets, id_bytes = _pack([i.encode() for i in ids])
    image_offsets, image_bytes = _pack(images)
    return {
        "id_offsets": id_offsets,
        "id_bytes": id_bytes,
        "image_offsets": image_offsets,
        "image_bytes": image_bytes,
        "in_memory": in_memory,
        "height": height.astype(np.int32),
        "width": width.astype(np.int32),
        "box_offsets": _offsets(lengths),
        "boxes": boxes.astype(np.float32),
        "classes": classes.astype(np.int32),
        "difficult": difficult,
        "crowd": crowd,
        "index": np.arange(len(ids)),
        "flipped": np.zeros(len(ids), bool),
    }
