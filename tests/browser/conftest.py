"""A worker that keeps the contract, and a person's browser before it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from playwright.async_api import async_playwright, expect

from tests.browser.desk import Desk
from tests.browser.fake_worker import FakeWorker
from tests.support.browser import ARGUMENTS, require_chromium


@pytest.fixture
async def worker() -> AsyncIterator[FakeWorker]:
    async with FakeWorker().running() as running:
        yield running


@pytest.fixture
async def desk(worker: FakeWorker) -> AsyncIterator[Desk]:
    chromium = require_chromium()
    expect.set_options(timeout=15_000)
    async with async_playwright() as playwright, AsyncExitStack() as stack:
        browser = await playwright.chromium.launch(
            executable_path=chromium, args=list(ARGUMENTS), headless=True
        )
        stack.push_async_callback(browser.close)
        yield Desk(browser, worker, stack)
