"""The rows of the table, the paper's and other networks': where a run keeps them, and which commands make them."""

from dataclasses import dataclass
from pathlib import Path

from deconvnet.models.registry import NETWORKS, partner_name
from deconvnet.recipe import Recipe


@dataclass(frozen=True)
class Row:
    """A row of the table.

    title: as in the paper. paper: its name in the CSV file, or None. folder: under RUN/predictions/SPLIT. infer: its
    options. networks: whose scores it is made of.
    """

    title: str
    paper: str | None
    folder: str
    infer: tuple[str, ...]
    networks: tuple[str, ...]


def table_rows(aggregate: str, recipe: Recipe | None = None) -> list[Row]:
    """FCN-8s, DeconvNet, DeconvNet+CRF, EDeconvNet, EDeconvNet+CRF; then the networks that the paper does not have.

    aggregate: max, sum or mean. recipe: the run's (default: the paper's), which says whether a network sees windows.
    """
    recipe = recipe or Recipe()
    main, partner = NETWORKS["deconvnet"], NETWORKS["fcn8s"]
    its_name = partner_name(partner.name)
    others = [spec for spec in NETWORKS.values() if spec.in_table and not spec.paper]
    plain = main.scores_name(recipe, aggregate)
    own = ("--aggregate", aggregate, "--ensemble", "none")
    both = ("--aggregate", aggregate, "--ensemble", its_name)
    title = main.paper
    assert title is not None  # the paper's own network
    return [
        Row(partner.title, partner.paper, partner.name, ("--model", partner.name), (partner.name,)),
        Row(title, title, plain, own, (main.name,)),
        Row(f"{title}+CRF", f"{title}+CRF", f"{plain}-crf", (*own, "--crf"), (main.name,)),
        Row(f"E{title}", f"E{title}", f"{plain}-{its_name}", both, (main.name, partner.name)),
        Row(f"E{title}+CRF", f"E{title}+CRF", f"{plain}-{its_name}-crf", (*both, "--crf"),
            (main.name, partner.name)),
        *(Row(spec.title, None, spec.scores_name(recipe, aggregate), ("--model", spec.name, "--aggregate", aggregate),
              (spec.name,))
          for spec in others),
    ]


def paper_rows(aggregate: str) -> list[Row]:
    """Those of the paper's Table 1."""
    return [row for row in table_rows(aggregate) if row.paper]


def infer_command(row: Row, run: Path, split: str) -> list[str]:
    """The arguments of python that predict a row."""
    return ["-m", "stages.infer", "--run", str(run), *row.infer, "--split", split]


def evaluate_command(row: Row, run: Path, split: str) -> list[str]:
    """The arguments of python that score a row's predictions."""
    return ["-m", "stages.evaluate", "--run", str(run), "--predictions", row.folder, "--split", split]
