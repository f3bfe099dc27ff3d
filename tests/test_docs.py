"""docs/ builds into pages without a broken link, the pages fetch nothing, and README's links lead somewhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from markdown.extensions.toc import slugify

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINKS = sorted({link for link in re.findall(r"\]\(([^)\s]+)\)", README) if "://" not in link})


def build(root: Path, site: Path) -> subprocess.CompletedProcess:
    """Builds the documentation of a checkout as `make docs` does."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", site]
    return subprocess.run(command, cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stdout
    return folder


def test_every_page_is_built_with_its_pictures(site: Path) -> None:
    pages = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    assert len(pages) > 10 and all((site / page).with_suffix(".html").is_file() for page in pages)
    pictures = [path for path in (ROOT / "docs" / "images").rglob("*") if path.is_file()]
    assert pictures
    for picture in pictures:  # links into experiments/results: the built site has the files themselves
        assert (site / picture.relative_to(ROOT / "docs")).read_bytes() == picture.read_bytes()


def test_the_pages_fetch_nothing(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=\"?(?:https?:)?//[^>]*>", text), page.name
        assert not re.findall(r"<link[^>]*\shref=\"?(?:https?:)?//[^>]*>", text), page.name
        assert "fonts.g" not in text, page.name


@pytest.mark.slow
@pytest.mark.parametrize("broken", [
    "[a page that is missing](missing.md)",
    "[a heading that is missing](results.md#missing)",
    "[a heading that is missing here](#missing)",
    "[an absolute link](/results.md)",
    "![a picture that is missing](images/missing.png)",
])
def test_a_broken_link_fails_the_build(tmp_path: Path, broken: str) -> None:
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    with (tmp_path / "docs" / "recipes.md").open("a", encoding="utf-8") as page:
        page.write(f"\n{broken}\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode and "recipes.md" in done.stdout, done.stdout


@pytest.mark.slow
def test_a_page_that_the_menu_leaves_out_fails_the_build(tmp_path: Path) -> None:
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "docs" / "new.md").write_text("# New\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode and "new.md" in done.stdout, done.stdout


def test_readme_leads_to_every_page() -> None:
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert pages <= {link.partition("#")[0] for link in LINKS}


@pytest.mark.parametrize("link", LINKS)
def test_readmes_links_exist(link: str) -> None:
    name, _, anchor = link.partition("#")
    path = ROOT / name if name else ROOT / "README.md"
    assert path.exists()
    if anchor:
        headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {slugify(heading, "-") for heading in headings}


def test_nothing_is_fetched_by_the_build_itself() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert settings["theme"]["font"] is False and settings["strict"] is True
    assert not {"extra_javascript", "extra_css"} & set(settings)
