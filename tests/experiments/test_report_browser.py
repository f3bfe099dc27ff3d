"""The report in a real browser, opened from the disk: what its controls do, without a network, by keyboard alone."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from axe_core_python.selenium import Axe
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from deconvnet.reporting.photographs import write_report
from experiments.report import main, parse
from stages.cli import run_command
from tests.browser import asked_for, resize, start
from tests.report_run import BOXES, CLASSES, HOSTILE, IDS, SHIFT, class_iou, make_run, photographs

pytestmark = pytest.mark.slow
LOOK = """
const shown = document.activeElement;
return { tag: shown.tagName, id: shown.id, name: shown.closest("li")?.querySelector(".name")?.textContent };
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    yield from start(tmp_path_factory.mktemp("chromium"))


@pytest.fixture(scope="module")
def address(browser: Chrome, tmp_path_factory: pytest.TempPathFactory) -> str:
    run = make_run(tmp_path_factory.mktemp("report"))
    assert run_command(parse(), main, [str(run)]) == 0
    return (run / "report/report.html").as_uri()


@contextmanager
def opened(browser: Chrome, address: str) -> Iterator[Chrome]:
    """A page, opened anew at the size of a desk's screen; at the end of the test it has said and asked nothing."""
    resize(browser, 1280, 900)
    asked_for(browser), browser.get_log("browser")
    browser.get(address)
    browser.execute_script("document.getElementById('gallery').scrollIntoView()")
    WebDriverWait(browser, 10).until(lambda page: page.find_element(By.CSS_SELECTOR, "#cards img").get_attribute("src"))
    yield browser
    assert browser.get_log("browser") == []
    asked = {url.partition(":")[0] for url in asked_for(browser)}
    assert "file" in asked and asked <= {"file", "data", "blob"}
    assert "taken" not in browser.title


@pytest.fixture
def page(browser: Chrome, address: str) -> Iterator[Chrome]:
    with opened(browser, address) as page:
        yield page
        assert page.find_element(By.TAG_NAME, "h1").text == "DeconvNet: run"


def names(page: Chrome) -> list[str]:
    return [one.text for one in page.find_elements(By.CSS_SELECTOR, "#cards .name")]


def numbers(page: Chrome) -> list[float]:
    return [float(one.text.split()[-1]) for one in page.find_elements(By.CSS_SELECTOR, "#cards .score")]


def choose(page: Chrome, control: str, text: str) -> None:
    Select(page.find_element(By.ID, control)).select_by_visible_text(text)


def press(page: Chrome, *keys: str) -> dict[str, str]:
    """Presses keys, wherever the focus is; where it is then."""
    for key in keys:
        page.switch_to.active_element.send_keys(key)
    return page.execute_script(LOOK)


def test_it_shows_every_image_and_the_table(page: Chrome) -> None:
    assert names(page) == IDS
    assert len(page.find_elements(By.CSS_SELECTOR, "#cards img")) == 2 * len(IDS)
    drawn = "return [...document.querySelectorAll('#cards img')].every(one => one.naturalWidth)"
    WebDriverWait(page, 10).until(lambda page: page.execute_script(drawn))
    heads = [one.text for one in page.find_elements(By.CSS_SELECTOR, "#table tbody th")]
    assert heads[:2] == ["FCN-8s", "DeconvNet"]
    assert "The classes are not VOC's 21" in page.find_element(By.CSS_SELECTOR, "#table .note").text


def test_names_are_text(page: Chrome) -> None:
    options = [one.text for one in Select(page.find_element(By.ID, "class")).options]
    assert options[1:] == [f"{CLASSES[1]} (2)", f"{HOSTILE} (1)", f"{CLASSES[3]} (1)"]
    choose(page, "class", f"{HOSTILE} (1)")
    assert names(page) == [IDS[1]] and not page.find_elements(By.CSS_SELECTOR, "[onerror], #cards b, dd i")
    page.find_element(By.CSS_SELECTOR, "#cards button").click()
    assert HOSTILE in page.find_element(By.ID, "viewer-about").text
    assert HOSTILE in page.find_element(By.ID, "scores").text


def test_filter_by_class(page: Chrome) -> None:
    choose(page, "class", "cat (2)")
    assert names(page) == ["one", "three"]
    assert page.find_element(By.ID, "status").text.startswith("2 of 4 images. The numbers are the IoU of cat")
    assert numbers(page) == pytest.approx([class_iou("deconvnet-max", name) for name in ("one", "three")], abs=0.06)
    choose(page, "class", "all images")
    assert names(page) == IDS


@pytest.mark.parametrize(("row", "title"), [("fcn8s", "FCN-8s"), ("deconvnet-max", "DeconvNet")])
def test_order_by_the_iou_of_a_row(page: Chrome, row: str, title: str) -> None:
    """The farther an object's label is shifted, the lower its IoU."""
    choose(page, "class", "cat (2)")
    choose(page, "order", f"{title}: lowest IoU first")
    assert names(page) == sorted(["one", "three"], key=lambda name: -SHIFT[row][name])
    choose(page, "class", "all images")
    lowest = names(page)
    choose(page, "layer", title)
    assert numbers(page) == sorted(numbers(page))
    choose(page, "order", f"{title}: highest IoU first")
    assert names(page) == lowest[::-1] and numbers(page) == sorted(numbers(page), reverse=True)


