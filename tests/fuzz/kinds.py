"""The kinds of cases: which file is damaged and how, which commands then read it, and what they may change."""

import argparse
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from deconvnet.data.downloads import unpack
from deconvnet.recipe import recipe_keys
from tests.fuzz import formats
from tests.fuzz.mutators import WORDS, Mutator, edit_lines

Command = tuple[str, ...]  # a module and its arguments; {work} and {target} stand for paths

RUN, VOC, NEW = "{work}/run", "{work}/voc/VOC2012", "{work}/new"
ROW = "predictions/val/deconvnet-max"
CPU = ("--device", "cpu")
INFER: Command = ("stages.infer", "--run", RUN, *CPU, "--split", "val")
BOTH: Command = (*INFER, "--ensemble", "fcn")
EVALUATE: Command = ("stages.evaluate", "--predictions", "{work}/files/maps", "--voc-root", VOC, "--split", "val")
SCORE: Command = ("stages.evaluate", "--run", RUN, "--predictions", "deconvnet-max")
BUILD: Command = ("stages.build_proposals", "--run", NEW, "--recipe", "{work}/files/recipe.yaml", "--workers", "0",
                  "--split", "val")
STAGE1: Command = (*BUILD, "--voc-root", VOC, "--stage", "1")
REPRODUCE: Command = ("experiments.reproduce", RUN)
FIGURES: Command = ("experiments.figures", RUN)
MERGE: Command = ("stages.merge_sbd", "--voc-root", "{work}/sbdvoc", "--sbd-root", "{work}/sbd")
IMPORT: Command = ("stages.import_caffe", "{work}/files/net.caffemodel")
TRAIN: Command = ("stages.train", "--run", RUN, *CPU, "--stage")
RESUME: Command = (*TRAIN, "1", "--resume")
MAPS = ("run/predictions/**/*.png",)


@dataclass(frozen=True)
class Kind:
    """Cases of one kind. Paths are globs in the work folder."""

    name: str
    target: str  # of the files that fit, one is damaged; "" for wrong options alone
    commands: tuple[Command, ...]
    mutators: tuple[Mutator, ...] = ()  # besides those of bytes
    removed: tuple[str, ...] = ()  # results that are to be made anew
    copies: tuple[tuple[str, str], ...] = ()  # files that are put in another's place
    results: tuple[str, ...] = ()  # what the commands make
    strict: bool = False  # damaged bytes that pass for good ones must give the same results: checksums
    outputs: tuple[str, ...] = ("**/metrics.json", "**/images.*", "run/report/*", "**/trace.json")  # may be changed
    options: Callable[[random.Random, Path], list[str]] | None = None  # more arguments, wrong ones
    names: tuple[str, ...] = field(default=())  # an error names one of these, or a path in the work folder


