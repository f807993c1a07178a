"""The report's page as it is read: in Chromium, from the disk, with texts that would like to be more than text."""

import itertools
import json
import os
import time
from pathlib import Path

import pytest
import written_runs

from omar_jax import report_page

selenium = pytest.importorskip("selenium", reason="selenium drives the browser: pip install -e '.[dev]'")

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM.exists() and DRIVER.exists()), reason="needs Chromium: apt-get install chromium chromium-driver"
)
QUIET = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">",
    "</script><h1>\"quotes\" & 'more' &lt;b&gt; `ticks`</h1>",
    "**bold** [link](javascript:alert(1)) # heading",
    "\u202eright to left\u202c שלום עולם \u2028 next \u2029 line <!-- --> ]]>",
)
PHONE, DESKTOP = (360, 740), (1400, 900)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The address of a report: iteration 0 has games 10 to 13, iteration 5 games 20 to 23; 20 is hostile."""
    folder = tmp_path_factory.mktemp("run")
    everyone = {(step, seat): HOSTILE[(step + seat) % 4] for step in range(9) for seat in range(5)}
    games = {
        0: [written_runs.played(number) for number in range(10, 14)],
        5: [written_runs.played(20, everyone), *(written_runs.played(number) for number in range(21, 23))],
    }
    games[5].append(written_runs.played(23, kept=lambda step, seat: step > 1))
    workdir = written_runs.write(folder / "<b>run", games, 6)
    out = folder / "report.html"
    report_page.write(workdir, out, lambda line: None)
    return out.as_uri()


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in [*QUIET.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    started.get("about:blank")
    started.get_log("performance")  # what the browser's first tab asked for
    yield started
    started.quit()


@pytest.fixture
def quiet(driver):
    """The driver; afterwards nothing was asked of the network and nothing complained."""
    yield driver
    assert driver.title == "<b>run: omar_jax report"  # hostile texts would change it
    assert [entry["message"] for entry in driver.get_log("browser")] == []
    messages = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    asked = [of["params"]["request"]["url"] for of in messages if of["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert any(url.startswith("file:") for url in asked)


@pytest.fixture
def browser(quiet, page):
    """A desktop's window on the page."""
    return opened(quiet, page)


def opened(driver, page, fragment="", size=DESKTOP):
    """Loads the page."""
    seen(driver, size, "light")
    driver.get("about:blank")  # or a new fragment would load nothing
    driver.get(page + fragment)
    # Some versions of the driver come back before the page's scripts have run.
    wait_for(lambda: driver.execute_script("return document.readyState + location.protocol") == "completefile:")
    return driver


def seen(driver, size, scheme):
    """Changes the window's size and what the reader prefers."""
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def go_to(driver, iteration, game):
    """As a link does."""
    driver.execute_script(f"location.hash = 'iteration={iteration}&game={game}'")
    wait_for(lambda: title(driver).startswith(f"Iteration {iteration}, game {game}"))


def one(driver, selector):
    return driver.find_element(By.CSS_SELECTOR, selector)


def texts(driver, selector):
    """Of all matches; also of those that lie out of sight."""
    return [found.get_property("textContent") for found in driver.find_elements(By.CSS_SELECTOR, selector)]


def wait_for(holds):
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


def listed(driver):
    """The games of the list, by number."""
    return [int(text.split("game ")[1][:2]) for text in texts(driver, "#list a span")]


def title(driver):
    return texts(driver, "#game-title")[0]


def said(driver):
    """The spoken texts, token by token, without what ends a turn."""
    lines = driver.find_elements(By.CSS_SELECTOR, "#story .said-text")
    return ["".join(texts(line, ".token:not(.control)")).strip() for line in lines]


def test_charts_are_drawn_when_they_come_near(browser):
    assert len(browser.find_elements(By.CSS_SELECTOR, "#curves .plot .main-svg")) > 0
    for plot in browser.find_elements(By.CSS_SELECTOR, ".plot"):
        browser.execute_script("arguments[0].scrollIntoView({behavior: 'instant', block: 'center'})", plot)
        wait_for(lambda plot=plot: plot.find_elements(By.CSS_SELECTOR, ".scatterlayer .trace"))
        assert "iteration 0 to 5" in plot.get_attribute("aria-label")
    assert len(browser.find_elements(By.CSS_SELECTOR, "#arena .plot .errorbar")) == 2
    assert len(browser.find_elements(By.CSS_SELECTOR, "#behaviour .plot .errorbar")) > 10


