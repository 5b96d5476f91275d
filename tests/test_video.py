"""Videos in prompts of a ModelKit: every form, what is reused, batches, sessions, progress and bounds."""

import io
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mlx_qwen35 import ModelKit
from mlx_qwen35.answers.results import GenerationChunk, GenerationResult
from mlx_qwen35.errors import (
    GenerationCancelled,
    InsufficientMemoryError,
    MediaError,
    OptionError,
    PromptError,
    PromptMismatchError,
    VisionUnavailableError,
)
from mlx_qwen35.prompts import pieces
from mlx_qwen35.prompts.pieces import cut
from mlx_qwen35.runtime.engine import Engine
from mlx_qwen35.runtime.request import Event
from tests.conftest import Bench
from tests.parity.cases import CASES, TOLERANCE
from tests.tiny import DENSE, IDS, Shape

GREEDY: dict[str, Any] = {"max_tokens": 4, "temperature": 0.0}
VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


def clip(seed: int, frames: int = 4, height: int = 64, width: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def picture(seed: int) -> NDArray[np.uint8]:
    return clip(seed, 1)[0]


def png(seed: int) -> bytes:
    """A file: pixels of an array are not remembered."""
    buffer = io.BytesIO()
    Image.fromarray(picture(seed)).save(buffer, "PNG")
    return buffer.getvalue()


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]}


def video(seed: int, **options: Any) -> dict[str, Any]:
    return {"type": "video", "video": clip(seed), **options}


