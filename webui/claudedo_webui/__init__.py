"""The page: static files the worker serves.

It draws state and sends requests; it decides nothing. `static/index.html` is meant to be served at
`/` and the folder at `/static/`; neither contains anything secret, all data comes from the API.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib import resources
from pathlib import Path

_IMPORT_MAP = re.compile(r'<script type="importmap">(.*?)</script>', re.DOTALL)


def static_dir() -> Path:
    """The folder of the page's files, to be served at `/static/`.

    Raises `TypeError` when the package is installed in a form that has no folder (a zip).
    """
    folder = resources.files(__name__).joinpath("static")
    if not isinstance(folder, Path):
        raise TypeError("The page's files are not in a folder: install claudedo unpacked.")
    return folder


@cache
def csp() -> str:
    """The value of the Content-Security-Policy header that every answer to the page carries.

    Scripts, styles and connections come from the same origin only; the one inline script, the
    import map of `index.html`, is allowed by its hash.
    """
    page = static_dir().joinpath("index.html").read_text(encoding="utf-8")
    maps: list[str] = _IMPORT_MAP.findall(page)
    if len(maps) != 1:
        raise RuntimeError(f"index.html has {len(maps)} import maps instead of one.")
    digest = base64.b64encode(hashlib.sha256(maps[0].encode()).digest()).decode()
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src 'self' 'sha256-{digest}'",
            "style-src 'self'",
            "img-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
