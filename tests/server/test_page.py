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

import cv2
import numpy
import pytest
from PIL import Image

from mlx_qwen35 import ModelKit
from mlx_qwen35.server.generation import StreamEvent
from mlx_qwen35.server.service import GenerationService, PreparedRequest
from tests.drawings import drawn
from tests.server.browser import PATIENCE, Chat, expect, playwright, stream
from tests.server.conftest import Running, serving

pytestmark = pytest.mark.thorough

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
# Headers hold bytes; the page has to send those of this text.
KEY = "sesame ✓"
HOSTILE = """<img src=x onerror="document.title='run'"><script>document.title='run'</script>"""

MARKDOWN = f"""\
# Über *all*

One **bold `x**` y** and snake_case_name, ~~gone~~,
https://example.org/a_b. [none](javascript:alert(1)) ✓ **open

3. three
   - [x] deep

   $$
   x
   =
   1
   $$
4. four

```python
a = "**no**"

```
| a | b\\|c |
|---|:-:|
| `1` | {HOSTILE} |

> said $a_1 < b_2$
> ***so***, for $5 or $6

[known]: https://example.org/known

\\begin{{align*}}
a &= b \\\\
c &= d
\\end{{align*}}

See [known].
![x](https://example.org/x.png)
~~~
still open"""
LINK = '<a href="https://example.org/{}" target="_blank" rel="noopener noreferrer">'
CELLS = '<mtr><mtd class="right"><mi>{}</mi></mtd><mtd class="left"><mi></mi><mo>=</mo><mi>{}</mi></mtd></mtr>'
SHOWN = (
    '<h3>Über <em>all</em></h3>'
    '<p>One <strong>bold <code>x**</code> y</strong> and snake_case_name, <s>gone</s>,<br>\n'
    f'{LINK.format("a_b")}https://example.org/a_b</a>. [none](javascript:alert(1)) ✓ **open</p>'
    '<ol start="3">\n<li>\n<p>three</p>\n<ul class="contains-task-list">\n<li class="task-list-item">'
    '<input class="task-list-item-checkbox" disabled="" type="checkbox" checked="" aria-label="Done"> deep'
    '</li>\n</ul>\n'
    '<div class="formula" tabindex="0"><math display="block"><mrow><mi>x</mi><mo>=</mo><mn>1</mn></mrow></math></div>'
    '</li>\n<li>\n<p>four</p>\n</li>\n</ol>'
    '<div class="code"><header>python<button type="button">Copy</button></header><pre tabindex="0"><code>'
    '<span class="n">a</span> <span class="o">=</span> <span class="s2">"**no**"</span>\n\n</code></pre></div>'
    '<div class="table" tabindex="0"><table><thead>\n<tr>\n<th>a</th>\n<th class="center">b|c</th>\n</tr>\n</thead>\n'
    '<tbody>\n<tr>\n<td><code>1</code></td>\n'
    f'<td class="center">{HOSTILE.replace("<", "&lt;").replace(">", "&gt;")}</td>\n</tr>\n</tbody>\n</table></div>'
    '<blockquote>\n<p>said <math display="inline"><mrow><msub><mi>a</mi><mn>1</mn></msub><mo>&lt;</mo>'
    '<msub><mi>b</mi><mn>2</mn></msub></mrow></math><br>\n<em><strong>so</strong></em>, for $5 or $6</p>\n</blockquote>'
    '<div class="formula" tabindex="0"><math display="block"><mrow><mtable displaystyle="true">'
    f'{CELLS.format("a", "b")}{CELLS.format("c", "d")}</mtable></mrow></math></div>'
    f'<p>See {LINK.format("known")}known</a>.<br>\n{LINK.format("x.png")}x</a></p>'
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


def shown_by(chat: Chat) -> str:
    """The HTML of an answer; every block has its direction from its own letters."""
    return str(chat.answers.evaluate("node => node.innerHTML")).replace(' dir="auto"', "")


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
        chat.press("Add pictures or videos")
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


def test_a_pasted_picture_may_have_its_name_beside_it_and_a_text_its_picture(chat: Chat, circle: bytes) -> None:
    """What a browser is given of a file that was copied in Finder, and of a text from a word processor."""
    chat.hand_over("paste", circle, "image.png", plain="A sentence.", rtf="{}", html="<p>A sentence.</p>")
    chat.hand_over("paste", circle, "cat.png", plain="cat.png")
    expect(chat.thumbnails).to_have_attribute("alt", "cat.png")


def test_an_answer_in_one_piece_tells_no_speed(chat: Chat) -> None:
    usage = {"usage": {"prompt_tokens": 5, "completion_tokens": 3}}
    body = f"data: {json.dumps(usage)}\n\n{stream({'content': 'a'}, {'content': 'b'})}"
    chat.page.route("**/v1/chat/completions", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    chat.say("Hello!")
    chat.finished(1)
    expect(chat.page.locator(".stats")).to_have_text(re.compile("^first token after .* s · 5 prompt tokens, 0 cached$"))


def test_pictures_are_made_fit_for_the_server(chat: Chat) -> None:
    """Large ones smaller, GIFs as PNG; what is no picture is not taken."""
    chat.hand_over("paste", encoded(Image.new("RGB", (5000, 20), "red")), "wide.png")
    chat.hand_over("paste", encoded(Image.new("P", (20, 20)), "GIF"), "still.gif", "image/gif")
    expect(chat.thumbnails).to_have_count(2)
    chat.thumbnails.last.evaluate("image => image.decode()")
    found = chat.thumbnails.evaluate_all(
        "all => all.map(image => [image.naturalWidth, image.naturalHeight, image.src.split(',')[0]])"
    )
    assert found == [[4096, 16, "data:image/png;base64"], [20, 20, "data:image/png;base64"]]


def test_pictures_stand_in_the_order_in_which_they_came(chat: Chat) -> None:
    """However long each takes: "the second picture" is the second one that was handed over."""
    large = Image.effect_noise((4000, 3000), 90)
    chat.hand_over("paste", encoded(large, "JPEG"), "large.jpg", "image/jpeg")
    chat.hand_over("paste", encoded(Image.new("RGB", (20, 20), "red")), "small.png")
    expect(chat.thumbnails).to_have_count(2)
    widths = chat.thumbnails.evaluate_all("async all => { await Promise.all(all.map(one => one.decode())); "
                                          "return all.map(one => one.naturalWidth); }")  # fmt: skip
    assert widths[0] > 1000
    assert widths[1] == 20


def test_a_file_that_cannot_be_used_is_refused_with_the_reason_when_it_is_added(chat: Chat, circle: bytes) -> None:
    photograph = encoded(drawn("circle", "red", 128), "JPEG")
    for data, name, kind, reason in (
        (b"words", "notes.txt", "text/plain", "is neither a picture nor a video"),
        (b"words", "broken.png", "image/png", "is not a picture that this browser can read"),
        (b"", "none.png", "image/png", "is empty"),
        (circle[:-20], "half.png", "image/png", "is damaged: only a part of the picture is there"),
        (photograph[:-20], "half.jpg", "image/jpeg", "is damaged: only a part of the picture is there"),
    ):
        chat.hand_over("drop", data, name, kind)
        expect(chat.notice).to_have_text(f"{name} {reason}.")
    expect(chat.thumbnails).to_have_count(0)
    chat.hand_over("drop", photograph, "whole.jpg", "image/jpeg")
    expect(chat.thumbnails).to_have_count(1)
    expect(chat.notice).to_be_hidden()


def test_reasoning_is_folded_once_the_answer_begins(chat: Chat) -> None:
    """The server takes every setting."""
    chat.set(temperature="0.1", max_tokens="50", top_p="0.9", top_k="1", seed="7", thinking="high")
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
    chat.edit(0)
    expect(chat.text).to_have_value("Hello!")
    expect(chat.thumbnails).to_have_count(1)
    chat.answer_with({"content": "Half"}, reason=None, error="it broke")
    chat.press("Send")
    expect(chat.text).to_have_value("Draft")
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
    numbers = {"temperature": "0.5", "max_tokens": "50", "top_p": "0.9", "top_k": "20", "seed": "7"}
    chat.set(system="Be brief.", thinking="on", **numbers)
    chat.answer_with({"reasoning_content": "Hm", "reasoning": "Hm"}, {"content": "</think>\n"}, {"content": "No."})
    chat.say("  One\n")
    expect(chat.answers).to_have_text("</think> No.")
    chat.finished(1)
    chat.say("Two")
    chat.finished(2)
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
        "top_p": 0.9,
        "top_k": 20,
        "seed": 7,
        "enable_thinking": True,
    }
    chat.set(thinking="low")
    chat.press("Regenerate")
    chat.finished(2)
    assert chat.asked[2]["reasoning_effort"] == "low"
    assert "enable_thinking" not in chat.asked[2]


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
    chat.finished(1)
    expect(chat.answers).to_have_text("Yes.")
    chat.page.keyboard.press("Enter")
    assert [message["content"] for asked in chat.asked for message in asked["messages"]] == ["one\ntwo"]


def test_markdown_is_the_same_however_it_comes_in(chat: Chat) -> None:
    """As a whole, and cut anywhere, characters included; on a phone, nothing is wider than the screen."""
    chat.answer_with({"content": MARKDOWN})
    chat.say(HOSTILE)
    chat.finished(1)
    assert shown_by(chat) == SHOWN
    expect(chat.page.locator(".user > p")).to_have_text(HOSTILE)
    chat.page.set_viewport_size({"width": 360, "height": 640})
    assert chat.page.evaluate("document.documentElement.scrollWidth") == 360
    assert chat.page.locator("main").evaluate("node => node.scrollWidth - node.clientWidth") == 0
    chat.page.evaluate(
        """(text) => {
            const bytes = new TextEncoder().encode(text), own = fetch;
            fetch = async (path, options) => path === "render" ? own(path, options) : new Response(new ReadableStream({
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
    chat.rendered.clear()
    chat.press("Regenerate")
    chat.finished(1)
    assert shown_by(chat) == SHOWN
    assert chat.page.title() == "box"


def test_an_answer_is_rendered_now_and_then_and_what_is_over_only_once(chat: Chat) -> None:
    """However many tokens come; and what stands there already stays the same element."""
    chat.answer_by_hand("Write.")
    first = "The *first* paragraph.\n\n" + "More and more words. " * 20
    chat.page.evaluate("text => write(text)", first)
    expect(chat.answers.locator("p")).to_have_count(2)
    chat.page.evaluate("document.querySelector('.answer .text p').marked = true")
    for number in range(3):
        chat.page.evaluate("text => write(text)", f"\n\n- item {number}\n\nText {number} $x_{number}$\n")
        expect(chat.answers.locator("math")).to_have_count(number + 1)
    chat.page.evaluate("end()")
    chat.finished(1)
    assert chat.page.evaluate("document.querySelector('.answer .text p').marked")
    assert len(chat.rendered) < 20
    *parts, whole = chat.rendered
    assert whole["text"].startswith("The *first* paragraph.")
    assert not whole["partial"]
    assert not parts[-1]["text"].startswith("The *first* paragraph.")
    assert parts[-1]["partial"]


def test_an_answer_that_cannot_be_rendered_is_shown_as_it_came(chat: Chat) -> None:
    chat.page.route("**/render", lambda route: route.fulfill(status=503, json={"error": {"message": "not now"}}))
    chat.answer_with({"content": "*One*\n<b>two</b>"})
    chat.say("Hello!")
    chat.finished(1)
    assert chat.answers.evaluate("node => node.innerHTML") == '<p class="plain">*One*\n&lt;b&gt;two&lt;/b&gt;</p>'
    assert {text.split("(")[0] for text in chat.complaints} == {
        "Failed to load resource: the server responded with a status of 503 "
    }
    chat.complaints.clear()


def test_a_chat_survives_a_reload_with_its_pictures(chat: Chat, circle: bytes) -> None:
    chat.answer_with({"reasoning_content": "Hm"}, {"content": "A **circle**."}, reason="length")
    chat.hand_over("drop", circle, "circle.png")
    expect(chat.thumbnails).to_have_count(1)
    chat.say("What is this?")
    chat.finished(1)
    stats = chat.page.locator(".stats").inner_text()
    chat.page.reload()
    expect(chat.answers).to_have_text("A circle.")
    expect(chat.answers.locator("strong")).to_have_text("circle")
    expect(chat.page.locator(".note")).to_contain_text("Cut off")
    expect(chat.page.locator("summary")).to_have_text(re.compile("^Thought for"))
    assert chat.page.locator(".stats").inner_text() == stats
    expect(chat.sent_images).to_have_js_property("naturalWidth", 128)
    chat.say("And now?")
    chat.finished(2)
    first, _, second = chat.asked[1]["messages"]
    assert first == chat.asked[0]["messages"][0]
    assert second == {"role": "user", "content": "And now?"}


def test_a_browser_without_room_says_so_and_keeps_what_it_has(chat: Chat, circle: bytes) -> None:
    chat.answer_with({"content": "Small."})
    chat.say("One")
    chat.finished(1)
    chat.page.evaluate(
        """() => {
            const put = IDBObjectStore.prototype.put;
            IDBObjectStore.prototype.put = function (value, ...key) {
                if (value.media?.length) throw new DOMException("full", "QuotaExceededError");
                return put.call(this, value, ...key);
            };
        }"""
    )
    chat.hand_over("drop", circle, "circle.png")
    expect(chat.thumbnails).to_have_count(1)
    chat.say("Two")
    chat.finished(2)
    expect(chat.notice).to_have_text(
        "This browser cannot keep the chat: it has no room for more. Delete some chats, or export them first."
    )
    chat.page.reload()
    expect(chat.answers).to_have_text(["Small."])
    expect(chat.page.locator(".user > p")).to_have_text(["One"])


def test_an_answer_that_a_reload_cuts_off_is_kept_as_far_as_it_came(chat: Chat) -> None:
    chat.answer_by_hand("Write.")
    chat.page.evaluate("write('One ')")
    chat.page.wait_for_timeout(1050)
    chat.page.evaluate("write('two')")
    chat.page.wait_for_function(
        """() => new Promise((resolve) => {
            const opening = indexedDB.open("mlx_qwen35");
            opening.onsuccess = () => {
                const found = opening.result.transaction("turns").objectStore("turns").getAll();
                found.onsuccess = () => resolve(found.result[1]?.text.startsWith("One t"));
                opening.result.close();
            };
        })"""
    )
    chat.page.reload()
    expect(chat.answers).to_have_text(re.compile("^One t"))
    chat.answer_with({"content": "One two three."})
    chat.press("Regenerate")
    expect(chat.answers).to_have_text("One two three.")


def test_a_question_that_was_left_before_its_answer_began_can_be_answered(chat: Chat) -> None:
    chat.page.route("**/v1/chat/completions", lambda route: None)
    chat.say("Hello!")
    expect(chat.page.locator(".status")).to_be_visible()
    again = chat.page.get_by_role("button", name="Answer", exact=True)
    expect(again).to_be_hidden()
    chat.page.reload()
    expect(chat.page.locator(".user > p")).to_have_text("Hello!")
    chat.page.unroute("**/v1/chat/completions")
    chat.answer_with({"content": "Hi."})
    again.click()
    expect(chat.answers).to_have_text(["Hi."])
    chat.finished(1)
    expect(again).to_be_hidden()
    assert chat.asked[0]["messages"] == chat.asked[1]["messages"]
    chat.page.reload()
    expect(chat.answers).to_have_text(["Hi."])
    expect(chat.page.locator(".user > p")).to_have_count(1)


def test_there_are_several_chats(chat: Chat) -> None:
    for name in ("One", "Two"):
        chat.press("New chat")
        chat.answer_with({"content": f"Answer to {name}."})
        chat.say(name)
        chat.finished(1)
    chat.press("Chats")
    expect(chat.chats).to_contain_text(["Two", "One"])
    chat.chats.last.click()
    expect(chat.answers).to_have_text("Answer to One.")
    expect(chat.page.locator(".user > p")).to_have_text("One")
    chat.say("More")
    chat.finished(2)
    assert [message["content"] for message in chat.asked[-1]["messages"]] == ["One", "Answer to One.", "More"]
    chat.page.on("dialog", lambda dialog: dialog.accept())
    chat.press("Chats")
    expect(chat.chats).to_contain_text(["One", "Two"])
    chat.press("Delete One")
    expect(chat.chats).to_have_count(1)
    chat.press("Done")
    expect(chat.log).to_be_empty()
    chat.page.reload()
    expect(chat.log).to_be_empty()
    chat.press("Chats")
    expect(chat.chats).to_contain_text(["Two"])


def test_what_another_tab_has_kept_is_not_lost(chat: Chat, locked: Running) -> None:
    """The later of two tabs overwrote what was said in the other since it had opened the chat."""
    chat.answer_with({"content": "First."})
    chat.say("One")
    chat.finished(1)
    other = Chat(chat.page.context.new_page(), locked.url)
    other.press("Chats")
    other.chats.click()
    expect(other.answers).to_have_text("First.")
    for tab, text in ((other, "Two"), (chat, "Three")):
        tab.answer_with({"content": f"Answer to {text}."})
        tab.say(text)
        tab.finished(2)
    expect(chat.notice).to_contain_text("another tab has changed it")
    chat.press("Chats")
    chat.chats.click()
    expect(chat.answers).to_have_text(["First.", "Answer to Two."])
    chat.say("Four")
    chat.finished(3)
    expect(chat.notice).to_be_hidden()
    other.page.close()


def test_chats_are_exported_and_imported(chat: Chat, browser: Any, locked: Running, circle: bytes) -> None:
    chat.answer_with({"reasoning_content": "Hm"}, {"content": "A *circle*."})
    chat.hand_over("drop", circle, "circle.png")
    expect(chat.thumbnails).to_have_count(1)
    chat.say("What is this?")
    chat.finished(1)
    chat.press("Chats")
    with chat.page.expect_download() as download:
        chat.press("Export all")
    exported = Path(download.value.path()).read_text()
    (conversation,) = json.loads(exported)["conversations"]
    sent = chat.asked[0]["messages"]
    assert conversation["title"] == "What is this?"
    answered = {"role": "assistant", "content": "A *circle*.", "reasoning_content": "Hm"}
    assert conversation["messages"] == [*sent, answered]
    with opened(browser, locked.url, KEY) as other:
        other.press("Chats")
        taken = other.page.locator("#imported")
        for text, reason in (
            ("{", "expected JSON"),
            ("[]", "expected a file of mlx_qwen35 conversations"),
            (exported.replace('"version": 1', '"version": 2'), "version: expected 1, found 2"),
            (exported.replace("data:image/", "https://"), "conversations[0].messages[0].content: expected texts"),
            (
                exported.replace('"assistant"', '"tool"'),
                "conversations[0].messages[1].role: expected user or assistant",
            ),
        ):
            taken.set_input_files([{"name": "a.json", "mimeType": "application/json", "buffer": text.encode()}])
            expect(other.page.locator("#failure")).to_contain_text(f"a.json cannot be imported: {reason}")
        expect(other.chats).to_have_count(0)
        dated = re.sub(r'"updated": \d+', '"updated": 1e300', exported)
        taken.set_input_files([{"name": "a.json", "mimeType": "application/json", "buffer": dated.encode()}])
        expect(other.chats).to_have_count(1)
        expect(other.chats).not_to_contain_text("Invalid Date")
        other.chats.click()
        expect(other.answers.locator("em")).to_have_text("circle")
        other.answer_with({"content": "Yes."})
        other.say("Sure?")
        other.finished(2)
        assert other.asked[0]["messages"] == [*conversation["messages"], {"role": "user", "content": "Sure?"}]
        assert other.complaints == []


def test_every_message_can_be_changed(chat: Chat) -> None:
    """A question is answered anew, and what followed it is gone; an answer is what one makes of it."""
    for question, written in (("One", "First."), ("Two", "Second.")):
        chat.answer_with({"content": written})
        chat.say(question)
        chat.finished(len(chat.asked))
    chat.text.fill("Draft")
    chat.edit(1)
    expect(chat.text).to_have_value("First.")
    expect(chat.text).to_be_focused()
    chat.say("**Better.**")
    expect(chat.answers.first.locator("strong")).to_have_text("Better.")
    expect(chat.answers).to_have_count(2)
    expect(chat.text).to_have_value("Draft")
    chat.edit(0)
    expect(chat.page.locator("#editing")).to_contain_text("Changing a message")
    chat.text.press("Escape")
    expect(chat.text).to_have_value("Draft")
    expect(chat.page.locator("#editing")).to_be_hidden()
    chat.answer_with({"content": "Third."})
    chat.edit(2)
    chat.say("Two and a half")
    expect(chat.answers).to_have_text(["Better.", "Third."])
    chat.finished(2)
    assert [message["content"] for message in chat.asked[-1]["messages"]] == ["One", "**Better.**", "Two and a half"]
    chat.edit(0)
    chat.say("Zero")
    expect(chat.answers).to_have_text(["Third."])
    chat.finished(1)
    chat.page.reload()
    expect(chat.answers).to_have_text(["Third."])
    expect(chat.page.locator(".user > p")).to_have_text(["Zero"])


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of red, and one of blue."""
    path = tmp_path_factory.mktemp("clips") / "clip.webm"
    red, blue = (numpy.full((48, 64, 3), colour, numpy.uint8) for colour in ((0, 0, 255), (255, 0, 0)))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"VP80"), 4, (64, 48))
    for frame in [red] * 4 + [blue] * 4:
        writer.write(frame)
    writer.release()
    return path


