"""What the cases begin with: a small data set, a run with everything made, and files of every kind a user hands in."""

import importlib
import shutil
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from deconvnet.conventions import VOC_CLASSES
from deconvnet.data.palette import write_label_png
from deconvnet.data.synthetic import generate
from deconvnet.models.build import build_network
from deconvnet.recipe_files import load_recipe, save_recipe
from deconvnet.training.trainer import Training
from stages.cli import run_command
from tests.caffemodel_writer import caffe_layers, write_caffemodel
from tests.data.test_sbd import SBD_TRAIN, SBD_VAL, VOC_TRAIN, VOC_VAL, labels, write_jpeg, write_mats
from tests.proposals.test_edges import write_forest

MODULES = ("stages.build_proposals", "stages.train", "stages.bn_statistics", "stages.infer", "stages.evaluate",
           "stages.run", "stages.inspect", "stages.import_caffe", "stages.merge_sbd", "stages.download",
           "experiments.synthetic_voc", "experiments.reproduce", "experiments.figures", "experiments.proposal_recall")
KEYS = ["network.width=0.015625", "network.input=32", "windows.warp=36", "network.deconv_std=0.05",
        "proposals.count=40", "windows.stage2_top=4", "train.batch=4", "train.micro_batch=2", "train.iterations=[4,4]",
        "train.validate_every=2", "train.validate_windows=4", "train.checkpoint_every=2", "train.workers=0",
        "solver.lr=0.01", "bn_statistics.batches=2", "bn_statistics.batch=2", "infer.proposals=5",
        "fcn.width=0.015625", "fcn.canvas=96", "fcn.iterations=[2,2,2]", "fcn.batch=2", "fcn.micro_batch=2",
        "fcn.validate_images=2", "crf.iterations=2"]


def command(module: str, *arguments: object) -> int:
    """A command in this process: its exit status."""
    found = importlib.import_module(module)
    try:
        return run_command(found.parse(), found.main, [str(argument) for argument in arguments])
    except SystemExit as end:  # argparse
        return int(end.code or 0)


def make_base(work: Path) -> None:
    """Fills an empty folder; the paths that files hold are those in it. Takes some ten seconds."""
    voc = generate(work / "voc", train=4, val=2, seed=0, side=96)
    files, run = work / "files", work / "run"
    files.mkdir()
    (work / "cwd").mkdir()
    save_recipe(load_recipe("tiny", KEYS), files / "recipe.yaml")
    _make_run(run, voc, files / "recipe.yaml")
    if command("stages.build_proposals", "--run", work / "cut", "--recipe", files / "recipe.yaml", "--voc-root", voc,
               "--stage", 1, "--workers", 0):
        raise RuntimeError("a clean run failed")
    boxes = work / "boxes"  # objects from annotations
    shutil.copytree(voc, boxes, ignore=shutil.ignore_patterns("SegmentationObject"))
    _make_sbd(work)
    _make_files(files, voc)


def _make_run(run: Path, voc: Path, recipe: Path) -> None:
    """A run with every result, and run/half.pt and half.csv: stage 1 in the middle."""
    whole_save = Training._save

    def save(training: Training, path: Path) -> None:
        whole_save(training, path)
        if training.plan.name == "stage1" and training.iteration == 2 and path.name == "last.pt":
            shutil.copy(path, run / "half.pt")
            shutil.copy(path.with_name("log.csv"), run / "half.csv")

    here = ["--run", run]
    steps = [["stages.build_proposals", *here, "--recipe", recipe, "--voc-root", voc, "--materialize", "--workers", 0]]
    steps += [["stages.train", *here, "--device", "cpu", *what] for what in
              (["--stage", 1], ["--stage", 2], ["--model", "fcn8s"])]
    row = run / "predictions" / "val" / "deconvnet-max"
    steps += [["stages.infer", *here, "--device", "cpu", "--split", "val"],
              ["stages.infer", *here, "--device", "cpu", "--split", "val", "--ensemble", "fcn"],
              ["stages.evaluate", "--predictions", row, "--voc-root", voc, "--split", "val"],
              ["experiments.reproduce", run],
              ["stages.export", *here, "--to", "onnx", "--model", "deconvnet"]]
    Training._save = save
    try:
        for step in steps:
            if command(*step):
                raise RuntimeError(f"a clean run failed: {step}")
    finally:
        Training._save = whole_save


def _make_sbd(work: Path) -> None:
    lists = work / "sbdvoc" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for image_id in (*VOC_TRAIN, *VOC_VAL):
        write_jpeg(work / "sbdvoc" / "JPEGImages" / f"{image_id}.jpg", 0)
    for name, ids in (("train", VOC_TRAIN), ("val", VOC_VAL)):
        (lists / f"{name}.txt").write_text("\n".join(ids) + "\n")
    for seed, image_id in enumerate((*SBD_TRAIN, *SBD_VAL)):
        write_jpeg(work / "sbd" / "img" / f"{image_id}.jpg", seed)
        write_mats(work / "sbd", image_id, *labels(seed))
    for name, ids in (("train", SBD_TRAIN), ("val", SBD_VAL)):
        (work / "sbd" / f"{name}.txt").write_text("\n".join(ids) + "\n")


def _make_files(files: Path, voc: Path) -> None:
    """Class list, server's result, edge model, weights of other programs, an archive, photographs, label maps."""
    (files / "classes.txt").write_text("\n".join(VOC_CLASSES) + "\n")
    (files / "server.csv").write_text("class,iou\n" + "".join(f"{name},50.5\n" for name in VOC_CLASSES))
    write_forest(files / "model.yml.gz")
    recipe = load_recipe("tiny", KEYS)
    torch.save(build_network("fcn8s", recipe).state_dict(), files / "fcn.pth")
    state = build_network("deconvnet", recipe).state_dict()
    layers = caffe_layers({name: value.numpy() for name, value in state.items()
                           if not name.endswith("num_batches_tracked")})
    write_caffemodel(files / "net.caffemodel", layers)
    with tarfile.open(files / "archive.tar", "w") as tar:
        tar.add(voc / "ImageSets", "VOC2012/ImageSets")
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (60, 80, 3), np.uint8)).resize((120, 90)).save(files / "photo.jpg")
    Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8)).resize((120, 90)).save(files / "photo.png")
    for image_id in (voc / "ImageSets" / "Segmentation" / "val.txt").read_text().split():
        with Image.open(voc / "JPEGImages" / f"{image_id}.jpg") as image:
            write_label_png(files / "maps" / f"{image_id}.png", np.zeros(image.size[::-1], np.uint8))
