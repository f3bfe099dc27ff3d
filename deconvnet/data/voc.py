"""Reads VOC-layout folders: split lists, images, masks and objects.

    VOC/JPEGImages/ID.jpg                     RGB image (.png is read too)
    VOC/SegmentationClass/ID.png              class mask: palette PNG or plain index PNG, 255 is void
    VOC/SegmentationClassAug/ID.png           the same, from SBD; used where SegmentationClass has none
    VOC/SegmentationObject[Aug]/ID.png        object mask: 1, 2, ... for each object, 255 is void
    VOC/Annotations/ID.xml                    object boxes, 1-based and inclusive
    VOC/ImageSets/Segmentation/SPLIT.txt      one image id per line

Anything wrong is an error that names the file; nothing is converted silently.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np

from deconvnet.conventions import VOID
from deconvnet.data.images import read_label_png, read_rgb
from deconvnet.support.atomic import check_name
from deconvnet.support.errors import UnknownLabel, UsageError, UserError


def fingerprint_of(classes: Sequence[str], image_ids: Sequence[str]) -> str:
    """Identifies a data set: a hash over the class names and the ids of a split."""
    return hashlib.sha256("\n".join([*classes, "", *image_ids]).encode()).hexdigest()[:16]


def check_split(split: str) -> None:
    """Raises UsageError for a split that cannot be a list's name: as a path it would let files be written anywhere."""
    try:
        check_name(split, "the split", "the name of a split list, such as val")
    except ValueError as error:
        raise UsageError(str(error)) from None


@dataclass
class VocObject:
    """One object: its class index, its box (int32 x1, y1, x2, y2), and which pixels of the box belong to it.

    `labels` is a view, cropped to the box, of one map that an image's objects share; the object's pixels are those of
    value `label`. So memory does not grow with the number of objects, however large their boxes are.
    """

    class_index: int
    box: np.ndarray
    labels: np.ndarray
    label: int

    @property
    def mask(self) -> np.ndarray:
        """The object's own pixels, cropped to its box: bool, (y2 - y1) x (x2 - x1)."""
        return self.labels == self.label


