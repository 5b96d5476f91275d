"""Videos: from whatever a caller has, to pairs of frames that the vision tower takes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlx_qwen35.checkpoints.config import VisionConfig
from mlx_qwen35.errors import GenerationCancelled, OptionError
from mlx_qwen35.paths import shorten
from mlx_qwen35.prompts.clips import Clip
from mlx_qwen35.prompts.images import ImageMemory, PreparedImage, check_pixels, prepared
from mlx_qwen35.prompts.pixels import cut_into_patches
from mlx_qwen35.prompts.recent import RecentPixels
from mlx_qwen35.prompts.video_settings import VideoSettings, read_video_settings
from mlx_qwen35.prompts.video_sources import open_source

if TYPE_CHECKING:
    from PIL.Image import Image

# Beyond any camera that a model could follow; also keeps rates finite.
MAX_FPS = 1000.0


@dataclass(frozen=True)
class PreparedVideo:
    """One video, ready for the vision tower.

    Args:
        frames: One for every `temporal_patch_size` (two) frames that follow one another, each of a grid (1, h, w), and
            all of the same.
        timestamps: Seconds from the video's first frame, the mean of the first's and the last's of a pair; one a pair.
    """

    frames: tuple[PreparedImage, ...]
    timestamps: tuple[float, ...]

    @property
    def nbytes(self) -> int:
        """What the pixels take."""
        return sum(frame.pixel_values.nbytes for frame in self.frames)

    @property
    def tokens(self) -> int:
        """Placeholders that the video takes in a prompt; the text with the times comes on top."""
        return sum(frame.tokens for frame in self.frames)


class VideoPreprocessor:
    """transformers' video processor, set up as the checkpoint says, without torch.

    Args:
        directory: The checkpoint; holds processor_config.json, video_preprocessor_config.json or
            preprocessor_config.json.
        vision: The tower that will take the pixels.
        cache_bytes: Room for the pixels of videos that were prepared before; a conversation sends its videos again
            with every turn.
        memory: Asked before a video is decoded.
    Raises:
        CheckpointError: No file says how frames are prepared, or it contradicts config.json.
    """

    def __init__(
        self, directory: Path, vision: VisionConfig, cache_bytes: int, memory: ImageMemory | None = None
    ) -> None:
        self.settings = read_video_settings(directory, vision)
        self._memory = memory or ImageMemory()
        self._recent: RecentPixels[PreparedVideo] = RecentPixels(
            cache_bytes, lambda video: video.nbytes, self._memory.video_pixels
        )

    def __call__(
        self,
        source: Any,
        *,
        fps: float | None = None,
        source_fps: float | None = None,
        min_frames: int | None = None,
        max_frames: int | None = None,
        max_pixels: int | None = None,
        place: str = "video",
        progress: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> PreparedVideo:
        """Sample, decode, resize together and cut into patches, pair by pair; files seen lately are remembered.

        Args:
            source: See `open_clip`.
            fps: Frames a second that the model sees: a file is sampled at it, and a list or an array, all of which is
                shown, is taken to have been (qwen-vl-utils' `sample_fps`). None for the checkpoint's, 2 as a rule.
            source_fps: Frames a second of a list or an array that is not sampled yet (the `fps` of transformers'
                `video_metadata`): it is sampled at `fps` as a file is. A file's frames have times of their own.
            min_frames, max_frames: Frames to show, of those that there are; None for the checkpoint's.
            max_pixels: At most this many pixels over all frames after resizing; None for the checkpoint's own limit.
            place: Where it stands in the request, for error messages.
            progress: Called with the number of frames that are ready, and how many there will be.
            cancelled: Asked now and then; the work ends when it says True.
        Raises:
            MediaError: It is no video, or one that is missing, broken, too large or on the network.
            OptionError: A number is out of range.
            InsufficientMemoryError: There is none for decoding.
            GenerationCancelled: The caller wanted no more.
        """
        wanted = self._wanted(fps, source_fps, min_frames, max_frames, max_pixels, place)

        def check() -> None:
            if cancelled is not None and cancelled():
                raise GenerationCancelled("cancelled")

        opened = open_source(source, place)
        with closing(opened):
            if source_fps is not None and opened.file is not None:
                raise OptionError(
                    f"{place}: source_fps: expected only with a list of pictures or an array, found with a file, whose "
                    "frames have times of their own"
                )
            key = None if opened.identity is None else (opened.identity, wanted)
            found = None if key is None else self._recent.find(key)
            if found is not None:
                return found
            clip = opened.clip(wanted.source_fps or wanted.fps, check, self._memory)
            with closing(clip):
                prepared = self._prepare(clip, wanted, place, progress, check)
        if key is not None:
            self._recent.keep(key, prepared)
        return prepared

    def reclaim(self, nbytes: int) -> int:
        """Give back so many bytes of pixels, as far as there are as many; returns how many it was."""
        return self._recent.reclaim(nbytes)

    def _wanted(
        self,
        fps: float | None,
        source_fps: float | None,
        min_frames: int | None,
        max_frames: int | None,
        max_pixels: int | None,
        place: str,
    ) -> "_Wanted":
        settings = self.settings
        low = settings.min_frames if min_frames is None else _count(min_frames, "min_frames", place)
        high = settings.max_frames if max_frames is None else _count(max_frames, "max_frames", place)
        if low > high and min_frames is not None:
            raise OptionError(f"{place}: min_frames: expected at most max_frames, {high}, found {low}")
        return _Wanted(
            fps=settings.fps if fps is None else _rate(fps, "fps", place),
            source_fps=None if source_fps is None else _rate(source_fps, "source_fps", place),
            min_frames=low,
            max_frames=high,
            max_pixels=check_pixels(max_pixels),
        )

    def _prepare(
        self,
        clip: Clip,
        wanted: "_Wanted",
        place: str,
        progress: Callable[[int, int], None] | None,
        check: Callable[[], None],
    ) -> PreparedVideo:
        settings, total = self.settings, len(clip.times)
        # Where somebody has sampled already, all that there is.
        rates = (1.0, 1.0) if clip.sampled and wanted.source_fps is None else (clip.fps, wanted.fps)
        indices = clip.choose(settings.sample(total, *rates, wanted.min_frames, wanted.max_frames))
        # A single frame is shown twice, as the last one of an odd number is.
        count = max(len(indices), settings.temporal_patch_size)

        def resized(size: tuple[int, int]) -> tuple[int, int]:
            return settings.resized(count, size[1], size[0], wanted.max_pixels, place)

        rows, columns = resized(clip.size)
        # Each frame in bytes, then in 32 bits, and the patches, all of which are kept.
        nbytes = 4 * settings.channels * rows * columns * (count + 3 * settings.temporal_patch_size)
        with self._memory.decoding(clip.decoding_bytes + nbytes, place):
            frames = tuple(self._pairs(clip.frames(indices, check), len(indices), resized, progress))
        return PreparedVideo(frames, timestamps_of([clip.times[index] for index in indices], settings))

    def _pairs(
        self,
        images: Iterator["Image"],
        total: int,
        resized: Callable[[tuple[int, int]], tuple[int, int]],
        progress: Callable[[int, int], None] | None,
    ) -> Iterator[PreparedImage]:
        """Frames are let go as soon as their pair is cut into patches."""
        from PIL.Image import Resampling

        pair: list[NDArray[np.uint8]] = []
        size = None
        for number, image in enumerate(images, 1):
            # By the first one; a stream may change its size.
            size = size or resized(image.size)[::-1]
            pair.append(np.asarray(image.resize(size, Resampling.BICUBIC)))
            if number == total:
                pair.extend(pair[-1:] * (self.settings.temporal_patch_size - len(pair)))
            if len(pair) == self.settings.temporal_patch_size:
                yield _patches(pair, self.settings)
                pair.clear()
            if progress is not None:
                progress(number, total)


@dataclass(frozen=True)
class _Wanted:
    """What a caller asks for, beside the video; see `VideoPreprocessor.__call__`."""

    fps: float
    source_fps: float | None
    min_frames: int
    max_frames: int
    max_pixels: int | None


def timestamps_of(times: Sequence[float], settings: VideoSettings) -> tuple[float, ...]:
    """The time of each group of frames that are seen together, in seconds: the mean of its first and its last one's.

    Source: transformers 5.24, models/qwen3_vl/processing_qwen3_vl.py, `Qwen3VLProcessor._calculate_timestamps`.
    """
    size = settings.temporal_patch_size
    padded = [*times, *[times[-1]] * (-len(times) % size)]
    return tuple((padded[start] + padded[start + size - 1]) / 2 for start in range(0, len(padded), size))


def _patches(frames: Sequence[NDArray[np.uint8]], settings: VideoSettings) -> PreparedImage:
    """Frames of one size, each (h, w, channels), as patches in merge order."""
    patch, merge = settings.patch_size, settings.merge_size
    ordered, grid = cut_into_patches(np.stack(frames), patch, merge)
    values = ordered.astype(np.float32)
    values -= np.asarray(settings.mean, dtype=np.float32)[:, None]
    values /= np.asarray(settings.std, dtype=np.float32)[:, None]
    return prepared(values.reshape(len(values), -1), grid, merge)


def _rate(value: Any, name: str, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_FPS:
        raise OptionError(
            f"{place}: {name}: expected a number of frames a second above 0, at most {MAX_FPS:g}, "
            f"found {shorten(repr(value))}"
        )
    return float(value)


def _count(value: Any, name: str, place: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise OptionError(
            f"{place}: {name}: expected a whole number of frames, at least 1, found {shorten(repr(value))}"
        )
    return value
