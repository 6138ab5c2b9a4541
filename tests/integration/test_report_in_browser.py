"""The report in a real browser: no error, no request, every picture shown, on screens of all sizes, by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import ftkit
from tests.browser import Browser, started
from tests.conftest import MakeFolder, typed
from tests.planted_errors import write_planted
from tests.runs import plan

pytestmark = pytest.mark.long

CLASSES = {"ants": 5, "bees with a very long name that would not fit on a phone": 4, "cicadas": 3}
WIDTHS = (1280, 390, 360)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with started(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder, browser: Browser) -> Path:
    root = tmp_path_factory.mktemp("data")
    data = image_folder(root / "images", {"train": CLASSES, "val": CLASSES}, (300, 200))
    first, *_, last = sorted((data / "val").glob("*/*"))
    content = first.read_bytes()
    first.write_bytes(last.read_bytes())
    last.write_bytes(content)
    settings = {"backbone": "lenet", "strategy": "gradual", "weights": "default", "epochs": 2, "report": True}
    return ftkit.train(plan(data, root / "runs", name="run", **settings)).run.report


def shown_pictures(browser: Browser, page: Path, width: int, dark: bool = False) -> int:
    """Open a page, check that it is shown whole, and return the number of its pictures."""
    browser.open(page, width, dark=dark)
    pictures = browser.run("Promise.all([...document.images].map(i => i.decode())).then(() => document.images.length)")
    # Folded pictures have no size on the screen.
    seen = (
        "[...document.images].every(i => i.naturalWidth > 0 && i.alt && (i.clientWidth > 40 || i.closest('details')))"
    )
    assert browser.run(seen)
    assert browser.run("document.documentElement.scrollWidth") <= width, "no horizontal scroll"
    assert browser.requests() == [page.absolute().as_uri()]
    assert browser.problems() == []
    return int(pictures)


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_planted(tmp_path_factory.mktemp("planted"))
    flags = ("--backbone", "lenet", "--device", "cpu", "--workers", "0", "--to", str(folder / "found"))
    done = typed("data", "audit", str(folder / "digits.csv"), *flags)
    assert done.returncode == 0, done.stderr
    return folder / "found" / "gallery.html"


@pytest.mark.parametrize("width", WIDTHS)
def test_several_labels_per_image(width: int, browser: Browser, digits_run: Path) -> None:
    assert shown_pictures(browser, digits_run / "report.html", width) > 10


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_of_an_audit(width: int, browser: Browser, audit: Path) -> None:
    assert shown_pictures(browser, audit, width) > 10


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_is_shown_whole(width: int, dark: bool, browser: Browser, report: Path, tmp_path: Path) -> None:
    assert shown_pictures(browser, report, width, dark) >= sum(CLASSES.values())
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(18, 21, 26)" if dark else "rgb(246, 247, 249)")
    browser.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 20_000


def test_a_number_of_the_confusion_matrix_opens_its_pictures_by_keyboard(browser: Browser, report: Path) -> None:
    browser.open(report, 1280)
    browser.run("document.querySelector('.confusion td.wrong a').focus()")
    wanted = browser.run("Number(document.activeElement.querySelector('data').value)")
    browser.press("Enter", 13)
    assert browser.run("document.querySelector('dialog').open")
    assert browser.run("document.querySelectorAll('dialog figure img').length") == wanted
    title = browser.run("document.querySelector('dialog h3').textContent")
    assert browser.run("[...document.querySelectorAll('dialog .label')].every(l => l.textContent)")
    assert title.startswith(f"{wanted} image")
    assert " predicted as " in title
    browser.press("Escape", 27)
    assert not browser.run("document.querySelector('dialog').open")
    assert browser.problems() == []


def test_a_heading_sorts_its_table(browser: Browser, report: Path) -> None:
    browser.open(report, 1280)
    images = "[...document.querySelectorAll('#classes tbody tr')].map(r => Number(r.children[1].textContent))"
    assert browser.run(images) == [5, 4, 3]
    browser.run("document.querySelectorAll('#classes th button')[1].focus()")
    browser.press("Enter", 13)
    assert browser.run(images) == [3, 4, 5]
    assert browser.run("document.querySelector('#classes th[aria-sort]').ariaSort") == "ascending"
    browser.press("Enter", 13)
    assert browser.run(images) == [5, 4, 3]


def test_parts_have_names_for_screen_readers(browser: Browser, report: Path) -> None:
    browser.open(report, 1280)
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    nodes = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in tree if not n.get("ignored")]
    unnamed = [role for role, name in nodes if role in ("image", "link", "button", "region", "navigation") and not name]
    assert unnamed == []
    assert ("heading", "Results") in nodes
    assert browser.run("document.querySelectorAll('h1').length") == 1
    assert browser.run("document.documentElement.lang") == "en"
    headings = browser.run("[...document.querySelectorAll('h1, main h2')].map(h => h.tagName).join(' ')")
    assert headings.startswith("H1 H2 H2")


def test_without_a_script_the_numbers_lead_to_the_pictures(browser: Browser, report: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(report, 1280)
        document = browser.call("DOM.getDocument")["root"]["nodeId"]
        found = browser.call("DOM.querySelectorAll", nodeId=document, selector=".confusion td.wrong a")["nodeIds"]
        attributes = browser.call("DOM.getAttributes", nodeId=found[0])["attributes"]
        assert dict(zip(attributes[::2], attributes[1::2], strict=True))["href"] == "#mistakes"
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
