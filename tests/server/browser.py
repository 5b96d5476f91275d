"""The page at `/`, as somebody uses it in a browser."""

import base64
import json
import re
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="needs the test extra")
expect = playwright.expect

# Milliseconds; only a machine that has much else to do needs as long.
PATIENCE = 60_000
FIGURES = re.compile(r"^(?:[\d.]+ tokens/s · )?first token after [\d.]+ s · (\d+) prompt tokens, (\d+) cached$")


class Chat:
    """The page, as somebody uses it."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self._url = page, url
        self.log, self.text = page.locator("#log"), page.get_by_label("Message", exact=True)
        self.answers, self.errors = page.locator(".answer .text"), page.locator(".answer .error")
        self.thumbnails, self.sent_images = page.locator("#thumbnails img"), page.locator(".user img")
        self.notice, self.chats = page.locator("#notice"), page.locator("#list .open")
        self.complaints: list[str] = []
        self.asked: list[dict[str, Any]] = []
        self.rendered: list[dict[str, Any]] = []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._note)
        page.goto(url)

    def _note(self, request: Any) -> None:
        if not request.url.startswith((self._url, "data:", "blob:")):
            self.complaints.append(f"asked {request.url}")
        if request.url.endswith("/v1/chat/completions"):
            self.asked.append(request.post_data_json)
        if request.url.endswith("/render"):
            self.rendered.append(request.post_data_json)

    def say(self, text: str) -> None:
        self.text.fill(text)
        self.text.press("Enter")

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def set(self, **values: str) -> None:
        """In the settings, by the name of the field."""
        self.press("Settings")
        for name, value in values.items():
            field = self.page.locator(f"dialog #{name}")
            field.select_option(value) if name == "thinking" else field.fill(value)
        self.press("Done")

    def edit(self, at: int) -> None:
        """Begin to change a message, by its place in the conversation."""
        self.page.locator(".turn").nth(at).get_by_role("button", name="Edit", exact=True).click()

    def finished(self, answers: int) -> None:
        """Wait until so many answers are there, to their end."""
        expect(self.page.locator(".answer:not([aria-busy])")).to_have_count(answers)

    def figures(self, at: int) -> tuple[int, int]:
        """Tokens of the prompt, and how many of them were cached, from the line under an answer."""
        line = self.page.locator(".stats").nth(at)
        expect(line).to_have_text(FIGURES)
        found = FIGURES.match(line.inner_text())
        assert found is not None
        return int(found[1]), int(found[2])

    def answer_with(self, *deltas: dict[str, str], reason: str | None = "stop", error: str | None = None) -> None:
        """In place of the server, from now on."""
        body = stream(*deltas, reason=reason, error=error)
        self.page.route(
            "**/v1/chat/completions", lambda route: route.fulfill(content_type="text/event-stream", body=body)
        )

    def answer_by_hand(self, question: str) -> None:
        """Ask; the page then has functions `write(text)`, a token for each character, and `end()`, for the answer."""
        self.page.evaluate(
            """() => {
                const own = fetch, tell = (stream, delta, reason) => stream.enqueue(new TextEncoder().encode(
                    `data: ${JSON.stringify({ choices: [{ delta, finish_reason: reason }] })}\\n\\n`));
                const start = (stream) => {
                    window.write = (text) => {
                        for (const content of text) tell(stream, { content }, null);
                    };
                    window.end = () => {
                        tell(stream, {}, "stop");
                        stream.close();
                    };
                };
                fetch = async (path, options) =>
                    path === "render" ? own(path, options) : new Response(new ReadableStream({ start }));
            }"""
        )
        self.say(question)
        self.page.wait_for_function("() => Boolean(window.write)")

    def hand_over(self, how: str, data: bytes, name: str, kind: str = "image/png", **texts: str) -> None:
        """A file, dropped onto the page or pasted into it, with texts of other types beside it."""
        self.page.evaluate(
            """([how, data, name, type, texts]) => {
                const files = new DataTransfer(), bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
                files.items.add(new File([bytes], name, { type }));
                for (const [form, text] of Object.entries(texts)) files.setData(`text/${form}`, text);
                const [Event, field] = how === "drop" ? [DragEvent, "dataTransfer"] : [ClipboardEvent, "clipboardData"];
                const event = new Event(how, { [field]: files, bubbles: true, cancelable: true });
                document.querySelector("#text").dispatchEvent(event);
            }""",
            [how, base64.b64encode(data).decode(), name, kind, texts],
        )


def stream(*deltas: dict[str, str], reason: str | None = "stop", error: str | None = None) -> str:
    """An answer as the server would send it."""
    choices: list[dict[str, Any]] = [{"delta": delta, "finish_reason": None} for delta in deltas]
    if reason is not None:
        choices.append({"delta": {}, "finish_reason": reason})
    events: list[dict[str, Any]] = [{"model": "box", "choices": [choice]} for choice in choices]
    if error is not None:
        events.append({"error": {"message": error}})
    return "".join(f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in events) + "data: [DONE]\n\n"
