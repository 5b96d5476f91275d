"""Videos: transformers' pixels, grids, times and ids, decoded once and let go pair by pair."""

import json
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from mlx_qwen35.checkpoints.config import VisionConfig
from mlx_qwen35.errors import CheckpointError, GenerationCancelled, MediaError, OptionError
from mlx_qwen35.prompts.images import ImageMemory, ImagePreprocessor
from mlx_qwen35.prompts.videos import PreparedVideo, VideoPreprocessor
from tests.parity.video_cases import CASES, PROMPTS, PUBLISHED, VideoCase
from tests.prompts.clips import animated, pictures, still
from tests.tiny import write_processor, write_tokenizer

# transformers resizes with torchvision, which computes in 8 bits like Pillow, with coefficients of fewer bits: levels
# of 255 that a value may be off by, and how many of the values are.
LEVELS, SHARE = 2, 0.01


@pytest.fixture
def made(tmp_path: Path, vision: VisionConfig) -> Callable[..., VideoPreprocessor]:
    """Makes preprocessors by settings, room for pixels and memory."""

    def make(
        settings: dict[str, Any] = PUBLISHED, room: int = 0, memory: ImageMemory | None = None
    ) -> VideoPreprocessor:
        (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(settings))
        return VideoPreprocessor(tmp_path, vision, room, memory)

    return make


def prepared_of(case: VideoCase, make: Callable[..., VideoPreprocessor]) -> PreparedVideo:
    return make(case.settings)(case.frames(), source_fps=case.fps)


