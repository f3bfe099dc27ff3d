"""Training examples: warped windows, random crops of them; whole images."""

import io
from collections import OrderedDict
from dataclasses import replace

import cv2
import h5py
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from deconvnet.conventions import MEAN_RGB, VOID
from deconvnet.data.canvas import on_canvas
from deconvnet.data.columns import CROPS
from deconvnet.data.dataset import SegmentationDataset
from deconvnet.data.row_files import Rows
from deconvnet.data.voc import VocObject
from deconvnet.data.windows import object_labels, window_labels, window_picture
from deconvnet.recipe import Recipe
from deconvnet.support.errors import UserError
from deconvnet.support.shared_blocks import SharedBlocks

Example = tuple[Tensor, Tensor, int]  # picture uint8 3 x H x W, labels uint8 H x W, its index in the dataset


class WindowCrops(Dataset[Example]):
    """Windows of a windows file, cropped to the network's input. Indexed by (position, index).

    augment: a random crop and a random horizontal flip [P 6.1], drawn from (seed, position); else, recipe key
    train.validate_crop, the centre crop or the whole window, mirrored or not by a draw from (seed, index). Crops come
    from the windows file if it is materialized, else they are cut from the data set's images.

    Augmented, windows come in random order, 25 and more of an image in each epoch: each image is decoded once, and kept
    as pixels that the loading processes share (recipe key train.decoded_gigabytes), as are stage 1's label maps.
    """

    def __init__(self, rows: Rows, voc: SegmentationDataset | None, recipe: Recipe, augment: bool,
                 seed: tuple[int, ...]) -> None:
        if voc is None and not rows.materialized:
            raise UserError(f"{rows.path}: has no stored crops, so the data set's images are needed: give --voc-root, "
                            "or build it with --materialize")
        self.rows, self.voc, self.recipe, self.augment, self.seed = rows, voc, recipe, augment, seed
        self.images = rows.image
        self.own_only = rows.attributes["stage"] == 1 and recipe.windows.stage1_labels == "object"
        self._file: h5py.File | None = None
        # The last few images: in validation the windows of an image are consecutive.
        self._read: OrderedDict[str, tuple[np.ndarray, np.ndarray, list[VocObject]]] = OrderedDict()
        self._kept = SharedBlocks(*self._to_keep())

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: tuple[int, int]) -> Example:
        position, row = item
        if not self.augment and self.recipe.train.validate_crop == "whole":
            return self._whole(row)
        picture, labels = self._stored(row) if self.rows.materialized else self.cut(row)
        spare = self.recipe.windows.warp - self.recipe.network.input
        top = left = spare // 2
        flip = False
        if self.augment:
            random = np.random.default_rng([*self.seed, position])
            top, left = random.integers(0, spare + 1, 2)
            flip = bool(random.integers(2))
        return *crop(picture, labels, int(top), int(left), self.recipe.network.input, flip), row

    def _to_keep(self) -> tuple[np.ndarray, float]:
        """What may be kept, in bytes: each image with its mask, then each row's label map; and how much in all."""
        pairs = 4 * self.rows.sizes.astype(np.int64).prod(1)
        labels = np.full(len(self.images) if self.own_only else 0, self.recipe.windows.warp**2)
        unused = not self.augment or self.rows.materialized
        return np.concatenate([pairs, labels]), 0 if unused else self.recipe.train.decoded_gigabytes * 1e9

    def _whole(self, row: int) -> Example:
        """A validation window as the release sees it [R]: warped straight to the network's input, mirrored or not.

        A materialized window was warped to windows.warp when it was stored: it is warped a second time here.
        """
        side = self.recipe.network.input
        if self.rows.materialized:
            picture, labels = self._stored(row)
            all_of_it = np.array([0, 0, self.recipe.windows.warp, self.recipe.windows.warp])
            keys = replace(self.recipe.windows, warp=side)
            picture, labels = window_picture(picture, all_of_it, keys), window_labels(labels, all_of_it, side)
        else:
            picture, labels = self.cut(row, side)
        flip = bool(np.random.default_rng([*self.seed, row]).integers(2))
        return *crop(picture, labels, 0, 0, side, flip), row

    def cut(self, row: int, side: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """A window cut from its image: picture uint8 S x S x 3 and labels uint8 S x S, S = side or windows.warp."""
        image, mask = self._pair(int(self.images[row]))
        window = self.rows.columns["window"][row]
        keys = self.recipe.windows if side is None else replace(self.recipe.windows, warp=side)
        picture = window_picture(image, window, keys)
        if not self.own_only:
            return picture, window_labels(mask, window, keys.warp)
        number = len(self.rows.sizes) + row
        kept = self._kept.get(number) if side is None else None
        if kept is not None:
            return picture, kept.reshape(keys.warp, keys.warp)
        labels = window_labels(self._own_labels(row, mask), window, keys.warp)
        if side is None:
            self._kept.put(number, labels)
        return picture, labels

    def example_id(self, row: int) -> str:
        """How messages name a window: image and box."""
        box = ",".join(str(value) for value in self.rows.columns["window"][row])
        return f"{self.rows.image_ids[self.images[row]]}[{box}]"

    def _pair(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """An image and its mask, by the image's index in the windows file."""
        kept = self._kept.get(index)
        if kept is not None:
            height, width = self.rows.sizes[index]
            image, mask = np.split(kept, [3 * height * width])
            return image.reshape(height, width, 3), mask.reshape(height, width)
        image, mask, _ = self._image(self.rows.image_ids[index])
        self._kept.put(index, image, mask)
        return image, mask

    def _own_labels(self, row: int, mask: np.ndarray) -> np.ndarray:
        """The labels of a row's object alone, as stage 1 sees them: uint8 H x W."""
        columns, image_id = self.rows.columns, self.rows.image_ids[self.images[row]]
        _, _, objects = self._image(image_id)
        number = columns["object"][row]
        if number >= len(objects) or objects[number].class_index != columns["class_index"][row]:
            raise UserError(f"{self.rows.path}: image {image_id} has other objects than when this file was made; "
                            "make it again with stages.build_proposals")
        return object_labels(mask, objects[number])

    def _image(self, image_id: str) -> tuple[np.ndarray, np.ndarray, list[VocObject]]:
        if image_id not in self._read:
            assert self.voc is not None  # __init__ asked for it, since no crops are stored
            image, mask = self.voc.read_pair(image_id)
            self.rows.check_size(image_id, mask.shape)
            least = self.recipe.data.least_object_pixels
            self._read[image_id] = image, mask, self.voc.objects(image_id, mask, least) if self.own_only else []
            if len(self._read) > 4:
                self._read.popitem(last=False)
        return self._read[image_id]

    def _stored(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        try:
            if self._file is None:  # opened in each loading process: an HDF5 handle does not survive a fork
                self._file = h5py.File(self.rows.path, "r")
            picture, labels = (self._file[name][slice(*self.rows.crops[name][row : row + 2])] for name in CROPS)
        except (OSError, KeyError, ValueError) as error:  # a failed checksum among them
            raise self._damaged(row, str(error)) from None
        side = self.recipe.windows.warp
        picture, labels = self._decoded(row, picture, (side, side, 3)), self._decoded(row, labels, (side, side))
        if ((labels >= len(self.rows.attributes["classes"])) & (labels != VOID)).any():
            raise self._damaged(row, "it has labels not in the class list")
        return np.ascontiguousarray(picture[..., ::-1]), labels

    def _decoded(self, row: int, encoded: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        try:
            with Image.open(io.BytesIO(encoded.data)) as header:  # checks the size before it takes memory
                size = header.size
        except Exception as error:  # Pillow raises many kinds
            raise self._damaged(row, str(error)) from None
        decoded = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED) if size == shape[1::-1] else None
        if decoded is None or decoded.shape != shape or decoded.dtype != np.uint8:
            raise self._damaged(row, f"it is {size[0]}x{size[1]}, or cannot be decoded as 8-bit "
                                     f"{'RGB' if len(shape) == 3 else 'grey'} of {shape[1]}x{shape[0]}")
        return decoded

    def _damaged(self, row: int, why: str) -> UserError:
        return UserError(f"{self.rows.path}: the crop of row {row} is damaged ({why}); make the file again")


class ImageCanvases(Dataset[Example]):
    """Whole images on a square canvas, as FCN sees them. Indexed by (position, index into image_ids)."""

    def __init__(self, voc: SegmentationDataset, image_ids: list[str], side: int, augment: bool,
                 seed: tuple[int, ...]) -> None:
        self.voc, self.image_ids, self.side, self.augment, self.seed = voc, image_ids, side, augment, seed

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, item: tuple[int, int]) -> Example:
        position, index = item
        image, mask = self.voc.read_pair(self.image_ids[index])
        picture, labels = on_canvas(image, self.side, MEAN_RGB), on_canvas(mask, self.side, VOID)
        flip = self.augment and bool(np.random.default_rng([*self.seed, position]).integers(2))
        return *crop(picture, labels, 0, 0, self.side, flip), index

    def example_id(self, index: int) -> str:
        """The image's id."""
        return self.image_ids[index]


def crop(picture: np.ndarray, labels: np.ndarray, top: int, left: int, side: int, flip: bool) -> tuple[Tensor, Tensor]:
    """side x side of a picture and its labels, mirrored if asked: uint8 tensors 3 x S x S and S x S."""
    place = slice(top, top + side), slice(left, left + side)
    picture, labels = picture[place], labels[place]
    if flip:
        picture, labels = picture[:, ::-1], labels[:, ::-1]
    return torch.from_numpy(picture.transpose(2, 0, 1).copy()), torch.from_numpy(labels.copy())