def test_a_legend_hides_its_curve(browser):
    figure = one(browser, "#curves figure")
    shown = len(figure.find_elements(By.CSS_SELECTOR, ".trace"))
    button = figure.find_element(By.CSS_SELECTOR, ".legend button")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    wait_for(lambda: len(figure.find_elements(By.CSS_SELECTOR, ".trace")) == shown - 1)


def test_tables_hold_the_arena(browser):
    assert texts(browser, "#arena tbody tr")[0].strip() == "werewolves50.0%25.0%+25.0+10.0 to +40.0"
    assert "−5.0" in texts(browser, "#arena tbody tr")[1]
    assert "perhaps by chance" in texts(browser, "h1")[0]


def test_the_fragment_says_which_game_is_open(browser, page):
    assert title(browser).startswith("Iteration 5, game 23")  # the last
    opened(browser, page, "#iteration=0&game=11")
    assert title(browser).startswith("Iteration 0, game 11")
    assert 0 <= one(browser, "#game").rect["y"] - browser.execute_script("return scrollY") < 200
    one(browser, "#next").click()
    wait_for(lambda: title(browser).startswith("Iteration 0, game 12"))
    assert browser.current_url.endswith("#iteration=0&game=12")
    one(browser, "body").send_keys("k")
    wait_for(lambda: title(browser).startswith("Iteration 0, game 11"))
    one(browser, "body").send_keys("jjj")
    wait_for(lambda: title(browser).startswith("Iteration 5, game 20"))
    assert one(browser, "#list [aria-current]").get_attribute("href") == browser.current_url
    one(browser, "#list a").click()
    wait_for(lambda: title(browser).startswith("Iteration 0, game 10"))
    assert not one(browser, "#previous").is_enabled()
    opened(browser, page, "#iteration=3&game=77")
    assert "Game 77 of iteration 3 is not on this page" in texts(browser, "#count")[0]


def test_the_story_is_the_games(browser):
    game = written_runs.played(23)
    assert said(browser) == [turn["text"] for turn in game["turns"]]
    roles = [f"{turn['role']}" for turn in game["turns"]]
    assert texts(browser, ".turn .who small:nth-of-type(1)") == roles
    marks = {
        role: mark.get_attribute("data-mark")
        for role, mark in zip(roles, browser.find_elements(By.CSS_SELECTOR, ".turn .team"), strict=True)
    }
    assert len({marks["werewolf"], marks["seer"]}) == 2  # not by colour alone
    assert texts(browser, ".told.secret")[0] == f"to Alice alone: {game['transcript'][1]['text']}"
    assert texts(browser, ".told")[-1].split("\n")[-1] == game["transcript"][-1]["text"].split("\n")[-1]
    winner = "village" if "village" in texts(browser, ".told")[-1].split("\n")[-1] else "werewolves"
    assert title(browser).endswith(f": {winner} won")
    assert len(texts(browser, "#roster li")) == 5


def shown_tip(driver):
    names, values = texts(driver, "#tip dt"), texts(driver, "#tip dd")
    assert one(driver, "#tip").is_displayed()
    return dict(zip(names, values, strict=True))


def check_tip(driver, turn, place):
    found = shown_tip(driver)
    assert float(found["log-probability"].replace("−", "-")) == pytest.approx(turn["log_probs"][place], abs=6e-4)
    for name, number in [
        ("value before it", turn["values"][place]),
        ("token advantage", turn["advantages"][place]),
        ("turn advantage", turn["turn_advantage"]),
    ]:
        assert float(found[name].replace("−", "-")) == pytest.approx(number, abs=6e-3), name