@pytest.mark.parametrize("name", CASES)
def test_videos_equal_transformers(made: Callable[..., VideoPreprocessor], golden: Any, name: str) -> None:
    """Grids and times exactly; pixels exactly where nothing is resized, else nearly."""
    case = CASES[name]
    found = prepared_of(case, made)
    t, h, w = golden[f"{name}/grid"]
    assert [frame.grid_thw for frame in found.frames] == [(1, h, w)] * t
    assert [frame.merged_grid_thw for frame in found.frames] == [(1, h // 2, w // 2)] * t
    assert found.tokens == t * h * w // 4
    assert found.timestamps == tuple(golden[f"{name}/times"])
    mean, std = (
        np.repeat(np.asarray(case.settings[part], dtype=np.float64), 2 * 16 * 16)
        for part in ("image_mean", "image_std")
    )
    pixels = np.concatenate([frame.pixel_values for frame in found.frames])
    levels = (pixels * std + mean) * 255
    np.testing.assert_allclose(levels, levels.round(), atol=1e-4, rtol=0)
    off = np.abs(levels.round() - golden[f"{name}/pixels"])
    exact = (h * 16, w * 16) == case.shape[1:]
    assert off.max() <= (0 if exact else LEVELS)
    assert (off > 0).mean() <= SHARE


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_with_its_times_has_transformers_ids(
    made: Callable[..., VideoPreprocessor], tmp_path: Path, vision: VisionConfig, golden: Any, name: str
) -> None:
    """Which leaves a template's own vision start and end around the whole."""
    text, videos, images = PROMPTS[name]
    for case in videos:
        video, runs = prepared_of(CASES[case], made), ""
        for frame, time in zip(video.frames, video.timestamps, strict=True):
            runs += f"<{time:.1f} seconds><|vision_start|>{'<|video_pad|>' * frame.tokens}<|vision_end|>"
        text = text.replace("<|video_pad|>", runs.replace("pad", "PAD"), 1)
    write_processor(tmp_path)
    write_tokenizer(tmp_path)
    prepare = ImagePreprocessor(tmp_path, vision)
    for size in images:
        text = text.replace("<|image_pad|>", "<|image_PAD|>" * prepare(np.zeros((*size, 3), np.uint8)).tokens, 1)
    ids = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(text.replace("PAD", "pad")).ids
    np.testing.assert_array_equal(ids, golden[f"ids/{name}"])


def test_patches_are_cut_as_the_tower_reads_them(made: Callable[..., VideoPreprocessor]) -> None:
    """Against loops: 2 x 2 patches that merge stand together; in a patch channel, frame, row, column."""
    frames = CASES["two"].frames()
    values = (frames.astype(np.float64) / 255 - 0.5) / 0.5
    rows = []
    for block in range(2):
        for y in range(2):
            for x in range(2):
                left, top = 16 * (2 * block + x), 16 * y
                rows.append(values[:, top : top + 16, left : left + 16].transpose(3, 0, 1, 2).ravel())
    (found,) = made()(frames).frames
    np.testing.assert_allclose(found.pixel_values, np.stack(rows), atol=1e-6)
    assert not found.pixel_values.flags.writeable


def test_pictures_are_taken_to_be_sampled(made: Callable[..., VideoPreprocessor]) -> None:
    """All of them, at the rate that the checkpoint samples at, or the one that is said."""
    frames = pictures(29)
    assert made()(frames).timestamps[:3] == (0.25, 1.25, 2.25)
    assert len(made()(frames, fps=2.9).frames) == 15
    assert made()(frames, fps=4).timestamps[:2] == (0.125, 0.625)
    assert made()(frames, fps=4).timestamps[-1] == 28 / 4


def test_frames_that_are_not_sampled_yet_are(made: Callable[..., VideoPreprocessor]) -> None:
    found = made()(pictures(48), source_fps=24)
    assert len(found.frames) == 2
    assert found.timestamps == ((0 + 16 / 24) / 2, (31 / 24 + 47 / 24) / 2)
    assert len(made()(pictures(48), source_fps=24, fps=6).frames) == 6


def test_the_number_of_frames_can_be_bounded(made: Callable[..., VideoPreprocessor]) -> None:
    """The first and the last one stay, and times stay those of the frames."""
    few = made()(pictures(41), max_frames=5)
    assert len(few.frames) == 3
    assert few.timestamps == ((0 + 10 / 2) / 2, (20 / 2 + 30 / 2) / 2, 40 / 2)
    assert len(made()(pictures(48), source_fps=24, min_frames=10).frames) == 5
    assert len(made()(pictures(3), source_fps=24, min_frames=10).frames) == 2


def test_a_single_picture_is_seen_twice(made: Callable[..., VideoPreprocessor]) -> None:
    one, two = made()(pictures(1)), made()(pictures(1) * 2)
    assert one.frames[0].content_hash == two.frames[0].content_hash
    assert one.timestamps == (0.0,)


def test_the_hash_is_of_the_pixels(made: Callable[..., VideoPreprocessor]) -> None:
    """Equal pairs are encoded once, wherever they stand."""
    first, second, third = made()(pictures(2) * 2 + pictures(4)[2:]).frames
    assert first.content_hash == second.content_hash != third.content_hash


def test_progress_is_told_frame_by_frame(made: Callable[..., VideoPreprocessor]) -> None:
    told: list[tuple[int, int]] = []
    made()(pictures(5), progress=lambda done, total: told.append((done, total)))
    assert told == [(number, 5) for number in range(1, 6)]


def test_who_wants_no_more_is_heard_between_frames(made: Callable[..., VideoPreprocessor]) -> None:
    told: list[int] = []
    with pytest.raises(GenerationCancelled):
        made()(pictures(9), progress=lambda done, _: told.append(done), cancelled=lambda: len(told) == 3)
    assert told == [1, 2, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 0}, r"fps: expected a number of frames a second above 0, at most 1000, found 0"),
        ({"fps": float("nan")}, r"fps: expected .*, found nan"),
        ({"fps": True}, r"fps: expected .*, found True"),
        ({"source_fps": 1001}, r"source_fps: expected .*, found 1001"),
        ({"max_frames": 0}, r"max_frames: expected a whole number of frames, at least 1, found 0"),
        ({"min_frames": 2.0}, r"min_frames: expected a whole number of frames, at least 1, found 2.0"),
        ({"min_frames": 8, "max_frames": 7}, r"min_frames: expected at most max_frames, 7, found 8"),
        ({"max_pixels": 4095}, r"max_pixels: expected at least 4096 .*, found 4095"),
    ],
)
def test_numbers_out_of_range_are_refused(
    made: Callable[..., VideoPreprocessor], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=rf"^videos\[1\]: {message}"):
        made()(pictures(4), place="videos[1]", **options)
    with pytest.raises(OptionError, match=r"^max_pixels: expected a whole number of at least 1, found '64'"):
        made()(pictures(4), max_pixels="64")


def test_a_files_frame_rate_is_its_own(made: Callable[..., VideoPreprocessor]) -> None:
    with pytest.raises(OptionError, match=r"^video: source_fps: expected only with a list of pictures or an array"):
        made()(animated(pictures(4)), source_fps=2)
    assert made()(animated(pictures(8), duration=250)).timestamps == pytest.approx(((0 + 0.5) / 2, (1.25 + 1.75) / 2))


def test_the_fewest_frames_of_the_checkpoint_bend_to_the_most_that_are_asked_for(
    made: Callable[..., VideoPreprocessor],
) -> None:
    assert len(made()(pictures(9), max_frames=2).frames) == 1


