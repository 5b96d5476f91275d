"""Videos that requests name: every protocol, permissions, limits, and what a stream tells meanwhile."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlx_qwen35 import ModelKit
from mlx_qwen35.errors import GenerationCancelled, MediaError, OptionError
from mlx_qwen35.prompts import pieces
from mlx_qwen35.runtime.engine import Engine
from mlx_qwen35.server import media
from mlx_qwen35.server.generation import GenerationRequest
from mlx_qwen35.server.media import MediaPolicy, fetch_media
from mlx_qwen35.server.service import GenerationService
from tests.server.clients import raw
from tests.server.conftest import Running, serving

PLACE = "messages[0].content[0]"


def pictures(count: int = 4) -> list[Image.Image]:
    return [Image.new("RGB", (96, 64), (60 * number, 20, 200)) for number in range(count)]


def gif() -> bytes:
    buffer = io.BytesIO()
    first, *others = pictures()
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=500, loop=0)
    return buffer.getvalue()


GIF = gif()
URL = f"data:image/gif;base64,{base64.b64encode(GIF).decode()}"


def png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def asked(part: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [part, {"type": "text", "text": "What happens?"}]}]


def chat(part: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": asked(part), "max_tokens": 4, "temperature": 0, "enable_thinking": False, **more}


def refused(messages: Any, policy: MediaPolicy | None = None) -> str:
    with pytest.raises(MediaError) as caught:
        fetch_media(messages, policy or MediaPolicy())
    return str(caught.value)


@pytest.mark.some(1)
@pytest.mark.parametrize(
    "part",
    [
        {"type": "video_url", "video_url": {"url": URL}},
        {"type": "video", "video": URL},
        {"type": "input_video", "video_url": URL},
        {"type": "video", "video": [png(picture) for picture in pictures()], "fps": 2},
    ],
    ids=["video_url", "video", "input_video", "pictures"],
)
def test_a_video_is_answered_as_python_answers_it(server: Running, box: ModelKit, part: dict[str, Any]) -> None:
    prompt = box.process_prompt(asked({"type": "video", "video": GIF}), enable_thinking=False)
    expected = box.generate(prompt, max_tokens=4, temperature=0.0)
    status, _, text = raw(server.url, "/v1/chat/completions", chat(part))
    assert status == 200, text
    found = json.loads(text)
    assert found["choices"][0]["message"]["content"] == expected.text
    assert found["usage"]["prompt_tokens"] == len(prompt.input_ids)


def test_responses_take_videos_too(server: Running, box: ModelKit) -> None:
    """With what is said about one."""
    few = box.process_prompt(asked({"type": "video", "video": GIF, "max_frames": 2}), enable_thinking=False)
    part = {"type": "input_video", "video_url": URL, "max_frames": 2}
    content = [part, {"type": "input_text", "text": "What happens?"}]
    body = {"input": [{"role": "user", "content": content}], "max_output_tokens": 4, "reasoning": {"effort": "none"}}
    status, _, text = raw(server.url, "/v1/responses", body)
    assert status == 200, text
    assert json.loads(text)["usage"]["input_tokens"] == len(few.input_ids)
    body["input"] = [{"role": "assistant", "content": [part]}]  # type: ignore[list-item]
    status, _, text = raw(server.url, "/v1/responses", body)
    assert (status, "expected text, found a video" in text) == (400, True), text


def test_anthropic_s_messages_refuse_a_video_by_name(server: Running) -> None:
    """In a message, and in what a function returned."""
    source = {"type": "base64", "media_type": "video/mp4", "data": "AAAA"}
    video = {"type": "video", "source": source}
    result = {"type": "tool_result", "tool_use_id": "1", "content": [video]}
    for block in (video, result):
        body = {"model": "box", "max_tokens": 4, "messages": [{"role": "user", "content": [block]}]}
        status, _, text = raw(server.url, "/v1/messages", body)
        assert (status, "found a video; Anthropic's messages have none" in text) == (400, True), text


def test_models_say_what_they_take(server: Running) -> None:
    status, _, text = raw(server.url, "/v1/models")
    assert status == 200
    assert json.loads(text)["data"][0]["input_modalities"] == ["text", "image", "video"]


def test_a_stream_counts_frames_before_it_counts_tokens(
    server: Running, box: ModelKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE_PATCHES", 1)
    box.vision.features.clear()
    box.prompt_cache.clear()
    part = {"type": "video", "video": [png(picture) for picture in pictures(6)], "fps": 3}
    status, _, text = raw(server.url, "/v1/chat/completions", chat(part, stream=True))
    assert status == 200, text
    comments = [line for line in text.splitlines() if line.startswith(": ")]
    frames = [line for line in comments if line.endswith("frames")]
    assert frames == [": 0 of 6 frames", ": 2 of 6 frames", ": 4 of 6 frames"]
    assert comments.index(frames[-1]) < comments.index(next(line for line in comments if "prompt tokens" in line))


def test_parts_get_their_bytes_and_keep_what_they_say() -> None:
    """Pictures of a list are fetched one by one."""
    first, second = (png(picture) for picture in pictures(2))
    messages = [
        *asked({"type": "video_url", "video_url": {"url": URL}, "fps": 1.5, "max_frames": 8, "colour": "red"}),
        *asked({"type": "video", "video": [first, second], "fps": 4}),
    ]
    found = [message["content"][0] for message in fetch_media(messages, MediaPolicy())]
    assert found[0] == {"type": "video", "video": GIF, "fps": 1.5, "max_frames": 8}
    assert [Image.open(io.BytesIO(data)).size for data in found[1]["video"]] == [(96, 64)] * 2
    assert found[1]["fps"] == 4


def test_the_same_permissions_hold_as_for_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked_for: list[Any] = []
    monkeypatch.setattr(media, "fetch_remote", lambda source, **limits: (asked_for.append(limits), GIF)[1])
    remote = asked({"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}})
    assert "videos are fetched from the network only by a server started with --allow-remote-media" in refused(remote)
    assert "files are read only by a server started with --allow-local-media" in refused(
        asked({"type": "video", "video": "a.gif"})
    )
    policy = MediaPolicy(allow_remote=True, local_directory=tmp_path, max_bytes=1, max_video_bytes=10**6)
    assert fetch_media(remote, policy)[0]["content"][0]["video"] == GIF
    assert (asked_for[0]["kind"], asked_for[0]["max_bytes"]) == ("video", 10**6)
    (tmp_path / "a.gif").write_bytes(GIF)
    local = fetch_media(asked({"type": "video", "video": "a.gif"}), policy)
    assert local[0]["content"][0]["video"] == GIF
    assert "expected a video file, found a directory" in refused(asked({"type": "video", "video": "."}), policy)


@pytest.mark.parametrize(
    ("part", "policy", "message"),
    [
        ({"video": URL}, {"max_videos": 0}, "expected at most 0 videos in one request, found 1"),
        ({"video": URL}, {"max_video_bytes": 100}, "expected at most 100 bytes"),
        ({"video": [png(Image.new("RGB", (8, 8)))] * 3}, {"max_frames": 2}, "at most 2 pictures of a video, found 3"),
        ({"video": [png(Image.new("RGB", (8, 8)))] * 3}, {"max_video_bytes": 100}, "expected at most"),
        ({"video": [{}]}, {}, "video[0]: expected a data: URL, found dict"),
        ({"video": URL, "max_frames": 769}, {}, "max_frames: expected at most 768, found 769"),
        ({"video": URL, "min_frames": 10**9}, {}, "min_frames: expected at most 768, found 1000000000"),
        ({"video": URL, "max_frames": "all"}, {}, "max_frames: expected at most 768, found 'all'"),
        ({"video": None}, {}, "expected a data: URL, found NoneType"),
        ({"video": "data:text/plain;base64,AAAA"}, {}, "expected 'data:video/...;base64,...'"),
    ],
)
def test_limits(part: dict[str, Any], policy: dict[str, Any], message: str) -> None:
    text = refused(asked({"type": "video", **part}), MediaPolicy(**policy))
    assert text.startswith(PLACE)
    assert message in text
    assert len(text) < 400


def test_images_and_videos_are_counted_apart() -> None:
    image = {"type": "image", "image": png(pictures(1)[0])}
    video = {"type": "video", "video": URL}
    messages = [{"role": "user", "content": [image, video, image, video]}]
    assert len(fetch_media(messages, MediaPolicy(max_images=2, max_videos=2))[0]["content"]) == 4
    assert "content[3]: expected at most 1 videos in one request, found 2" in refused(
        messages, MediaPolicy(max_videos=1)
    )


@pytest.mark.parametrize("option", [{"max_videos": -1}, {"max_video_bytes": 0}, {"max_frames": 0}])
def test_a_policy_without_sense_is_refused(option: dict[str, int]) -> None:
    with pytest.raises(OptionError, match=next(iter(option))):
        MediaPolicy(**option)  # type: ignore[arg-type]


def test_no_video_is_decoded_beyond_the_deadline(box: ModelKit) -> None:
    """Nobody may be waiting any more, and no thread can be ended from outside."""
    engine = Engine(box)
    service = GenerationService(engine, MediaPolicy())
    frames = [png(Image.fromarray(np.full((64, 96, 3), number, np.uint8))) for number in range(4)]
    wanted = GenerationRequest(asked({"type": "video", "video": frames}))
    with pytest.raises(GenerationCancelled):
        service.prepare(wanted, 0.0)
    assert service.prepare(wanted).prompt.video_tokens > 0
    engine.close()


def test_an_operator_may_forbid_videos(box: ModelKit) -> None:
    with serving(box, MediaPolicy(max_videos=0)) as strict:
        status, _, text = raw(strict.url, "/v1/chat/completions", chat({"type": "video", "video": URL}))
        assert (status, "expected at most 0 videos in one request, found 1" in text) == (400, True), text
