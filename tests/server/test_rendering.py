"""Markdown over HTTP: bounded in size and in time, and guarded as everything else."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator

import pytest

from mlx_qwen35 import ModelKit
from mlx_qwen35.server import page_files
from mlx_qwen35.server.rendering import MAX_TEXT, RenderProcess, RenderRequest
from mlx_qwen35.server.wire import ApiError
from tests.server.clients import raw
from tests.server.conftest import Running, serving

# Answers each line at once, but for one that it never answers, and one that ends it.
STUBBORN = """\
import json, sys, time
print("ready", flush=True)
for line in sys.stdin:
    text = json.loads(line)["text"]
    if text == "hang": time.sleep(600)
    if text == "end": sys.exit()
    print(json.dumps({"blocks": [{"html": text, "line": 0}]}), flush=True)
"""
# Half a minute's work for a parser of Markdown, in the time of whose square it is.
ENDLESS = "![" * (MAX_TEXT // 2)


@pytest.fixture
def stubborn() -> Iterator[RenderProcess]:
    process = RenderProcess((sys.executable, "-c", STUBBORN), seconds=60)
    yield process
    process.close()


def render(process: RenderProcess, text: str) -> str:
    return str(asyncio.run(process.render(RenderRequest(text=text)))[0]["html"])


def test_a_text_that_takes_too_long_ends_the_process_and_not_the_next_text(stubborn: RenderProcess) -> None:
    for text, seconds in (("hang", 0.2), ("end", 60)):
        assert render(stubborn, "one") == "one"
        stubborn.seconds = seconds
        with pytest.raises(
            ApiError, match=rf"^text: expected Markdown that is rendered within {seconds:g} seconds$"
        ) as caught:
            render(stubborn, text)
        assert (caught.value.status, caught.value.param) == (400, "text")
        stubborn.seconds = 60
    assert render(stubborn, "two") == "two"


def test_a_process_that_was_killed_is_started_anew(stubborn: RenderProcess) -> None:
    assert render(stubborn, "one") == "one"
    process = stubborn._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert render(stubborn, "two") == "two"


def test_several_texts_at_a_time_each_get_their_own_answer(stubborn: RenderProcess) -> None:
    async def all_of_them() -> list[str]:
        found = await asyncio.gather(*(stubborn.render(RenderRequest(text=str(number))) for number in range(20)))
        return [str(blocks[0]["html"]) for blocks in found]

    assert asyncio.run(all_of_them()) == [str(number) for number in range(20)]


def test_a_process_that_does_not_start_is_a_fault_of_the_server() -> None:
    process = RenderProcess((sys.executable, "-c", ""))
    with pytest.raises(RuntimeError, match="did not start"):
        render(process, "one")
    process.close()


def test_markdown_that_keeps_its_parser_busy_is_refused() -> None:
    process = RenderProcess(seconds=0.5)
    with pytest.raises(ApiError, match="^text: expected Markdown"):
        render(process, ENDLESS)
    process.seconds = 60
    assert render(process, "*b*") == "<p><em>b</em></p>"
    process.close()


def test_render_is_guarded_as_every_route(box: ModelKit) -> None:
    with serving(box, api_key="secret") as guarded:
        body, key = {"text": "*a*"}, {"Authorization": "Bearer secret"}
        assert raw(guarded.url, "/render", body)[0] == 401
        assert raw(guarded.url, "/render", body, {**key, "Origin": "https://example.com"})[0] == 403
        assert raw(guarded.url, "/render", body, {**key, "Host": "example.com"})[0] == 403
        status, _, text = raw(guarded.url, "/render", body, key)
        assert (status, text) == (200, '{"blocks":[{"html":"<p><em>a</em></p>","line":0}]}')
        for wrong in ({}, {"text": 1}, {"text": "a" * (MAX_TEXT + 1)}):
            status, _, text = raw(guarded.url, "/render", wrong, key)
            assert status == 400
            assert '"param":"text"' in text


def test_the_page_and_its_files_need_no_key_and_name_what_they_may_load(box: ModelKit) -> None:
    assert {"page.html", "page.css", "page.js"} <= set(page_files.FILES)
    with serving(box, api_key="secret") as guarded:
        for path in page_files.PATHS:
            status, headers, _ = raw(guarded.url, path)
            assert status == 200, path
            policy = dict(part.split(maxsplit=1) for part in headers["content-security-policy"].split(";"))
            # Pictures and clips that were added are shown from where the browser holds them.
            assert policy == {
                "default-src": "'none'", "connect-src": "'self'", "script-src": "'self'", "style-src": "'self'",
                "img-src": "data: blob:", "media-src": "data: blob:", "base-uri": "'none'", "form-action": "'none'",
                "frame-ancestors": "'none'",
            }  # fmt: skip
            assert headers["x-content-type-options"] == "nosniff"
        assert raw(guarded.url, "/page/page.js")[1]["content-type"].startswith("text/javascript")
        key = {"Authorization": "Bearer secret"}
        for path in ("/page/app.py", "/page/..%2fapp.py", "/page/%2e%2e/app.py", "/page/", "/page/../app.py"):
            assert raw(guarded.url, path)[0] == 401, path
            assert raw(guarded.url, path, headers=key)[0] == 404, path


def test_what_the_page_asks_for_is_there(server: Running) -> None:
    """Every file that another one names."""
    names = set(page_files.FILES)
    texts = {name: (page_files.FOLDER / name).read_text() for name in names}
    asked = {name for name in names for text in texts.values() if f'"./{name}"' in text or f'"page/{name}"' in text}
    assert asked == names - {page_files.INDEX}
    assert raw(server.url, "/")[2] == texts[page_files.INDEX]
