"""Readers of Pascal VOC and COCO: files to a `Roidb`, and nothing silently dropped.

Every problem is an error that names the file and the field, or is counted in the
roidb's `report`, which is logged too.
"""

import codecs
import functools
import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jax_roipool.data.checks import path as checked_path
from jax_roipool.data.progress import progress
from jax_roipool.data.roidb import (
    EXAMPLES,
    MAX_SIDE,
    Array,
    Report,
    Roidb,
    class_names,
    columns_of,
    reported,
)

logger = logging.getLogger("jax_roipool.data")

OnBadBox = Literal["skip", "error"]

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person"),
    *("pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""The 20 classes of Pascal VOC, in their usual order: class 1 is "aeroplane"."""

# An annotation of VOC has some kilobytes.
_MAX_XML_BYTES = 2**26


# --- Boxes as data sets have them --------------------------------------------

_CLIPPED = "box clipped to the image"
_OUTSIDE = "box outside the image"
_INVERTED = "box inverted"
_NO_SIZE = "box of no size"
_NO_BOXES = "image without boxes"


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")


def _clean(
    corners: Array,
    sizes: Array,
    problems: Mapping[str, Any],
    on_bad: OnBadBox,
    place: Callable[[int], str],
) -> tuple[Array, Array, Report]:
    """Cuts boxes to their images and finds those that cannot be used.

    Args:
      corners: float64 [n, 4], inclusive.
      sizes: [n, 2], (width, height) of the image of each.
      problems: Those that are known already, bool [n] by name.
      on_bad: What to do about boxes that cannot be used.
      place: The file and field of a box.

    Returns:
      The corners, clipped; which to keep; what happened.
    """
    low, high = corners[:, :2], corners[:, 2:]
    found: dict[str, Any] = dict(problems)
    found.setdefault(_INVERTED, (high < low).any(axis=1))
    found[_OUTSIDE] = ((low >= sizes) | (high + 1 <= 0)).any(axis=1)
    keep = np.ones(len(corners), bool)
    report = Report()
    for name, which in found.items():
        new = np.flatnonzero(which & keep)
        if len(new) and on_bad == "error":
            i = int(new[0])
            width, height = sizes[i]
            raise ValueError(
                f"{place(i)}: {name}: corners {corners[i].tolist()} (from 0, "
                f'inclusive) in an image of {width} x {height}; bad_boxes="skip" '
                "leaves such boxes out and counts them"
            )
        report += reported(name, [place(int(i)) for i in new[:EXAMPLES]], len(new))
        keep[new] = False
    last = np.concatenate([sizes, sizes], axis=1) - 1
    clipped = np.clip(corners, 0, last)
    changed = np.flatnonzero((clipped != corners).any(axis=1) & keep)
    places = [place(int(i)) for i in changed[:EXAMPLES]]
    return clipped, keep, report + reported(_CLIPPED, places, len(changed))


def _is_path_below(value: Any) -> bool:
    """Whether it is a path that does not leave its directory, on any system."""
    if not isinstance(value, str) or value == "" or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    absolute = os.path.isabs(value) or os.path.splitdrive(value)[0]
    return not absolute and ".." not in re.split(r"[/\\]", value)


def _check_images(paths: Sequence[str], place: Callable[[int], str]) -> None:
    """Every file is there. One look at each directory, not at each file."""
    listings: dict[str, set[str]] = {}
    for i, path in enumerate(paths):
        directory, name = os.path.split(path)
        if directory not in listings:
            try:
                listings[directory] = set(os.listdir(directory or "."))
            except OSError as error:
                raise FileNotFoundError(
                    f"{place(i)}: no image file {path!r}: {error}"
                ) from error
        if name not in listings[directory]:
            raise FileNotFoundError(f"{place(i)}: no image file {path!r}")


def _finish(
    file: str, columns: dict[str, Array], names: Any, ids: Any, report: Report
) -> Roidb:
    offsets = columns["box_offsets"]
    empty = np.flatnonzero(offsets[1:] == offsets[:-1])
    roidb = Roidb(columns, names, ids)
    places = [f"image {roidb[int(i)].id}" for i in empty[:EXAMPLES]]
    roidb.report = report + reported(_NO_BOXES, places, len(empty))
    if roidb.report:
        logger.warning("%s:\n%s", file, roidb.report)
    return roidb


# --- Pascal VOC --------------------------------------------------------------


# What is read of each element. All else is refused where it could hold an object,
# and counted where it is not known and no leaf, or one of four numbers or of XML.
_VOC_READ = {
    "annotation": ("size", "object"),
    "size": ("width", "height"),
    "object": ("name", "difficult", "bndbox"),
    "bndbox": ("xmin", "ymin", "xmax", "ymax"),
}
_VOC_KNOWN = (
    *("source", "owner", "part", "actions", "point", "attributes", "polygon"),
    *("segmentation", "segm"),
)
# Tags that only objects have, also in the spelling of others.
_OBJECT_TAG = re.compile(
    r"obj|objs|objects?|bbox(es)?|box(es)?|b(ou)?nd(ing)?_?box(es)?"
    r"|[xy]_?m(in|ax)|difficult"
)


def _decode_xml(data: bytes) -> str:
    """The text of an XML file, in the encoding of its mark or its declaration."""
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            return data.decode(encoding)
    declared = _DECLARED.match(data)
    return data.decode(declared[1].decode() if declared else "utf-8")


# Byte order marks (that of UTF-32 begins with that of UTF-16), and what "<" and "<?"
# are without one.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    b"<\0\0\0": "utf-32-le",
    b"\0\0\0<": "utf-32-be",
    b"<\0": "utf-16-le",
    b"\0<": "utf-16-be",
}
_DECLARED = re.compile(rb"""<\?xml\b[^>]*?\sencoding\s*=\s*["']([\w.:-]+)["']""")


