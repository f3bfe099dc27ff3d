"""Where a training's examples come from, and what is said of them."""

import json
import logging

import h5py
import pytest

from deconvnet.models.registry import training_specs
from deconvnet.support.errors import UserError
from deconvnet.training.example_sources import make_examples
from tests.training_runs import build


def test_what_is_trained_on_is_told(tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    """Windows as windows, images as images."""
    run = build(tmp_path, (1,))
    voc, data = run.voc(), run.recipe.data
    images, of_validation = (len(voc.image_ids(split)) for split in (data.train_split, data.val_split))
    with caplog.at_level(logging.INFO):
        windows = make_examples(run, training_specs(run.recipe)["stage1"])
        make_examples(run, training_specs(run.recipe)["fcn8s"])
    told = [message for message in caplog.messages if "validation on" in message]
    assert told[0].startswith(f"stage 1: {len(windows.training)} training windows, validation on")
    chosen = min(run.recipe.fcn.validate_images, of_validation)
    assert told[1:] == [f"FCN-8s: {images} training images, validation on {chosen} of {of_validation}"]


def test_windows_that_lack_keys_added_since_are_as_good(tmp_path) -> None:
    run = build(tmp_path, (1,))
    training = training_specs(run.recipe)["stage1"]
    now = len(make_examples(run, training).training)
    for name, taken in (("data.format", True), ("windows.enlarge", False)):
        for split in ("train", "val"):
            with h5py.File(run.windows(1, split), "r+") as file:
                shaped_by = json.loads(file.attrs["shaped_by"])
                del shaped_by[name]
                file.attrs["shaped_by"] = json.dumps(shaped_by)
        if taken:
            assert len(make_examples(run, training).training) == now
        else:
            with pytest.raises(UserError, match="damaged: .*windows.enlarge|was made with windows.enlarge = None"):
                make_examples(run, training)