def test_a_dropped_video_is_answered_by_the_server(chat: Chat, clip: Path) -> None:
    chat.set(max_tokens="4", thinking="off")
    chat.say("What happens?")
    chat.finished(1)
    without, _ = chat.figures(0)
    chat.hand_over("drop", clip.read_bytes(), "clip.webm", "video/webm")
    expect(chat.thumbnails).to_have_count(1)
    chat.say("What happens?")
    chat.finished(2)
    expect(chat.errors).to_have_count(0)
    # The first question and its answer, the second, and two pairs of frames at least.
    assert chat.figures(1)[0] > 2 * without + 20


def test_a_dropped_video_shows_its_first_frame_and_is_sent(chat: Chat, clip: Path) -> None:

    chat.answer_with({"content": "It changes."})
    chat.hand_over("drop", clip.read_bytes(), "clip.webm", "video/webm")
    expect(chat.thumbnails).to_have_count(1)
    colour = chat.thumbnails.evaluate(
        """async (image) => {
            await image.decode();
            const canvas = Object.assign(document.createElement("canvas"), { width: 64, height: 48 });
            canvas.getContext("2d").drawImage(image, 0, 0);
            return [...canvas.getContext("2d").getImageData(30, 20, 1, 1).data];
        }"""
    )
    assert colour[0] > 200
    assert colour[2] < 60
    chat.say("What happens?")
    chat.finished(1)
    url = f"data:video/webm;base64,{base64.b64encode(clip.read_bytes()).decode()}"
    assert chat.asked[0]["messages"][0]["content"] == [
        {"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": "What happens?"}
    ]  # fmt: skip
    chat.page.reload()
    expect(chat.page.locator(".user video")).to_have_js_property("videoWidth", 64)


