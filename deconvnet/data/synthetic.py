"""A synthetic data set in VOC's layout: textured shapes of VOC's 20 classes, or of some of them, made from a seed.

    DIR/VOC2012/JPEGImages/ID.jpg, SegmentationClass/ID.png, SegmentationObject/ID.png, Annotations/ID.xml
    DIR/VOC2012/ImageSets/Segmentation/{train,val,trainval}.txt      written last: without them the set is unfinished
    DIR/VOC2012/synthetic.json                                       what it was made with

An image depends only on the seed, its split and its number. Later objects cover earlier ones. As in VOC, void (255)
lies as a rim along both sides of every object's outline, in both masks. Boxes in Annotations are the tight boxes of the
labelled pixels (visible, without the rim), so that they agree with boxes taken from SegmentationObject.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
from PIL import Image

from deconvnet.conventions import VOC_CLASSES
from deconvnet.data.palette import write_label_png
from deconvnet.data.synthetic_classes import KINDS, Kind, extent, paint, silhouette
from deconvnet.recipe_limits import short
from deconvnet.support.atomic import atomic_write, remove_leftovers, write_json, write_text
from deconvnet.support.errors import UsageError
from deconvnet.support.locks import held
from deconvnet.support.progress import progress

VOID = 255
VERSION = 1  # of the drawing code; a set made by another version is not continued
SPLITS = ("train", "val")
LEAST_SIDE, MOST_SIDE = 96, 4096
MOST_IMAGES = 10**6  # of a split; ids have six digits
MOST_SEED = 2**63 - 1  # as the recipe's
FREQUENCY = {"person": 3.0, "boat": 0.2, "diningtable": 0.2, "sheep": 0.2, "train": 0.2}  # of extra objects; others 1
LEAST_VISIBLE = 0.4  # share of an object's pixels that stay labelled, so that no object is a sliver


def generate(root: Path, train: int, val: int, seed: int, side: int,
             class_names: Sequence[str] = VOC_CLASSES) -> Path:
    """Makes the set under `root`, continues an interrupted one, or finds it complete; returns root/VOC2012.

    train, val: images; side: about the longer side of an image, in pixels. class_names: background, then the classes
    to draw; a class's label is its place. Raises UsageError for a number outside its limits, a class that cannot be
    drawn, or when the folder holds another set. If another command is making the set, waits for it.
    """
    for name in class_names[1:]:
        if name not in KINDS:
            raise UsageError(f"class {short(name)} cannot be drawn: expected classes of VOC, or a --voc-root whose "
                             "images show it")
    for name, value, least, most in (("train", train, 1, MOST_IMAGES), ("val", val, 1, MOST_IMAGES),
                                     ("seed", seed, 0, MOST_SEED), ("side", side, LEAST_SIDE, MOST_SIDE)):
        if not least <= value <= most:
            raise UsageError(f"--{name} is {value}; expected at least {least} and at most {most}")
    folder = Path(root) / "VOC2012"
    with held(folder, wait=True):
        return _generate(folder, train, val, seed, side, list(class_names))


def _generate(folder: Path, train: int, val: int, seed: int, side: int, class_names: list[str]) -> Path:
    for place in ("", "JPEGImages", "SegmentationClass", "SegmentationObject", "Annotations", "ImageSets/Segmentation"):
        remove_leftovers(folder / place)
    chosen = {"classes": class_names} if class_names != list(VOC_CLASSES) else {}
    _claim(folder, {"version": VERSION, "train": train, "val": val, "seed": seed, "side": side, **chosen})
    counts = {"train": train, "val": val}
    ids = {split: [f"{split}_{index:06d}" for index in range(counts[split])] for split in SPLITS}
    missing = [(split, index, image_id) for split in SPLITS for index, image_id in enumerate(ids[split])
               if not all(path.is_file() for path in _paths(folder, image_id))]
    for split, index, image_id in progress(missing, desc="synthetic VOC", unit="image", disable=not missing):
        _write_scene(folder, image_id, *draw_scene(seed, split, index, side, class_names))
    for split, lines in {**ids, "trainval": ids["train"] + ids["val"]}.items():
        path = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
        if not path.is_file():
            write_text(path, "\n".join(lines) + "\n")
    return folder


def draw_scene(seed: int, split: str, index: int, side: int, class_names: Sequence[str] = VOC_CLASSES
               ) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
    """One image (RGB uint8), its class and object masks (uint8, with void), and its objects in drawing order.

    An object: name, box (x1, y1, x2, y2; 0-based, half-open), truncated (reaches the border), occluded (in part).
    """
    random = np.random.default_rng([seed, SPLITS.index(split), index])
    height, width = _size(random, side)
    image = _background(random, height, width)
    numbers = np.zeros((height, width), np.uint8)
    classes, objects = [0], list[dict[str, Any]]()
    extra = random.choice(4, p=[0.3, 0.3, 0.25, 0.15])
    names = [_first_class(seed, split, index, class_names[1:]), *_extra_classes(random, extra, class_names[1:])]
    sizes = np.sort(np.exp(random.uniform(np.log(0.2), np.log(0.9), len(names))))[::-1]  # the largest is at the back
    random.shuffle(names)
    for name, size in zip(names, sizes, strict=True):
        placed = _place(random, KINDS[name], size, numbers, side)
        if placed is None:
            continue  # no room left without hiding another object
        transform, numbers = placed
        paint(image, KINDS[name], transform, random)
        classes.append(list(class_names).index(name))
        own = numbers == len(classes) - 1
        border = own[0].any() or own[-1].any() or own[:, 0].any() or own[:, -1].any()
        objects.append({"name": name, "truncated": bool(border), "drawn": int(own.sum())})
    object_mask = with_rim(numbers, side)
    class_mask = np.where(object_mask == VOID, VOID, np.array(classes, np.uint8)[numbers]).astype(np.uint8)
    for number, item in enumerate(objects, start=1):
        item["occluded"] = int((numbers == number).sum()) < item.pop("drawn")
        ys, xs = np.nonzero(object_mask == number)
        item["box"] = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
    return image, class_mask, object_mask, objects


def with_rim(numbers: np.ndarray, side: int) -> np.ndarray:
    """Lays void along every outline of an object map: VOC's rim is about 5 px wide at 500 px, half on either side."""
    reach = max(1, round(side / 200))
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    outline = cv2.dilate(numbers, kernel) != cv2.erode(numbers, kernel)
    return np.where(outline, VOID, numbers).astype(np.uint8)


