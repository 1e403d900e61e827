"""The page in a real browser: Debian's Chromium, headless, with and without its scripts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from integration.cli_run import CliRun
from playwright.sync_api import Browser, Page, sync_playwright
from unit.report.judged import EVERYTHING, FINDING_ID, NIGHTS
from unit.report.placed import QUICKSTART

from qemu_diff.model import CampaignResult
from qemu_diff.report.html import html

pytestmark = pytest.mark.integration

PHONE = {"width": 360, "height": 780}
READABLE = 4.5
"""Contrast of text (WCAG 2.1, 1.4.3)."""

# Every verdict, and pictures.
RESULT = replace(
    EVERYTHING,
    cells=(*EVERYTHING.cells, *QUICKSTART.cells),
    pairs=(*EVERYTHING.pairs, *QUICKSTART.pairs),
)

VISIBLE = """() => [...document.querySelectorAll('a[href], button, input, summary, [tabindex]')]
    .filter(one => one.checkVisibility({visibilityProperty: true}))
    .map((one, number) => one.dataset.seen = String(number))"""

FOCUSED = """() => {
    const one = document.activeElement, style = getComputedStyle(one);
    const box = one.getBoundingClientRect();
    return {seen: one.dataset.seen || null, tag: one.tagName,
            marked: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2
                    || one.tagName === 'rect' && parseFloat(style.strokeWidth) >= 2,
            inside: box.bottom > 0 && box.top < innerHeight
                    && box.right > 0 && box.left < innerWidth};
}"""

CONTRASTS = """() => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const rgba = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
    const light = colour => { const [r, g, b] = rgba(colour).slice(0, 3).map(one => {
        one /= 255; return one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4; });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    const behind = one => { for (; one; one = one.parentElement) {
        const colour = getComputedStyle(one).backgroundColor;
        if (rgba(colour)[3] === 255) return colour; } return 'white'; };
    document.querySelectorAll('details').forEach(one => { one.open = true; });
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const one = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || !one.checkVisibility()
            || one.closest('script, style')) continue;
        const drawn = one.closest('svg'), style = getComputedStyle(one);
        const lights = [light(drawn ? style.fill : style.color), light(behind(drawn || one))];
        const contrast = (Math.max(...lights) + 0.05) / (Math.min(...lights) + 0.05);
        found.push([walker.currentNode.data.trim().slice(0, 40), contrast]);
    }
    return found;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    assert program, "chromium is missing: scripts/setup installs it"
    with sync_playwright() as playwright:
        # A container's root has no sandbox.
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("page") / "report.html"
    written.write_text(html(RESULT, (FINDING_ID,), NIGHTS))
    return written


@pytest.fixture
def page(browser: Browser, path: Path) -> Iterator[Page]:
    with Opened(browser, path) as one:
        yield one


class Opened:
    """A page on which nothing goes wrong as long as it is open."""

    def __init__(self, browser: Browser, path: Path, **how: Any) -> None:
        self._context = browser.new_context(**how)
        self._path = path
        self._troubles: list[str] = []

    def __enter__(self) -> Page:
        page = self._context.new_page()
        page.on("console", lambda message: self._troubles.append(message.text))
        page.on("pageerror", lambda error: self._troubles.append(str(error)))
        page.on("request", lambda one: self._troubles.append(one.url) if _is_other(one.url) else 0)
        page.goto(self._path.as_uri())
        return page

    def __exit__(self, *_: object) -> None:
        self._context.close()
        assert self._troubles == []


def _is_other(url: str) -> bool:
    return not url.startswith("file:") or not url.partition("#")[0].endswith(".html")


def shown_cells(page: Page) -> list[str]:
    return page.locator("[data-cell]:visible > summary > strong").all_inner_texts()


def test_every_link_leads_to_what_it_names(page: Page) -> None:
    links = page.eval_on_selector_all("a[href]", "all => all.map(one => one.getAttribute('href'))")
    assert len(links) > 2 * len(RESULT.cells)
    assert all(link.startswith("#") for link in links)
    for link in dict.fromkeys(links):
        page.evaluate("link => document.querySelector(`a[href='${link}']`).click()", link)
        target = page.locator(link)
        assert target.count() == 1, link
        assert target.is_visible(), link
        if link[1:].removeprefix("c").isdigit():
            assert target.locator("dl").is_visible(), link