class VocFolder:
    """A VOC-layout folder. `root` is the folder that holds JPEGImages, or a VOCdevkit above it."""

    def __init__(self, root: Path | str, classes: list[str]) -> None:
        root = Path(root)
        if not root.is_dir():
            raise UsageError(f"{root}: no such folder; expected a VOC-layout folder with JPEGImages in it")
        if not (root / "JPEGImages").is_dir():
            inside = sorted(path.parent for path in root.glob("*/JPEGImages"))
            if len(inside) != 1:
                names = ", ".join(path.name for path in inside)
                found = f"it contains several: {names}" if inside else "it contains none"
                raise UsageError(f"{root}: expected a VOC-layout folder with JPEGImages in it; {found}")
            root = inside[0]
        self.root = root
        self.classes = list(classes)

    def image_ids(self, split: str) -> list[str]:
        """The ids of a split, in the list's order. Raises UserError when it is missing, empty or repeats an id."""
        check_split(split)
        path = self.root / "ImageSets" / "Segmentation" / f"{split}.txt"
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in path.parent.glob("*.txt"))) or "none"
            hint = " (VOC's test set comes from its server, after registering)" if split == "test" else ""
            raise UsageError(f"{path}: no such split list; the folder has: {known}{hint}")
        try:
            ids = path.read_text(encoding="utf-8-sig").split()  # a byte order mark does not belong to the first id
        except UnicodeDecodeError:
            raise UserError(f"{path}: not a text file; expected one image id per line") from None
        if not ids:
            raise UserError(f"{path}: the split list is empty")
        for image_id in ids:  # a path would name files outside the run folder
            try:
                check_name(image_id, "an id", "one image id per line")
            except ValueError as error:
                raise UserError(f"{path}: {error}") from None
        if len(set(ids)) < len(ids):
            twice = next(image_id for image_id, count in Counter(ids).items() if count > 1)
            raise UserError(f"{path}: {twice} is listed twice")
        return ids

    def image_path(self, image_id: str) -> Path:
        """Where an image is. Raises UserError when it is missing."""
        for suffix in (".jpg", ".png"):
            path = self.root / "JPEGImages" / f"{image_id}{suffix}"
            if path.is_file():
                return path
        raise UserError(f"{self.root / 'JPEGImages' / image_id}.jpg: no such image, nor .png (the split list has ids "
                        "without a suffix; other formats must be converted)")

    def files(self, image_ids: Sequence[str]) -> list[tuple[str, str, str]]:
        """Each image's files, as absolute paths: the image, the class mask, and the object mask or annotation; "" for a
        missing one.
        """
        masks, objects = (((folder, ".png"), (f"{folder}Aug", ".png")) for folder in ("SegmentationClass",
                                                                                      "SegmentationObject"))
        choices = ((("JPEGImages", ".jpg"), ("JPEGImages", ".png")), masks, (*objects, ("Annotations", ".xml")))
        root = os.path.abspath(self.root)
        there = {folder: _names(self.root / folder) for kind in choices for folder, _ in kind}

        def first(kind: Iterable[tuple[str, str]], image_id: str) -> str:
            return next((f"{root}/{folder}/{image_id}{suffix}" for folder, suffix in kind
                         if f"{image_id}{suffix}" in there[folder]), "")

        picture, mask, told_apart = choices
        return [(first(picture, image_id), first(mask, image_id), first(told_apart, image_id))
                for image_id in image_ids]

    def read_image(self, image_id: str) -> np.ndarray:
        """The image, RGB uint8 H x W x 3; see `read_rgb` for what is rejected."""
        return read_rgb(self.image_path(image_id))

    def read_mask(self, image_id: str) -> np.ndarray:
        """The class mask, uint8 H x W, values below the class count or 255. Raises UserError."""
        path = self._first("SegmentationClass", image_id)
        if path is None:
            raise UserError(f"{self.root / 'SegmentationClass' / image_id}.png: no such mask, nor in "
                            "SegmentationClassAug")
        mask = read_label_png(path)
        wrong = np.unique(mask[(mask >= len(self.classes)) & (mask != VOID)])
        if wrong.size:
            raise UnknownLabel(f"{path}: label {wrong[0]} is above the last class, {len(self.classes) - 1} "
                               f"({self.classes[-1]}), and is not void (255); is the class list right?")
        return mask

    def read_pair(self, image_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Image and class mask. Raises UserError when their sizes differ."""
        image, mask = self.read_image(image_id), self.read_mask(image_id)
        self._check_size(image.shape[:2], mask, self._first("SegmentationClass", image_id))
        return image, mask

    def objects(self, image_id: str, mask: np.ndarray | None = None, least_pixels: int = 1) -> list[VocObject]:
        """An image's objects, in a fixed order.

        From SegmentationObject; else from Annotations: the class mask inside the box is the object's mask; else,
        and for classes without any box in the file, connected components (8 neighbours) of the class mask.
        mask: the class mask if already read. Objects of fewer than `least_pixels` pixels are left out: SBD's
        masks have stray pixels, and some boxes have a class that their mask does not show.
        """
        mask = self.read_mask(image_id) if mask is None else mask
        object_path = self._first("SegmentationObject", image_id)
        xml_path = self.root / "Annotations" / f"{image_id}.xml"
        if object_path:
            found = self._objects_from_mask(object_path, mask)
        elif xml_path.is_file():
            found = self._objects_from_boxes(xml_path, mask)
            found += _components(mask, least_pixels, but=[item.class_index for item in found])
        else:
            return _components(mask, least_pixels)
        return [item for item in found if np.count_nonzero(item.mask) >= least_pixels]

    def fingerprint(self, split: str) -> str:
        """Identifies the data set: fingerprint_of the class names and the ids of a split."""
        return fingerprint_of(self.classes, self.image_ids(split))

    def _first(self, folder: str, image_id: str) -> Path | None:
        paths = [self.root / f"{folder}{suffix}" / f"{image_id}.png" for suffix in ("", "Aug")]
        return next((path for path in paths if path.is_file()), None)

    @cached_property
    def _class_indices(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.classes)}

    def _check_size(self, size: tuple[int, int], mask: np.ndarray, path: Path | None) -> None:
        if mask.shape != tuple(size):
            raise UserError(f"{path}: the mask is {mask.shape[1]}x{mask.shape[0]}; expected {size[1]}x{size[0]}, "
                            "the size of its image")

    def _objects_from_mask(self, path: Path, mask: np.ndarray) -> list[VocObject]:
        from scipy import ndimage  # here: its import takes longer than any command's --help otherwise does

        numbers = read_label_png(path)
        self._check_size(mask.shape, numbers, path)
        found, kept = [], np.zeros_like(numbers)
        for number, place in enumerate(ndimage.find_objects(numbers), start=1):
            if place is None or number == VOID:
                continue
            classes = mask[place]
            own = (numbers[place] == number) & (classes != VOID) & (classes != 0)
            if own.any():  # the object's class is that of most of its pixels
                class_index = int(np.bincount(classes[own]).argmax())
                own &= classes == class_index
                kept[place][own] = number
                box = tight_box(own) + np.array([place[1].start, place[0].start] * 2, np.int32)
                found.append(VocObject(class_index, box, inside(kept, box), number))
        return found

    def _objects_from_boxes(self, path: Path, mask: np.ndarray) -> list[VocObject]:
        found = []
        for name, box in read_annotation(path):
            if name not in self._class_indices:
                raise UserError(f"{path}: object {name!r} is not in the class list ({', '.join(self.classes)})")
            x1, y1, x2, y2 = np.clip(box, 0, [mask.shape[1], mask.shape[0]] * 2)
            if x2 <= x1 or y2 <= y1:
                raise UserError(f"{path}: the box of a {name} is empty or outside the image "
                                f"({mask.shape[1]}x{mask.shape[0]})")
            index, box = self._class_indices[name], np.array([x1, y1, x2, y2], np.int32)
            found.append(VocObject(index, box, inside(mask, box), index))
        return found


def _names(folder: Path) -> frozenset[str]:
    return frozenset(os.listdir(folder)) if folder.is_dir() else frozenset()


def read_annotation(path: Path) -> list[tuple[str, np.ndarray]]:
    """The objects of a VOC annotation file: name and box (int32, 0-based, half-open).

    VOC's corners are 1-based and inclusive, so only xmin and ymin change. Raises UserError.
    """
    try:
        root = ElementTree.parse(path).getroot()
        found = []
        for item in root.findall("object"):
            corners = [float(item.findtext(f"bndbox/{name}", "")) for name in ("xmin", "ymin", "xmax", "ymax")]
            if not all(abs(corner) < 2**31 - 1 for corner in corners):
                raise ValueError(f"box corners {corners}")
            box = np.round(corners).astype(np.int32) - np.array([1, 1, 0, 0], np.int32)
            found.append((item.findtext("name", "").strip(), box))
        return found
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: an encoding that does not exist
        raise UserError(f"{path}: not a VOC annotation file: {error}") from None


def tight_box(mask: np.ndarray) -> np.ndarray:
    """The tight box (int32 x1, y1, x2, y2) of a mask (bool, H x W) with at least one pixel."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([xs[0], ys[0], xs[-1] + 1, ys[-1] + 1], np.int32)


def inside(array: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The view of an array (H x W) inside a box (x1, y1, x2, y2)."""
    x1, y1, x2, y2 = box
    return array[y1:y2, x1:x2]


def _components(mask: np.ndarray, least_pixels: int, but: Sequence[int] = ()) -> list[VocObject]:
    """Connected components of each class except `but`; those that are too small are ignored."""
    found, labels, last = [], np.zeros(mask.shape, np.int32), 0
    for class_index in np.setdiff1d(mask, [0, VOID, *but]):
        count, numbers, stats, _ = cv2.connectedComponentsWithStats((mask == class_index).view(np.uint8),
                                                                    connectivity=8)
        np.add(numbers, last, out=labels, where=numbers > 0)  # classes do not overlap, so one map holds all objects
        corners = stats[:, [cv2.CC_STAT_LEFT, cv2.CC_STAT_TOP, cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]]
        corners[:, 2:] += corners[:, :2]
        for number in range(1, count):
            if stats[number, cv2.CC_STAT_AREA] >= least_pixels:
                box = corners[number]
                found.append(VocObject(int(class_index), box, inside(labels, box), last + number))
        last += count - 1
    return found
