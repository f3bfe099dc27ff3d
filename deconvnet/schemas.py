"""What this project's JSON files and the metadata in its other files must contain, each defined once.

Every violation is one line that names the file and the place in it. Types are not converted ("3" is not a number),
numbers are finite; what a schema does not name is kept as it is. The tables of HDF5 columns are in
deconvnet/data/columns.py, checkpoints in deconvnet/training/checkpoint.py.
"""

import os
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Json, ValidationError, model_validator

from deconvnet.support.errors import UserError

MOST_JSON_BYTES = 1 << 24  # per JSON file; ours have up to a megabyte


class Schema(BaseModel):
    """The base class."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, arbitrary_types_allowed=True)


Found = TypeVar("Found", bound=Schema)
Text = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Hash = Annotated[str, Field(pattern="^([0-9a-f]{16})?$")]  # of data/contents.py; empty for a missing file


def _all_different(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("two names are the same")
    return names


def _short_enough(path: str) -> str:
    if len(os.fsencode(path)) > 4095 or any(len(os.fsencode(name)) > 255 for name in path.split("/")):
        raise ValueError("too long for the name of a file or folder")
    return path


PathText = Annotated[str, Field(min_length=1), AfterValidator(_short_enough)]
ClassNames = Annotated[list[Text], Field(min_length=2, max_length=255), AfterValidator(_all_different)]


class DataSet(Schema):
    """RUN/data.json."""

    voc_root: PathText


class RunRecord(Schema):
    """RUN/run.json."""

    commit: str = "unknown"
    python: str = "?"
    packages: dict[str, str] = {}
    machine: str = "unknown machine"
    source: Annotated[PathText | None, Field(alias="from")] = None  # the run that this one was started from


class ScoresUsed(Schema):
    """What distinguishes label maps made with different settings."""

    scores: list[str] = []


class PredictionRecord(Schema):
    """settings.json beside label maps."""

    settings: ScoresUsed | None = None
    weights: list[str] = []
    classes: ClassNames | None = None
    recipe: dict[str, Any] = {}


class LabelsRecord(Schema):
    """labels.json beside the label maps of photographs."""

    classes: list[str] = []
    images: dict[str, dict[str, Any]] = {}
    left_out: dict[str, str] = {}


class FileHashes(Schema):
    """RUN/contents.json: a file's absolute path, its size and times when it was hashed, and the hash."""

    files: dict[str, tuple[list[int], Hash]]


class PartsRecord(Schema):
    """contents.json among the parts of a build: the hashes of the files that each image's part is made from."""

    images: dict[str, list[Hash]]


class TraceRecord(Schema):
    """trace.json of a training."""

    starts: list[dict[str, Any]]


class StepRecord(Schema):
    """How a step of a whole run left the files that it reads and makes; the seconds of the last whole one."""

    read: Hash
    made: Hash
    seconds: Annotated[float, Field(ge=0)] | None


class StepsRecord(Schema):
    """RUN/steps.json: the steps, by their commands."""

    steps: dict[str, StepRecord]


class Metrics(Schema):
    """metrics.json beside label maps."""

    split: str
    images: Count
    pixel_accuracy: Share | None
    class_iou: dict[str, Share | None]
    confusion: list[list[Count]]

    @model_validator(mode="after")
    def _square(self) -> "Metrics":
        if {len(self.confusion), *map(len, self.confusion)} != {len(self.class_iou)}:
            raise ValueError("confusion is not a matrix of class_iou's classes")
        return self


class Shared(Schema):
    """The tensors that a network's file has in common with the file of another network beside its folder."""

    file: Annotated[str, Field(pattern=r"^\.\./[a-z0-9_]+/network\.safetensors$")]
    digest: str  # the other file's
    tensors: list[Text]


class ImageScores(Schema):
    """An image's own scores, of images.json."""

    id: Text
    pixel_accuracy: Share | None
    mean_iou: Share | None
    class_iou: dict[str, Share | None]


class ImagesRecord(Schema):
    """images.json beside label maps."""

    images: list[ImageScores]


class FigureRecord(Schema):
    """One of the figures in RUN/report/figures/figures.json; png, svg: its files' names there."""

    name: Text
    title: Text
    caption: str = ""
    png: PathText | None = None
    svg: PathText | None = None


class NetworkAbout(Schema):
    """The metadata of a network's safetensors file; files of other programs have none."""

    kind: str = ""
    bn: str = ""
    classes: int = 0
    class_names: ClassNames = []
    source: str = ""
    origin: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    shared: Shared | None = None


class OnnxAbout(NetworkAbout):
    """The metadata of an ONNX file: those of the network, and the side of the square images that the graph takes."""

    side: Annotated[int, Field(ge=1)]


class RowAttributes(Schema):
    """The attributes of a file of proposals or windows, after its format and format version were checked."""

    split: str
    fingerprint: str
    classes: Json[ClassNames]
    shaped_by: Json[Any]  # each kind's own
    recipe: Json[dict[str, Any]]


class ProposalAttributes(RowAttributes):
    """Attributes of a proposals file."""

    edges: str
    shaped_by: Json[dict[str, Any]]


class WindowKeys(Schema):
    """The keys that the windows' shape depends on."""

    enlarge: Annotated[float, Field(alias="windows.enlarge", ge=1)]


class WindowAttributes(RowAttributes):
    """Attributes of a windows file."""

    stage: Annotated[int, Field(ge=1, le=2)]
    shaped_by: Json[WindowKeys]


def checked(schema: type[Found], content: Any, path: Path, remedy: str) -> Found:
    """The content (a dict, or the text of a JSON file), checked against the schema.

    Raises UserError: the file, the first wrong place, what was expected there, and `remedy`, what to do.
    """
    try:
        if isinstance(content, bytes):
            return schema.model_validate_json(content)
        return schema.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: damaged: {_first_of(error)}; {remedy}") from None


def read_json(path: Path, schema: type[Found], remedy: str = "remove or repair it") -> Found:
    """A JSON file of this program. Raises UserError, which names the file and ends with `remedy`, for anything else."""
    if path.stat().st_size > MOST_JSON_BYTES:
        raise UserError(f"{path}: damaged: {path.stat().st_size:,} bytes, expected {MOST_JSON_BYTES:,} at most; "
                        f"{remedy}")
    return checked(schema, path.read_bytes(), path, remedy)


def _first_of(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = " ".join(".".join(str(part) for part in first["loc"]).removesuffix(".[key]").split())  # a key may be "\n"
    text = f"{f'{place}: ' if place else ''}{first['msg']}"
    if first["type"] in ("missing", "json_invalid"):
        return text
    return f"{text} (found {' '.join(repr(first['input']).split())[:60]})"
