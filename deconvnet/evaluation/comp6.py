"""The archive for the VOC server (competition comp6: segmentation, any training data but the test set)."""

import gzip
import io
import tarfile
from pathlib import Path

from PIL import Image

from deconvnet.data.dataset import SegmentationDataset
from deconvnet.data.images import read_label_png
from deconvnet.data.palette import voc_palette
from deconvnet.support.atomic import atomic_write
from deconvnet.support.errors import UserError

MOST_NAME_BYTES = 100  # after the last slash, in the tar format that the server's own tools read
COMP6_FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"


def pack_comp6(voc: SegmentationDataset, predictions: Path, image_ids: list[str], archive: Path) -> None:
    """Packs predictions/ID.png of each image into a gzipped tar, as indexed PNGs with the VOC palette.

    Completely or not at all; the same predictions give the same bytes. Raises UserError for a prediction that is
    missing or unreadable, differs from its image in size, or has a label above the last class: the server would reject
    it days later.
    """
    too_long = next((image_id for image_id in image_ids if len(f"{image_id}.png".encode()) > MOST_NAME_BYTES), None)
    if too_long:
        raise UserError(f"{archive}: image id {too_long[:40]!r}... is too long for the server's archive: names in it "
                        f"have at most {MOST_NAME_BYTES} bytes")
    with (
        atomic_write(archive) as temporary,
        temporary.open("wb") as raw,
        # no name or time in the gzip header, default owner and time in the tar's: independent of user and date
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for image_id in image_ids:
            content = _checked_png(voc, predictions / f"{image_id}.png", image_id)
            entry = tarfile.TarInfo(f"{COMP6_FOLDER}/{image_id}.png")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def _checked_png(voc: SegmentationDataset, path: Path, image_id: str) -> bytes:
    labels = read_label_png(path)
    height, width = voc.read_image(image_id).shape[:2]
    if labels.shape != (height, width):
        raise UserError(f"{path}: the prediction is {labels.shape[1]}x{labels.shape[0]}; expected {width}x{height}, "
                        "the size of its image")
    if labels.max() >= len(voc.classes):
        raise UserError(f"{path}: predicted label {labels.max()} is above the last class, {len(voc.classes) - 1} "
                        f"({voc.classes[-1]}); is the class list right?")
    picture = Image.fromarray(labels)
    picture.putpalette(voc_palette().tobytes())
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()
