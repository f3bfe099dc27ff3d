"""Studies as files: experiments/studies/NAME.yaml says what is asked, and which runs answer it."""

from pathlib import Path
from typing import Annotated, Any

from omegaconf import OmegaConf
from pydantic import ConfigDict, Field

from deconvnet.evaluation.rows import table_rows
from deconvnet.recipe import Recipe
from deconvnet.recipe_files import override
from deconvnet.schemas import Schema, Text, checked
from deconvnet.support.errors import UsageError, UserError

STUDIES = Path(__file__).parent / "studies"
REMEDY = "see docs/extending.md for what a study's file holds"


class Strict(Schema):
    """What a study's file holds must be known here: a mistyped word is not passed over."""

    model_config = ConfigDict(strict=True, extra="forbid")


class Variant(Strict):
    """One answer to the question. set: recipe keys, KEY=VALUE each. vgg16: trainings start from the file --vgg16."""

    name: Annotated[str, Field(pattern=r"^[\w.,+-]{1,60}$")]
    set: list[str] = []
    vgg16: bool = False


class Choice(Strict):
    """Before anything is scored on the validation split, one variant is chosen: the one with the highest mean IoU of
    a row (its title) on another split, one of training images.
    """

    split: Text
    row: Text


class Study(Strict):
    """A study. The first variant is what the others are compared with.

    question, paper: in words, the latter what the paper says of it. trains: whether each variant trains networks, once
    for each seed; else all label with those of a run that is there. recipe: of the run that holds the proposals and
    windows, where none is given. set: recipe keys of all variants. rows: titles of the table's rows. choose: see
    Choice.
    """

    question: Text
    paper: Text
    trains: bool
    recipe: Text = "demo"
    set: list[str] = []
    seeds: Annotated[list[int], Field(min_length=1)] = [0]
    rows: Annotated[list[Text], Field(min_length=1)]
    variants: Annotated[list[Variant], Field(min_length=2)]
    choose: Choice | None = None


def study_names() -> list[str]:
    """The studies that there are."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def load_study(name: str) -> Study:
    """A study by its name, or from a YAML file. Raises UsageError for one that is not there, UserError for a wrong one.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else STUDIES / f"{name}.yaml"
    if not path.is_file():
        raise UsageError(f"study {name!r}: not one of {', '.join(study_names())}, and not a .yaml file that is there")
    try:
        content: Any = OmegaConf.to_container(OmegaConf.create(path.read_text(encoding="utf-8")))
    except Exception as error:  # yaml raises its own family of errors
        raise UserError(f"{path}: not valid YAML: {str(error).splitlines()[0]}; {REMEDY}") from None
    study = checked(Study, content, path, REMEDY)
    _check(study, path)
    return study


def _check(study: Study, path: Path) -> None:
    known = [row.title for row in table_rows("max")]
    asked = [*study.rows, *([study.choose.row] if study.choose else [])]
    unknown = [title for title in asked if title not in known]
    if unknown:
        raise UserError(f"{path}: row {unknown[0]!r} is not one of {', '.join(known)}")
    names = [variant.name for variant in study.variants]
    if len({*names}) < len(names):
        raise UserError(f"{path}: two variants have the same name; expected different ones")
    if study.choose and study.trains:
        raise UserError(f"{path}: choose is for studies that train nothing (trains: false)")
    for variant in study.variants:  # a wrong key is an error now, not after hours
        override(Recipe(), [*study.set, *variant.set])
