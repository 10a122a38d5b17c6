"""`python -m claudedo_worker`: configure logging, serve, say in one line why it ended."""

from __future__ import annotations

import asyncio
import logging
import sys

from claudedo import settings
from claudedo.errors import ClaudedoError
from claudedo_worker import daemon


def main() -> int:
    """Run the worker; 0 when it was told to stop or another one serves already."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        asyncio.run(daemon.run(settings.load()))
    except daemon.AlreadyRunningError:
        logging.getLogger(__name__).info("another worker serves here")
    except ClaudedoError as error:
        logging.getLogger(__name__).error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
