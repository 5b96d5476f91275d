"""Animated pictures as videos: their own times, whatever their frames are made of."""

import io
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlx_qwen35.errors import InsufficientMemoryError, MediaError
from mlx_qwen35.prompts import animations
from mlx_qwen35.prompts.animations import AnimationClip
from mlx_qwen35.prompts.images import ImageMemory, open_image
from tests.prompts.clips import HEIGHT, WIDTH, animated, near, pictures, shades, still


def opened(data: bytes) -> AnimationClip:
    return AnimationClip(data, "video", "it", lambda: None, ImageMemory())


def frames_of(clip: AnimationClip, indices: list[int]) -> list[Image.Image]:
    return list(clip.frames(indices, lambda: None))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_frames_and_times_are_the_files_own(kind: str) -> None:
    durations = [100, 250, 50, 1000, 100, 500]
    clip = opened(animated(pictures(6), kind, durations))
    assert clip.times == pytest.approx([0, 0.1, 0.35, 0.4, 1.4, 1.5])
    assert clip.fps == pytest.approx(6 / 2)
    assert clip.size == (WIDTH, HEIGHT)
    assert not clip.sampled
    for indices in ([0, 2, 5], [5], [1, 2, 3, 4]):
        found = frames_of(clip, indices)
        assert near(shades(found), indices)
        assert {image.mode for image in found} == {"RGB"}


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
@pytest.mark.parametrize("duration", [0, 10])
def test_no_frame_is_shorter_than_browsers_show_it(kind: str, duration: int) -> None:
    clip = opened(animated(pictures(3), kind, duration))
    assert clip.times == pytest.approx([0, 0.1, 0.2])


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_what_is_transparent_is_white(kind: str) -> None:
    frames = [Image.new("RGBA", (WIDTH, HEIGHT), (0, 0, 0, 0)) for _ in range(3)]
    for number, frame in enumerate(frames):
        frame.paste((255, 0, 0, 255), (10 * number, 0, 10 * number + 10, 10))
        frame.putpixel((50, 50), (0, 0, 255, 200))  # or libwebp writes no alpha at all
    clip = opened(animated(frames, kind, 100, disposal=2))
    for number, found in enumerate(frames_of(clip, [0, 1, 2])):
        assert found.getpixel((10 * number + 5, 5)) == (255, 0, 0)
        assert found.getpixel((90, 60)) == (255, 255, 255)


def test_frames_that_hold_only_what_changed_are_drawn_on_those_before() -> None:
    """Pillow writes only the rectangle that differs."""
    frames = [Image.new("RGB", (WIDTH, HEIGHT), "black") for _ in range(4)]
    for number, frame in enumerate(frames):
        frame.paste((255, 255, 255), (0, 0, 10 * number + 10, 10))
    found = frames_of(opened(animated(frames, "GIF")), [3])[0]
    np.testing.assert_array_equal(np.asarray(found), np.asarray(frames[3]))


def test_the_picture_for_those_who_see_no_animation_is_no_frame() -> None:
    data = animated([Image.new("RGB", (WIDTH, HEIGHT), "red"), *pictures(3)], "PNG", 100, default_image=True)
    with Image.open(io.BytesIO(data)) as image:
        assert image.info["default_image"]
    clip = opened(data)
    assert clip.times == pytest.approx([0, 0.1, 0.2])
    assert near(shades(frames_of(clip, [0, 1, 2])), [0, 1, 2])


def test_an_animation_of_one_frame_is_a_video() -> None:
    """Behind a picture for those who see no animation: as an image it is refused, for it is two."""
    data = animated([Image.new("RGB", (WIDTH, HEIGHT), "red"), *pictures(1)], "PNG", 100, default_image=True)
    with pytest.raises(MediaError, match="found an animation; send it as a video"):
        open_image(data, "image")
    clip = opened(data)
    assert clip.times == [0]
    assert near(shades(frames_of(clip, [0])), [0])


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_a_still_picture_is_no_video(kind: str) -> None:
    with pytest.raises(MediaError, match=r"^video: it: expected a video, found a still picture; send it as an image$"):
        opened(still(pictures(1)[0], kind))


def test_of_a_file_that_was_cut_short_what_is_there_is_shown() -> None:
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (8, HEIGHT, WIDTH), dtype=np.uint8)
    data = animated([Image.fromarray(values) for values in noise], "GIF")
    clip = opened(data[: len(data) // 2])
    assert 2 <= len(clip.times) <= 4
    assert len(frames_of(clip, list(range(len(clip.times))))) == len(clip.times)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_a_damaged_file_is_refused(kind: str) -> None:
    data = bytearray(animated(pictures(4), kind))
    with pytest.raises(MediaError, match=r"^video: it: "):
        opened(bytes(data[:30]))


def test_animations_that_take_too_long_to_draw_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(animations, "MAX_DRAWN_PIXELS", 4 * WIDTH * HEIGHT)
    assert len(opened(animated(pictures(4), "GIF")).times) == 4
    with pytest.raises(MediaError, match=r"expected an animation of at most 24576 pixels over all frames, found more"):
        opened(animated(pictures(5), "GIF"))


def test_frames_larger_than_any_video_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_qwen35.prompts.clips.MAX_FRAME_PIXELS", WIDTH * HEIGHT - 1)
    with pytest.raises(MediaError, match=r"^video: it: expected frames of at most 6143 pixels, found 96 x 64"):
        opened(animated(pictures(2), "GIF"))


def test_who_wants_no_more_is_heard_between_frames() -> None:
    data = animated(pictures(6), "GIF")
    calls: list[Any] = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 4:
            raise KeyError("enough")

    with pytest.raises(KeyError):
        AnimationClip(data, "video", "it", check, ImageMemory())


def test_memory_is_asked_for_before_frames_are_drawn_for_their_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of 5 kB drew 8 gigapixels, in 600 MiB that nobody had been asked for."""

    class Full(ImageMemory):
        def decoding(self, nbytes: int, place: str) -> AbstractContextManager[None]:
            raise InsufficientMemoryError(f"{place}: {nbytes}")

    monkeypatch.setattr(AnimationClip, "_walk", lambda *_: pytest.fail("drawn"))
    data = animated(pictures(2), "GIF")
    with pytest.raises(InsufficientMemoryError, match=f"video: {20 * WIDTH * HEIGHT + len(data)}"):
        AnimationClip(data, "video", "it", lambda: None, Full())