def _parse_xml(file: str) -> Any:
    """The root of an annotation; declares no entities."""
    try:
        from defusedxml import DTDForbidden
        from defusedxml.ElementTree import ParseError, fromstring
    except ImportError as error:
        raise ImportError(
            "read_voc needs defusedxml: pip install 'jax_roipool[data]'"
        ) from error
    with open(file, "rb") as stream:
        data = stream.read(_MAX_XML_BYTES + 1)
    if len(data) > _MAX_XML_BYTES:
        raise ValueError(f"{file}: more than {_MAX_XML_BYTES} bytes of annotation")
    if not data.strip():
        raise ValueError(f"{file}: the annotation is empty")
    try:
        # Of text the parser ignores the declared encoding: expat knows four.
        root = fromstring(_decode_xml(data), forbid_dtd=True)
    except DTDForbidden:
        raise ValueError(
            f"{file}: a document type declaration is refused: its entities could "
            "expand without end or read other files"
        ) from None
    # The latter for encodings.
    except (ParseError, LookupError, ValueError) as error:
        raise ValueError(f"{file}: not well-formed XML: {error}") from error
    if root.tag != "annotation":
        raise ValueError(f"{file}: the root must be annotation, got {root.tag}")
    return root


def _folded(tag: str) -> str:
    return tag.rpartition("}")[2].casefold()


def _object_in(element: Any) -> str | None:
    """A tag or an attribute at or below an element that could be an object's."""
    for below in element.iter():
        content = len(below) or below.attrib or (below.text or "").strip()
        for tag in [*[below.tag] * bool(content), *below.attrib]:
            if _OBJECT_TAG.fullmatch(_folded(tag)):
                return str(tag)
    return None


def _are_numbers(text: str) -> bool:
    """Whether the text is four numbers or more, and nothing else."""
    words = text.replace(",", " ").split()
    return len(words) >= 4 and all(w.replace(".", "", 1).isdecimal() for w in words)