def unpack_parser() -> argparse.ArgumentParser:
    """stages.download's last step as a command: its archives have checksums that no damaged one passes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("archive", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--debug", action="store_true")
    return parser


def unpack_main(options: argparse.Namespace) -> None:
    """Unpacks."""
    unpack(options.archive, "VOC2012", options.data)


STRANGE = [word for word in WORDS if "\0" not in word]  # no argument of a process can hold it
PATHS = ["files", "files/none.yaml", "run", "run/stage2/network.safetensors", "run/onnx/deconvnet.onnx",
         "files/photo.jpg", "files/photo.png", "files/maps", "voc/VOC2012", "run/proposals/val.h5",
         "files/classes.txt", "files/server.csv", "cwd"]
NUMBERS = ["-1", "0", "1", "2", "1.5", "1e3", "nan", "9" * 30, "4097", "1000000000", "x", "", "0x10", "\u0663"]
OPTIONS: dict[Command, dict[str, list[str]]] = {
    (*BUILD, "--voc-root", VOC): {"--workers": NUMBERS, "--split": STRANGE, "--voc-root": PATHS, "--run": PATHS,
                                   "--recipe": [*PATHS, *STRANGE],
                                   "--edge-model": PATHS, "--on-error": STRANGE, "--stage": STRANGE, "--from": PATHS},
    INFER: {"--workers": NUMBERS, "--split": STRANGE, "--images": PATHS, "--weights": PATHS, "--fcn-weights": PATHS,
            "--device": [*STRANGE, "cuda", "cuda:9", "meta", "cpu:3", "mps"], "--out": PATHS, "--run": PATHS,
            "--aggregate": STRANGE, "--edge-model": PATHS, "--voc-root": PATHS, "--recipe": PATHS},
    (*TRAIN, "1"): {"--stage": NUMBERS, "--model": STRANGE, "--device": [*STRANGE, "cuda:9"], "--vgg16": PATHS,
                    "--run": PATHS, "--resume": [], "--voc-root": PATHS},
    ("stages.run", "--run", RUN, "--dry-run"): {"--recipe": [*PATHS, *STRANGE], "--run": PATHS, "--from": PATHS,
                                                "--vgg16": PATHS, "--fcn-vgg16": PATHS, "--edge-model": PATHS,
                                                "--workers": NUMBERS, "--subset-classes": STRANGE},
    ("stages.bn_statistics", "--run", RUN, *CPU): {"--stage": NUMBERS, "--weights": PATHS, "--to": PATHS,
                                                   "--run": PATHS},
    SCORE: {"--predictions": [*PATHS, *STRANGE], "--voc-root": PATHS, "--split": STRANGE, "--run": PATHS},
    EVALUATE: {"--predictions": PATHS, "--voc-root": PATHS, "--split": STRANGE, "--classes": PATHS,
               "--subset-classes": [*STRANGE, "cat,cat", ",,,"], "--comp6": [*PATHS, "new/x.tgz", "x" * 300 + ".tgz"]},
    REPRODUCE: {"--split": STRANGE, "--aggregate": STRANGE, "--subset-classes": [*STRANGE, "cat,cat"], "--out": PATHS,
                "--server-result": [*STRANGE, *(f"deconvnet-max={path}" for path in PATHS)]},
    FIGURES: {"--split": STRANGE, "--aggregate": STRANGE, "--images": [*NUMBERS, *STRANGE, "val_000000,val_000000"],
              "--out": [*PATHS, "x.png", "x" * 300 + ".png"], "--voc-root": PATHS, "--to": PATHS,
              "--only": ["windows", "activations,unpooling", ",", *STRANGE], "--image": ["val_000001", *STRANGE],
              "--classes": ["cat", "cat,cat", ",", *STRANGE], "--curve-images": NUMBERS},
    ("experiments.synthetic_voc", "{work}/new", "--train", "1", "--val", "1", "--side", "96"): {
        name: [text for text in NUMBERS if text != "4097"] for name in ("--train", "--val", "--seed", "--side")},
    ("experiments.proposal_recall", "--voc-root", VOC, "--split", "val"): {
        "--boxes": [*NUMBERS, "1,2,3", "1," * 300 + "1", "200001"], "--split": STRANGE, "--voc-root": PATHS,
        "--out": PATHS, "--edge-model": PATHS, "--source": ["grid", *STRANGE]},
    ("stages.inspect", "network"): {"": [*PATHS, *STRANGE], "--recipe": [*PATHS, *STRANGE], "--set": STRANGE},
    ("stages.export", "--to", "onnx", "--run", RUN, "--out", NEW): {
        "--to": STRANGE, "--run": PATHS, "--model": STRANGE, "--weights": PATHS, "--recipe": [*PATHS, *STRANGE],
        "--set": STRANGE, "--out": PATHS},
    IMPORT: {"--to": PATHS, "--kind": STRANGE, "--bn": STRANGE},
    MERGE: {"--voc-root": PATHS, "--sbd-root": PATHS},
    ("stages.download", "--list"): {"": STRANGE, "--to": [*PATHS, *STRANGE]},
}


def wrong_option(command: Command) -> Callable[[random.Random, Path], list[str]]:
    """One or two options of a command with values from its table."""
    def choose(dice: random.Random, work: Path) -> list[str]:
        given: list[str] = []
        for name in dice.sample(sorted(OPTIONS[command]), dice.choice((1, 1, 2)) if len(OPTIONS[command]) > 1 else 1):
            values = OPTIONS[command][name]
            value = dice.choice(values) if values else ""
            value = str(work / value) if value in PATHS else value
            given += [value] if not name else [f"{name}={value}"] if values else [name]
        return given

    return choose


def wrong_key(dice: random.Random, _: Path) -> list[str]:
    """--set with a recipe key and a value: of the wrong kind, at the limits, beyond them, or within."""
    keys = recipe_keys()
    name = dice.choice(sorted(keys))
    value, item = keys[name]
    least, most = item.metadata.get("least"), item.metadata.get("most")
    values = [*STRANGE, "true", "null", "[1, 2]", "{a: 1}", "[[1]]", "???", "${seed}", "-1", "1.5", "9" * 30, "[",
              "a: b"]
    if least is not None:
        default = value[0] if isinstance(value, list) else value
        near = [least, least * 1.0001, most * 1.0001, most + 1, least - 1, default * 1.01, default]
        values += 4 * [str(round(one) if isinstance(default, int) else one) for one in near]
    return ["--set", f"{name}={dice.choice(values)}"]


def run_key(prefixes: tuple[str, ...]) -> Callable[[random.Random, Path], list[str]]:
    """--set with a key that the command uses, at its lower limit or near its default."""
    def choose(dice: random.Random, _: Path) -> list[str]:
        keys = {name: found for name, found in recipe_keys().items() if name.startswith(prefixes)}
        name = dice.choice(sorted(keys))
        value, item = keys[name]
        choices, least, most = (item.metadata.get(part) for part in ("choices", "least", "most"))
        if choices:
            return ["--set", f"{name}={dice.choice(choices)}"]
        if isinstance(value, bool):
            return ["--set", f"{name}={str(not value).lower()}"]
        extreme = [most] if isinstance(value, float) and name not in SLOW else [most] if name in QUICK else []
        number = dice.choice([least, least, *extreme])
        return ["--set", f"{name}={number}"]

    return choose


SLOW = ("proposals.alpha",)  # at its upper limit
QUICK = ("proposals.count", "infer.proposals", "infer.least_side", "data.least_object_pixels", "windows.stage2_top",
         "infer.window_batch")


def _files() -> list[Kind]:
    pictures, text = (formats.picture_file,) * 2, (edit_lines,) * 4
    json, hdf5 = (formats.json_file,) * 8, (formats.hdf5_file,) * 12
    tensors, header = (formats.checkpoint_file,) * 10, (formats.safetensors_file,) * 8
    tar = (formats.tar_file,) * 8
    scored = ("run/scores", "run/predictions")
    unfinished = ("run/stage1/network.safetensors",)
    half = (("run/half.pt", "run/stage1/last.pt"), ("run/half.csv", "run/stage1/log.csv"))
    return [
        Kind("recipe", "files/recipe.yaml", (("stages.inspect", "recipe", "--recipe", "{target}"),),
             (formats.yaml_file,) * 8 + text),
        Kind("run-recipe", "run/recipe.yaml", (INFER, REPRODUCE), (formats.yaml_file,) * 8 + text, scored),
        Kind("split", "voc/VOC2012/ImageSets/Segmentation/val.txt", (EVALUATE, INFER), text * 2),
        Kind("classes", "files/classes.txt", ((*EVALUATE, "--classes", "{target}"),), text * 2),
        Kind("image", "voc/VOC2012/JPEGImages/val_*.jpg", (STAGE1,), pictures * 4),
        Kind("photo", "files/photo.*", (("stages.infer", "--run", RUN, *CPU, "--images", "{target}"),), pictures * 4),
        Kind("mask", "voc/VOC2012/SegmentationClass/val_*.png", (EVALUATE, STAGE1), pictures * 4),
        Kind("objects", "voc/VOC2012/SegmentationObject/val_*.png", (STAGE1,), pictures * 4),
        Kind("annotation", "boxes/Annotations/val_*.xml", ((*BUILD, "--voc-root", "{work}/boxes", "--stage", "1"),),
             (formats.xml_file,) * 8),
        Kind("sbd-mat", "sbd/*/2008_1*.mat", (MERGE,), (formats.mat_file,) * 8),
        Kind("sbd-list", "sbd/*.txt", (MERGE,), text * 2),
        Kind("proposals", "run/proposals/val.h5", (INFER,), hdf5, scored, results=MAPS, strict=True),
        Kind("proposals-windows", "run/proposals/train.h5",
             (("stages.build_proposals", "--run", RUN, "--split", "train", "--stage", "2", "--materialize", "--workers",
               "0"),), hdf5, ("run/windows/stage2-train.h5",)),
        Kind("windows", "run/windows/stage1-*.h5", ((*TRAIN, "1"),), hdf5, ("run/stage1",),
             results=("run/stage1/network.safetensors",), strict=True),
        Kind("windows-cut", "cut/windows/stage1-*.h5",
             (("stages.train", "--run", "{work}/cut", *CPU, "--stage", "1", "--voc-root", VOC),), hdf5,
             results=("cut/stage1/network.safetensors",), strict=True),
        Kind("scores", "run/scores/val/*/*.h5", (INFER, BOTH), hdf5, ("run/predictions",), results=MAPS, strict=True),
        Kind("checkpoint", "run/stage1/last.pt", (RESUME,), tensors, unfinished, half,
             ("run/stage1/network.safetensors",), True, ("run/stage1/*",)),
        Kind("checkpoint-before", "run/stage1/*t.pt", ((*TRAIN, "2"),), tensors, ("run/stage2",),
             results=("run/stage2/network.safetensors",), strict=True),
        Kind("inspect", "run/**/*.[hps][5at]*", (("stages.inspect", "{target}"),), ()),
        Kind("weights", "run/stage2/network.safetensors", (INFER,), header, scored, results=MAPS, strict=True),
        Kind("onnx", "run/onnx/deconvnet.onnx", ((*INFER, "--weights", f"{RUN}/onnx/deconvnet.onnx"),), (), scored,
             results=MAPS, strict=True),
        Kind("weights-fcn", "run/fcn8s/network.safetensors", ((*INFER, "--model", "fcn8s"),), header, scored,
             results=MAPS, strict=True),
        Kind("pth", "files/fcn.pth", ((*INFER, "--model", "fcn8s", "--fcn-weights", "{target}"),), tensors, scored),
        Kind("caffemodel", "files/net.caffemodel", ((*IMPORT, "--to", "{work}/new.safetensors"),)),
        Kind("edges", "files/model.yml.gz",
             ((*BUILD, "--voc-root", VOC, "--stage", "none", "--edge-model", "{target}"),), (formats.packed_text,) * 8),
        Kind("settings", f"run/{ROW}/settings.json", (SCORE, INFER, REPRODUCE), json),
        Kind("metrics", f"run/{ROW}/metrics.json", (REPRODUCE,), json),
        Kind("run-json", "run/run.json", (REPRODUCE, INFER), json),
        Kind("data-json", "run/data.json", (INFER, SCORE, FIGURES, REPRODUCE), json, (f"run/{ROW}/*.png",),
             names=("VOC-layout folder",)),  # the path that stands there
        Kind("contents-json", "run/contents.json", (INFER,), json, scored, results=MAPS, strict=True),
        Kind("synthetic-json", "voc/VOC2012/synthetic.json",
             (("experiments.synthetic_voc", "{work}/voc", "--train", "4", "--val", "2", "--side", "96"),), json),
        Kind("log", "run/stage1/log.csv", (REPRODUCE, FIGURES), text * 2),
        Kind("log-resume", "run/stage1/log.csv", (RESUME,), text * 2, unfinished, half, outputs=("run/stage1/*",)),
        Kind("trace", "run/stage1/trace.json", (RESUME,), json, unfinished, half, outputs=("run/stage1/*",)),
        Kind("server", "files/server.csv", ((*REPRODUCE, "--server-result", "deconvnet-max={target}"),), text * 2),
        Kind("prediction", f"run/{ROW}/val_*.png", ((*SCORE, "--comp6", "{work}/new.tgz"), FIGURES), pictures * 4),
        Kind("archive", "files/archive.tar", (("tests.fuzz.kinds", "{target}", "{work}/new"),), tar),
    ]


def _options() -> list[Kind]:
    everything = ("**/*",)
    found = [Kind(f"options-{command[0].partition('.')[2]}", "", (command,), options=wrong_option(command),
                  outputs=everything) for command in OPTIONS]
    keys = {"build": ((*STAGE1,), ("data.least", "proposals.", "windows.", "seed", "network.width", "network.input")),
            "infer": ((*INFER,), ("infer.", "runtime.")),
            "crf": ((*INFER, "--crf", "--workers", "1"), ("crf.",))}
    found.append(Kind("set", "", (("stages.inspect", "recipe"),), options=wrong_key))
    found += [Kind(f"set-{name}", "", (command,), options=run_key(prefixes), outputs=everything)
              for name, (command, prefixes) in keys.items()]
    return found


KINDS: dict[str, Kind] = {kind.name: kind for kind in [*_files(), *_options()]}
