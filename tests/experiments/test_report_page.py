"""The report in a real browser: opened, filtered, stepped through, slid; wide and narrow, light and dark, without a complaint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.bench_report import Bench
from experiments.bench_report import run as measure
from experiments.report import write_report
from experiments.report_page.browser import NARROW, WIDE, Browser, chromium
from pool import Problem
from tests.experiments.report_runs import BREAKOUT, SCRIPT, hostile, make_run, played
from tir_env.trajectory import Trajectory

COUNT = 60


@pytest.fixture(scope="module")
def trajectories() -> list[Trajectory]:
    found = played(COUNT)
    hostile(found)
    return found


@pytest.fixture(scope="module")
def page(trajectories: list[Trajectory], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report((make_run(tmp_path_factory.mktemp("report") / "<i>run", trajectories, suite=f'"{BREAKOUT}'),))


@pytest.fixture(scope="module")
def running() -> Iterator[Browser]:
    pytest.importorskip("selenium")
    try:
        with chromium() as browser:
            yield browser
    except Problem as problem:  # a user's machine need not have a browser
        pytest.skip(str(problem))


@pytest.fixture
def browser(running: Browser, page: Path) -> Browser:
    running.complaints()
    running.screen(WIDE)
    running.open(page)
    return running


def key(browser: Browser, selector: str, *keys: str) -> None:
    from selenium.webdriver.common.keys import Keys

    for name in keys:
        browser.one(selector).send_keys(getattr(Keys, name))


def step(browser: Browser) -> str:
    return browser.text(".strip [aria-current] .name")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_it_opens_without_complaint_overflow_or_shift(browser: Browser, page: Path, size: tuple[int, int], dark: bool) -> None:
    browser.screen(size, dark)
    browser.open(page)
    assert browser.js("return document.documentElement.dataset.ready") is not None
    assert browser.js("return document.documentElement.scrollWidth <= innerWidth")
    watch = "new PerformanceObserver(l => l.getEntries().forEach(e => window.shift += e.value))"
    browser.js(f"window.shift = 0; {watch}.observe({{type: 'layout-shift', buffered: true}})")
    browser.js("scrollTo(0, document.body.scrollHeight)")
    browser.driver.execute_async_script("setTimeout(arguments[0], 300)")
    assert browser.js("return window.shift") < 0.01
    light = browser.js("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
    assert (light < 60) == dark
    assert browser.complaints() == []


def test_headings_break_between_words_alone(browser: Browser) -> None:
    browser.screen(NARROW)
    browser.js("document.querySelectorAll('details').forEach(d => d.open = true)")
    texts = "[...document.querySelectorAll('.heat thead span')].flatMap(s => [...s.childNodes].filter(n => n.nodeType === 3))"
    lines = (
        "(n, m) => { const r = document.createRange(); r.setStart(n, m.index); r.setEnd(n, m.index + m[0].length);"
        " return r.getClientRects().length }"
    )
    words = f"{texts}.flatMap(n => [...n.data.matchAll(/\\S+/g)].map(m => ({lines})(n, m)))"
    assert set(browser.js(f"return {words}")) == {1}


def test_nothing_that_a_run_says_is_taken_for_html(browser: Browser) -> None:
    assert browser.js("return window.harm") is None
    assert len(browser.all("script")) == 3
    assert not browser.all("img[src=x]")
    assert browser.text(".viewer h3") == SCRIPT
    browser.one(".strip button:nth-child(2)").click()
    assert browser.text(".details pre") == BREAKOUT
    assert BREAKOUT in browser.text(".bars")
    browser.choose("case", BREAKOUT)
    assert browser.text("#count") == f"1 of {COUNT}"
    assert browser.text("header.top h1") == "<i>run"
    assert browser.js("return window.harm") is None


def test_every_picture_says_what_it_shows(browser: Browser) -> None:
    assert len(browser.all("img")) > 10
    assert browser.js("return [...document.images].every(i => i.alt && i.hasAttribute('width') && i.hasAttribute('height'))")
    assert browser.js(
        "return [...document.querySelectorAll('svg:not([aria-hidden])')].every(s => s.getAttribute('role') === 'img' && s.ariaLabel)"
    )
    assert browser.js("return [...document.querySelectorAll('input, select')].every(e => e.labels.length || e.ariaLabel)")
    decode = "Promise.all([...document.images].map(i => i.decode())).then(() => arguments[0]([]), e => arguments[0](String(e)))"
    assert browser.driver.execute_async_script(decode) == []
    assert browser.js("return [...document.images].every(i => [8, 32, 128].includes(i.naturalWidth))")


def test_filters_show_what_fits(browser: Browser, trajectories: list[Trajectory]) -> None:
    assert browser.text("#count") == str(COUNT)
    failed = [t for t in trajectories if t.failures]
    browser.choose("show", "failed")
    assert browser.text("#count") == f"{len(failed)} of {COUNT}"
    browser.choose("tool", "denoise/nan")
    both = [t for t in failed if "denoise/nan" in t.tool_names]
    assert 0 < len(both) < len(failed)
    assert browser.text("#count") == f"{len(both)} of {COUNT}"
    browser.one("#filters button[type=reset]").click()
    browser.driver.execute_async_script("setTimeout(arguments[0], 50)")
    assert browser.text("#count") == str(COUNT)
    browser.one("#filters input[name=text]").send_keys("no such picture")
    assert browser.text("#count") == f"0 of {COUNT}"
    assert "Nothing fits" in browser.text("#viewer")


def test_the_worst_gain_comes_first(browser: Browser, trajectories: list[Trajectory]) -> None:
    key(browser, "#list", "END")
    browser.choose("metric", "ssim")
    assert browser.text("#row-59 .what b") == trajectories[59].start.image, "in the order of play a metric moves nobody"
    browser.choose("order", "worst")
    gains = sorted(t.gains()["ssim"] for t in trajectories if "ssim" in t.gains())
    assert browser.js("return document.querySelector('#row-0').ariaSelected") == "true"
    shown = browser.text("#row-0 .gain").split()[0].replace("−", "-")
    assert float(shown) == pytest.approx(gains[0], abs=6e-4)
    key(browser, "#list", "ARROW_DOWN")
    before = browser.text(".viewer header")
    browser.choose("show", "worse")
    assert browser.text(".viewer header") == before, "a filter lets the choice stand"
    browser.choose("metric", "psnr")
    assert browser.js("return document.querySelector('#row-0').ariaSelected") == "true"


def test_the_keyboard_goes_through_trajectories_and_steps(browser: Browser, trajectories: list[Trajectory]) -> None:
    key(browser, "#list", "HOME")
    count = len(trajectories[0].steps)
    assert browser.js("return document.activeElement.id") == "list"
    assert browser.js("return getComputedStyle(document.activeElement).outlineStyle") == "solid", "the focus can be seen"
    assert step(browser).startswith(f"{count}.") or step(browser) == "stop"
    key(browser, "#list", *["ARROW_LEFT"] * count)
    assert step(browser) == "input"
    key(browser, "#list", "ARROW_RIGHT")
    assert step(browser) in (f"1. {trajectories[0].steps[0].tool}", "stop")
    key(browser, "#list", "ARROW_DOWN")
    assert browser.js("return document.querySelector('#list').getAttribute('aria-activedescendant')") == "row-1"
    assert trajectories[1].start.image in browser.text(".viewer h3")
    key(browser, "#list", "END")
    assert browser.text("#row-59 .what b") == trajectories[59].start.image
    browser.one(".strip button").click()
    key(browser, ".strip button[aria-current]", "ARROW_RIGHT")
    assert browser.js("return document.activeElement === document.querySelector('.strip [aria-current]')")


def test_only_rows_in_sight_exist(browser: Browser) -> None:
    assert 10 <= len(browser.all("[role=option]")) < 30
    browser.js("document.querySelector('#list').scrollTop = 1e6")
    browser.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    assert browser.all(f"#row-{COUNT - 1}")
    assert not browser.all("#row-0")
    assert len(browser.all("[role=option]")) < 30


def test_the_slider_divides_two_pictures(browser: Browser) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    clip = "return getComputedStyle(document.querySelector('.stage .before')).clipPath"
    assert "50%" in browser.js(clip)
    key(browser, "input[type=range]", "ARROW_RIGHT", "ARROW_RIGHT")
    assert "52%" in browser.js("return document.querySelector('.stage').style.cssText")
    stage = browser.one(".stage")
    browser.js("arguments[0].scrollIntoView({block: 'center'})", stage)
    ActionChains(browser.driver).move_to_element(stage).click_and_hold().move_by_offset(
        -stage.size["width"] // 4, 0
    ).release().perform()
    assert 24 <= float(browser.js("return document.querySelector('input[type=range]').value")) <= 26
    left, right = (
        image.get_attribute("src") for image in (browser.one(".stage .before"), browser.one(".stage img:first-child"))
    )
    assert left == browser.one(".strip button:first-child img").get_attribute("src"), "the input"
    assert right == browser.one(".strip [aria-current] img").get_attribute("src")


def test_tables_sort_and_hide_the_many_single_tools(browser: Browser) -> None:
    names = "return [...document.querySelectorAll('#rival-table tbody tr:not([hidden]) th')].map(e => e.textContent)"
    assert browser.js(names) == ["ppo clip_mlp", "random", "denoise/brighter"], "of single tools the best"
    browser.one("#singles").click()
    assert len(browser.js(names)) == 5
    head = "#rival-table button[aria-label='psnr gain']"
    browser.one(head).click()
    assert browser.js(f"return document.querySelector(\"{head}\").closest('th').ariaSort") == "descending"
    assert browser.js(names)[-1] == "random"
    browser.one(head).click()
    assert browser.js(names)[0] == "random"


def test_curves_say_their_values(browser: Browser) -> None:
    key(browser, "svg.chart", "END", "ARROW_LEFT")
    assert browser.text("figure .read") == "29: 0.9667"
    assert browser.js("return document.querySelector('svg.chart .cursor').getAttribute('x1')") > "0"
    chart = "document.querySelectorAll('svg.chart')[1]"
    for event in ("pointerdown", "pointerup", "pointerleave"):
        browser.js(f"{chart}.dispatchEvent(new PointerEvent('{event}', {{pointerType: 'touch', clientX: 0}}))")
    assert browser.js(f"return {chart}.parentElement.querySelector('output').textContent").startswith("1: "), (
        "it stays after a tap"
    )


def test_several_runs_stand_side_by_side(running: Browser, tmp_path: Path, page: Path) -> None:
    other = make_run(tmp_path / "other", played(12, "dark+noise", seed=1), iterations=99)
    log = other / "log.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:20]))
    running.complaints()
    running.open(write_report((page.parent, other), tmp_path / "both.html"))
    assert running.complaints() == []
    assert running.text("#count") == str(COUNT + 12)
    running.choose("run", "1")
    assert running.text("#count") == f"12 of {COUNT + 12}"
    assert "99" in running.text(".plain")
    assert len(running.all("svg.chart:first-of-type path.line")) >= 2
    running.screen(NARROW)
    weights = "svg.chart[aria-label^=weights]"
    key(running, weights, "END")
    assert running.text(f"{weights} ~ .read").endswith("other: psnr – · other: ssim –"), "the run that ended earlier"
    assert running.js(
        f"const e = document.querySelector('{weights} ~ .read'); return e.scrollWidth <= e.clientWidth && e.clientHeight > 30"
    )
    running.js("document.querySelector('.sortable').parentElement.scrollLeft = 200")
    first = "[...document.querySelectorAll('#rival-table tr:not([hidden]) > :first-child')]"
    left = "e => Math.round(e.getBoundingClientRect().left - e.closest('.scroll').getBoundingClientRect().left)"
    assert set(running.js(f"return {first}.map({left})")) <= {0, 1}
    shutil.rmtree(other)


def test_bench_report_measures_in_the_browser(running: Browser, tmp_path: Path) -> None:
    measure(Bench(trajectories=(3,), json=tmp_path / "report.json"))
    figures = json.loads((tmp_path / "report.json").read_text())["3"]
    assert 0.05 < figures["megabytes"] < 1
    assert figures["load wide"] > 0
    assert figures["sort"] > 0
    assert figures["complaints"] == []
