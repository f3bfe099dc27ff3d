"""Writes a page: template, style, script and gallery in one file that asks nothing of any network."""

import base64
import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deconvnet.data.palette import voc_palette
from deconvnet.reporting.gallery import Gallery
from deconvnet.support.atomic import write_text

TEMPLATES = Path(__file__).parent / "templates"

# jinja2 is imported where it is used: a command's --help needs none.


def write_page(path: Path, template: str, gallery: Gallery, **content: Any) -> None:
    """Writes a page from a template of this folder, completely or not at all.

    content: what the template names. All of it is text to the page, whatever characters it has: the engine escapes it.
    """
    write_text(path, render(template, gallery, **content).encode("utf-8", "replace").decode())


def render(template: str, gallery: Gallery, **content: Any) -> str:
    """The page's text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    style, script = _style(len(gallery.classes)), (TEMPLATES / "report.js").read_text(encoding="utf-8")
    return environment.get_template(template).render(
        content | {"gallery": gallery, "data": asdict(gallery), "style": style, "script": script,
                   "policy": _policy(style, script)})


def _style(classes: int) -> str:
    """The style sheet, with the colours of the classes."""
    colours = [f".label-{index} {{ background: rgb({red} {green} {blue}) }}"
               for index, (red, green, blue) in enumerate(voc_palette()[:classes].tolist())]
    return "\n".join([(TEMPLATES / "report.css").read_text(encoding="utf-8"), *colours, ""])


def _policy(style: str, script: str) -> str:
    """The Content-Security-Policy: these two texts, pictures in the page itself, and nothing else."""
    return (f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
            "base-uri 'none'; form-action 'none'")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
