"""The page at `/`, in headless Chromium, against a server over the checkpoint in the package."""

import asyncio
import base64
import io
import json
import os
import re
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mlx_qwen35 import ModelKit
from mlx_qwen35.server.generation import StreamEvent
from mlx_qwen35.server.service import GenerationService, PreparedRequest
from tests.drawings import drawn
from tests.server.browser import PATIENCE, Chat, expect, playwright, stream
from tests.server.conftest import Running, serving

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
# Headers hold bytes; the page has to send those of this text.
KEY = "sesame ✓"
HOSTILE = """<img src=x onerror="document.title='run'"><script>document.title='run'</script>"""

MARKDOWN = f"""\
# Über *all*

One **bold `x**` y** and snake_case_name, 2 * 3 * 4,
[a link](https://example.org/a_b), [none](javascript:alert(1)) ✓ **open

3. three
   - deep
     - deeper

   more
4. four

```python
a = "**no**"

```
| a | b\\|c |
|---|:-:|
| `1` | {HOSTILE} |
> said
> ***so***

---
![x](https://example.org/x.png)
~~~
still open"""
SHOWN = (
    '<h3>Über <em>all</em></h3>'
    '<p>One <strong>bold <code>x**</code> y</strong> and snake_case_name, 2 * 3 * 4,\n'
    '<a href="https://example.org/a_b" target="_blank" rel="noopener noreferrer">a link</a>, '
    '[none](javascript:alert(1)) ✓ **open</p>'
    '<ol start="3"><li><p>three</p><ul><li><p>deep</p><ul><li><p>deeper</p></li></ul></li></ul><p>more</p></li>'
    '<li><p>four</p></li></ol>'
    '<div class="code"><header>python<button type="button">Copy</button></header>'
    '<pre tabindex="0"><code>a = "**no**"\n</code></pre></div>'
    '<div class="table" tabindex="0"><table><tr><th>a</th><th>b|c</th></tr>'
    f'<tr><td><code>1</code></td><td>{HOSTILE.replace("<", "&lt;").replace(">", "&gt;")}</td></tr></table></div>'
    '<blockquote><p>said\n<strong><em>so</em></strong></p></blockquote><hr>'
    '<p>!<a href="https://example.org/x.png" target="_blank" rel="noopener noreferrer">x</a></p>'
    '<div class="code"><header>code<button type="button">Copy</button></header>'
    '<pre tabindex="0"><code>still open</code></pre></div>'
)  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        found = next(filter(None, map(shutil.which, NAMES)), None)
        paths = (Path(found) if found else None, MAC, Path(started.chromium.executable_path))
        program = next((path for path in paths if path is not None and path.exists()), None)
        if program is None:
            reason = f"needs a browser: none of {', '.join(NAMES)} is in the PATH"
            # .ci/run takes no skip for an answer.
            pytest.fail(reason) if os.environ.get("MLX_QWEN35_NEEDS_BROWSER") else pytest.skip(reason)
        expect.set_options(timeout=PATIENCE)
        browser = started.chromium.launch(executable_path=program)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def locked(box: ModelKit) -> Iterator[Running]:
    with serving(box, api_key=KEY) as running:
        yield running


@contextmanager
def opened(browser: Any, url: str, key: str) -> Iterator[Chat]:
    context = browser.new_context(viewport={"width": 900, "height": 700})
    context.set_default_timeout(PATIENCE)
    context.add_init_script(f"sessionStorage.getItem('key') ?? sessionStorage.setItem('key', {json.dumps(key)})")
    yield Chat(context.new_page(), url)
    context.close()


@pytest.fixture
def chat(browser: Any, locked: Running) -> Iterator[Chat]:
    """The page in the hands of somebody with the key; anything in the console is an error."""
    with opened(browser, locked.url, KEY) as chat:
        expect(chat.page.locator("#model")).to_have_text("box")
        yield chat
        assert chat.complaints == []


@contextmanager
def slow(monkeypatch: pytest.MonkeyPatch, pause: float) -> Iterator[None]:
    """The server waits before every reply."""
    run = GenerationService.run

    async def slowly(self: GenerationService, prepared: PreparedRequest) -> AsyncIterator[StreamEvent]:
        async with aclosing(run(self, prepared)) as replies:
            async for reply in replies:
                await asyncio.sleep(pause)
                yield reply

    with monkeypatch.context() as patched:
        patched.setattr(GenerationService, "run", slowly)
        yield


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


@pytest.fixture(scope="module")
def circle() -> bytes:
    # Of another size than the pictures of other tests, which count what the prompt cache holds of theirs.
    return encoded(drawn("circle", "red", 128))


def test_text_is_answered_and_earlier_turns_are_not_read_again(chat: Chat) -> None:
    chat.set(thinking="off")
    chat.say("Spell the word star.")
    expect(chat.answers).to_have_text("s-t-a-r.")
    prompt, _ = chat.figures(0)
    expect(chat.text).to_have_value("")
    chat.say("What is 3 plus 4?")
    longer, cached = chat.figures(1)
    assert longer > prompt
    assert prompt / 2 < cached < longer
    chat.press("New chat")
    expect(chat.log).to_be_empty()


