"""The page in a real browser, Debian's Chromium: what it looks like, who can read it, and that it asks for nothing.

Pictures are kept in build/screenshots, or where PYFLOWGUARD_SCREENSHOTS says.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pytest
from axe_playwright_python.sync_playwright import Axe
from engine.postgres import Connection
from page.conftest import write_page
from page.test_page import EVIL_TABLE, hostile  # noqa: F401  a fixture
from playwright.sync_api import Browser, Dialog, Page, sync_playwright
from servers import lacking

PICTURES = Path(os.environ.get("PYFLOWGUARD_SCREENSHOTS") or Path(__file__).parents[2] / "build" / "screenshots")

SIZES = {"desk": (1280, 900), "tablet": (768, 1024), "phone": (360, 740)}

Scheme: TypeAlias = Literal["light", "dark"]


@dataclass
class Opened:
    """A page that is open, and all that it said on the console and asked for."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def ask(self, script: str) -> Any:  # noqa: ANN401  what JavaScript gives
        """Give the value of an expression in the page."""
        return self.page.evaluate(script)

    def colours(self) -> tuple[str, str]:
        """Give the colours of text and paper."""
        text, paper = self.ask("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
        return text, paper


Open: TypeAlias = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Chromium; for this module alone, since its driver has an event loop that asyncio would stumble over."""
    program = shutil.which("chromium") or lacking("chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program)
        yield running
        running.close()


@pytest.fixture
def opened(browser: Browser) -> Open:
    """Open a file without a network, in a window of some size; all it says and asks for is written down."""

    @contextmanager
    def open_file(
        path: Path, size: str = "desk", scheme: Scheme = "light", *, offline: bool = True
    ) -> Iterator[Opened]:
        width, height = SIZES[size]
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, offline=offline)
        page = context.new_page()
        found = Opened(page)

        def dismiss(dialog: Dialog) -> None:
            found.said.append(f"dialog: {dialog.message}")
            dialog.dismiss()

        page.on("console", lambda message: found.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: found.said.append(f"error: {error}"))
        page.on("dialog", dismiss)
        page.on("request", lambda request: found.asked.append(request.url))
        page.goto(path.as_uri())
        try:
            yield found
        finally:
            context.close()

    return open_file


class Visitors(ThreadingHTTPServer):
    """A server on this machine that writes down what is asked for."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        super().__init__(("127.0.0.1", 0), _Note)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Note(BaseHTTPRequestHandler):
    server: Visitors

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  as above
        """Say nothing."""


@pytest.fixture
def visitors() -> Iterator[Visitors]:
    """Start such a server."""
    with Visitors() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("which", ["demo", "large"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_a_page_is_shown(opened: Open, pages: dict[str, Path], which: str, size: str, scheme: Scheme) -> None:
    """It says nothing on the console, asks for nothing, is no wider than the window, and everybody can read it."""
    with opened(pages[which], size, scheme) as shown:
        PICTURES.mkdir(parents=True, exist_ok=True)
        shown.page.screenshot(path=PICTURES / f"{which}-{size}-{scheme}.png", full_page=True)
        assert shown.ask("document.documentElement.scrollWidth") <= SIZES[size][0]
        charts = shown.page.locator("svg:visible")
        assert charts.count() == shown.page.locator("figure:visible").count() > 1
        for box in (chart.bounding_box() for chart in charts.all()):
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= SIZES[size][0]
        letters = shown.ask("""
            [...document.querySelectorAll('svg text')].filter(e => e.checkVisibility()).map(
                e => e.getBoundingClientRect().height)""")
        assert min(letters) >= 11, "letters of a chart that was made smaller"
        text, paper = shown.colours()
        assert (brightness(text) < brightness(paper)) == (scheme == "light")

        assert shown.said == []
        assert [address for address in shown.asked if address != "data:,"] == [pages[which].as_uri()]
        result = Axe().run(shown.page)
        assert result.violations_count == 0, result.generate_report()


def brightness(colour: str) -> int:
    return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))


@pytest.mark.parametrize("which", ["demo", "large"])
def test_a_page_is_printed(opened: Open, pages: dict[str, Path], which: str) -> None:
    """On white, also by who likes it dark; nothing is folded away but the long table behind a chart."""
    with opened(pages[which], "desk", "dark") as shown:
        shown.page.emulate_media(media="print", color_scheme="dark")
        assert shown.colours() == ("rgb(0, 0, 0)", "rgb(255, 255, 255)")
        assert shown.page.locator("nav:visible, summary:visible, .data:visible").count() == 0
        findings = shown.page.locator("#next li")
        assert findings.count() == shown.page.locator("#next li:visible").count() > 0
        clipped = (
            "[...document.querySelectorAll('.scroll')].filter(e => getComputedStyle(e).overflowX != 'visible').length"
        )
        assert shown.ask(clipped) == 0
        PICTURES.mkdir(parents=True, exist_ok=True)
        pdf = shown.page.pdf(path=PICTURES / f"{which}.pdf", format="A4")
        assert pdf.startswith(b"%PDF")
        assert shown.said == []


def test_all_can_be_reached_by_keys(opened: Open, pages: dict[str, Path]) -> None:
    with opened(pages["large"]) as shown:
        shown.page.keyboard.press("Tab")
        assert shown.ask("document.activeElement.textContent") == "Skip to the report"
        shown.page.keyboard.press("Enter")
        shown.page.keyboard.press("Tab")
        assert shown.ask("document.activeElement.closest('section').id") == "health"
        assert shown.page.locator("#next details li:visible").count() == 0
        shown.page.locator("#next summary").focus()
        shown.page.keyboard.press("Enter")
        assert shown.page.locator("#next details li:visible").count() > 0


def test_a_command_is_marked_by_one_click(opened: Open, pages: dict[str, Path]) -> None:
    with opened(pages["demo"]) as shown:
        command = shown.page.locator("#runs code").first
        command.click()
        assert shown.ask("getSelection().toString()") == command.inner_text()
        assert command.inner_text().startswith("pyflowguard undo ")


def test_what_others_wrote_does_nothing(opened: Open, hostile: Connection, tmp_path: Path) -> None:  # noqa: F811
    path = tmp_path / "page.html"
    write_page(hostile.info.dsn, path)
    with opened(path, "phone") as shown:
        assert shown.ask("document.documentElement.scrollWidth") <= SIZES["phone"][0]
        assert EVIL_TABLE in shown.page.locator("#violations").inner_text()
        shown.page.wait_for_timeout(200)
        assert shown.said == []
        assert [address for address in shown.asked if address != "data:,"] == [path.as_uri()]


@pytest.mark.parametrize("forbidden", [True, False], ids=["with the policy", "without it"])
def test_the_page_s_own_policy_would_stop_what_slips_through(
    opened: Open, pages: dict[str, Path], tmp_path: Path, visitors: Visitors, forbidden: bool
) -> None:
    """As if a table's name had not been escaped; without the policy it does its harm, so that there is harm to do."""
    slipped = f"""
        <script>document.title = 'stolen'</script><img src="{visitors.address}/a.png">
        <style>body {{ background: url({visitors.address}/b.png) }}</style>
        <link rel=stylesheet href="{visitors.address}/c.css"><iframe src="{visitors.address}/"></iframe>"""
    page = pages["demo"].read_text().replace("<main>", f"<main>{slipped}")
    if not forbidden:
        page = page.replace("Content-Security-Policy", "X-Nothing")
    path = tmp_path / "page.html"
    path.write_text(page)
    with opened(path, offline=False) as shown:
        shown.page.wait_for_load_state("networkidle")
        assert shown.page.title().startswith("Link health of ") is forbidden
        assert len(visitors.paths) == (0 if forbidden else 4)
        assert any("Content Security Policy" in said for said in shown.said) is forbidden