CHOICES = {
    **{"unexpected": 5, "pass": 3, "fail": 3, "hang": 1, "kernel-oops": 1, "lost": 2, "skipped": 1},
    **{"patched": 3, "unpatched": 2, "regressing": 1, "k": 2, "broken": 1, "unbuilt": 1},
    "witness": 1,
}


def test_every_filter_leaves_what_it_says(page: Page) -> None:
    everything = shown_cells(page)
    buttons = page.locator("[data-choice]").all()
    assert {one.get_attribute("data-choice") for one in buttons} == CHOICES.keys()
    for button in buttons:
        number = CHOICES[button.get_attribute("data-choice") or ""]
        assert f"({number})" in button.inner_text()
        button.click()
        assert button.get_attribute("aria-pressed") == "true"
        assert len(shown_cells(page)) == number < len(everything)
        assert page.locator("#shown").inner_text() == f"{number} of {len(everything)} cells"
        assert page.locator("#grid td a:visible").count() == number
        button.click()
    assert shown_cells(page) == everything


def test_filters_work_together_and_with_text(page: Page) -> None:
    page.locator("[data-choice=patched]").click()
    page.locator("[data-choice=unpatched]").click()
    page.locator("[data-choice=fail]").click()
    assert {name.partition(".")[0] for name in shown_cells(page)} == {"unpatched"}
    page.locator("#text").fill("FIRST_HVC")
    assert shown_cells(page) == ["unpatched.hvc.vhe.quiet"]
    assert page.locator("#windows tr[data-part]:visible").count() == 0
    assert page.locator("#findings details:visible").count() == 1
    page.locator("#text").fill("no such text")
    assert page.locator("#shown").inner_text() == f"0 of {len(RESULT.cells)} cells"
    # A link to what is filtered out shows it.
    page.locator(".surprises a").first.click()
    page.wait_for_function("document.activeElement.tagName === 'SUMMARY'")
    assert len(shown_cells(page)) == len(RESULT.cells)
    page.locator("#text").fill("no such text")
    page.locator("#all").click()
    assert len(shown_cells(page)) == len(RESULT.cells)


def test_everything_is_reached_by_tab_and_seen_there(page: Page) -> None:
    wanted = page.evaluate(VISIBLE)
    reached = []
    for _ in range(len(wanted) + 5):
        page.keyboard.press("Tab")
        focused = page.evaluate(FOCUSED)
        if focused["tag"] == "BODY":
            break
        assert focused["marked"], focused
        assert focused["inside"], focused
        reached.append(focused["seen"])
    assert reached == sorted(wanted, key=int)


def test_the_keyboard_works_the_filters(page: Page) -> None:
    page.locator("[data-choice=hang]").focus()
    page.keyboard.press("Space")
    assert len(shown_cells(page)) == 1
    page.locator("#text").focus()
    page.keyboard.press("Enter")
    assert len(shown_cells(page)) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_no_page_sideways(browser: Browser, path: Path, scheme: str) -> None:
    with Opened(browser, path, viewport=PHONE, color_scheme=scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        assert page.evaluate("document.querySelector('.grid').scrollWidth") > PHONE["width"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_told_from_their_ground(browser: Browser, path: Path, scheme: str) -> None:
    with Opened(browser, path, color_scheme=scheme) as page:
        contrasts = page.evaluate(CONTRASTS)
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert len(contrasts) > 100
    assert [one for one in contrasts if one[1] < READABLE] == []
    assert (dark == "rgb(255, 255, 255)") is (scheme == "light")


def test_without_scripts_all_is_there(browser: Browser, path: Path) -> None:
    with Opened(browser, path, java_script_enabled=False) as page:
        assert len(shown_cells(page)) == len(RESULT.cells)
        assert not page.locator("#filters").is_visible()
        page.locator("#grid td a").first.click()
        assert page.locator("#c1").is_visible()


def test_real_results_and_none_at_all(browser: Browser, quickstart: CliRun, tmp_path: Path) -> None:
    with Opened(browser, quickstart.results / "report.html") as page:
        assert len(shown_cells(page)) == 6
        assert page.locator("#pictures svg").first.is_visible()
    empty = tmp_path / "empty.html"
    empty.write_text(html(CampaignResult("empty", (), (), complete=False)))
    with Opened(browser, empty) as page:
        assert shown_cells(page) == []
