"""The command `deconvnet`: its subcommands are the stages, each imported alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages.console import commands, main
from tests.stages.test_cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
STAGES = {name.removeprefix("stages.") for name in COMMANDS if name.startswith("stages.")}


def deconvnet(*arguments: str) -> subprocess.CompletedProcess:
    command = "import sys; from stages.console import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", command, *arguments], cwd=ROOT, text=True, capture_output=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_it_has_the_stages_and_says_what_each_does(capsys: pytest.CaptureFixture) -> None:
    assert commands().keys() == STAGES and all(commands().values())
    for asked in ("--help", "-h"):
        with pytest.raises(SystemExit, match="^0$"):
            main([asked])
    shown = " ".join(capsys.readouterr().out.split())
    for name, what in commands().items():
        assert f" {name} {what}" in shown
    assert shown.endswith("deconvnet infer --run runs/voc --images photo.jpg --overlay --out labelled")


@pytest.mark.parametrize(("given", "words"), [(["infre", "--run", "x"], ("infre", "invalid choice", "infer")),
                                              ([], ("required: COMMAND",))])
def test_wrong_names_end_with_one_line_and_2(given: list[str], words: tuple[str, ...],
                                             capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="^2$"):
        main(given)
    usage, error = capsys.readouterr().err.splitlines()
    assert usage.startswith("usage: deconvnet") and all(word in error for word in words)


@pytest.mark.slow
def test_a_subcommand_is_the_stage(tmp_path: Path) -> None:
    """Its help, under its new name, its output, its exit statuses."""
    shown = deconvnet("evaluate", "--help")
    assert shown.returncode == 0 and "usage: deconvnet evaluate " in shown.stdout and "--comp6" in shown.stdout
    shown = deconvnet("inspect", "recipe", "--recipe", "paper")
    assert shown.returncode == 0 and "infer.aggregate" in shown.stdout
    assert deconvnet("evaluate", "--run", str(tmp_path / "none")).returncode == 2
    failed = deconvnet("infer", "--run", str(tmp_path / "none"), "--images", str(tmp_path))
    assert failed.returncode == 2 and failed.stderr.splitlines()[-1].startswith("error: ")


def test_only_the_one_that_is_asked_for_is_imported() -> None:
    command = ("import sys\nfrom stages.console import main\n"
               "try:\n    main(['merge_sbd', '--help'])\nexcept SystemExit:\n    pass\n"
               "found = [name for name in sys.modules if name in ('torch', 'stages.infer', 'stages.merge_sbd')]\n"
               "assert found == ['stages.merge_sbd'], found")
    subprocess.run([sys.executable, "-c", command], cwd=ROOT, check=True, capture_output=True,
                   env=os.environ | {"PYTHONPATH": str(ROOT)})
