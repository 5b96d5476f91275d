"""What the server does around the protocols: other routes, images, a full queue, clients that leave, stopping."""

import asyncio
import base64
import json
import threading
import time
from http.client import HTTPConnection
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI

from mlx_qwen35 import Engine, ModelKit
from mlx_qwen35.server.app import Server, make_app
from mlx_qwen35.server.media import MediaPolicy
from mlx_qwen35.server.service import GenerationService
from mlx_qwen35.server.settings import Settings
from tests.server.clients import (
    LONG,
    QUICK,
    RED_CIRCLE,
    SPELL,
    Stream,
    asgi,
    chat,
    eventually,
    picture,
    raw,
    seen,
)
from tests.server.conftest import Running, serving


def test_other_errors(server: Running) -> None:
    for path, body, status, kind in (
        ("/v1/nothing", None, 404, "not_found_error"),
        ("/v1/messages/nothing", None, 404, "not_found_error"),
        ("/v1/chat/completions", None, 405, "invalid_request_error"),
        ("/v1/messages", None, 405, "invalid_request_error"),
    ):
        found, headers, text = raw(server.url, path, body)
        assert (found, json.loads(text)["error"]["type"]) == (status, kind)
        # RFC 9110, 15.5.6: it has to say what it takes.
        assert headers.get("allow") == ("POST" if status == 405 else None)
        assert (json.loads(text).get("type") == "error") == path.startswith("/v1/messages")


def test_an_address_is_doubted_only_where_it_is_wrong(server: Running) -> None:
    """Programs probe for what is not here, and show the reason to whoever wonders what to change."""
    for path, body, reason in (
        ("/v1/embeddings", {"input": "a"}, "no embeddings"),
        ("/v1/audio/speech", {"input": "a"}, "no embeddings, sound"),
        ("/v1/v1/chat/completions", {"messages": SPELL}, "base URL of OpenAI's clients ends with /v1"),
        ("/v1/v1/messages", {"messages": SPELL}, "that of Anthropic's does not"),
        ("/chat", {"messages": SPELL}, "base URL of OpenAI's clients ends with /v1"),
        ("/api/chat", {"messages": SPELL}, "Ollama's and LM Studio's own APIs are not served"),
    ):
        status, _, text = raw(server.url, path, body)
        told = json.loads(text)["error"]["message"]
        assert status == 404
        assert told.startswith(f"no such path: {path}; ")
        assert reason in told
        assert ("base URL" in told) == any(name in reason for name in ("base URL", "Anthropic", "Ollama"))


@pytest.mark.parametrize(
    ("path", "body", "methods"),
    [
        ("/v1/responses/compact", {}, "DELETE, GET, HEAD"),
        ("/responses/resp_1", {}, "DELETE, GET, HEAD"),
        ("/v1/chat/completions", None, "POST"),
        ("/", {}, "GET, HEAD"),
    ],
)
def test_another_method_is_told_which_there_are(server: Running, path: str, body: Any, methods: str) -> None:
    """In the header that HTTP asks for, too."""
    status, headers, text = raw(server.url, path, body)
    assert (status, headers["allow"]) == (405, methods)
    found = "GET" if body is None else "POST"
    message = json.loads(text)["error"]["message"]
    assert message.startswith(f"method: expected {methods}, found {found}: ")
    assert message.endswith(path)


