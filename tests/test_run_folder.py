"""The run folder: what is damaged or foreign in it is one line that names the file, never a guess."""

import argparse
import json
import logging
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from deconvnet import run_folder
from deconvnet.recipe import NETWORKS, PROPOSALS, VERSION, WINDOWS, recipe_keys
from deconvnet.recipe_files import load_recipe
from deconvnet.run_folder import open_run, read_run
from deconvnet.runtime import choose_device
from deconvnet.support.errors import UsageError, UserError
from deconvnet.training.checkpoint import load_checkpoint
from stages import build_proposals, train
from stages.cli import add_run_arguments, run_command


def opened(*arguments, **more):
    parser = argparse.ArgumentParser()
    add_run_arguments(parser)
    return open_run(parser.parse_args([str(argument) for argument in arguments]), **more)


@pytest.fixture
def made(tmp_path):
    """A run folder, begun, with its data set's folder."""
    (tmp_path / "voc" / "JPEGImages").mkdir(parents=True)
    opened("--run", tmp_path / "run", "--voc-root", tmp_path / "voc", begins=True)
    (tmp_path / "run" / "proposals").mkdir()
    return tmp_path / "run"


def test_a_run_remembers_recipe_and_data(made, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    again = opened("--run", made)
    assert again.voc_root == tmp_path / "voc" and again.recipe == load_recipe("tiny")
    with pytest.raises(UsageError, match=r"solver\.lr = 0\.1, not 0\.5; use another --run"):
        opened("--run", made, "--set", "solver.lr=0.5")
    assert opened("--run", made, "--set", "solver.lr=0.5", keeps=(PROPOSALS, WINDOWS)).recipe.solver.lr == 0.5
    (tmp_path / "other" / "JPEGImages").mkdir(parents=True)
    with pytest.raises(UsageError, match="this run's data set is"):
        opened("--run", made, "--voc-root", tmp_path / "other")


def test_a_run_from_before_a_key_was_added_is_read_as_it_was_made(made):
    """Version 6 had no crf.least_probability: all classes took part, which is not the key's value in a new run."""
    saved = made / "recipe.yaml"
    now = saved.read_text()
    saved.write_text(now.replace(f"version: {VERSION}\n", "version: 6\n").replace("  least_probability: 0.1\n", ""))
    assert len(saved.read_text()) < len(now) - 20
    again = ("--run", made, "--recipe")
    for keeps in ((), (PROPOSALS, NETWORKS)):
        for run in (read_run(made, (), keeps), opened("--run", made, keeps=keeps),
                    opened(*again, "tiny", keeps=keeps), opened(*again, saved, keeps=keeps)):
            assert run.recipe.crf.least_probability == run.recorded.crf.least_probability == 0.0
    changed = read_run(made, ["crf.iterations=3"], (NETWORKS,)).recipe.crf
    assert (changed.iterations, changed.least_probability) == (3, 0.0)
    named = opened(*again, "tiny", "--set", "crf.least_probability=0.2", keeps=(PROPOSALS, NETWORKS))
    assert named.recipe.crf.least_probability == 0.2
    assert load_recipe(saved).crf.least_probability == 0.0 and load_recipe("tiny").crf.least_probability == 0.1
    (made.parent / "own.yaml").write_text("crf: {least_probability: 0.3}")
    assert load_recipe(made.parent / "own.yaml", as_of=6).crf.least_probability == 0.3


def test_a_data_set_goes_by_two_names(tmp_path):
    """data/VOCdevkit, or data/VOCdevkit/VOC2012 in it."""
    (tmp_path / "kit" / "VOC2012" / "JPEGImages").mkdir(parents=True)
    for folder in ("kit", "kit/VOC2012", "kit"):
        run = opened("--run", tmp_path / "run", "--voc-root", tmp_path / folder, begins=True)
        assert run.voc().root == tmp_path / "kit" / "VOC2012"


def test_a_mistyped_folder_is_no_new_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="typo: no run here .*build_proposals --run typo` starts one"):
        opened("--run", "typo")
    assert not list(tmp_path.iterdir())


def test_a_recipe_may_change_until_something_is_made_with_it(made):
    (made / "proposals").rmdir()
    assert opened("--run", made, "--set", "data.train_split=train").recipe.data.train_split == "train"
    assert opened("--run", made).recipe.data.train_split == "train"
    (made / "windows").mkdir()
    with pytest.raises(UsageError, match=r"data\.train_split"):
        opened("--run", made, "--set", "data.train_split=other")


def test_a_free_keys_new_value_is_not_the_runs(made):
    """It holds for one command: the run's own recipe.yaml stays."""
    opened("--run", made, "--set", "crf.iterations=3", keeps=(PROPOSALS, WINDOWS))
    assert opened("--run", made).recipe.crf.iterations == load_recipe("tiny").crf.iterations != 3