@pytest.fixture
def pairs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pair of frames is a piece."""
    monkeypatch.setattr(pieces, "PIECE_PATCHES", 1)


def test_every_form_of_a_prompt_gives_the_same(kit: ModelKit) -> None:
    """Messages, videos beside the messages, a finished string, expanded ids, expanded text."""
    shown = {"type": "image", "image": picture(1)}
    whole = kit.process_prompt([user("Look:", video(2), shown, video(3), "what?")])
    text = kit.tokenizer.decode(whole.input_ids.tolist())
    beside = {"images": [picture(1)], "videos": [clip(2), clip(3)]}
    bare = [user("Look:", {"type": "video"}, {"type": "image"}, {"type": "video"}, "what?")]
    finished = f"<|im_start|>user\nLook:{VIDEO}{IMAGE}{VIDEO}what?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    forms = [
        kit.process_prompt(bare, **beside),
        kit.process_prompt(finished, **beside),
        kit.process_prompt(whole.input_ids, **beside),
        kit.process_prompt(text, **beside),
        kit.process_prompt([user("Look:", {"video": clip(2)}, shown, {"video": list(clip(3))}, "what?")]),
    ]
    for form in forms:
        np.testing.assert_array_equal(form.input_ids, whole.input_ids)
        assert form.pieces == whole.pieces
        assert form.videos == whole.videos == ((0, 1), (3, 4))
        assert (form.layout, form.branch_points) == (whole.layout, whole.branch_points)
    assert (whole.image_tokens, whole.video_tokens, len(whole.images)) == (2, 2 * 2 * 2, 1)
    assert text.count("seconds>") == 4


def test_a_part_may_say_how_its_video_is_sampled(kit: ModelKit) -> None:
    """And the call says it for the others; a list or an array counts as sampled already."""
    messages = [user(video(1, fps=4), video(2), "what?")]
    text = kit.tokenizer.decode(kit.process_prompt(messages, video_fps=1).input_ids.tolist())
    assert [part.split("<")[-1] for part in text.split(" seconds>")[:-1]] == ["0.1", "0.6", "0.5", "2.5"]
    few = kit.process_prompt([user(video(1, max_frames=2), video(2), "what?")], max_frames=3, min_frames=1)
    assert few.videos == ((0,), (1, 2))
    small = {"max_pixels": 4 * 32 * 32}
    assert kit.process_prompt([user(video(1, **small), video(2), "what?")]).video_tokens == 2 * (1 + 2)
    assert kit.process_prompt([user(video(1), "what?")], **small).video_tokens == 2 * 1


@pytest.mark.parametrize(
    ("prompt", "given", "error", "message"),
    [
        ([1, 2], {"videos": [clip(1)]}, PromptMismatchError, r"expected 1 video placeholders .* or 4 .*, found 0"),
        ("<|video_pad|>", {}, PromptMismatchError, r"expected 0 video placeholders .*, found 1"),
        (IMAGE, {"videos": [clip(1)]}, PromptMismatchError, r"expected 1 video placeholders .*, found 0"),
        (VIDEO, {"images": [picture(1)]}, PromptMismatchError, r"expected 0 video placeholders .*, found 1"),
        ([user("a")], {"videos": [clip(1)]}, PromptMismatchError, r"videos: expected 0 .*none\), found 1"),
        (
            [user("a", {"type": "video"}, {"type": "video"})],
            {"videos": [clip(1)]},
            PromptMismatchError,
            r"videos: expected 2 \(video parts without a source: messages\[0\]\.content\[1\], .*\), found 1",
        ),
        (
            [user({"type": "video", "video": "a.mp4", "video_url": {"url": "b.mp4"}})],
            {},
            PromptError,
            r"messages\[0\]\.content\[0\]: expected one video, found 2",
        ),
        ([user({"type": "video", "video": picture(1)})], {}, MediaError, r"^messages\[0\]\.content\[0\]: "),
        (VIDEO, {"videos": [clip(1)], "video_fps": 0}, OptionError, r"videos\[0\]: fps: expected a number"),
        ([user(video(1, max_frames=0))], {}, OptionError, r"messages\[0\]\.content\[0\]: max_frames: expected"),
        ({"input_ids": [1], "pixel_values_videos": 1}, {}, PromptError, r"expected videos as videos=\[...\]"),
        (
            [user({"type": "audio"})],
            {},
            PromptError,
            r"expected 'text', 'image', .*, 'video' or 'video_url', found 'audio'",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    kit: ModelKit, prompt: Any, given: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        kit.process_prompt(prompt, **given)


def test_runs_that_do_not_fit_their_frames_are_refused(kit: ModelKit) -> None:
    """The number of placeholders is right, and where they stand is not."""
    ids = kit.process_prompt(VIDEO, videos=[clip(1)]).input_ids.tolist()
    pad = IDS["<|video_pad|>"]
    ids.remove(pad)
    with pytest.raises(
        PromptMismatchError, match=r"token \d+: pair of frames 1 expected 2 placeholders .*1x2x1.*, found 1"
    ):
        kit.process_prompt([*ids, pad], videos=[clip(1)])


def test_a_user_who_types_a_placeholder_has_typed_its_letters(kit: ModelKit) -> None:
    prompt = kit.process_prompt([user("<|video_pad|> and", video(1), "<|vision_start|><|video_pad|><|vision_end|>")])
    assert prompt.video_tokens == prompt.input_ids.tolist().count(IDS["<|video_pad|>"]) == 4


def test_a_checkpoint_that_cannot_see_says_so(
    checkpoint_dir: Callable[[Shape], Path], tmp_path: Path, kit: ModelKit
) -> None:
    """Without settings for videos pictures still work."""
    import json
    import shutil

    assert kit.vision.sees_videos
    directory = Path(shutil.copytree(checkpoint_dir(DENSE), tmp_path / "copy"))
    (directory / "video_preprocessor_config.json").write_text(json.dumps({"patch_size": 14}))
    with ModelKit.load(directory) as other:
        assert not other.vision.sees_videos
        assert other.process_prompt(IMAGE, images=[picture(1)]).image_tokens == 2
        with pytest.raises(
            VisionUnavailableError, match=r"videos\[0\]: this checkpoint cannot see videos: .*patch_size"
        ):
            other.process_prompt(VIDEO, videos=[clip(1)])


def test_there_is_no_branch_after_every_pair_of_frames(kit: ModelKit) -> None:
    """Each would cost a chunk: one behind a whole video is enough."""
    prompt = kit.process_prompt([user("Look:", video(1), video(2), "what?")])
    assert prompt.layout is not None
    stops = [span.stop for span in prompt.layout.spans]
    assert set(stops) & set(prompt.branch_points) == {stops[1], stops[3]}


def test_pieces_give_what_pairs_give_alone(benches: Callable[[Shape], Bench], dense_and_moe: Shape) -> None:
    """Frames look at nothing outside of their own pair; float32, within TOLERANCE of the largest number."""
    vision = benches(dense_and_moe).vision
    media = vision.prepare_video(clip(5, frames=12, width=96)).frames
    (piece,) = cut(media, [range(6)])
    assert len(piece) == 6
    together = vision.encode(piece, media)
    alone = [vision.encode(cut([pair], [range(1)])[0], [pair])[0] for pair in media]
    assert [one.shape for one in together] == [one.shape for one in alone]
    scale = max(mx.abs(one).max().item() for one in alone)  # type: ignore[type-var]
    for one, other in zip(together, alone, strict=True):
        assert mx.abs(one - other).max().item() <= TOLERANCE * scale  # type: ignore[operator]
    assert not mx.allclose(alone[0], alone[1], atol=0.1).item()


@pytest.mark.usefixtures("pairs_alone")
def test_cut_into_pieces_logits_stay_the_same(kit: ModelKit, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["images and videos over several turns"]
    small = kit.process_prompt(case.input_ids, **case.media)
    assert len(small.pieces) == 2 + 1 + 3
    cut_small = np.array(kit.logits(small))
    monkeypatch.setattr(pieces, "PIECE_PATCHES", 10_000)
    large = kit.process_prompt(case.input_ids, **case.media)
    assert len(large.pieces) == 3
    whole = np.array(kit.logits(large))
    np.testing.assert_array_equal(cut_small.argmax(-1), whole.argmax(-1))
    assert np.abs(cut_small - whole).max() <= TOLERANCE * np.abs(whole).max()


def test_the_order_and_the_times_of_frames_matter(kit: ModelKit) -> None:
    """Seen the other way round, or at another pace, the same frames are another prompt."""
    frames = clip(7)
    last = [
        np.array(kit.logits(kit.process_prompt(f"{VIDEO}so", videos=[shown], video_fps=fps)))[-1]
        for shown, fps in ((frames, 2), (frames, 2), (frames[::-1], 2), (frames, 1))
    ]
    np.testing.assert_array_equal(last[0], last[1])
    assert np.abs(last[0] - last[2]).max() > 0.1
    assert np.abs(last[0] - last[3]).max() > 0.1


def test_the_second_question_about_a_video_encodes_nothing(fresh: Callable[..., ModelKit]) -> None:
    """Nor does one that begins otherwise, and the first reads no token of the video again."""
    kit = fresh()
    first = kit.generate([user(video(1), "what?")], **GREEDY)
    assert (first.stats.frames_encoded, first.stats.frames_reused, first.stats.video_tokens) == (4, 0, 4)
    second = kit.generate([user(video(1), "and how often?")], **GREEDY)
    assert (second.stats.frames_encoded, second.stats.frames_reused) == (0, 4)
    assert second.stats.cached_tokens > 20
    elsewhere = kit.generate([user("see:", {"type": "image", "image": picture(2)}, video(1), "what?")], **GREEDY)
    assert (elsewhere.stats.frames_encoded, elsewhere.stats.images_encoded) == (0, 1)
    assert elsewhere.stats.cached_tokens < 20


def test_a_changed_frame_never_matches(fresh: Callable[..., ModelKit]) -> None:
    """Of a video of the same size and length that differs in its last frame alone."""
    kit = fresh()
    frames = clip(1)
    changed = frames.copy()
    changed[-1, 0, 0] ^= 1
    cold = kit.generate([user({"type": "video", "video": changed}, "what?")], cache_prompt=False, **GREEDY)
    kit.generate([user({"type": "video", "video": frames}, "what?")], **GREEDY)
    warm = kit.generate([user({"type": "video", "video": changed}, "what?")], **GREEDY)
    assert warm.stats.cached_tokens < 10
    assert warm.tokens == cold.tokens


def test_a_following_turn_reads_what_is_new(fresh: Callable[..., ModelKit]) -> None:
    """With another video in it, which alone is encoded; a warm start gives what a cold one gives."""
    kit = fresh()
    question = user(video(1), "what?")
    kit.generate([question], **GREEDY)
    following = [question, {"role": "assistant", "content": "A fox."}, user("and here?", video(2))]
    warm = kit.generate(following, **GREEDY)
    assert (warm.stats.frames_encoded, warm.stats.frames_reused) == (4, 4)
    assert warm.stats.cached_tokens > 20
    assert warm.tokens == fresh().generate(following, **GREEDY).tokens


def test_a_session_holds_videos(fresh: Callable[..., ModelKit], tmp_path: Path) -> None:
    kit = fresh()
    messages = [user(video(1), {"type": "image", "image": picture(1)}, "what?")]
    expected = kit.generate(messages, **GREEDY)
    saved = kit.save_session(tmp_path / "a.session")
    other = fresh()
    assert other.load_session(tmp_path / "a.session") == saved
    found = other.generate(messages, **GREEDY)
    assert (found.stats.frames_encoded, found.stats.images_encoded) == (0, 0)
    assert found.stats.cached_tokens == len(kit.process_prompt(messages).input_ids) - 1
    assert found.tokens == expected.tokens


def test_rows_of_text_images_and_videos_get_what_each_gets_alone(kit: ModelKit) -> None:
    """Greedy; every row has a rope delta of its own, which would show in another."""
    names = ["text", "one video", "two images", "many frames", "two videos", "images and videos over several turns"]
    prompts = [kit.process_prompt(CASES[name].input_ids, **CASES[name].media) for name in names]
    assert len({prompt.rope_delta for prompt in prompts}) == len(prompts)
    options = [{"max_tokens": 4 + 3 * number, "temperature": 0.0, "cache_prompt": False} for number in range(6)]
    alone = [kit.generate(prompt, **given) for prompt, given in zip(prompts, options, strict=True)]
    queues: list[SimpleQueue[Event]] = [SimpleQueue() for _ in prompts]
    engine = Engine(kit, max_rows=4)
    for prompt, given, queue in zip(prompts, options, queues, strict=True):
        engine.submit(kit.request(prompt, **given), queue.put)
    engine.close()
    for queue, expected in zip(queues, alone, strict=True):
        events = [queue.get_nowait() for _ in range(queue.qsize())]
        chunks = [event for event in events if isinstance(event, GenerationChunk)]
        assert GenerationResult.from_chunks(chunks).tokens == expected.tokens


@pytest.mark.usefixtures("pairs_alone")
def test_progress_is_told_frame_by_frame(fresh: Callable[..., ModelKit]) -> None:
    """Before the first token is read; nothing is told of what was seen before."""
    kit = fresh()
    messages = [user(video(1), {"type": "image", "image": picture(1)}, video(2), "what?")]
    decoded: list[tuple[int, int]] = []
    prompt = kit.process_prompt(messages, on_frames=lambda *frames: decoded.append(frames))
    assert decoded == [(1, 4), (2, 4), (3, 4), (4, 4)] * 2
    told: list[Any] = []
    for _ in range(2):
        chunks = kit.stream(
            prompt, on_frames=lambda *n: told.append(n), on_progress=lambda n, _: told.append(n), **GREEDY
        )
        list(chunks)
        told.append("end")
    first = told[: told.index("end")]
    assert [one for one in first if isinstance(one, tuple)] == [(2, 8), (4, 8), (6, 8), (8, 8)]
    read = [one for one in first if isinstance(one, int)]
    assert first.index((8, 8)) < first.index(next(tokens for tokens in read if tokens))
    assert not [one for one in told[told.index("end") :] if isinstance(one, tuple)]


@pytest.mark.usefixtures("pairs_alone")
def test_encoding_can_be_cancelled_between_two_pieces(fresh: Callable[..., ModelKit]) -> None:
    """What was encoded until then is kept."""
    kit = fresh()
    prompt = kit.process_prompt([user(video(1), "what?")])
    with pytest.raises(GenerationCancelled, match="cancelled after 2 of 4 frames"):
        kit.generate(prompt, on_frames=lambda *_: False, **GREEDY)
    assert kit.generate(prompt, **GREEDY).stats.frames_encoded == 2
    with pytest.raises(GenerationCancelled):
        kit.process_prompt([user(video(3), "what?")], on_frames=lambda *_: False)


def test_a_chat_tells_of_frames_twice(fresh: Callable[..., ModelKit]) -> None:
    """When they are decoded and when they are encoded."""
    told: list[tuple[int, int]] = []
    result = fresh().chat("what?", videos=clip(1), on_frames=lambda *frames: told.append(frames), **GREEDY)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4), (4, 4)]
    assert result.stats.video_tokens == 4


def test_a_long_video_is_weighed_by_its_pieces(fresh: Callable[..., ModelKit], monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoding takes the memory of a piece, not of the whole; embeddings are counted until they are read."""
    kit = fresh()
    guard = kit.guard
    prompt = kit.process_prompt(VIDEO, videos=[clip(1, frames=32)])
    (whole,) = kit.vision.unseen_patches(prompt)
    assert whole == 16 * 8
    monkeypatch.setattr(pieces, "PIECE_PATCHES", 16)
    prompt = kit.process_prompt(VIDEO, videos=[clip(1, frames=32)])
    assert kit.vision.unseen_patches(prompt) == (16,) * 8
    assert guard.encoding(16) < guard.encoding(whole) / 4
    needed = guard.needs(len(prompt.input_ids) + 1, 1, 16, guard.embeddings(whole))
    for limit, fits in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(kit, "guard", type(guard)(**{**vars(guard), "limit": limit}))
        if fits:
            assert kit.request(prompt, max_tokens=1, prefill_step_size=1).unseen == (16,) * 8
        else:
            with pytest.raises(InsufficientMemoryError):
                kit.request(prompt, max_tokens=1, prefill_step_size=1)


def test_under_pressure_features_go_first_then_the_pixels_of_videos(fresh: Callable[..., ModelKit]) -> None:
    """And of pixels no more than what is missing."""
    kit = fresh()
    clips = [{"type": "video", "video": [png(seed), png(seed + 1)]} for seed in (1, 3)]
    prompt = kit.process_prompt([user(*clips, {"type": "image", "image": png(5)}, "what?")])
    kit.generate(prompt, cache_prompt=False, **GREEDY)

    def held() -> list[int]:
        found = kit.ledger.by_purpose()
        return [found.get(name, 0) for name in ("image features", "video pixels", "image pixels")]

    features, videos, images = held()
    assert min(features, videos, images) > 0
    kit.vision.reclaim(features)
    assert held() == [0, videos, images]
    kit.vision.reclaim(1)
    assert held() == [0, videos // 2, images]
    kit.vision.reclaim(videos // 2 + 1)
    assert held() == [0, 0, 0]