def test_a_picture_is_added_removed_dropped_and_described(chat: Chat, circle: bytes) -> None:
    chat.set(thinking="off")
    with chat.page.expect_file_chooser() as chooser:
        chat.press("Add images")
    chooser.value.set_files([{"name": "one.png", "mimeType": "image/png", "buffer": circle}])
    expect(chat.thumbnails).to_have_count(1)
    chat.press("Remove one.png")
    expect(chat.thumbnails).to_have_count(0)
    chat.hand_over("drop", circle, "two.png")
    expect(chat.thumbnails).to_have_count(1)
    chat.say("Describe the picture.")
    expect(chat.answers).to_have_text("A red circle.")
    expect(chat.thumbnails).to_have_count(0)
    expect(chat.sent_images).to_be_visible()
    chat.say("What color is the circle?")
    expect(chat.answers.nth(1)).to_have_text("The circle is red.")
    assert chat.figures(1)[1] > chat.figures(0)[0] / 2
    url = f"data:image/png;base64,{base64.b64encode(circle).decode()}"
    for asked in chat.asked:
        assert asked["messages"][0]["content"][0] == {"type": "image_url", "image_url": {"url": url}}


def test_pictures_are_made_fit_for_the_server(chat: Chat) -> None:
    """Large ones smaller, animations into their first frame; what is no picture is not taken."""
    chat.hand_over("paste", encoded(Image.new("RGB", (5000, 20), "red")), "wide.png")
    chat.hand_over("paste", encoded(Image.new("P", (20, 20)), "GIF"), "moving.gif", "image/gif")
    expect(chat.thumbnails).to_have_count(2)
    chat.thumbnails.last.evaluate("image => image.decode()")
    found = chat.thumbnails.evaluate_all(
        "all => all.map(image => [image.naturalWidth, image.naturalHeight, image.src.split(',')[0]])"
    )
    assert found == [[4096, 16, "data:image/png;base64"], [20, 20, "data:image/png;base64"]]
    for name, kind in (("notes.txt", "text/plain"), ("broken.png", "image/png")):
        chat.hand_over("drop", b"words", name, kind)
        expect(chat.page.locator("#notice")).to_have_text(f"{name} is not an image that can be read.")
    expect(chat.thumbnails).to_have_count(2)


def test_reasoning_is_folded_once_the_answer_begins(chat: Chat) -> None:
    chat.set(thinking="on")
    chat.say("Spell the word star.")
    expect(chat.answers).to_have_text("s-t-a-r.")
    expect(chat.page.locator("details:not([open]) summary")).to_have_text(re.compile(r"^Thought for [\d.]+ s$"))
    expect(chat.page.locator(".thoughts")).not_to_be_visible()
    chat.page.locator("summary").press("Enter")
    expect(chat.page.locator(".thoughts")).to_have_text("The word is star.")
    expect(chat.page.locator(".thoughts")).to_be_visible()