def test_a_run_says_its_seed(tmp_path):
    (tmp_path / "voc" / "JPEGImages").mkdir(parents=True)
    opened("--run", tmp_path / "run", "--voc-root", tmp_path / "voc", "--set", "seed=7", begins=True)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["seed"] == 7


def test_the_environment_names_run_and_data(tmp_path, monkeypatch):
    (tmp_path / "voc" / "JPEGImages").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DECONVNET_RUN", "some/where")
    monkeypatch.setenv("DECONVNET_VOC_ROOT", str(tmp_path / "voc"))
    run = opened(begins=True)
    assert (run.root, run.voc_root) == (Path("some/where"), tmp_path / "voc")
    assert (tmp_path / "some" / "where" / "recipe.yaml").is_file()


def test_the_recorded_commit_says_when_files_differ(tmp_path, monkeypatch):
    def git(*arguments):
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a", *arguments], check=True)

    monkeypatch.setattr(run_folder, "__file__", str(tmp_path / "run_folder.py"))
    git("init", "-q")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    commit = subprocess.run(["git", "-C", tmp_path, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    assert run_folder.git_commit() == commit[:12]
    (tmp_path / "file").write_text("two")
    assert run_folder.git_commit() == f"{commit[:12]}-dirty"


def test_where_a_run_keeps_its_files(made):
    """Nothing of one stage, split or network has another's name."""
    run = opened("--run", made)
    paths = [run.windows(stage, split) for stage in (1, 2) for split in ("train", "val")]
    paths += [run.proposals(split) for split in ("train", "val")]
    paths += [run.network(name) for name in ("stage1", "stage2", "fcn32s", "fcn16s", "fcn8s")]
    paths += [run.scores(split, name) for split in ("train", "val") for name in ("fcn8s-1", "fcn8s-2")]
    assert len(set(paths)) == len(paths) and all(path.is_relative_to(made) for path in paths)


def test_a_data_set_that_was_moved(made, tmp_path):
    (tmp_path / "voc").rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="voc: no such folder"):
        opened("--run", made)
    opened("--run", made, "--voc-root", tmp_path / "elsewhere")
    assert opened("--run", made).voc_root == tmp_path / "elsewhere"


@pytest.mark.parametrize("content", ["{garbage", "[]", "{}", '{"voc_root": 3}', "\xff", ""])
def test_damaged_record_of_the_data_set(made, content):
    (made / "data.json").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"data\.json: damaged"):
        opened("--run", made)


def test_a_copied_run_does_not_fall_back_on_generated_images(made, tmp_path, monkeypatch):
    """A training machine has windows and recipe alone: what needs images must not take the synthetic set instead."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DECONVNET_VOC_ROOT", raising=False)
    (made / "data.json").unlink()
    (made / "windows").mkdir()
    assert opened("--run", made, needs_images=False).voc_root is None
    with pytest.raises(UsageError, match="give --voc-root"):
        opened("--run", made)
    assert not (tmp_path / "data").exists()
    assert opened("--run", made, "--voc-root", tmp_path / "voc").voc_root == tmp_path / "voc"


def test_the_synthetic_set_is_of_the_recipes_classes(tmp_path, monkeypatch):
    """Each number of classes has a folder of its own: a run of other classes is not refused for want of another."""
    asked = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DECONVNET_VOC_ROOT", raising=False)
    monkeypatch.setattr(run_folder, "generate", lambda folder, **given: asked.append((folder, given)) or folder)
    monkeypatch.setattr(run_folder.RunFolder, "voc", lambda self: None)
    for name, classes in (("demo", 10), ("tiny", 20)):
        opened("--run", tmp_path / name, "--recipe", name)
        folder, given = asked.pop()
        assert folder == Path("data/synthetic", f"{classes}-classes")
        assert given["class_names"] == load_recipe(name).data.classes and len(given["class_names"]) == classes + 1


@pytest.mark.parametrize("share", [0, 0.2, 0.5, 0.9])
def test_a_recipe_that_was_cut_is_no_other_recipe(made, share):
    """What a cut took must not come back as the paper's value, which every key has as its default."""
    saved = made / "recipe.yaml"
    lines = saved.read_text().splitlines(keepends=True)
    saved.write_text("".join(lines[: int(share * len(lines))]))
    with pytest.raises(UsageError, match=r"recipe\.yaml"):
        opened("--run", made)


def test_each_key_of_a_runs_recipe_is_needed(made):
    text = (made / "recipe.yaml").read_text()
    (made / "recipe.yaml").write_text(text.replace("  momentum_rule: torch\n", ""))
    with pytest.raises(UsageError, match=r"1 recipe keys are missing, for example solver\.momentum_rule"):
        opened("--run", made)
    assert "solver.momentum_rule" in recipe_keys()


