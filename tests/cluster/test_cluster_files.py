"""The example files for Slurm and Kubernetes, as far as they can be looked at without either."""

import importlib
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "experiments" / "cluster"
SCRIPTS = sorted(FOLDER.glob("*.sbatch"))
DIRECTIVE = re.compile(r"#SBATCH --([a-z-]+)(?:=(\S+))?")
OPTIONS = {"job-name", "nodes", "ntasks-per-node", "exclusive", "gpus-per-node", "cpus-per-task", "time", "requeue",
           "output"}  # of sbatch's manual; those that the scripts use
VARIABLE = re.compile(r"\$\{?(\w+)\}?")
OURS = re.compile(r"(?:python -m|-m --) ((?:stages|experiments)\.\w+)(.*)")
# What KubeRay's types of API version v1 (ray-operator/apis/ray/v1) require, and know of what is used here.
REQUIRED = {"cluster": {"headGroupSpec"}, "head": {"rayStartParams", "template"},
            "group": {"groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"}}
KNOWN = {"job": {"entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec"},
         "cluster": REQUIRED["cluster"] | {"rayVersion", "workerGroupSpecs"}, "head": REQUIRED["head"],
         "group": REQUIRED["group"] | {"replicas"}}


def parses(command: str) -> str:
    """Parses a command of ours with its own parser, the shell's variables given values; its module."""
    found = OURS.search(VARIABLE.sub("1", command))
    assert found, command
    importlib.import_module(found[1]).parse().parse_args(shlex.split(found[2]))
    return found[1]


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "rayjob.yaml").read_text())


def joined(script: Path) -> list[str]:
    """Its lines, continued ones as one."""
    return script.read_text().replace("\\\n", " ").splitlines()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_of_slurm(script: Path) -> None:
    lines = joined(script)
    assert lines[0] == "#!/bin/bash"
    checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    first = next(number for number, line in enumerate(lines) if line and line[0] != "#")  # sbatch reads no further
    directives = [DIRECTIVE.fullmatch(line) for line in lines[:first] if line.startswith("#SBATCH")]
    assert all(directives) and not [line for line in lines[first:] if line.startswith("#SBATCH")]
    given = {found[1]: found[2] for found in directives}
    assert given.keys() <= OPTIONS and {"nodes", "time", "output", "ntasks-per-node"} <= given.keys()
    assert given["ntasks-per-node"] == "1" and re.fullmatch(r"\d+:\d\d:\d\d", given["time"])
    assert lines[first] == "set -eu"
    assert f"sbatch {script.relative_to(ROOT)}" in lines[1]


@pytest.mark.parametrize("script, module", [("train", "stages.train"), ("label", "stages.infer")])
def test_its_variables_are_set_and_its_command_parses(script: str, module: str) -> None:
    lines = joined(FOLDER / f"{script}.sbatch")
    used = {name for line in lines if line[:1] != "#" for name in VARIABLE.findall(line)}
    own = {found[1] for line in lines if (found := re.match(r"(\w+)=", line))}
    slurm = {"SLURM_JOB_NODELIST", "SLURM_JOB_NUM_NODES", "SLURM_GPUS_ON_NODE", "SLURM_JOB_ID",
             "SLURM_CPUS_PER_TASK"}
    assert used - own <= slurm | {"DECONVNET_RUN", "STAGE", "PHOTOGRAPHS", "LABELLED"}
    (command,) = [line for line in lines if line.startswith("srun ")]
    assert parses(command) == module
    assert command.startswith('srun --cpus-per-task="$SLURM_CPUS_PER_TASK" ')  # not inherited since Slurm 22.05


def test_torchrun_knows_its_options() -> None:
    from torch.distributed.run import get_args_parser

    (command,) = [line for line in joined(FOLDER / "train.sbatch") if line.startswith("srun ")]
    words = shlex.split(VARIABLE.sub("8", command.partition(" torchrun ")[2]))
    found = get_args_parser().parse_args(words)
    assert (found.nnodes, found.nproc_per_node, found.module) == ("8", "8", True)
    assert found.rdzv_endpoint == "8:29500" and found.max_restarts == 3
    assert [found.training_script, *found.training_script_args][-6:] == ["stages.train", "--run", "8", "--stage", "8",
                                                                         "--resume"]


def test_ray_knows_the_command_that_starts_the_cluster() -> None:
    scripts = pytest.importorskip("ray.scripts.symmetric_run")
    (command,) = [line for line in joined(FOLDER / "label.sbatch") if line.startswith("srun ")]
    options, _, rest = command.partition(" ray symmetric-run ")[2].partition(" -- ")
    known = {name for one in scripts.symmetric_run.params for name in one.opts}
    assert {word for word in shlex.split(options) if word.startswith("--")} <= known and rest.split()[0] == "python"


def test_the_job_for_kubernetes(job: dict[str, Any]) -> None:
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob") and job["metadata"]["name"]
    spec = job["spec"]
    cluster, head = spec["rayClusterSpec"], spec["rayClusterSpec"]["headGroupSpec"]
    (group,) = cluster["workerGroupSpecs"]
    for name, one in (("job", spec), ("cluster", cluster), ("head", head), ("group", group)):
        assert REQUIRED.get(name, set()) <= one.keys() <= KNOWN[name], name
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for one in (head, group):
        assert all(isinstance(value, str) for value in one["rayStartParams"].values())
        pod = one["template"]["spec"]
        (container,) = pod["containers"]
        assert container["name"] and container["image"] == "REGISTRY/deconvnet:1"
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert all(isinstance(one["value"], str) for one in container["env"])


def test_its_command_parses_and_asks_for_what_the_pods_have(job: dict[str, Any]) -> None:
    entrypoint = job["spec"]["entrypoint"]
    # KubeRay puts it as it is in a shell's line, behind `ray job submit ... --`; Ray quotes its words for another one.
    words = list(shlex.shlex(entrypoint, posix=True, punctuation_chars=True))
    assert words[:2] == ["bash", "-c"] and len(words) == 3 and not set(entrypoint) & set('"$`\\\n')
    place, _, command = words[2].partition(" && ")
    assert parses(command) == "stages.infer" and place == "cd /shared"
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    has = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    words = command.split()
    workers, per_gpu = (int(words[words.index(name) + 1]) for name in ("--workers", "--workers-per-gpu"))
    assert workers == group["replicas"] * int(has["nvidia.com/gpu"]) * per_gpu
    assert workers <= group["replicas"] * int(has["cpu"])  # each takes a core, too


def test_the_image_holds_what_the_package_is_built_of(job: dict[str, Any]) -> None:
    text = (FOLDER / "Dockerfile").read_text()
    copied = {word for line in text.splitlines() if line.startswith("COPY ") for word in line.split()[1:-1]}
    assert all((ROOT / word).exists() for word in copied)
    assert {"crf", "deconvnet", "experiments", "proposals", "stages", "pyproject.toml", "constraints.txt",
            "LICENSE"} <= copied
    assert f"ray=={job['spec']['rayClusterSpec']['rayVersion']}" in (ROOT / "constraints.txt").read_text().splitlines()