def _claim(folder: Path, parameters: dict[str, Any]) -> None:
    path = folder / "synthetic.json"
    if not path.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise UsageError(f"{folder}: contains files but no synthetic.json; choose a folder without a VOC2012 in it")
        write_json(path, parameters)
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        found = None
    if found != parameters:
        raise UsageError(f"{path}: this set was made with {short(found)}, not with {parameters}; choose another "
                         "folder, or remove this one")


def _paths(folder: Path, image_id: str) -> list[Path]:
    return [folder / "JPEGImages" / f"{image_id}.jpg", folder / "SegmentationClass" / f"{image_id}.png",
            folder / "SegmentationObject" / f"{image_id}.png", folder / "Annotations" / f"{image_id}.xml"]


def _write_scene(folder: Path, image_id: str, image: np.ndarray, class_mask: np.ndarray, object_mask: np.ndarray,
                 objects: list[dict[str, Any]]) -> None:
    picture_path, class_path, object_path, xml_path = _paths(folder, image_id)
    with atomic_write(picture_path) as temporary:
        Image.fromarray(image).save(temporary, quality=95)
    write_label_png(class_path, class_mask)
    write_label_png(object_path, object_mask)
    write_text(xml_path, _annotation(image_id, image.shape[1], image.shape[0], objects))


def _annotation(image_id: str, width: int, height: int, objects: list[dict[str, Any]]) -> str:
    """VOC's XML; its corners are 1-based and inclusive, so only xmin and ymin differ from ours by one."""
    root = ElementTree.Element("annotation")

    def add(parent: ElementTree.Element, tag: str, value: object = None) -> ElementTree.Element:
        child = ElementTree.SubElement(parent, tag)
        child.text = None if value is None else str(value)
        return child

    add(root, "folder", "VOC2012")
    add(root, "filename", f"{image_id}.jpg")
    size = add(root, "size")
    for tag, value in (("width", width), ("height", height), ("depth", 3)):
        add(size, tag, value)
    add(root, "segmented", 1)
    for item in objects:
        x1, y1, x2, y2 = item["box"]
        node = add(root, "object")
        for tag, text in (("name", item["name"]), ("pose", "Unspecified"), ("truncated", int(item["truncated"])),
                          ("occluded", int(item["occluded"])), ("difficult", 0)):
            add(node, tag, text)
        box = add(node, "bndbox")
        for tag, value in (("xmin", x1 + 1), ("ymin", y1 + 1), ("xmax", x2), ("ymax", y2)):
            add(box, tag, value)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _size(random: np.random.Generator, side: int) -> tuple[int, int]:
    """Height and width, with VOC's aspect ratios: mostly 4:3 and 3:2, some closer to square, a quarter in portrait
    format.
    """
    longer = round(side * random.uniform(0.9, 1.1))
    ratio = random.choice([3 / 4, 2 / 3, random.uniform(0.8, 1)], p=[0.55, 0.3, 0.15])
    shorter = round(longer * ratio)
    return (longer, shorter) if random.random() < 0.25 else (shorter, longer)


