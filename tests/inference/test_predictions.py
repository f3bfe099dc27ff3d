"""A folder of label maps: what is there counts as there only with all that is wanted, made of this content."""

from pathlib import Path

import numpy as np

from deconvnet.inference.predictions import Prediction

LABELS = np.arange(6, dtype=np.uint8).reshape(2, 3)
PICTURE = np.zeros((2, 3, 3), np.uint8)
PROBABILITIES = np.full((2, 2, 3), 0.5, np.float32)


def prediction(folder: Path) -> Prediction:
    return Prediction(folder, {"row": "fcn8s", "split": None, "scores": ["fcn8s"]}, {}, replace_others=False)


def everything(made: Prediction, content: str) -> None:
    made.write("a", content, LABELS)
    made.write_overlay("a", PICTURE)
    made.write_probabilities("a", PROBABILITIES, ("background", "cat"))


def test_the_label_map_comes_first_and_alone_is_not_enough(tmp_path: Path) -> None:
    made = prediction(tmp_path)
    made.write("a", "content", LABELS)  # and the command is killed
    assert made.has("a", "content", overlay=False) and not made.has("a", "content", overlay=True)
    assert not made.has("a", "content", overlay=False, probabilities=True)
    everything(made, "content")
    assert made.has("a", "content", overlay=True, probabilities=True) and not made.has("a", "another", overlay=False)


def test_what_was_made_of_another_content_never_counts(tmp_path: Path) -> None:
    """The photograph is replaced by another one, and the command is killed once its label map is there."""
    everything(prediction(tmp_path), "content")
    made = prediction(tmp_path)
    made.write("a", "another", LABELS)
    assert made.has("a", "another", overlay=False) and not made.has("a", "another", overlay=True)
    assert not made.has("a", "another", overlay=False, probabilities=True)


def test_what_was_made_of_a_label_map_that_is_gone_never_counts(tmp_path: Path) -> None:
    everything(prediction(tmp_path), "content")
    (tmp_path / "a.png").unlink()
    made = prediction(tmp_path)
    made.write("a", "another", LABELS)
    assert not made.has("a", "another", overlay=True)


def test_what_was_made_of_the_same_content_stays(tmp_path: Path) -> None:
    """A second command that wants overlays alone costs no probabilities."""
    everything(prediction(tmp_path), "content")
    made = prediction(tmp_path)
    made.write("a", "content", LABELS)
    assert made.has("a", "content", overlay=True, probabilities=True)