def test_models_health_and_metrics(server: Running, client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["box"]
    assert client.models.retrieve("box").id == "box"
    chat(client, SPELL)
    assert json.loads(raw(server.url, "/health")[2])["status"] == "ok"
    text = raw(server.url, "/metrics")[2]
    for name in ("requests_total", "prompt_tokens_total", "time_to_first_token_seconds_count", "requests_running"):
        (line, *_) = [line for line in text.splitlines() if line.startswith(f"mlx_qwen35_{name}")]
        assert float(line.split()[-1]) >= (0 if name == "requests_running" else 1)


def test_a_model_of_several_names_answers_by_its_first(box: ModelKit) -> None:
    """To each of them, to none, and to any other unless the operator is strict; in the list they all stand."""
    body = {"messages": SPELL, "max_tokens": 1}
    with serving(box, names=("first", "org/second")) as running:
        status, _, text = raw(running.url, "/v1/chat/completions", body | {"model": "gpt-4o"})
        assert (status, json.loads(text)["model"]) == (200, "first")
        assert json.loads(raw(running.url, "/v1/models/gpt-4o")[2])["id"] == "gpt-4o"
    with serving(box, names=("first", "org/second"), strict_model=True) as running:
        for asked in ({}, {"model": "first"}, {"model": "org/second"}):
            status, _, text = raw(running.url, "/v1/chat/completions", body | asked)
            assert (status, json.loads(text)["model"]) == (200, "first")
        status, _, text = raw(running.url, "/v1/chat/completions", body | {"model": "third"})
        expected = "model: expected one of first, org/second, found 'third'"
        assert (status, json.loads(text)["error"]["message"]) == (404, expected)
        found = json.loads(raw(running.url, "/v1/models")[2])
        assert [model["id"] for model in found["data"]] == ["first", "org/second"]
        assert (found["first_id"], found["last_id"], found["has_more"]) == ("first", "org/second", False)
        assert json.loads(raw(running.url, "/v1/models/org/second")[2])["id"] == "org/second"
        assert raw(running.url, "/v1/models/third")[0] == 404


def test_media(box: ModelKit, tmp_path: Any) -> None:
    data = base64.b64decode(picture(RED_CIRCLE).partition(",")[2])
    (tmp_path / "circle.png").write_bytes(data)

    def body(url: str) -> dict[str, Any]:
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "Describe the picture."}]
        return {"messages": [{"role": "user", "content": parts}], "temperature": 0, **QUICK}

    local = (tmp_path / "circle.png").as_uri()
    with serving(box) as closed:
        for url in (local, "http://127.0.0.1/x.png", "data:image/png;base64,AAAA"):
            status, _, text = raw(closed.url, "/v1/chat/completions", body(url))
            assert status == 400
            assert "messages[0].content[0]" in text
    with serving(box, MediaPolicy(allow_remote=True, local_directory=tmp_path, max_images=1)) as opened:
        status, _, text = raw(opened.url, "/v1/chat/completions", body(local))
        assert json.loads(text)["choices"][0]["message"]["content"] == "A red circle."
        assert raw(opened.url, "/v1/chat/completions", body(opened.url + "/x.png"))[0] == 400
        twice = {"messages": seen(RED_CIRCLE, RED_CIRCLE)}
        assert raw(opened.url, "/v1/chat/completions", twice)[0] == 400


@pytest.mark.parametrize("kind", [{}, {"type": ""}, {"type": None}, {"type": "image"}, {"type": "input_image"}])
@pytest.mark.parametrize("key", ["image", "path", "url", "image_url", "data"])
def test_no_form_of_an_image_part_reads_a_file(server: Running, tmp_path: Any, kind: dict[str, Any], key: str) -> None:
    (tmp_path / "circle.png").write_bytes(base64.b64decode(picture(RED_CIRCLE).partition(",")[2]))
    parts = [{**kind, key: str(tmp_path / "circle.png")}, {"type": "text", "text": "Describe the picture."}]
    status, _, text = raw(server.url, "/v1/chat/completions", {"messages": [{"role": "user", "content": parts}]})
    assert status == 400, text


def test_a_message_whose_content_is_missing_is_refused(server: Running) -> None:
    """Misspelled, it was read as an empty question."""
    status, _, text = raw(server.url, "/v1/chat/completions", {"messages": [{"role": "user", "contents": "Hi"}]})
    error = json.loads(text)["error"]
    assert (status, error["param"]) == (400, "messages[0].content"), text
    assert error["message"] == "messages[0].content: expected text or a list of parts, found none"


def test_a_client_that_goes_frees_its_place(box: ModelKit) -> None:
    with serving(box, max_rows=1) as running:
        stream = Stream(running.url, LONG)
        stream.until_text()
        stream.close()
        eventually(lambda: running.engine.running == 0)
        connection = HTTPConnection(urlsplit(running.url).netloc, timeout=60)
        connection.request("POST", "/v1/chat/completions", json.dumps(LONG | {"stream": False}))
        eventually(lambda: running.engine.running == 1)
        connection.close()
        eventually(lambda: running.engine.running == 0)
        assert raw(running.url, "/v1/chat/completions", {"messages": SPELL, "max_tokens": 2})[0] == 200


def test_a_full_queue_says_when_to_come_again(box: ModelKit) -> None:
    with serving(box, max_rows=1, max_waiting=0) as running:
        stream = Stream(running.url, LONG)
        stream.until_text()
        status, headers, text = raw(running.url, "/v1/chat/completions", {"messages": SPELL})
        assert (status, headers["retry-after"]) == (429, "2")
        assert json.loads(text)["error"]["code"] == "rate_limit_exceeded"
        assert raw(running.url, "/v1/chat/completions", {"messages": SPELL, "stream": True})[0] == 429
        stream.close()