def _check_unread(element: Any, where: str) -> Report:
    """Refuses or counts what stands in an element and is not read."""
    read, report = _VOC_READ[element.tag], Report()
    for text in (element.text, *(child.tail for child in element)):
        if text and text.strip():
            raise ValueError(
                f"{where}: {element.tag} must hold elements, got text "
                f"{text.strip()!r:.80}"
            )
    for name in element.attrib:
        if _folded(name) in read or _OBJECT_TAG.fullmatch(_folded(name)):
            raise ValueError(f"{where}: attribute {name} is not read")
    for child in element:
        if child.tag in read:
            continue
        # A part has a box, which is not an object's.
        is_part = element.tag == "object" and child.tag == "part"
        parts = [c for c in child if c.tag != "bndbox"] if is_part else [child]
        found = next(filter(None, map(_object_in, parts)), None)
        if found is None and _folded(child.tag) in read:
            found = child.tag
        if found:
            inside = f" in {child.tag}" * (found != child.tag)
            raise ValueError(f"{where}: {found}{inside} is not read")
        values = " ".join([child.text or "", *child.attrib.values()])
        odd = len(child) or "<" in values or _are_numbers(values)
        if odd and child.tag not in _VOC_KNOWN:
            report += reported(f"{child.tag}, which is not read", [where])
    return report


def _voc_child(element: Any, tag: str, field: str, where: str) -> Any:
    """The one child of this tag, or `None`."""
    found = element.findall(tag)
    if len(found) > 1:
        raise ValueError(f"{where}: {field} stands there {len(found)} times")
    return found[0] if found else None


def _voc_text(element: Any, field: str, where: str) -> str:
    """The text of `field`, a path of direct children such as "size/width"."""
    for tag in field.split("/"):
        if element is not None:
            element = _voc_child(element, tag, field.partition(tag)[0] + tag, where)
    if element is None:
        raise ValueError(f"{where}: no {field}")
    if len(element):
        raise ValueError(f"{where}: {field} must be text, got <{element[0].tag}>")
    for name in element.attrib:
        if _OBJECT_TAG.fullmatch(_folded(name)):
            raise ValueError(f"{where}: {field}: attribute {name} is not read")
    text = (element.text or "").strip()
    if not text:
        raise ValueError(f"{where}: no {field}")
    return text


def _voc_number(element: Any, field: str, where: str) -> float:
    text = _voc_text(element, field, where)
    try:
        number = float(text)
    except ValueError:
        number = np.nan
    if not np.isfinite(number):
        raise ValueError(f"{where}: {field} must be a number, got {text!r}")
    return number


def _voc_flag(element: Any, field: str, where: str) -> bool:
    if element.find(field) is None:
        return False
    text = _voc_text(element, field, where)
    if text not in ("0", "1"):
        raise ValueError(f"{where}: {field} must be 0 or 1, got {text!r}")
    return text == "1"


def _voc_ids(file: str) -> list[str]:
    with open(file, "rb") as stream:
        try:
            text = stream.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file}: not UTF-8: {error}") from None
    ids = dict[str, None]()
    for number, line in enumerate(re.split(r"\r\n?|\n", text), 1):
        image_id, *rest = line.split() or [""]
        if not image_id:
            continue
        # Sets of one class ("cat_train") say in a second column if it is there.
        if rest and rest not in (["-1"], ["0"], ["1"]):
            raise ValueError(
                f"{file}: line {number} must be an image's id, or that and -1, 0 or "
                f"1, got {line!r:.80}"
            )
        if not _is_path_below(image_id):
            raise ValueError(
                f"{file}: line {number} must be the name of a file without its "
                f"extension, got {image_id!r:.80}"
            )
        if image_id in ids:
            raise ValueError(f"{file}: image {image_id!r} stands there twice")
        ids[image_id] = None
    if not ids:
        raise ValueError(f"{file}: no images in this set")
    return list(ids)


