"""The report as a reader meets it: opened from file:// in headless Chromium, with mouse and keyboard."""

import json
import shutil

import pytest
from test_report import write_run

from wsolfast.engine.report import gallery
from wsolfast.engine.report.report import write_report
from wsolfast.engine.run import run_records

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed; pip install 'wsolfast[dev]'")
axe = pytest.importorskip("axe_core_python.selenium", reason="axe is not installed; pip install 'wsolfast[dev]'")
By = pytest.importorskip("selenium.webdriver.common.by").By
Select = pytest.importorskip("selenium.webdriver.support.select").Select
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait
Keys = webdriver.Keys
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium and chromedriver on PATH; apt-get install chromium chromium-driver"
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three runs of rising reach; the second has no transferred threshold."""
    root = tmp_path_factory.mktemp("runs")
    return [
        write_run(root / "cam", "cam", reach=0.6, seed=1),
        write_run(root / "has", "has", reach=0.7, seed=2, transferred=False),
        write_run(root / "spa", "spa", seed=3),
    ]


@pytest.fixture(scope="module")
def address(runs):
    return write_report(runs, runs[0].parent / "index.html", images=18).as_uri()


@pytest.fixture
def page(browser, address):
    """The page, freshly opened at 1280 x 900 in the light scheme."""
    _resize(browser, 1280)
    _scheme(browser, "light")
    browser.get(address)
    return browser


def _resize(browser, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def _scheme(browser, name):
    # Reduced motion, because a click waits for no smooth scrolling.
    features = {"prefers-color-scheme": name, "prefers-reduced-motion": "reduce"}
    media = {"features": [{"name": key, "value": value} for key, value in features.items()]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


@pytest.fixture(scope="module")
def shown(runs):
    """Images of the gallery in its order: (image_id, class, reasons, errors per run, found per run)."""
    records = run_records.read_runs(runs)
    tables = [record.images for record in records]
    return [
        (
            key,
            records[-1].class_name(tables[0][key].label),
            reasons,
            [table[key].error for table in tables],
            [table[key].iou >= 0.5 for table in tables],
        )
        for key, reasons in gallery.choose_images(tables, 18).items()
    ]


def _visible(page):
    script = """return [...document.querySelectorAll(".shot")].filter((shot) => shot.offsetParent)
                .map((shot) => shot.querySelector("h3 small").title)"""
    ids = page.execute_script(script)
    assert page.find_element(By.ID, "count").text == f"{len(ids)} of 18 shown"
    assert page.find_element(By.ID, "empty").is_displayed() == (not ids)
    return ids


def _chip(page, key, value):
    chip = page.find_element(By.CSS_SELECTOR, f'[data-filter={key}] .chip[data-value="{value}"]')
    # Out from below the sections' links, which stay at the top.
    page.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", chip)
    chip.click()


def _choose(page, selector, label):
    Select(page.find_element(By.CSS_SELECTOR, selector)).select_by_visible_text(label)


def test_every_filter_and_their_combination_choose_the_right_images(page, shown):
    everything = [key for key, *_ in shown]
    assert _visible(page) == everything
    kinds = {kind for *_, errors, _ in shown for kind in errors}
    assert len(kinds) > 2
    for run, label in enumerate(["CAM", "HaS", "SPA"]):
        _choose(page, "#judged", label)
        for kind in kinds:
            _chip(page, "error", kind)
            assert _visible(page) == [key for key, _, _, errors, _ in shown if errors[run] == kind]
    _chip(page, "error", "")
    for reason in ("sample", "worst", "gain"):
        _chip(page, "reason", reason)
        assert _visible(page) == [key for key, _, reasons, *_ in shown if reason in reasons]
    _chip(page, "error", "misclassified")
    assert _visible(page) == [key for key, _, why, wrong, _ in shown if "gain" in why and wrong[2] == "misclassified"]
    page.find_element(By.ID, "clear").click()
    assert _visible(page) == everything
    name = shown[0][1]
    _choose(page, "select[data-filter=class]", name)
    assert _visible(page) == [key for key, own, *_ in shown if own == name]
    _chip(page, "reason", "sample")
    assert _visible(page) == [key for key, own, reasons, *_ in shown if own == name and "sample" in reasons]
    page.find_element(By.ID, "clear").click()
    assert page.find_element(By.CSS_SELECTOR, "[data-filter=reason] [aria-pressed=true]").text == "any"
    assert Select(page.find_element(By.CSS_SELECTOR, "select[data-filter=class]")).first_selected_option.text == "all"


def test_what_one_run_finds_and_another_misses(page, shown):
    _choose(page, "select[data-filter=found]", "SPA")
    _choose(page, "select[data-filter=missed]", "CAM")
    gained = [key for key, *_, found in shown if found[2] and not found[0]]
    assert gained
    assert _visible(page) == gained
    _choose(page, "select[data-filter=found]", "CAM")
    assert _visible(page) == []
    _choose(page, "select[data-filter=missed]", "SPA")
    assert _visible(page) == [key for key, *_, found in shown if found[0] and not found[2]]


def _position(page):
    return page.find_element(By.ID, "position").text


def _press(page, *keys):
    for key in keys:
        page.switch_to.active_element.send_keys(key)


def _wait_for_focus(page, element):
    # A dialog gives it back in an event of its own, after it has closed.
    WebDriverWait(page, 10).until(lambda page: page.switch_to.active_element == element)


def test_the_lightbox_is_worked_by_keys_and_gives_the_focus_back(page, shown):
    opener = page.find_elements(By.CSS_SELECTOR, ".shot [data-open]")[1]
    page.execute_script("arguments[0].focus()", opener)
    _press(page, Keys.ENTER)
    dialog = page.find_element(By.ID, "lightbox")
    assert dialog.is_displayed()
    assert _position(page) == "2 of 18"
    assert shown[1][1] in page.find_element(By.ID, "lightbox-title").text
    assert len(dialog.find_elements(By.CSS_SELECTOR, ".picture")) == 4
    for key, position in [
        (Keys.ARROW_RIGHT, 3), (Keys.END, 18), (Keys.ARROW_RIGHT, 1), (Keys.ARROW_LEFT, 18), (Keys.HOME, 1),
    ]:  # fmt: skip
        _press(page, key)
        assert _position(page) == f"{position} of 18"
    boxes, score_map = (dialog.find_element(By.CSS_SELECTOR, name) for name in (".boxes", ".map"))
    _press(page, "b")
    assert boxes.value_of_css_property("display") == "none"
    _press(page, "B")
    assert boxes.value_of_css_property("display") != "none"
    _press(page, "m")
    assert score_map.value_of_css_property("opacity") == "0"
    _press(page, "M")
    assert score_map.value_of_css_property("opacity") == "0.6"
    _press(page, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ESCAPE)
    assert not dialog.is_displayed()
    _wait_for_focus(page, page.find_elements(By.CSS_SELECTOR, ".shot [data-open]")[2])


def test_the_lightbox_stays_within_the_filter_or_the_worst_cases(page, shown):
    _chip(page, "reason", "worst")
    count = sum("worst" in reasons for _, _, reasons, *_ in shown)
    page.find_element(By.CSS_SELECTOR, ".shot:not([hidden]) [data-open]").click()
    assert _position(page) == f"1 of {count}"
    page.find_element(By.CSS_SELECTOR, '[data-step="1"]').click()
    assert _position(page) == f"2 of {count}"
    page.find_element(By.CSS_SELECTOR, '[data-step="close"]').click()
    _chip(page, "reason", "gain")
    worst = page.find_elements(By.CSS_SELECTOR, ".strip [data-open]")
    worst[0].click()
    assert _position(page) == f"1 of {count}"
    _press(page, Keys.ARROW_RIGHT)
    assert _position(page) == f"2 of {count}"
    _press(page, Keys.ESCAPE)
    _wait_for_focus(page, worst[1])


def test_the_sections_stay_in_reach_and_stand_in_their_order(page):
    sections = [section.get_attribute("id") for section in page.find_elements(By.CSS_SELECTOR, "section[id]")]
    assert sections == ["results", "thresholds", "training", "classes", "gallery", "worst", "reproduce"]
    links = page.find_elements(By.CSS_SELECTOR, "nav a")
    assert [link.get_attribute("href").partition("#")[2] for link in links] == ["top", *sections]
    page.execute_script("document.documentElement.style.scrollBehavior = 'auto'")
    for name, link in list(zip(sections, links[1:], strict=True))[::-1]:
        link.click()
        # Below the links, and marked among them.
        top = page.execute_script("return document.getElementById(arguments[0]).getBoundingClientRect().top", name)
        bar = page.execute_script("return document.querySelector('nav').getBoundingClientRect().bottom")
        assert name in ("worst", "reproduce") or bar <= top < bar + 60, name
        assert len(page.find_elements(By.CSS_SELECTOR, "nav a[aria-current]")) == 1
    links[0].click()
    assert page.execute_script("return scrollY") == 0


def test_axes_carry_their_titles(page):
    for chart in page.find_elements(By.CSS_SELECTOR, ".chart svg"):
        texts = [text.text for text in chart.find_elements(By.CSS_SELECTOR, "text")]
        assert {"threshold", "step"} & set(texts)
        upright = [text for text in chart.find_elements(By.CSS_SELECTOR, "text[transform*='rotate(-90)']")]
        (title,) = upright
        box, frame = title.rect, chart.rect
        assert box["height"] > box["width"]
        assert frame["x"] <= box["x"] < frame["x"] + 20


def test_a_table_that_goes_on_shows_it(page):
    shade = "return document.querySelector('.tall').style.boxShadow"
    page.execute_script("const box = document.querySelector('.tall'); box.style.maxHeight = '90px'; box.scrollTop = 0")
    page.execute_script("dispatchEvent(new Event('resize'))")
    assert "inset 0 -22px" in page.execute_script(shade)
    assert "inset 0 22px" not in page.execute_script(shade)
    page.execute_script("const box = document.querySelector('.tall'); box.scrollTop = box.scrollHeight")
    WebDriverWait(page, 5).until(lambda page: "inset 0 22px" in page.execute_script(shade))
    assert "inset 0 -22px" not in page.execute_script(shade)


def test_the_class_table_is_sorted_by_click_and_by_keyboard(page):
    heads = page.find_elements(By.CSS_SELECTOR, ".sortable th[scope=col]")
    names = [head.text for head in heads]
    assert names[2:] == [
        "CAM box",
        "CAM class",
        "HaS box",
        "HaS − CAM",
        "HaS class",
        "SPA box",
        "SPA − CAM",
        "SPA class",
    ]

    def column(number):
        script = (
            "return [...document.querySelectorAll('.sortable tbody tr')].map(r => r.cells[arguments[0]].textContent)"
        )
        return page.execute_script(script, number)

    numbers = [[float(text.replace("−", "-")) for text in column(k)] for k in (2, 7, 8)]
    for cam, spa, gain in zip(*numbers, strict=True):
        assert gain == pytest.approx(spa - cam, abs=0.11)  # three numbers, each rounded to a tenth
    # A column with numbers of both signs, where order as text is not that of the numbers.
    page.execute_script(
        "['+5.0', '−20.0', '–', '−3.0'].forEach((text, i) =>"
        " document.querySelectorAll('.sortable tbody tr')[i].cells[8].textContent = text)"
    )
    heads[8].find_element(By.TAG_NAME, "button").click()
    assert column(8) == ["+5.0", "−3.0", "−20.0", "–"]
    assert heads[8].get_attribute("aria-sort") == "descending"
    _press(page, Keys.ENTER)
    assert column(8) == ["−20.0", "−3.0", "+5.0", "–"]
    assert heads[8].get_attribute("aria-sort") == "ascending"
    page.execute_script("arguments[0].focus()", heads[0].find_element(By.TAG_NAME, "button"))
    _press(page, Keys.SPACE)
    assert column(0) == sorted(column(0))
    assert [head.get_attribute("aria-sort") for head in heads] == ["ascending"] + [None] * 9


def test_every_curve_shows_its_oracle_and_its_transferred_threshold(page, runs):
    charts = page.find_elements(By.CSS_SELECTOR, "#thresholds svg")
    assert len(charts) == 3
    for color, run in enumerate(runs):
        results = json.loads((run / "eval/test/results.json").read_text())
        curves = json.loads((run / "eval/test/curves.json").read_text())
        for chart, key in zip(charts, ("iou30", "iou50", "iou70"), strict=True):
            (curve,) = chart.find_elements(By.CSS_SELECTOR, f"polyline.s{color}")
            (oracle,) = chart.find_elements(By.CSS_SELECTOR, f"circle.dot.s{color}")
            top = max(curves[key])
            assert f"{top:.1f} % at the oracle threshold" in oracle.find_element(By.TAG_NAME, "title").get_attribute(
                "textContent"
            )
            points = [point.split(",") for point in curve.get_attribute("points").split()]
            highest = min(float(y) for _, y in points)
            assert float(oracle.get_attribute("cy")) == pytest.approx(highest, abs=0.1)
            chosen = chart.find_elements(By.CSS_SELECTOR, f"path.dot.s{color}")
            assert len(chosen) == ("transferred_thresholds" in results)
            for mark in chosen:
                says = mark.find_element(By.TAG_NAME, "title").get_attribute("textContent")
                assert f"the transferred threshold, {results['transferred_thresholds'][key]:.2f}" in says
                assert mark.is_displayed()


def test_the_page_asks_the_network_for_nothing_and_reports_no_error(page):
    page.get_log("performance")
    page.get_log("browser")
    page.refresh()
    page.find_element(By.CSS_SELECTOR, ".shot [data-open]").click()
    _press(page, Keys.ARROW_RIGHT, Keys.ESCAPE)
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert any(url.startswith("file:") for url in asked)
    assert {url.split(":")[0] for url in asked} <= {"file", "data"}
    assert sum(url.startswith("file:") for url in asked) == 1
    assert page.get_log("browser") == []


@pytest.mark.parametrize("width", [400, 768])
def test_a_narrow_window_needs_no_sideways_scrolling(page, width):
    _resize(page, width)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    opener = page.find_element(By.CSS_SELECTOR, ".shot [data-open]")
    assert min(cell.size["width"] for cell in opener.find_elements(By.CSS_SELECTOR, ".picture")) >= 90
    opener.click()
    dialog = page.find_element(By.ID, "lightbox")
    assert page.execute_script("return arguments[0].scrollWidth - arguments[0].clientWidth", dialog) == 0
    assert dialog.find_element(By.CSS_SELECTOR, ".picture").size["width"] >= 250


# axe judges text in HTML; that of the charts is judged by the same formula (WCAG 2.1, 1.4.3).
CHART_CONTRAST = """
const light = (color) => color.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
  .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const paper = light(getComputedStyle(document.body).backgroundColor);
return [...document.querySelectorAll(".chart text")].map((text) => {
  const ink = light(getComputedStyle(text).fill);
  return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
});
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_names_headings_and_contrast_are_accessible(page, scheme):
    _scheme(page, scheme)
    paper = page.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
    assert ("252" in paper) == (scheme == "light")
    for details in page.find_elements(By.TAG_NAME, "details"):
        page.execute_script("arguments[0].open = true", details)
    _judge(page)
    ratios = page.execute_script(CHART_CONTRAST)
    assert len(ratios) > 30
    assert min(ratios) >= 4.5
    page.find_element(By.CSS_SELECTOR, ".shot [data-open]").click()
    _judge(page)


def _judge(page):
    result = axe.Axe().run(page)
    broken = [(rule["id"], node["html"][:200]) for rule in result["violations"] for node in rule["nodes"][:3]]
    assert broken == []
    passed = {rule["id"] for rule in result["passes"]}
    assert {"button-name", "color-contrast", "svg-img-alt", "heading-order"} <= passed
