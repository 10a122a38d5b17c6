"""A person's browser for the page's tests, and text that wants to be more than text."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from playwright.async_api import Browser, Page, expect

from tests.browser.fake_worker import COOKIE, FakeWorker

WATCH_POLICY = """
document.addEventListener("securitypolicyviolation",
  (event) => console.error("VIOLATION " + event.violatedDirective + " " + event.blockedURI));
window.alert = (text) => console.error("EXECUTED " + text);
"""
HOSTILE = (
    "<img src=x onerror=alert('img')>",
    "<script>alert('script')</script>",
    "<svg onload=alert('svg')><style>*{display:none}</style>",
    "[link](javascript:alert('link'))",
    "![picture](https://elsewhere.invalid/x.png)",
    "![picture](javascript:alert('picture'))",
    "<div style='position:fixed;inset:0' onclick=alert('div')>cover</div>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<form action=https://elsewhere.invalid><button>x</button></form>",
    "<a href='data:text/html,<script>alert(1)</script>'>data</a>",
    "<https://elsewhere.invalid/\"onmouseover=alert('auto')>",
    "```<img src=x onerror=alert('fence')>\ncode\n```",
)
FORBIDDEN = "#page :is(img, svg, style, script, iframe, form, input, [onclick], [onerror])"
"""What hostile text may not become; the page itself has none of it where tasks are shown."""


class Desk:
    """A person's browser: opens pages that are signed in, and keeps what their consoles said."""

    def __init__(self, browser: Browser, worker: FakeWorker, stack: AsyncExitStack) -> None:
        self.worker = worker
        self.complaints: list[str] = []
        self._browser = browser
        self._stack = stack

    async def open(self, task: str = "", *, live: bool = True, **options: Any) -> Page:
        """A new tab on the page, with `task` selected; waits until it is connected."""
        context = await self._browser.new_context(**options)
        self._stack.push_async_callback(context.close)
        context.set_default_timeout(15_000)
        await context.add_cookies([{"name": COOKIE, "value": "yes", "url": self.worker.url}])
        await context.grant_permissions(["clipboard-read", "clipboard-write"])
        await context.add_init_script(WATCH_POLICY)
        page = await context.new_page()
        page.on("console", lambda said: self._heard(said.type, said.text))
        page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        await page.goto(f"{self.worker.url}/#{task}")
        if live:
            await expect(page.get_by_text("live", exact=True)).to_be_visible()
        return page

    def _heard(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)
