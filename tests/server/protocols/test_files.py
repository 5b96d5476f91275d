"""Files of text, in whichever protocol they come, and those that are refused."""

import base64
from typing import Any

import pytest
from pydantic import ValidationError

from mlx_qwen35.server.protocols.chat_completions import ChatCompletionRequest
from mlx_qwen35.server.protocols.files import document_text, file_text
from mlx_qwen35.server.protocols.messages import CountRequest
from mlx_qwen35.server.protocols.responses import ResponsesRequest
from mlx_qwen35.server.wire import ApiError, unused_fields

PDF = "data:application/pdf;base64," + base64.b64encode(b"%PDF-1.7\n").decode()
TEXT = "data:text/plain;base64,aGkg4oKs"


@pytest.mark.parametrize(
    "data",
    [TEXT, "aGkg4oKs", "aGkg\n4oKs", "data:text/plain;charset=utf-8;base64,aGkg4oKs", "data:,hi%20%E2%82%AC",
     "data:application/octet-stream;base64,77u/aGkg4oKs"],
)  # fmt: skip
def test_a_file_of_text_is_its_text(data: str) -> None:
    assert file_text(data, None, "here") == "hi €"
    assert file_text(data, "a.txt", "here") == document_text("hi €", "a.txt") == "# a.txt\n\nhi €\n"


@pytest.mark.parametrize(
    ("data", "name", "said"),
    [
        (PDF, "a.pdf", r"here: expected a file of text in UTF-8, found a\.pdf of type application/pdf; PDFs and other"),
        ("data:application/zip;base64,UEsDBAD/", None, "found one of type application/zip"),
        (base64.b64encode(b"a\0b").decode(), "a.bin", r"found a\.bin; .*: send their text, and images as images"),
        ("hello there", "a.txt", r"here: expected a data: URL or base64 \("),
        ("data:text/plain;base64,ä", None, r"expected a data: URL or base64 \("),
        (None, "a.txt", "expected file_data, found none; send its text"),
        ("", None, "expected file_data, found none"),
    ],
)
def test_other_files_are_refused(data: str | None, name: str | None, said: str) -> None:
    with pytest.raises(ApiError, match=said) as caught:
        file_text(data, name, "here")
    assert caught.value.param == "here"


def response(part: dict[str, Any]) -> list[Any]:
    output = {"type": "function_call_output", "call_id": "a", "output": [part]}
    body = ResponsesRequest.model_validate({"input": [{"role": "user", "content": [part]}, output]})
    unused_fields(body)
    return [message["content"] for message in body.generation_requests()[0].prompt]


def chat(part: dict[str, Any]) -> list[Any]:
    messages = [{"role": "user", "content": [part]}, {"role": "tool", "content": [part]}]
    body = ChatCompletionRequest.model_validate({"messages": messages})
    return [message["content"] for message in body.generation_requests()[0].prompt]


def document(source: dict[str, Any]) -> Any:
    block = {"type": "document", "title": "a.txt", "source": source}
    asked = CountRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": [block]}]})
    return asked.generation_requests()[0].prompt[0]["content"]


def test_a_file_is_the_same_prompt_in_every_protocol() -> None:
    content = [{"type": "text", "text": "# a.txt\n\nhi €\n"}]
    assert document({"type": "text", "media_type": "text/plain", "data": "hi €"}) == content
    assert document({"type": "base64", "media_type": "text/csv", "data": "aGkg4oKs"}) == content
    assert response({"type": "input_file", "filename": "a.txt", "file_data": TEXT, "detail": "low"}) == [content] * 2
    assert chat({"type": "file", "file": {"filename": "a.txt", "file_data": TEXT}}) == [content] * 2


def test_images_of_a_document_stand_where_they_stood() -> None:
    def text(said: str) -> dict[str, str]:
        return {"type": "text", "text": said}

    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    seen = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    content = [text("a"), text("b"), image, text("c")]
    assert document({"type": "content", "content": content}) == [text("# a.txt\n\na\nb\n"), seen, text("c")]
    assert document({"type": "content", "content": [image]}) == [text("# a.txt\n\n\n"), seen]
    assert document({"type": "content", "content": []}) == [text("# a.txt\n\n\n")]
    with pytest.raises(ValidationError, match="'video'"):
        document({"type": "content", "content": [{"type": "video"}]})


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"file_data": PDF}, r"input\[0\]\.content\[0\]: expected a file of text"),
        ({"file_id": "file-1"}, r"file_id: expected none: files are not stored here; send its text"),
        ({"file_url": "https://a/b.txt"}, r"file_url: expected none: files are not fetched here; send its text"),
        ({}, r"input\[0\]\.content\[0\]: expected file_data"),
    ],
)
def test_what_is_refused_of_responses(part: dict[str, Any], said: str) -> None:
    with pytest.raises(ApiError, match=said):
        response({"type": "input_file", **part})


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ({"file_data": PDF}, r"messages\[0\]\.content\[0\]\.file: expected a file of text"),
        ({"file_id": "file-1"}, r"messages\[0\]\.content\[0\]\.file\.file_id: expected none: files are not stored"),
        ({}, "expected file_data"),
        (None, "expected an object with file_data and filename"),
        ({"file_data": 1}, "expected an object with file_data and filename"),
    ],
)
def test_what_is_refused_of_chat(file: Any, said: str) -> None:
    with pytest.raises(ApiError, match=said):
        chat({"type": "file", "file": file})
