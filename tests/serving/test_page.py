"""The page at / in a real browser: threads that write at once, the same text, by keyboard, narrow and dark."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from time import sleep
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from pastalm import Engine
from pastalm.runtime.scheduler import Scheduler
from tests.serving.browser import chromium
from tests.serving.conftest import RunningServer, serving

pytestmark = pytest.mark.slow
PROMPT = "Spell each word, then spell it backwards: river, stone, maple, candle."
TIMEOUT = 120_000  # milliseconds, on a machine that does other things as well
# Notes the length of each chunk's text once a frame.
WATCH = """() => {
  window.frames_ = [];
  const look = () => {
    const chunks = [...document.querySelectorAll('#async .chunk')];
    window.frames_.push(Object.fromEntries(chunks.map((one) => [one.dataset.thread, one.textContent.length])));
    requestAnimationFrame(look);
  };
  look();
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes as long as a larger model's, so that there is something to see."""
    step = Scheduler.step

    def slower(scheduler: Scheduler) -> bool:
        sleep(0.03)
        return step(scheduler)

    monkeypatch.setattr(Scheduler, "step", slower)


@pytest.fixture
def page(browser: Browser, served: RunningServer) -> Iterator[Page]:
    with opened(browser, served) as page:
        yield page


class opened:
    """A page of a server in a context of its own; fails if it logs an error or asks anyone else."""

    def __init__(self, browser: Browser, server: RunningServer, **context: Any) -> None:
        self.origin = f"http://127.0.0.1:{server.port}/"
        self.context = browser.new_context(**context)
        self.context.set_default_timeout(TIMEOUT)
        self.errors: list[str] = []
        self.asked: list[str] = []

    def __enter__(self) -> Page:
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(self.origin)
        return page

    def __exit__(self, *_: object) -> None:
        self.context.close()
        assert self.errors == []
        assert [url for url in self.asked if not url.startswith((self.origin, "data:"))] == []


def ask(page: Page, prompt: str = PROMPT, max_tokens: int = 200) -> None:
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_label("Most tokens").fill(str(max_tokens))
    page.get_by_role("button", name="Ask").click()


def wait_for(page: Page, text: str) -> None:
    expect(page.get_by_role("status")).to_contain_text(text, timeout=TIMEOUT)


def text_of(page: Page, column: str) -> str:
    return page.locator(f"#{column} .answer").evaluate("element => element.textContent")


def test_two_chunks_grow_in_the_same_frame_and_the_text_is_the_answer(
    unhurried: None, page: Page, bundled: Engine
) -> None:
    page.evaluate(WATCH)
    ask(page)
    wait_for(page, "Done in")
    frames = page.evaluate("window.frames_")
    grown = [sum(now.get(chunk, 0) > length for chunk, length in before.items()) for before, now in pairwise(frames)]
    assert max(grown) >= 2, "no two chunks grew between two frames"
    expected = bundled.generate([{"role": "user", "content": PROMPT}], max_tokens=200)
    assert text_of(page, "async") == expected.text
    assert page.locator("#async .steps").text_content() == str(expected.metrics.critical_path)
    assert page.locator("#async .threads").text_content() == str(len(expected.threads))
    sequential = bundled.generate([{"role": "user", "content": PROMPT}], max_tokens=200, mode="sequential")
    assert text_of(page, "sequential") == sequential.text
    assert page.locator("#sequential .steps").text_content() == str(sequential.metrics.critical_path)
    assert float(page.locator("#async .seconds").text_content() or 0) > 0


def test_the_annotated_text_and_back(page: Page, bundled: Engine) -> None:
    ask(page)
    wait_for(page, "Done in")
    expected = bundled.generate([{"role": "user", "content": PROMPT}], max_tokens=200)
    page.get_by_label("View as annotated text").check()
    assert text_of(page, "async") == expected.annotated and "<promise" in expected.annotated
    page.get_by_label("View as annotated text").uncheck()
    assert text_of(page, "async") == expected.text
    assert page.locator("#async .chunk").count() == len(expected.threads) - 1


def test_the_timeline_has_a_bar_for_each_thread(page: Page) -> None:
    ask(page)
    wait_for(page, "Done in")
    threads = int(page.locator("#async .threads").text_content() or 0)
    rows = page.locator("#timeline g[data-thread]")
    assert rows.count() == threads > 2
    boxes = [rows.nth(number).locator("rect").first.bounding_box() for number in range(1, threads)]
    first, second = boxes[0], boxes[1]
    assert first and second and first["x"] < second["x"] < first["x"] + first["width"], "chunks did not overlap in time"
    assert (page.get_by_role("img").get_attribute("aria-label") or "").startswith(
        "Timeline of the threads in steps: main"
    )


def test_the_promise_bias_goes_to_the_server(page: Page) -> None:
    page.get_by_label("Promise bias").fill("-3")
    assert page.locator("#promise-bias-value").text_content() == "-3"
    with page.expect_request("**/chat/completions") as sent:
        ask(page, max_tokens=10)
    assert sent.value.post_data_json["promise_bias"] == -3
    wait_for(page, "Done in")


def test_by_keyboard_alone(unhurried: None, page: Page, served: RunningServer) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the answers"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "prompt"
    page.keyboard.press("Control+A")
    page.keyboard.type(PROMPT)
    page.keyboard.press("Control+Enter")
    wait_for(page, "Writing")
    page.keyboard.press("Escape")
    wait_for(page, "Stopped.")
    served.wait(served.is_clean)
    expect(page.get_by_role("button", name="Ask")).to_be_enabled()


def test_a_screen_reader_finds_its_way(page: Page) -> None:
    for role in ("banner", "main", "contentinfo", "form", "status"):
        assert page.get_by_role(role).count() == 1, role
    for name in ("In parallel", "One token after the other", "Timeline"):
        assert page.get_by_role("region", name=name, exact=True).count() == 1
        assert page.get_by_role("heading", name=name, exact=True).count() == 1
    unnamed = page.locator("input, textarea, button").evaluate_all(
        "all => all.filter((one) => !(one.labels?.length || one.textContent.trim())).map((one) => one.outerHTML)"
    )
    assert unnamed == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_narrow_screen(browser: Browser, served: RunningServer, scheme: str) -> None:
    size = {"width": 340, "height": 700}
    with opened(browser, served, viewport=size, color_scheme=scheme) as page:
        ask(page, max_tokens=80)
        wait_for(page, "Done in")
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        first, second = (page.locator(f"#{column}").bounding_box() for column in ("async", "sequential"))
        assert first and second and first["x"] == second["x"] and second["y"] >= first["y"] + first["height"]
        ground, ink = (
            page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color")
        )
        assert (brightness(ground) < brightness(ink)) == (scheme == "dark")
        assert abs(brightness(ground) - brightness(ink)) > 500


def brightness(color: str) -> int:
    return sum(int(part) for part in color.removeprefix("rgb(").removesuffix(")").split(","))


def test_the_description_of_the_api_is_drawn(page: Page, served: RunningServer) -> None:
    page.goto(f"http://127.0.0.1:{served.port}/docs")
    chat = page.get_by_role("region", name="POST /v1/chat/completions", exact=True)
    expect(chat).to_contain_text("Answer messages.")
    chat.get_by_role("link", name="ChatRequest").click()
    fields = page.get_by_role("region", name="ChatRequest", exact=True)
    expect(fields.get_by_role("row", name=re.compile("^promise_bias "))).to_contain_text("number or null from -3 to 3")
    expect(fields.get_by_role("row", name="messages (required)")).to_contain_text("list of ChatMessage")
    linked = page.locator("main a").evaluate_all("all => all.map((one) => one.getAttribute('href').slice(1))")
    assert len(linked) > 20 and all(page.evaluate("id => !!document.getElementById(id)", id) for id in set(linked))
    for role in ("banner", "main", "navigation", "status"):
        assert page.get_by_role(role).count() == 1, role
    page.set_viewport_size({"width": 340, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 340


@pytest.mark.parametrize(("name", "first"), [("bundled", "Write a short profile"), ("mine", "How can I improve")])
def test_examples_are_what_the_model_knows(name: str, first: str, browser: Browser, bundled: Engine) -> None:
    with serving(bundled, name=name) as running, opened(browser, running) as page:
        examples = page.get_by_role("group", name="Examples").get_by_role("button")
        expect(examples).to_have_count(3)
        expect(page.get_by_label("Prompt")).to_have_value(re.compile(f"^{first}"))
        examples.nth(1).click()
        expect(page.get_by_label("Prompt")).not_to_have_value(re.compile(f"^{first}"))


def test_a_refusal_is_the_server_s_sentence(page: Page) -> None:
    ask(page, "river " * 900)
    wait_for(page, "but the cache holds 700")
    expect(page.get_by_role("button", name="Ask")).to_be_enabled()


def test_a_server_with_a_key_asks_for_it(browser: Browser, bundled: Engine) -> None:
    with serving(bundled, api_key="open sesame", name="bundled") as running, opened(browser, running) as page:
        page.get_by_label("API key").fill("open sesame")
        ask(page, max_tokens=20)
        wait_for(page, "Done in")
        assert text_of(page, "async")
        expect(page.get_by_role("group", name="Examples").get_by_role("button")).to_have_count(3)