def test_a_file_is_no_run_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="file: a file; expected a run folder"):
        opened("--run", tmp_path / "file")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.parametrize("change", ["solver.lr=inf", "solver.weight_decay=.inf", "network.bn_shift=nan",
                                    "proposals.alpha=1"])
def test_numbers_that_no_computation_can_use(change):
    with pytest.raises(UsageError, match=change.partition("=")[0].replace(".", r"\.")):
        load_recipe("paper", [change])


@pytest.mark.parametrize("name", ["gpu", "meta", "cuda:99", "cuda:x", "0", "cpu,cuda"])
def test_devices_that_are_none(name):
    with pytest.raises(UsageError, match="--device"):
        choose_device(name)


def test_the_cpu_is_a_device():
    assert choose_device("cpu").type == "cpu" == choose_device("cpu", training=True).type


@pytest.mark.parametrize("there", [True, False])
def test_apples_gpu_is_for_labelling_where_torch_has_it(there, monkeypatch, caplog):
    """What torch says of the machine is made up; the rest could not be tried without one."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: there)
    if there:
        assert choose_device("mps").type == "mps" and "device: Apple's GPU" in caplog.text
    else:
        with pytest.raises(UsageError, match="--device mps: torch finds no Apple GPU here"):
            choose_device("mps")
    with pytest.raises(UsageError, match="--device mps: .* no float64 for trainings"):
        choose_device("mps", training=True)
    assert choose_device("auto").type != "mps"


def test_training_refuses_it(made, capsys):
    assert run_command(train.parse(), train.main, ["--run", str(made), "--stage", "1", "--device", "mps"]) == 2
    assert "no float64 for trainings" in capsys.readouterr().err


def test_wrong_use_is_one_line_and_status_2(made, capsys):
    logging.getLogger().handlers.clear()
    for module, arguments in ((build_proposals, ["--workers", "-2"]), (train, ["--stage", "1", "--device", "gpu"])):
        assert run_command(module.parse(), module.main, ["--run", str(made), *arguments]) == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
        assert len(errors) == 1 and arguments[-2] in errors[0]


@pytest.mark.parametrize("package", ["stages", "experiments"])
def test_interrupted_while_it_imports(package):
    """Ctrl-C before the command itself runs; a real error keeps its traceback, and so does what is no command."""
    root = Path(__file__).parents[1]
    as_a_command = "import sys; sys.argv[0] = '-m'; "  # what it is while `python -m` imports the package
    for before, raised, status in ((as_a_command, "KeyboardInterrupt", -signal.SIGINT), (as_a_command, "ValueError", 1),
                                   ("", "KeyboardInterrupt", -signal.SIGINT)):
        done = subprocess.run([sys.executable, "-c", f"{before}import {package}; raise {raised}"], cwd=root,
                              capture_output=True, text=True)
        quiet = bool(before) and raised == "KeyboardInterrupt"
        assert done.returncode == status and ("Traceback" in done.stderr) == (not quiet)
        assert not quiet or done.stderr.splitlines() == ["interrupted; nothing was started"]


def test_interrupted_while_the_console_command_imports():
    code = ("import stages.console as console\n"
            "def stopped(_): raise KeyboardInterrupt\n"
            "console.importlib.import_module = stopped\nconsole.main(['infer'])")
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "interrupted; nothing was started\n")


FULL_DISK = """
import logging, resource, signal, sys, time
from pathlib import Path
import torch
from torch.utils.tensorboard import SummaryWriter
from deconvnet.training.checkpoint import save_checkpoint
from deconvnet.recipe import PROPOSALS, WINDOWS
from deconvnet.recipe_files import load_recipe
from stages.cli import make_parser, run_command
from tests.checkpoints import content

def command(options):
    folder = Path(sys.argv[1])
    save_checkpoint(folder / "last.pt", load_recipe("tiny"), content(model={"weight": torch.zeros(10)}))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), 1 << 30))
    if sys.argv[2] == "30":
        board = SummaryWriter(str(folder / "board"), flush_secs=1)
        while True:
            board.add_scalar("loss", 1.0)
            time.sleep(0.01)
    save_checkpoint(folder / "last.pt", load_recipe("tiny"), content(model={"weight": torch.zeros(100_000)}))

sys.exit(run_command(make_parser("test", "", ""), command, []))
"""


@pytest.mark.slow
@pytest.mark.parametrize("most", [30, 200_000])
def test_a_full_disk_is_one_line(tmp_path, most):
    """In TensorBoard's thread (30 bytes), and in torch's writer of checkpoints, whose own message does not say so."""
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path), str(most)], capture_output=True, text=True,
                          cwd=Path(__file__).parents[1])
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "disk" in done.stderr and "full" in done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["last.pt"]
    assert load_checkpoint(tmp_path / "last.pt", None)["model"]["weight"].shape == (10,)