def test_tokens_tell_their_numbers(browser):
    go_to(browser, 0, 11)
    turns = written_runs.played(11)["turns"]
    number = next(n for n, turn in enumerate(turns) if len(turn["tokens"]) > 3)
    tokens = browser.find_elements(By.CSS_SELECTOR, f".token[data-turn='{number}']")
    assert not one(browser, "#tip").is_displayed()
    webdriver.ActionChains(browser).move_to_element(tokens[1]).perform()
    check_tip(browser, turns[number], 1)
    tokens[2].click()  # as a tap does
    check_tip(browser, turns[number], 2)
    one(browser, "body").send_keys(Keys.ESCAPE)
    assert not one(browser, "#tip").is_displayed()
    browser.execute_script("arguments[0].focus()", tokens[0])
    check_tip(browser, turns[number], 0)
    tokens[0].send_keys(Keys.ARROW_RIGHT)
    check_tip(browser, turns[number], 1)
    assert browser.switch_to.active_element == tokens[1]
    assert tokens[1].get_attribute("aria-describedby") == "tip"
    for token, advantage in zip(tokens, turns[number]["advantages"], strict=True):
        wanted, other = ("good", "bad") if advantage > 0 else ("bad", "good")
        assert wanted in token.get_attribute("class").split() and other not in token.get_attribute("class").split()
    strength = "return Number(arguments[0].style.getPropertyValue('--strength'))"
    strengths = [browser.execute_script(strength, token) for token in tokens]
    order = sorted(range(len(tokens)), key=lambda place: abs(turns[number]["advantages"][place]))
    assert [strengths[place] for place in order] == sorted(strengths)


def test_filtered_turns_are_marked_and_not_tinted(browser):
    first = browser.find_elements(By.CSS_SELECTOR, ".turn")[0]
    assert texts(first, ".marks .left-out") == ["filtered"]
    assert not first.find_elements(By.CSS_SELECTOR, ".token.good, .token.bad")
    webdriver.ActionChains(browser).move_to_element(first.find_element(By.CSS_SELECTOR, ".token")).perform()
    assert shown_tip(browser)["token advantage"] == "filtered: trains nothing"


def test_filters_narrow_the_list(browser):
    everything = [10, 11, 12, 13, 20, 21, 22, 23]
    assert listed(browser) == everything and texts(browser, "#count") == ["8 of 8 games"]
    winners = dict(zip(everything, texts(browser, "#list small"), strict=True))
    for winner in set(winners.values()):
        Select(one(browser, "#by-winner")).select_by_visible_text(winner)
        wait_for(lambda of=winner: listed(browser) == [game for game in everything if winners[game] == of])
        assert winner in title(browser)  # one of those is open
    Select(one(browser, "#by-winner")).select_by_index(0)
    Select(one(browser, "#by-iteration")).select_by_visible_text("5")
    wait_for(lambda: listed(browser) == [20, 21, 22, 23])
    one(browser, "#by-filtered").click()
    assert listed(browser) == [23] and texts(browser, "#count") == ["1 of 8 games"]
    Select(one(browser, "#by-role")).select_by_visible_text("seer")
    aside = ".turn.aside .who small:nth-of-type(1)"
    wait_for(lambda: set(texts(browser, aside)) == {"villager", "werewolf"})
    assert listed(browser) == [23]
    one(browser, "#by-text").send_keys("no such words")
    assert listed(browser) == [] and texts(browser, "#count") == ["0 of 8 games"]


def test_search_finds_words_and_shows_them(browser):
    one(browser, "#by-text").send_keys("HOLA")
    assert listed(browser) == []
    one(browser, "#by-text").clear()
    one(browser, "#by-text").send_keys("i am the SEER. bob")  # across tokens
    found = listed(browser)
    speech = written_runs.SPEECHES[0]
    wanted = [n for n in (10, 11, 12, 13, 21, 22, 23) if speech in {t["text"] for t in written_runs.played(n)["turns"]}]
    assert found == wanted and len(wanted) > 2
    assert all(speech[:10] in line for line in texts(browser, "#list .said"))
    marked = "return [...CSS.highlights.get('found')].map((range) => range.toString())"
    assert set(browser.execute_script(marked)) == {"I am the seer. Bob"}
    one(browser, "#by-text").send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.DELETE)
    assert len(listed(browser)) == 8


def test_hostile_texts_are_text(browser):
    go_to(browser, 5, 20)
    game = written_runs.played(20, {(s, p): HOSTILE[(s + p) % 4] for s in range(9) for p in range(5)})
    wanted = [turn["text"].strip() for turn in game["turns"]]
    assert said(browser) == wanted and set(HOSTILE) < set(wanted)
    assert browser.find_elements(By.CSS_SELECTOR, "#reader :is(script, img, h1, b, a[href^='javascript'])") == []
    assert len(browser.find_elements(By.CSS_SELECTOR, "script")) == 5  # ours: two of data, Plotly, charts, reader
    one(browser, "#by-text").send_keys("</script><h1>")
    assert listed(browser) == [20] and "</script><h1>" in texts(browser, "#list .said")[0]
    token = one(browser, ".turn .token")
    token.click()
    assert one(browser, "#tip").is_displayed()