def read_voc(
    directory: str | os.PathLike[str],
    image_set: str,
    *,
    classes: Sequence[str] = VOC_CLASSES,
    unknown_classes: Literal["error", "skip"] = "error",
    bad_boxes: OnBadBox = "skip",
    check_images: bool = True,
    image_extension: str = ".jpg",
) -> Roidb:
    r"""Reads a data set in the format of Pascal VOC.

    `directory` holds `Annotations/<id>.xml`, `ImageSets/Main/<image_set>.txt` and
    `JPEGImages/<id>.jpg`. Coordinates in the files count from 1 and may be
    fractions; 1 is subtracted. Boxes of an object's parts are ignored. Difficult
    objects are kept with their flag, which keeps them from being samples. Elements
    that are not read are passed over where they are VOC's own or hold text alone,
    counted where they hold elements or four numbers, and refused where they could be
    objects.
    Annotations are in the encoding of their byte order mark or their declaration,
    else in UTF-8.

    Args:
      directory: Such as "VOCdevkit/VOC2007".
      image_set: Such as "trainval". Of a set of one class ("cat_train") all
        images are read, whether its second column says -1, 0 or 1.
      classes: Names of classes 1, 2, ...
      unknown_classes: "error", or "skip" objects of other names and count them.
      bad_boxes: "skip" leaves out boxes that are inverted or wholly outside the
        image, and counts them; "error" refuses them. Boxes partly outside are
        clipped and counted. Counts are in the roidb's `report` and logged by
        `logging.getLogger("jax_roipool.data")`.
      check_images: Looks whether every image file is there.
      image_extension: Of the image files.

    Returns:
      The roidb, in the order of the image set. Images without boxes are kept, and
      counted in the report.

    Raises:
      FileNotFoundError: A file is not there.
      ImportError: defusedxml is not installed.
      TypeError, ValueError: An argument is not as described.
      ValueError: An annotation is empty, not XML, has a document type declaration
        (entities could expand without end), lacks a field, has a wrong one or has
        it twice; an image set is empty, or a line of it is no image's. The file
        and the field are named.

    Example:
      >>> import pathlib, tempfile
      >>> from jax_roipool.data import read_voc
      >>> root = pathlib.Path(tempfile.mkdtemp())
      >>> for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
      ...     (root / name).mkdir(parents=True)
      >>> _ = (root / "ImageSets/Main/train.txt").write_text("000007\n")
      >>> _ = (root / "Annotations/000007.xml").write_text('''<annotation>
      ... <size><width>100</width><height>60</height><depth>3</depth></size>
      ... <object><name>cat</name><difficult>0</difficult><bndbox><xmin>1</xmin>
      ... <ymin>4</ymin><xmax>5</xmax><ymax>9</ymax></bndbox></object>
      ... </annotation>''')
      >>> roidb = read_voc(root, "train", check_images=False)
      >>> roidb[0].boxes, roidb.classes[roidb[0].classes[0]]
      (array([[0., 3., 4., 8.]], dtype=float32), 'cat')
    """
    _check_choice("bad_boxes", bad_boxes, ("skip", "error"))
    _check_choice("unknown_classes", unknown_classes, ("error", "skip"))
    root = checked_path("directory", directory)
    for name, value in (("image_set", image_set), ("image_extension", image_extension)):
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a str, got {value!r:.80}")
        # With a letter before it, as an extension may be empty or begin with "..".
        if not _is_path_below("a" * (name == "image_extension") + value):
            raise ValueError(f"{name} must be part of a file's name, got {value!r:.80}")
    names = class_names(classes, "classes")
    numbers = {name: k for k, name in enumerate(names) if k}
    set_file = os.path.join(root, "ImageSets", "Main", image_set + ".txt")
    ids = _voc_ids(set_file)
    report = Report()
    sizes, lengths = [], []
    rows: list[list[float]] = []
    places, row_classes, difficult = [], [], []
    for image_id in progress(ids, f"reading {image_set}", "images"):
        file = os.path.join(root, "Annotations", image_id + ".xml")
        annotation = _parse_xml(file)
        report += _check_unread(annotation, file)
        size = []
        for field in ("size/width", "size/height"):
            number = _voc_number(annotation, field, file)
            if number != int(number) or not 1 <= number <= MAX_SIDE:
                raise ValueError(
                    f"{file}: {field} must be a whole number from 1, got {number:g}"
                )
            size.append(int(number))
        report += _check_unread(annotation.find("size"), file)
        before = len(rows)
        for i, element in enumerate(annotation.findall("object")):
            where = f"{file}: object {i}"
            report += _check_unread(element, where)
            if (box := _voc_child(element, "bndbox", "bndbox", where)) is not None:
                report += _check_unread(box, where)
            name = _voc_text(element, "name", where)
            if name not in numbers:
                if unknown_classes == "skip":
                    report += reported("object of unknown class", [where])
                    continue
                raise ValueError(
                    f"{where}: name {name!r} is none of the classes; "
                    'unknown_classes="skip" leaves such objects out'
                )
            corners = [
                _voc_number(element, f"bndbox/{tag}", where) - 1
                for tag in ("xmin", "ymin", "xmax", "ymax")
            ]
            rows.append(corners)
            places.append(f"{where}: bndbox")
            row_classes.append(numbers[name])
            difficult.append(_voc_flag(element, "difficult", where))
        sizes.append(size)
        lengths.append(len(rows) - before)
    paths = [os.path.join(root, "JPEGImages", i + image_extension) for i in ids]
    if check_images:
        _check_images(paths, lambda _: set_file)
    row_image = np.repeat(np.arange(len(ids)), lengths)
    size_array = np.array(sizes)
    corners_array, keep, cleaned = _clean(
        np.array(rows, np.float64).reshape(-1, 4),
        size_array[row_image],
        {},
        bad_boxes,
        places.__getitem__,
    )
    columns = columns_of(
        ids=ids,
        images=[os.fsencode(path) for path in paths],
        in_memory=np.zeros(len(ids), bool),
        height=size_array[:, 1],
        width=size_array[:, 0],
        lengths=np.bincount(row_image[keep], minlength=len(ids)),
        boxes=corners_array[keep],
        classes=np.array(row_classes, np.int32)[keep],
        difficult=np.array(difficult, bool)[keep],
        crowd=np.zeros(int(keep.sum()), bool),
    )
    return _finish(set_file, columns, names, None, report + cleaned)