@pytest.mark.parametrize(("form", "kind"), [("GIF", "image/gif"), ("WEBP", "image/webp"), ("PNG", "image/png")])
def test_a_picture_that_moves_is_sent_as_a_video(
    chat: Chat, browser: Any, locked: Running, form: str, kind: str
) -> None:
    """The server takes no animation as a picture, and of its first frame alone nobody knows what happens."""
    frames, file = [drawn("circle", color, 64) for color in ("red", "blue", "green")], io.BytesIO()
    frames[0].save(file, form, save_all=True, append_images=frames[1:], duration=100)
    chat.answer_with({"content": "It changes."})
    chat.hand_over("drop", file.getvalue(), "moving", kind)
    expect(chat.thumbnails).to_have_class("video")
    chat.say("What happens?")
    chat.finished(1)
    sent = {"url": f"data:{kind};base64,{base64.b64encode(file.getvalue()).decode()}"}
    assert chat.asked[0]["messages"][0]["content"][0] == {"type": "video_url", "video_url": sent}
    expect(chat.sent_images).to_have_js_property("naturalWidth", 64)
    chat.page.reload()
    expect(chat.sent_images).to_have_js_property("naturalWidth", 64)
    chat.press("Chats")
    with chat.page.expect_download() as download:
        chat.press("Export all")
    with opened(browser, locked.url, KEY) as other:
        other.press("Chats")
        other.page.locator("#imported").set_input_files(download.value.path())
        other.chats.click()
        expect(other.sent_images).to_have_js_property("naturalWidth", 64)