def test_nothing_sticks_out(browser):
    for size, scheme in itertools.product((PHONE, (768, 1000), DESKTOP), ("light", "dark")):
        seen(browser, size, scheme)
        for iteration, game in ((0, 10), (5, 20)):
            go_to(browser, iteration, game)
            root = "document.documentElement"  # which is laid out again some time after the window has changed
            wait_for(lambda size=size: browser.execute_script("return innerWidth") == size[0])
            sticking_out = f"return {root}.scrollWidth - {root}.clientWidth"
            wait_for(lambda sticking_out=sticking_out: browser.execute_script(sticking_out) == 0)
        token = browser.find_elements(By.CSS_SELECTOR, ".turn .token")[-1]
        browser.execute_script("arguments[0].scrollIntoView({behavior: 'instant', block: 'end'})", token)
        browser.execute_script("arguments[0].focus({preventScroll: true})", token)
        wait_for(one(browser, "#tip").is_displayed)
        box = browser.execute_script("return arguments[0].getBoundingClientRect().toJSON()", one(browser, "#tip"))
        assert box["width"] > 0 and box["left"] >= 0 and box["right"] <= size[0]
        assert box["top"] >= 0 and box["bottom"] <= size[1]


CONTRAST = """
const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const onto = (colours) => {
  for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
  return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
};
const light = (rgb) => rgb.map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
return [...document.querySelectorAll(arguments[0])].filter((e) => e.textContent.trim()).map((element) => {
  const under = [];
  for (let e = element; e; e = e.parentElement) under.unshift(getComputedStyle(e).backgroundColor);
  const back = light(onto(under)), front = light(onto([...under, getComputedStyle(element).color]));
  return (Math.max(back, front) + 0.05) / (Math.min(back, front) + 0.05);
});
"""


TEXTS = (
    ".token",
    ".team",
    ".told",
    "small",
    ".lead",
    ".facts dt",
    "th",
    "td",
    "label",
    "#list a",
    "code",
    ".legend button",
)


def test_texts_have_contrast(browser):
    for scheme in ("light", "dark"):
        seen(browser, DESKTOP, scheme)
        for selector in TEXTS:
            found = browser.execute_script(CONTRAST, selector)
            assert found and min(found) >= 4.5, (scheme, selector)  # WCAG 2.2, 1.4.3


def test_every_control_has_a_name_and_every_part_a_landmark(browser):
    unnamed = """return [...document.querySelectorAll("input, select, button, nav, section, article, [role=img]")]
        .filter((e) => !(e.labels?.length || e.ariaLabel || e.getAttribute("aria-labelledby") || e.textContent.trim()))
        .map((e) => e.outerHTML)"""
    assert browser.execute_script(unnamed) == []
    for selector in ("html[lang]", "main", "header h1", "nav", "footer", "a.skip"):
        assert one(browser, selector)


def test_a_page_without_anything_opens(quiet, tmp_path):
    out = tmp_path / "report.html"
    report_page.write(written_runs.write(tmp_path / "<b>run", {}, 0, compared=False), out, lambda line: None)
    browser = opened(quiet, out.as_uri(), "", PHONE)
    assert len(texts(browser, ".missing code")) == 5
    assert os.fspath(tmp_path) in texts(browser, ".missing code")[0]


def test_turns_without_tokens_are_tinted_whole(quiet, tmp_path):
    games = [written_runs.played(1), written_runs.played(2)]
    for turn in games[0]["turns"]:
        del turn["turn_advantage"]
    workdir = written_runs.write(tmp_path / "<b>run", {0: games}, 1)
    config = json.loads((workdir / "config.json").read_text())
    config["model"]["source"] = "/nowhere"
    (workdir / "config.json").write_text(json.dumps(config))
    report_page.write(workdir, tmp_path / "report.html", lambda line: None)
    browser = opened(quiet, (tmp_path / "report.html").as_uri(), "#iteration=0&game=1")
    assert texts(browser, ".turn .token") == [turn["text"] for turn in games[0]["turns"]]
    assert browser.find_elements(By.CSS_SELECTOR, ".token.good") and browser.find_elements(
        By.CSS_SELECTOR, ".token.bad"
    )
    one(browser, ".turn .token").click()
    assert shown_tip(browser)["turn advantage"] == "not recorded"