# --- COCO --------------------------------------------------------------------


_COCO_TABLES = ("images", "annotations", "categories")
_COCO_KNOWN = (*_COCO_TABLES, "info", "licenses")
# Fields that say something of boxes, also in the spelling of others.
_COCO_BOXES = re.compile(r"[a-z]*box(es)?|objects?|annotations?")
_COCO_FLAGS = ("iscrowd", "crowd", "ignore", "difficult")


def _load_json(file: str) -> Any:
    """What a JSON file holds; an object that has a key twice is refused."""
    repeated: list[tuple[Any, str]] = []

    def make(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            repeated.append((found, max(keys, key=keys.count)))
        return found

    with open(file, "rb") as stream:
        try:
            data = json.load(stream, object_pairs_hook=make)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file}: not JSON: {error}") from error
    if repeated:
        wanted, key = repeated[0]
        tables = data.items() if isinstance(data, dict) else ()
        places = (
            f"{table}[{i}]: "
            for table, rows in tables
            for i, row in enumerate(rows if isinstance(rows, list) else ())
            if row is wanted
        )
        raise ValueError(
            f"{file}: {next(places, '')}{key!r} stands twice in one object"
        )
    return data


def _coco_unread(file: str, data: dict[str, Any]) -> Report:
    """Counts what may be of boxes and is not read."""
    report = Report()
    for name, value in data.items():
        if name not in _COCO_KNOWN and isinstance(value, list | dict) and value:
            report += reported("table that is not read", [f"{file}: {name}"])
    for table in _COCO_TABLES:
        rows = data[table]
        for name in sorted(set[str]().union(*rows)):
            folded = name.casefold().replace("_", "").replace("-", "")
            if name in ("bbox", "iscrowd"):
                continue
            if folded in _COCO_FLAGS:
                which = [i for i, row in enumerate(rows) if row.get(name)]
            elif _COCO_BOXES.fullmatch(folded):
                which = [
                    i
                    for i, row in enumerate(rows)
                    if isinstance(row.get(name), list | dict) and row[name]
                ]
            else:
                continue
            places = [f"{file}: {table}[{i}]" for i in which[:EXAMPLES]]
            report += reported(f"{name}, which is not read", places, len(which))
    return report