def test_what_is_written_from_the_right_stands_at_the_right(chat: Chat) -> None:
    """Each line that was typed, and each block of an answer; code and formulas begin at the left."""
    hebrew = "\u05e9\u05dc\u05d5\u05dd"
    blocks = (f"{hebrew}.", "Left.", f"1. {hebrew}\n\n   ```\n   x\n   ```", f"| {hebrew} | b |\n|---|---|\n| 1 | 2 |")
    chat.answer_with({"content": "\n\n".join([*blocks, f"```\n{hebrew}\n```"])})
    chat.text.fill(f"{hebrew}?")
    assert chat.text.evaluate("node => getComputedStyle(node).direction") == "rtl"
    chat.say(f"{hebrew}?")
    chat.finished(1)
    directions = "nodes => nodes.map((node) => getComputedStyle(node).direction)"
    assert chat.page.locator(".answer .text > *").evaluate_all(directions) == ["rtl", "ltr", "rtl", "rtl", "ltr"]
    assert chat.page.locator(".answer pre").evaluate_all(directions) == ["ltr", "ltr"]
    first, last = chat.page.locator(".answer td").all()
    assert first.bounding_box()["x"] > last.bounding_box()["x"]
    question = chat.page.locator(".user > p").evaluate(
        """(node) => {
            const range = document.createRange(), [text] = node.childNodes;
            return [0, 4].map((at) => {
                range.setStart(text, at);
                range.setEnd(text, at + 1);
                return range.getBoundingClientRect().left;
            });
        }"""
    )
    assert question[0] > question[1]  # the question mark comes behind the first letter


def test_nothing_is_loaded_from_elsewhere(chat: Chat) -> None:
    broken = chat.page.evaluate(
        """() => new Promise((resolve) => {
            document.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
            new Image().src = "http://127.0.0.1:9/picture.png";
        })"""
    )
    assert broken == "img-src"
    ran = chat.page.evaluate(
        """() => {
            const script = document.createElement("script"), node = document.createElement("div");
            script.textContent = "window.ran = true";
            node.innerHTML = "<button onclick='window.ran = true'></button>";
            document.body.append(script, node);
            node.firstChild.click();
            return Boolean(window.ran);
        }"""
    )
    assert not ran
    chat.complaints.clear()
