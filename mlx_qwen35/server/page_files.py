"""The page that the server has, to try the model in a browser: its files, as they lie in `page/`."""

from pathlib import Path

from fastapi.responses import FileResponse

from mlx_qwen35.server.wire import ApiError

FOLDER = Path(__file__).parent / "page"
INDEX = "page.html"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
FILES = {path.name: KINDS[path.suffix] for path in sorted(FOLDER.iterdir()) if path.suffix in KINDS}
# What a browser may have without a key: the page asks for the key itself.
PATHS = ("/", *(f"/page/{name}" for name in FILES))
# Whatever a model writes, the page loads nothing, runs nothing but its own files, and talks to nobody but its server.
POLICY = (
    "default-src 'none'; connect-src 'self'; img-src data: blob:; media-src data: blob:; style-src 'self'; "
    "script-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


async def page() -> FileResponse:
    """The page to try the model in a browser."""
    return await page_file(INDEX)


async def page_file(name: str) -> FileResponse:
    """A file of the page.

    Raises:
        ApiError: It has no such file.
    """
    if name not in FILES:
        raise ApiError(404, "not_found_error", "Not Found")
    return FileResponse(FOLDER / name, media_type=FILES[name], headers=HEADERS)