def _is_int(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _is_bbox(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(type(v) in (int, float) and abs(v) < 1e30 for v in value)  # no NaN
    )


def _coco_field(
    file: str,
    table: str,
    rows: list[Any],
    name: str,
    good: Callable[[Any], bool],
    expected: str,
) -> list[Any]:
    """One field of all rows of a table, checked."""
    values = []
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"{file}: {table}[{i}] must be an object, got {row!r:.80}")
        if name not in row:
            raise ValueError(f"{file}: {table}[{i}] has no {name}")
        value = row[name]
        if not good(value):
            raise ValueError(
                f"{file}: {table}[{i}].{name} must be {expected}, got {value!r:.80}"
            )
        values.append(value)
    return values


def _unique(file: str, table: str, ids: list[int]) -> Array:
    array = np.array(ids, np.int64)
    values, counts = np.unique(array, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"{file}: {table}: id {values[counts.argmax()]} twice")
    return array


def _look_up(
    ids: Array, wanted: list[int], place: Callable[[int], str], what: str
) -> Array:
    """Where each wanted id stands among `ids`."""
    order = np.argsort(ids)
    array = np.array(wanted, np.int64)
    found = order[np.minimum(np.searchsorted(ids, array, sorter=order), len(ids) - 1)]
    missing = np.flatnonzero(ids[found] != array)
    if len(missing):
        i = int(missing[0])
        raise ValueError(f"{place(i)}: {array[i]} is the id of no {what}")
    return found