def _first_class(seed: int, split: str, index: int, names: Sequence[str]) -> str:
    """In as many images as there are classes each is once the first: none is missing even from a small split."""
    turn, place = divmod(index, len(names))
    order = np.random.default_rng([seed, SPLITS.index(split), turn, len(names)]).permutation(len(names))
    return names[order[place]]


def _extra_classes(random: np.random.Generator, count: int, names: Sequence[str]) -> list[str]:
    weights = np.array([FREQUENCY.get(name, 1.0) for name in names])
    return [str(name) for name in random.choice(names, count, p=weights / weights.sum())]


def _place(random: np.random.Generator, kind: Kind, size: float, numbers: np.ndarray,
           side: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Finds a place where the new object hides no other object: its transform (2 x 3) and the new object map; or None.

    size: the object's longer side, as a share of the image's shorter side.
    """
    height, width = numbers.shape
    number = int(numbers.max()) + 1
    for _ in range(20):
        angle, aspect = np.deg2rad(random.normal(0, 10)), np.exp(random.uniform(-0.2, 0.2))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        linear = turn @ np.diag([aspect * random.choice([-1, 1]), 1 / aspect])
        x1, y1, x2, y2 = extent(kind, np.column_stack([linear, np.zeros(2)]))
        scale = size * min(height, width) / max(x2 - x1, y2 - y1)
        half = np.array([x2 - x1, y2 - y1]) * scale / 2
        reach = half * 0.7  # up to 15 % of an object may lie outside the image on either side
        centre = [random.uniform(min(r, s / 2), max(s - r, s / 2)) for r, s in zip(reach, (width, height), strict=True)]
        shift = np.array(centre) - scale * np.array([x1 + x2, y1 + y2]) / 2
        transform = np.column_stack([scale * linear, shift])
        own = silhouette(kind, transform, height, width)
        new = np.where(own, number, numbers).astype(np.uint8)
        before = np.bincount(with_rim(numbers, side).ravel(), minlength=256)[1:number]
        after = np.bincount(with_rim(new, side).ravel(), minlength=256)[1:number + 1]
        if (after[:-1] >= 0.6 * before).all() and after[-1] >= max(LEAST_VISIBLE * own.sum(), 24):
            return transform, new
        size = min(0.9, size * 1.05) if number == 1 else size  # an image without any object would be useless
    return None


def _background(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Slow noise in muted colours, cluttered with muted, textured patches and lines; RGB uint8."""
    coarse = random.uniform(70, 190, (random.integers(3, 6), random.integers(3, 6), 1)) + random.normal(0, 12, 3)
    image: np.ndarray = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    ys, xs = np.mgrid[:height, :width]
    for _ in range(random.integers(4, 10)):
        patch = np.zeros((height, width), np.uint8)
        centre = random.uniform(0, 1, 2) * (width, height)
        reach = random.uniform(0.05, 0.3) * min(height, width)
        corners = centre + random.uniform(-1, 1, (random.integers(3, 7), 2)) * reach
        if random.random() < 0.3:
            cv2.polylines(patch, [corners.astype(np.int32)], False, 1, int(random.integers(1, 4)))
        else:
            cv2.fillPoly(patch, [cv2.convexHull(corners.astype(np.int32))], 1)
        wave = np.sin((xs * random.normal() + ys * random.normal()) * random.uniform(0.1, 0.6)) * random.uniform(0, 14)
        colour = random.uniform(60, 200) + random.normal(0, 10, 3)
        image = np.where(patch[..., None] > 0, colour + wave[..., None], image)
    image += random.normal(0, 5, (height, width, 1))
    return np.clip(image, 0, 255).astype(np.uint8)
