"""`python -m claudedo_worker`: configure logging, serve, say in one line why it ended."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import sys

from claudedo import settings
from claudedo.errors import ClaudedoError

gc.disable()  # what is loaded stays; searching it for garbage is a fifth of the time it takes
from claudedo_worker import daemon  # noqa: E402 - after that

gc.freeze()
gc.enable()

log = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
        log.info("another worker serves here")
    except ClaudedoError as error:
        log.critical("%s", error)
        return 1
    except OSError as error:
        if error.filename is None and error.errno not in _FULL:
            raise
        # A home without write permission, a folder where a file should be, a full disk.
        words = "%s cannot be used: %s. Repair that, or set CLAUDEDO_HOME to another folder."
        log.critical(words, error.filename or "The state directory", error.strerror)
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    gc.freeze()  # else the interpreter looks through all it has, for 0.1 s and more, to end
    sys.exit(status)