def read_coco(
    annotation_file: str | os.PathLike[str],
    image_directory: str | os.PathLike[str],
    *,
    bad_boxes: OnBadBox = "skip",
    check_images: bool = True,
) -> Roidb:
    """Reads a data set in the format of COCO (`instances_*.json`).

    A box of the file is (x, y, width, height); here x2 = x + width - 1, and never
    less than x. Category ids, which have gaps, become classes 1, 2, ... in their
    order; `roidb.category_ids[k]` is the id of class k. Crowd boxes are kept with
    their flag, which keeps them from being samples. Segmentations are not read.
    Other tables, and fields whose name speaks of boxes or flags ("bboxes",
    "ignore"), are counted in the report.

    Args:
      annotation_file: The JSON file.
      image_directory: What `file_name` is relative to.
      bad_boxes: "skip" leaves out boxes of no size, of negative size or wholly
        outside the image, and counts them (COCO has a few); "error" refuses
        them. Boxes partly outside are clipped and counted. Counts are in the
        roidb's `report` and logged by `logging.getLogger("jax_roipool.data")`.
      check_images: Looks whether every image file is there.

    Returns:
      The roidb, in the order of the file; ids are COCO's as text. Images without
      boxes are kept, and counted in the report.

    Raises:
      FileNotFoundError: A file is not there.
      ValueError: The file is not JSON, or has a key twice in one object; a field
        is missing, wrong, or names an image or a category that is not there; there
        are no images. The file and the field are named.

    Example:
      >>> import json, pathlib, tempfile
      >>> from jax_roipool.data import read_coco
      >>> file = pathlib.Path(tempfile.mkdtemp()) / "instances.json"
      >>> _ = file.write_text(json.dumps({
      ...     "images": [{"id": 139, "file_name": "139.jpg", "height": 60,
      ...                 "width": 100}],
      ...     "categories": [{"id": 90, "name": "toothbrush"},
      ...                    {"id": 17, "name": "cat"}],
      ...     "annotations": [{"image_id": 139, "category_id": 90, "iscrowd": 0,
      ...                      "bbox": [0, 3, 5, 6]}]}))
      >>> roidb = read_coco(file, "images", check_images=False)
      >>> roidb.classes, roidb.category_ids
      (('__background__', 'cat', 'toothbrush'), (0, 17, 90))
      >>> roidb[0].boxes, roidb[0].classes
      (array([[0., 3., 4., 8.]], dtype=float32), array([2], dtype=int32))
    """
    _check_choice("bad_boxes", bad_boxes, ("skip", "error"))
    file = checked_path("annotation_file", annotation_file)
    directory = checked_path("image_directory", image_directory)
    data = _load_json(file)
    if not isinstance(data, dict):
        raise ValueError(
            f"{file}: must be an object with images, annotations and "
            f"categories, got a {type(data).__name__}"
        )
    for table in _COCO_TABLES:
        if not isinstance(data.get(table), list):
            raise ValueError(
                f"{file}: {table} must be a list, got {data.get(table)!r:.80}"
            )
    field = functools.partial(_coco_field, file)

    images = data["images"]
    if not images:
        raise ValueError(f"{file}: images is empty: no images")
    ids = _unique(file, "images", field("images", images, "id", _is_int, "an int"))
    height, width = (
        np.array(
            field(
                "images",
                images,
                name,
                lambda v: _is_int(v) and 1 <= v <= MAX_SIDE,
                "an int from 1 to 2**24",
            )
        )
        for name in ("height", "width")
    )
    file_names = field(
        "images",
        images,
        "file_name",
        _is_path_below,
        "a path below the image directory",
    )
    paths = [os.path.join(directory, name) for name in file_names]
    if check_images:
        _check_images(paths, lambda i: f"{file}: images[{i}].file_name")

    categories = data["categories"]
    category_ids = _unique(
        file, "categories", field("categories", categories, "id", _is_int, "an int")
    )
    category_names = field(
        "categories", categories, "name", lambda v: isinstance(v, str), "a name"
    )
    order = np.argsort(category_ids)
    names = class_names(
        [category_names[k] for k in order], f"{file}: categories[...].name"
    )
    class_of = np.empty(len(order), np.int32)
    class_of[order] = np.arange(1, len(order) + 1)

    rows = data["annotations"]
    row_image = row_class = np.zeros(0, np.int32)
    if rows:
        image_ids = field("annotations", rows, "image_id", _is_int, "an int")
        row_image = _look_up(
            ids, image_ids, lambda i: f"{file}: annotations[{i}].image_id", "image"
        )
        row_categories = field("annotations", rows, "category_id", _is_int, "an int")
        if not categories:
            raise ValueError(f"{file}: categories is empty, annotations is not")
        row_class = class_of[
            _look_up(
                category_ids,
                row_categories,
                lambda i: f"{file}: annotations[{i}].category_id",
                "category",
            )
        ]
    bbox = field("annotations", rows, "bbox", _is_bbox, "four finite numbers")
    xywh = np.array(bbox, np.float64).reshape(-1, 4)
    crowd_values = [row.get("iscrowd", 0) for row in rows]
    for i, value in enumerate(crowd_values):
        if value not in (0, 1):
            raise ValueError(
                f"{file}: annotations[{i}].iscrowd must be 0 or 1, got {value!r:.80}"
            )

    low, extent = xywh[:, :2], xywh[:, 2:]
    corners, keep, report = _clean(
        np.concatenate([low, low + np.maximum(extent - 1, 0)], axis=1),
        np.stack([width, height], axis=1)[row_image],
        {
            _INVERTED: (extent < 0).any(axis=1),
            _NO_SIZE: (extent == 0).any(axis=1),
        },
        bad_boxes,
        lambda i: f"{file}: annotations[{i}].bbox",
    )
    # By image, in the order of the file within an image.
    kept = np.flatnonzero(keep)
    kept = kept[np.argsort(row_image[kept], kind="stable")]
    columns = columns_of(
        ids=[str(i) for i in ids.tolist()],
        images=[os.fsencode(path) for path in paths],
        in_memory=np.zeros(len(ids), bool),
        height=height,
        width=width,
        lengths=np.bincount(row_image[kept], minlength=len(ids)),
        boxes=corners[kept],
        classes=row_class[kept],
        difficult=np.zeros(len(kept), bool),
        crowd=np.array(crowd_values, bool)[kept],
    )
    numbers = [0, *category_ids[order].tolist()]
    return _finish(file, columns, names, numbers, report + _coco_unread(file, data))
