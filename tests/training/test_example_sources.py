"""Windows of an earlier version of the program, which lack the recipe keys that were added since, are trained on."""

import json

import h5py
import pytest

from deconvnet.models.registry import training_specs
from deconvnet.support.errors import UserError
from deconvnet.training.example_sources import make_examples
from tests.training_runs import build


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