def test_labels_over_the_photograph(page: Chrome) -> None:
    label = page.find_element(By.CSS_SELECTOR, "#cards .labels")
    before = label.get_attribute("src")
    assert label.value_of_css_property("opacity") == "0.6"
    page.find_element(By.ID, "opacity").send_keys(Keys.HOME)
    assert label.value_of_css_property("opacity") == "0"
    page.find_element(By.ID, "opacity").send_keys(Keys.END)
    assert label.value_of_css_property("opacity") == "1"
    assert page.find_element(By.CSS_SELECTOR, ".opacity-value").text == "100 %"
    choose(page, "layer", "truth")
    assert label.get_attribute("src") == before  # DeconvNet is right in the first image
    choose(page, "layer", "FCN-8s")
    assert label.get_attribute("src") != before
    choose(page, "layer", "none")
    assert not label.is_displayed()
    page.find_element(By.ID, "photograph").click()
    assert not page.find_element(By.CSS_SELECTOR, "#cards .photograph").is_displayed()


def test_proposals_on_demand(page: Chrome) -> None:
    assert not page.find_elements(By.CSS_SELECTOR, "#cards rect")
    page.find_element(By.ID, "boxes").send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    first = page.find_element(By.CSS_SELECTOR, "#cards svg")
    places = [[float(box.get_attribute(name)) for name in ("x", "y", "width", "height")]
              for box in first.find_elements(By.CSS_SELECTOR, ".over")]
    assert places == [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in BOXES[:2].tolist()][::-1]
    page.find_element(By.ID, "boxes").send_keys(Keys.HOME)
    assert not page.find_elements(By.CSS_SELECTOR, "#cards rect")


def test_by_keyboard_alone(page: Chrome) -> None:
    visited = [press(page, Keys.TAB) for _ in range(30)]
    ids = [one["id"] for one in visited]
    assert {"class", "layer", "order", "opacity", "boxes", "photograph"} <= {*ids}
    cards = [one["name"] for one in visited if one["name"]]
    assert cards[:4] == IDS
    page.find_element(By.CSS_SELECTOR, "#cards button").send_keys("")
    assert press(page, Keys.ARROW_RIGHT)["name"] == IDS[1]
    assert press(page, Keys.END)["name"] == IDS[3] and press(page, Keys.HOME)["name"] == IDS[0]
    viewer = page.find_element(By.ID, "viewer")
    press(page, Keys.ENTER)
    assert viewer.is_displayed() and page.find_element(By.ID, "viewer-title").text == IDS[0]
    captions = [one.text.replace("\n", " ") for one in page.find_elements(By.CSS_SELECTOR, "#pictures figcaption")]
    assert captions[:2] == ["photograph", "truth"] and re.fullmatch(r"FCN-8s IoU [\d.]+", captions[2])
    press(page, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert page.find_element(By.ID, "viewer-title").text == IDS[2]
    press(page, Keys.ARROW_LEFT, Keys.ESCAPE)
    assert not viewer.is_displayed()  # and its event, by which the card gets the focus, comes a moment later
    WebDriverWait(page, 5).until(lambda _: page.execute_script(LOOK)["name"] == IDS[1])


def test_on_a_phone(page: Chrome) -> None:
    resize(page, 360, 740, phone=True)
    wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.execute_script(wide) == 0
    page.find_element(By.CSS_SELECTOR, "#cards button").click()
    assert page.execute_script(wide) == 0
    over = "const one = document.getElementById('viewer'); return one.scrollWidth - one.clientWidth"
    assert page.execute_script(over) == 0


@pytest.mark.parametrize("viewing", [False, True])
def test_for_a_screen_reader(page: Chrome, viewing: bool) -> None:
    """axe-core finds nothing: names, roles, contrast, headings, landmarks."""
    if viewing:
        page.find_element(By.CSS_SELECTOR, "#cards button").click()
    page.execute_script("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    found = Axe().run(page)["violations"]
    assert not found, [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]
    card = page.find_element(By.CSS_SELECTOR, "#cards button")
    if not viewing:
        assert re.match(r"one IoU [\d.]+ \(truth: cat 17 %\)", card.accessible_name), card.accessible_name
        assert page.find_element(By.ID, "opacity").accessible_name.startswith("Opacity")
        assert page.find_element(By.ID, "status").aria_role == "status"


def test_photographs(browser: Chrome, tmp_path: Path) -> None:
    """A report of photographs has no truth and no IoU: classes and their areas."""
    folder, files, images = photographs(tmp_path)
    address = write_report(folder, files, images, CLASSES, {"Labelled by": HOSTILE}, {"x": HOSTILE}).as_uri()
    with opened(browser, address) as page:
        assert names(page) == ["small", "summer/<i>large"] and HOSTILE in page.find_element(By.TAG_NAME, "dl").text
        assert [one.text for one in page.find_elements(By.CSS_SELECTOR, ".shows")] == ["cat 25 %", "cat 50 %"]
        choose(page, "class", "cat (2)")
        choose(page, "order", "area of the class, largest first")
        assert names(page) == ["summer/<i>large", "small"]
        page.find_element(By.CSS_SELECTOR, "#cards button").click()
        assert page.find_element(By.ID, "viewer-about").text == "shows: cat 50 %; grey"
        assert not Axe().run(page)["violations"]