class Watched(ImageMemory):
    """Remembers what was asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.kept: list[int] = []

    @contextmanager
    def decoding(self, nbytes: int, place: str) -> Iterator[None]:
        self.asked.append(nbytes)
        yield

    def video_pixels(self, nbytes: int) -> None:
        self.kept.append(nbytes)


def test_memory_is_asked_for_before_decoding(made: Callable[..., VideoPreprocessor], monkeypatch: Any) -> None:
    """As much as the pixels take, and what decoding does."""
    memory = Watched()
    monkeypatch.setattr(
        VideoPreprocessor, "_pairs", lambda *_: pytest.fail("decoded") if not memory.asked else iter(())
    )
    made(memory=memory)(pictures(4))
    monkeypatch.undo()
    assert memory.asked[0] > made()(pictures(4)).nbytes + 4 * 96 * 64


def test_a_file_seen_lately_is_not_decoded_again(
    made: Callable[..., VideoPreprocessor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its bytes, or where it lies; with the same wishes."""
    data = animated(pictures(6))
    (tmp_path / "a.gif").write_bytes(data)
    memory = Watched()
    preprocessor = made(room=2**24, memory=memory)
    of_bytes, of_path = preprocessor(data), preprocessor(tmp_path / "a.gif")
    fewer = preprocessor(data, max_frames=2)
    frames = [b"not opened"] * 4
    monkeypatch.setattr("mlx_qwen35.prompts.video_sources.Opened.clip", lambda *_: pytest.fail("opened again"))
    assert preprocessor(bytearray(data)) is of_bytes
    assert preprocessor(str(tmp_path / "a.gif")) is of_path
    assert preprocessor(data, max_frames=2) is fewer is not of_bytes
    assert memory.kept[-1] == of_bytes.nbytes + of_path.nbytes + fewer.nbytes
    with pytest.raises(pytest.fail.Exception, match="opened again"):
        preprocessor(frames)


def test_a_file_that_was_written_since_is_another(made: Callable[..., VideoPreprocessor], tmp_path: Path) -> None:
    path, preprocessor = tmp_path / "a.gif", made(room=2**24)
    path.write_bytes(animated(pictures(6)))
    first = preprocessor(path)
    path.write_bytes(animated(pictures(6)[::-1]))
    assert preprocessor(path).frames[0].content_hash != first.frames[0].content_hash


def test_pictures_that_come_again_as_files_are_known(made: Callable[..., VideoPreprocessor]) -> None:
    preprocessor = made(room=2**24)
    files = [still(image) for image in pictures(4)]
    assert preprocessor(files) is preprocessor(list(files)) is not preprocessor(files[::-1])
    assert preprocessor(files, fps=1).timestamps != preprocessor(files).timestamps
    assert preprocessor(pictures(4)) is not preprocessor(pictures(4))


def test_nothing_is_kept_beyond_the_room(made: Callable[..., VideoPreprocessor]) -> None:
    data = animated(pictures(6))
    preprocessor = made(room=0)
    video = weakref.ref(preprocessor(data))
    assert video() is None
    preprocessor = made(room=2**24)
    kept = weakref.ref(preprocessor(data))
    assert kept() is not None
    preprocessor.reclaim(1)
    assert kept() is None


def test_a_checkpoint_without_settings_is_refused(tmp_path: Path, vision: VisionConfig) -> None:
    with pytest.raises(CheckpointError, match="expected video_preprocessor_config.json"):
        VideoPreprocessor(tmp_path, vision, 0)


def test_what_is_wrong_with_a_picture_names_it(made: Callable[..., VideoPreprocessor]) -> None:
    with pytest.raises(MediaError, match=r"^videos\[0\]\[2\]: 3 bytes: expected an image file"):
        made()([*pictures(2), b"abc", *pictures(1)], place="videos[0]")


def test_frames_are_let_go_pair_by_pair(
    made: Callable[..., VideoPreprocessor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the clip, no more than what is being worked on is there at once."""
    made_now, alive, most = made(), [], []

    def watched(image: Any) -> Any:
        copied = image.copy()
        most.append(sum(one() is not None for one in alive))
        alive.append(weakref.ref(copied))
        return copied

    monkeypatch.setattr("mlx_qwen35.prompts.clips.to_rgb", watched)
    assert len(made_now(pictures(40)).frames) == 20
    assert len(alive) == 40
    assert max(most) <= 2


def test_several_threads_get_the_same(made: Callable[..., VideoPreprocessor]) -> None:
    """One may read what another keeps."""
    preprocessor, data = made(room=2**24), animated(pictures(6))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(preprocessor, [data] * 8))
    assert len({frame.content_hash for video in found for frame in video.frames}) == len(found[0].frames)
