"""A worker that keeps the contract, and a person's browser before it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from playwright.async_api import Browser, async_playwright, expect

from tests.browser.desk import Desk
from tests.browser.fake_worker import FakeWorker
from tests.support.browser import ARGUMENTS, require_chromium


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """One loop for all tests, so that they can share a browser."""
    return "asyncio"


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    chromium = require_chromium()
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(
            executable_path=chromium, args=list(ARGUMENTS), headless=True
        )
        yield launched
        await launched.close()


@pytest.fixture
async def worker() -> AsyncIterator[FakeWorker]:
    async with FakeWorker().running() as running:
        yield running


@pytest.fixture
async def desk(worker: FakeWorker, browser: Browser) -> AsyncIterator[Desk]:
    expect.set_options(timeout=15_000)
    async with AsyncExitStack() as stack:
        yield Desk(browser, worker, stack)
