"""The session explorer: one page (explorer.html), and what it may do in a browser."""

import base64
import hashlib
import re
from importlib import resources

from fastapi import FastAPI
from fastapi.responses import Response


def add_page(app: FastAPI) -> None:
    """Serves it at /."""
    page = resources.files("skipjax.serving").joinpath("explorer.html").read_text("utf-8")
    policy = content_security_policy(page)

    @app.get("/", include_in_schema=False)
    async def explorer() -> Response:
        headers = {"Content-Security-Policy": policy, "Cache-Control": "no-cache"}
        return Response(page, media_type="text/html", headers=headers)


def content_security_policy(page: str) -> str:
    """Allows the page's own style and script, by their hashes, requests to where it came from, and
    nothing else."""

    def hashes(tag: str) -> str:
        parts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digests = (hashlib.sha256(part.encode()).digest() for part in parts)
        return " ".join(f"'sha256-{base64.b64encode(d).decode()}'" for d in digests)

    return (
        f"default-src 'none'; style-src {hashes('style')}; script-src {hashes('script')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
