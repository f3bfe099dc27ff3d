"""Merges SBD's labels (Hariharan et al., ICCV 2011) into a VOC folder as the split `train_aug`.

SBD's folder, as its archive and torchvision's SBDataset have it:

    SBD/img/ID.jpg                image
    SBD/cls/ID.mat                GTcls.Segmentation: class mask, 0 .. 20, no void
    SBD/inst/ID.mat               GTinst.Segmentation: object numbers 1, 2, ...; GTinst.Categories: their classes
    SBD/train.txt, SBD/val.txt    one image id per line

VOC's own masks are better (they have void rims), so images of VOC's train list keep them; images of VOC's val
list never become training images.
"""

import logging
import shutil
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from deconvnet.conventions import VOC_CLASSES
from deconvnet.data.images import read_rgb, read_size
from deconvnet.data.palette import write_label_png
from deconvnet.data.voc import VocFolder
from deconvnet.support.atomic import atomic_write, check_name, write_text
from deconvnet.support.errors import UsageError, UserError
from deconvnet.support.progress import progress

log = logging.getLogger(__name__)

LAST_CLASS = len(VOC_CLASSES) - 1


def merge_sbd(voc: VocFolder, sbd_root: Path) -> dict[str, int]:
    """Writes SegmentationClassAug, SegmentationObjectAug, missing JPEGImages, train_aug.txt and trainval_aug.txt.

    Images whose files exist already are skipped; the lists are written last. Returns the images of each list.
    Raises UserError naming the file that is missing, cut, not a MATLAB file, or has wrong labels or size.
    """
    train, val = voc.image_ids("train"), voc.image_ids("val")
    added = sorted(sbd_ids(sbd_root) - set(train) - set(val))
    for image_id in progress(added, desc="SBD", unit="image"):
        merge_image(voc, sbd_root, image_id)
    lists = {"train_aug": train + added, "trainval_aug": train + added + val}
    for split, ids in lists.items():
        write_text(voc.root / "ImageSets" / "Segmentation" / f"{split}.txt", "\n".join(ids) + "\n")
    return {split: len(ids) for split, ids in lists.items()}


def merge_image(voc: VocFolder, sbd_root: Path, image_id: str) -> None:
    """Adds one image of SBD to the VOC folder, unless it is there already. Raises UserError."""
    class_png = voc.root / "SegmentationClassAug" / f"{image_id}.png"
    object_png = voc.root / "SegmentationObjectAug" / f"{image_id}.png"
    image = voc.root / "JPEGImages" / f"{image_id}.jpg"
    if class_png.is_file() and object_png.is_file() and image.is_file():
        return
    class_mat, object_mat = (sbd_root / folder / f"{image_id}.mat" for folder in ("cls", "inst"))
    classes, objects = read_class_mat(class_mat), read_object_mat(object_mat)
    if not image.is_file():
        source = sbd_root / "img" / f"{image_id}.jpg"
        read_rgb(source)  # a missing or damaged image is an error now, not in the middle of training
        with atomic_write(image) as temporary:
            shutil.copyfile(source, temporary)
    height, width = read_size(image)
    for path, labels in ((class_mat, classes), (object_mat, objects)):
        if labels.shape != (height, width):
            raise UserError(f"{path}: the labels are {labels.shape[1]}x{labels.shape[0]}; expected {width}x{height}, "
                            f"the size of {image}")
    write_label_png(class_png, classes)
    write_label_png(object_png, objects)


def sbd_ids(sbd_root: Path) -> set[str]:
    """The image ids of SBD's two lists. Raises UsageError when the folder is not SBD's, UserError for an invalid id."""
    ids: set[str] = set()
    for split in ("train", "val"):
        path = sbd_root / f"{split}.txt"
        if not path.is_file():
            raise UsageError(f"{path}: no such list; expected SBD's folder with cls, inst, img, train.txt and val.txt "
                             "(in its archive: benchmark_RELEASE/dataset)")
        try:
            found = path.read_text(encoding="utf-8-sig").split()
            for image_id in found:
                check_name(image_id, "an id", "one image id per line")
        except UnicodeDecodeError:
            raise UserError(f"{path}: not a text file (UTF-8); expected one image id per line") from None
        except ValueError as error:
            raise UserError(f"{path}: {error}") from None
        ids.update(found)
    return ids


def read_class_mat(path: Path) -> np.ndarray:
    """SBD's class mask (uint8, H x W, 0 .. 20) from cls/ID.mat. Raises UserError."""
    labels = _labels(path, "GTcls")
    if labels.max() > LAST_CLASS:
        raise UserError(f"{path}: label {labels.max()} is above the last class, {LAST_CLASS} ({VOC_CLASSES[-1]})")
    return labels


def read_object_mat(path: Path) -> np.ndarray:
    """SBD's object mask (uint8, H x W, object numbers, 0 elsewhere) from inst/ID.mat. Raises UserError."""
    labels = _labels(path, "GTinst")
    categories = np.asarray(_field(path, "GTinst", "Categories")).ravel()
    if labels.max() > categories.size:
        raise UserError(f"{path}: object {labels.max()} has no class; GTinst.Categories has {categories.size}")
    if categories.dtype.kind not in "uif":
        raise UserError(f"{path}: GTinst.Categories is {categories.dtype}; expected the objects' classes")
    wrong = categories[(categories < 1) | (categories > LAST_CLASS) | (categories != np.floor(categories))]
    if wrong.size:
        raise UserError(f"{path}: GTinst.Categories has {wrong[0]}; expected classes 1 to {LAST_CLASS}")
    return labels


def _labels(path: Path, name: str) -> np.ndarray:
    labels = np.asarray(_field(path, name, "Segmentation"))
    if labels.ndim != 2 or not labels.size or labels.dtype.kind not in "uif":
        raise UserError(f"{path}: {name}.Segmentation is {labels.dtype} of shape {labels.shape}; expected H x W labels")
    if labels.min() < 0 or labels.max() > 254 or (labels != np.floor(labels)).any():
        raise UserError(f"{path}: {name}.Segmentation has values from {labels.min()} to {labels.max()}; expected whole "
                        "numbers from 0 to 254")
    return labels.astype(np.uint8)


def _field(path: Path, name: str, field: str) -> np.ndarray:
    """Field `field` of the 1 x 1 struct `name` in a MATLAB file. Raises UserError."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; is SBD's folder whole?")
    try:
        content = loadmat(path, variable_names=[name])
    except MemoryError:
        raise UserError(f"{path}: declares more data than fits in memory: is it damaged?") from None
    except Exception as error:  # SciPy's reader raises anything from TypeError to zlib.error on damaged files
        raise UserError(f"{path}: cut short or not a MATLAB 5 file ({type(error).__name__}: {error})") from None
    try:
        return content[name][field][0, 0]
    except (LookupError, ValueError, TypeError, AttributeError):
        raise UserError(f"{path}: has no {name}.{field}; expected SBD's struct") from None
