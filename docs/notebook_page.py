"""MkDocs hook: docs/*.ipynb become pages, with the outputs that are stored in them; nothing is executed.

nbconvert turns a notebook into Markdown, so that it looks like the other pages and its links are checked with theirs.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds NAME.md and its pictures for every NAME.ipynb, which stays beside it to be downloaded."""
    for notebook in [one for one in files if one.src_uri.endswith(".ipynb")]:
        name = notebook.src_uri.removesuffix(".ipynb")
        resources = {"output_files_dir": f"{Path(name).name}_files"}
        text, resources = MarkdownExporter().from_filename(notebook.abs_src_path, resources)
        files.append(File.generated(config, f"{name}.md", content=text))
        for picture, content in resources["outputs"].items():
            files.append(File.generated(config, (Path(name).parent / picture).as_posix(), content=content))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links to a notebook, as GitHub needs them, lead to its page."""
    return markdown.replace(".ipynb)", ".md)")