NO_PICTURE = "ftp://example.com/a.png"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"n": 2, "messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": NO_PICTURE}}]}]}),
        ("/v1/completions", {"prompt": [[1, 2], [10**6]]}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_refused_while_it_is_prepared_keeps_no_place(box: ModelKit, path: str, body: dict[str, Any]) -> None:
    """In a queue that has room for two answers, of which each of these would need up to two."""
    engine = Engine(box, max_rows=1, max_waiting=1)
    app = make_app(GenerationService(engine, MediaPolicy()), Settings(("box",)))
    for _ in range(3):
        status, text = asyncio.run(asgi(app, "POST", path, None, json.dumps(body).encode()))
        assert (status, b"expected" in text) == (400, True)
    for place in [engine.reserve(), engine.reserve()]:
        place.release()
    engine.close()


def test_shutting_down_finishes_what_is_running(box: ModelKit) -> None:
    rest: list[bytes] = []
    with serving(box) as running:
        stream = Stream(running.url, LONG | {"max_tokens": 100})
        stream.until_text()
        thread = threading.Thread(target=lambda: rest.append(stream.response.read()))
        thread.start()
    thread.join()
    assert b'"finish_reason":"length"' in rest[0]
    assert rest[0].endswith(b"data: [DONE]\n\n")
    stream.close()


def test_shutting_down_cancels_what_takes_too_long(box: ModelKit) -> None:
    """The stream says so before it ends."""
    rest: list[bytes] = []
    with serving(box, patience=0.2) as running:
        stream = Stream(running.url, LONG | {"max_tokens": 8000})
        stream.until_text()
        thread = threading.Thread(target=lambda: rest.append(stream.response.read()))
        thread.start()
    thread.join()
    assert b"shutting down" in rest[0]
    stream.close()


def test_an_answer_has_a_time_limit(box: ModelKit) -> None:
    with serving(box, timeout=0.5) as running:
        assert raw(running.url, "/v1/chat/completions", LONG | {"stream": False})[0] == 504
        text = raw(running.url, "/v1/chat/completions", LONG)[2]
        assert "timeout_error" in text.strip().splitlines()[-1]
        eventually(lambda: running.engine.running == 0)


@pytest.mark.thorough
def test_a_long_prompt_keeps_the_connection_alive(box: ModelKit) -> None:
    with serving(box, prefill_step_size=32) as running:
        body = {"messages": [{"role": "user", "content": "star " * 300}], "max_tokens": 2, "stream": True}
        lines = raw(running.url, "/v1/chat/completions", body)[2].splitlines()
        assert sum(line.startswith(": ") and line.endswith("prompt tokens") for line in lines) >= 8
        with serving(box, heartbeat=0.05, max_rows=1) as slow:
            stream = Stream(slow.url, LONG)
            stream.until_text()
            waiting = Stream(slow.url, LONG)
            assert waiting.response.readline().startswith(b"data: ")
            while not waiting.response.readline().startswith(b": 0 of"):
                pass
            stream.close()
            waiting.close()


def test_an_engine_fault_is_told_and_the_next_request_works(
    box: ModelKit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(box) as running:
        with monkeypatch.context() as patch:
            patch.setattr("mlx_qwen35.runtime.batch.Batch.step", lambda *_: 1 / 0)
            status, _, text = raw(running.url, "/v1/chat/completions", {"messages": SPELL})
            assert status == 500
            assert "division" not in text
            assert '"error"' in raw(running.url, "/v1/chat/completions", {"messages": SPELL, "stream": True})[2]
            text = raw(running.url, "/v1/responses", {"input": "Spell the word star.", "stream": True})[2]
            numbers = [json.loads(line[6:])["sequence_number"] for line in text.splitlines() if line[:6] == "data: "]
            assert numbers == list(range(len(numbers)))
        assert "ZeroDivisionError" in caplog.text
        assert raw(running.url, "/v1/chat/completions", {"messages": SPELL, "max_tokens": 2})[0] == 200


def test_who_waits_for_the_server_is_told_when_it_answers_and_its_end_is_the_engines() -> None:
    told: list[bool] = []
    closed: list[float] = []

    def close(patience: float) -> None:
        time.sleep(0.05)
        closed.append(patience)

    async def run() -> None:
        app, engine = FastAPI(), SimpleNamespace(close=close)
        server = Server(
            app,
            engine,
            patience=2.0,
            on_ready=lambda: told.append(server.started),
            port=0,
            log_level="error",  # type: ignore[arg-type]
        )
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        await server.startup()
        assert told == [True]
        await server.shutdown()
        assert closed == [1.5]
        # Answers that the engine cancels at last have time to say so.
        assert closed[0] < (server.config.timeout_graceful_shutdown or 0) <= 2.0

    asyncio.run(run())