def test_stop_keeps_what_came_and_frees_the_server(
    chat: Chat, locked: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat.set(thinking="off")
    with slow(monkeypatch, 1.0):
        chat.say("Spell the word star.")
        expect(chat.page.locator(".status")).to_have_text(re.compile(r"^reading \d+ of \d+$"))
        expect(chat.answers).to_have_text(re.compile("^s"))
        chat.press("Stop")
        expect(chat.page.locator(".note")).to_have_text("Stopped.")
        partial = chat.answers.inner_text()
        assert "s-t-a-r.".startswith(partial)
        assert partial != "s-t-a-r."
        end = time.monotonic() + PATIENCE / 1000
        while locked.engine.running:
            assert time.monotonic() < end
            time.sleep(0.02)
    chat.press("Regenerate")
    expect(chat.answers).to_have_text("s-t-a-r.")
    assert chat.asked[0] == chat.asked[1]


def test_a_wrong_key_is_asked_for_and_costs_no_words(browser: Any, locked: Running) -> None:
    with opened(browser, locked.url, "wrong") as chat:
        settings = chat.page.get_by_role("dialog")
        expect(settings).to_contain_text("This server expects its API key.")
        expect(chat.page.locator("#key")).to_be_focused()
        chat.press("Done")
        chat.say("Spell the word star.")
        expect(chat.errors).to_have_text("expected the API key")
        expect(chat.page.locator(".user")).to_contain_text("Spell the word star.")
        expect(settings).to_be_visible()
        chat.page.locator("#thinking").select_option("off")
        chat.page.locator("#key").fill(KEY)
        chat.press("Done")
        expect(chat.page.locator("#model")).to_have_text("box")
        chat.press("Try again")
        expect(chat.answers).to_have_text("s-t-a-r.")
        expect(chat.errors).to_have_count(0)
        chat.page.reload()
        expect(chat.page.locator("#model")).to_have_text("box")
        assert chat.page.evaluate("localStorage.length") == 0


def test_errors_stand_where_the_answer_would(chat: Chat, circle: bytes) -> None:
    """From the server's own refusal, from the middle of a stream, and from a stream that just ends."""
    chat.press("Settings")
    chat.page.locator("#temperature").fill("-1")
    # The form itself would not take it.
    chat.page.keyboard.press("Escape")
    chat.hand_over("drop", circle, "circle.png")
    expect(chat.thumbnails).to_have_count(1)
    chat.say("Hello!")
    expect(chat.errors).to_have_text("temperature: expected at least 0, found -1.0")
    # The browser's own note of status 400.
    assert len(chat.complaints) == 1
    chat.complaints.clear()
    chat.text.fill("Draft")
    chat.press("Edit message")
    expect(chat.log).to_be_empty()
    expect(chat.text).to_have_value("Hello!\nDraft")
    expect(chat.thumbnails).to_have_count(1)
    chat.answer_with({"content": "Half"}, reason=None, error="it broke")
    chat.press("Send")
    expect(chat.errors).to_have_text("it broke")
    expect(chat.answers).to_have_text("Half")
    chat.answer_with({"content": "Half"}, reason=None)
    chat.press("Try again")
    expect(chat.errors).to_have_text("The connection ended before the answer did.")
    chat.answer_with({"content": "Whole"}, reason="length")
    chat.press("Try again")
    expect(chat.answers).to_have_text("Whole")
    expect(chat.page.locator(".note")).to_contain_text("Cut off")


def test_the_whole_conversation_is_sent_each_time(chat: Chat) -> None:
    chat.set(system="Be brief.", temperature="0.5", max_tokens="50", thinking="on")
    chat.answer_with({"reasoning_content": "Hm", "reasoning": "Hm"}, {"content": "</think>\n"}, {"content": "No."})
    chat.say("  One\n")
    expect(chat.answers).to_have_text("</think> No.")
    chat.say("Two")
    expect(chat.answers.nth(1)).to_have_text("</think> No.")
    assert chat.asked[1] == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "  One\n"},
            {"role": "assistant", "content": "</think>\nNo.", "reasoning_content": "Hm"},
            {"role": "user", "content": "Two"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "max_tokens": 50,
        "enable_thinking": True,
    }


def test_enter_sends_but_not_every_enter(chat: Chat) -> None:
    chat.answer_with({"content": "Yes."})
    expect(chat.text).to_be_focused()
    chat.page.keyboard.type("one")
    chat.page.keyboard.press("Shift+Enter")
    chat.page.keyboard.type("two")
    chat.text.dispatch_event("keydown", {"key": "Enter", "isComposing": True})
    chat.text.dispatch_event("keydown", {"key": "Enter", "keyCode": 229})
    expect(chat.text).to_have_value("one\ntwo")
    expect(chat.log).to_be_empty()
    chat.page.keyboard.press("Enter")
    expect(chat.answers).to_have_text("Yes.")
    chat.page.keyboard.press("Enter")
    assert [message["content"] for asked in chat.asked for message in asked["messages"]] == ["one\ntwo"]


def test_markdown_is_the_same_however_it_comes_in(chat: Chat) -> None:
    """As a whole, and cut anywhere, characters included; on a phone, nothing is wider than the screen."""
    chat.answer_with({"content": MARKDOWN})
    chat.say(HOSTILE)
    expect(chat.page.locator(".foot")).to_be_visible()
    assert chat.answers.evaluate("node => node.innerHTML") == SHOWN
    expect(chat.page.locator(".user p")).to_have_text(HOSTILE)
    chat.page.set_viewport_size({"width": 360, "height": 640})
    assert chat.page.evaluate("document.documentElement.scrollWidth") == 360
    assert chat.page.locator("main").evaluate("node => node.scrollWidth - node.clientWidth") == 0
    chat.page.evaluate(
        """(text) => {
            const bytes = new TextEncoder().encode(text);
            fetch = async () => new Response(new ReadableStream({
                async start(stream) {
                    for (let at = 0; at < bytes.length; at += 97) {
                        stream.enqueue(bytes.slice(at, at + 97));
                        await new Promise(requestAnimationFrame);
                    }
                    stream.close();
                }
            }));
        }""",
        stream(*({"content": MARKDOWN[at : at + 5]} for at in range(0, len(MARKDOWN), 5))),
    )
    chat.press("Regenerate")
    expect(chat.page.locator(".answer:not([aria-busy]) .foot")).to_be_visible()
    assert chat.answers.evaluate("node => node.innerHTML") == SHOWN
    assert chat.page.title() == "box"


def test_nothing_is_loaded_from_elsewhere(chat: Chat) -> None:
    broken = chat.page.evaluate(
        """() => new Promise((resolve) => {
            document.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
            new Image().src = "http://127.0.0.1:9/picture.png";
        })"""
    )
    assert broken == "img-src"
    chat.complaints.clear()
