"""Video files, decoded by PyAV: FFmpeg's libraries, which the extra `video` brings.

The file's packets are listed first, without decoding: how many frames there are, when each one is shown, and at which
of them decoding can begin. Headers are not asked, for they may be missing or lie. Then only what the wanted frames need
is decoded, and only the wanted frames are converted to RGB.
"""

import os
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from mlx_qwen35.errors import MediaError
from mlx_qwen35.paths import shorten
from mlx_qwen35.prompts.clips import check_frame_size
from mlx_qwen35.prompts.pixels import to_rgb

if TYPE_CHECKING:
    from PIL.Image import Image, Transpose

# Nine hours at 60 a second; the list of packets takes 100 bytes for each.
MAX_PACKETS = 2**21
# Of the hundreds of codecs that FFmpeg knows, many of them for computer games of the nineties, those that people use.
CODECS = frozenset({
    "av1", "dnxhd", "dvvideo", "ffv1", "gif", "h263", "h264", "hevc", "libdav1d", "mjpeg", "mpeg1video", "mpeg2video",
    "mpeg4", "msmpeg4v2", "msmpeg4v3", "png", "prores", "qtrle", "rawvideo", "theora", "vp8", "vp9", "vvc",
})  # fmt: skip
# Decoding goes on at the keyframe before the next wanted frame if that is at least so many frames ahead.
SEEK_AHEAD = 16
# Frames that are decoded for the wanted ones, at most, as long as there are keyframes near them to be shown instead.
MAX_DECODED = 20_000
# How far a header's frame rate may be from the frames' own times and still count.
RATE_TOLERANCE = 0.05
# A decoder keeps up to 16 frames to predict others from, and has one in work in every thread.
REFERENCES, MAX_THREADS = 16, 8
READ_BYTES = 2**18
# FFmpeg's numbers of P, B, S and SP frames.
_PREDICTED = (2, 3, 4, 6)


class MovieClip:
    """See `Clip`; times are the frames' own, counted from the first one.

    Args:
        file: The open file; is closed with the clip.
        container: FFmpeg's name of its format.
        place, label: For error messages.
        check: Called now and then; ends the work by raising.
    Raises:
        MediaError: It is damaged, holds no video, or one that is not decoded here; or PyAV is missing.
    """

    def __init__(self, file: BinaryIO, container: str, place: str, label: str, check: Callable[[], None]) -> None:
        self._at = f"{place}: {label}"
        self._file, self.sampled = file, False
        self._av = _import_av(place)
        try:
            self._container = self._av.open(
                file, format=container, buffer_size=READ_BYTES, metadata_errors="replace", io_open=self._refuse_another
            )
        except self._av.error.FFmpegError as error:
            # Among them its own of no memory, for what a damaged header asks for.
            raise self._damaged(error) from error
        except (OSError, ValueError, LookupError) as error:
            raise self._damaged(error) from error
        try:
            self._stream = self._find_stream()
            self._list_packets(check)
        except BaseException:
            self.close()
            raise

    def _refuse_another(self, *arguments: Any) -> Any:
        """What a file names beside itself, on this machine or another, is not opened."""
        raise OSError("a video that consists of several files")

    def _damaged(self, error: Exception | str) -> MediaError:
        said = getattr(error, "strerror", None) or shorten(error) or type(error).__name__
        return MediaError(f"{self._at}: the video is damaged or cut short ({said})")

    def _find_stream(self) -> Any:
        """The video stream that FFmpeg thinks best; a cover picture is none."""
        picture = self._av.stream.Disposition.attached_pic
        if not len(self._container.streams):
            raise self._damaged("it holds no streams")
        streams = [stream for stream in self._container.streams.video if not stream.disposition & picture]
        if not streams:
            kinds = sorted({stream.type for stream in self._container.streams})
            raise MediaError(f"{self._at}: expected a video stream, found {' and '.join(kinds)}")
        best = self._container.streams.best("video")
        chosen = best if best in streams else streams[0]
        codec = chosen.codec_context.name if chosen.codec_context is not None else "an unknown codec"
        if codec not in CODECS:
            raise MediaError(
                f"{self._at}: expected video as H.264, HEVC, VP9, AV1 or another common codec, found {shorten(codec)}"
            )
        for stream in self._container.streams:
            if stream is not chosen:
                stream.discard = self._av.stream.Discard.all
        self.size = (chosen.codec_context.width, chosen.codec_context.height)
        check_frame_size(*self.size, self._at)
        chosen.thread_type = "AUTO"
        chosen.thread_count = min(os.cpu_count() or 1, MAX_THREADS)
        layout = chosen.codec_context.format
        bits = layout.padded_bits_per_pixel if layout is not None else 24
        # Then one as RGB, as Pillow has it, and turned.
        held = (REFERENCES + chosen.thread_count) * bits / 8 + 3 * 4
        self.decoding_bytes = int(held * self.size[0] * self.size[1])
        return chosen

    def _packets(self, check: Callable[[], None]) -> Iterator[Any]:
        """Up to the end of the file, or to where it cannot be read any more."""
        packets = self._container.demux(self._stream)
        while True:
            check()
            try:
                packet = next(packets)
            except (StopIteration, EOFError):
                return
            except self._av.error.FFmpegError:
                return
            if packet.size:
                yield packet

    def _list_packets(self, check: Callable[[], None]) -> None:
        packets = []
        for number, packet in enumerate(self._packets(check)):
            if number >= MAX_PACKETS:
                raise MediaError(f"{self._at}: expected a video of at most {MAX_PACKETS} frames, found more")
            if not packet.is_discard:
                packets.append((packet.pts, packet.dts, bool(packet.is_keyframe)))
        # AVI says when a frame is to be decoded, not when it is to be shown, and so do files that were put together
        # without care. Where a decoder may reorder frames and their times do not, they are counted as they come.
        avi = self._container.format.name == "avi"
        stamps = [dts if avi or pts is None else pts for pts, dts, _ in packets]
        rising = [stamp for stamp in stamps if stamp is not None]
        self._counted = bool(self._stream.codec_context.has_b_frames) and rising == sorted(rising)
        shown: dict[int, bool] = {}
        for stamp, (_, _, key) in zip(stamps, packets, strict=True):
            if stamp is not None:
                shown[stamp] = shown.get(stamp, False) or key
        if not shown:
            raise self._damaged("it holds no frames")
        self._stamps = sorted(shown)
        self._keys = [stamp for stamp in self._stamps if shown[stamp] and not self._counted]
        base = float(self._stream.time_base)
        times = (np.asarray(self._stamps, dtype=np.float64) - self._stamps[0]) * base
        rate = float(self._stream.average_rate or 0)
        measured = (len(times) - 1) / float(times[-1]) if len(times) > 1 else rate or 1.0
        # What the header says, as transformers has it, unless it lies.
        self.fps = rate if abs(rate / measured - 1) < RATE_TOLERANCE else measured
        even = np.arange(len(times)) / self.fps
        if np.abs(even - times).max() <= base:
            # Evenly spaced, as far as the file's units can say it.
            times = even
        self.times: Sequence[float] = times.tolist()

    def choose(self, indices: Sequence[int]) -> list[int]:
        """See `Clip`. Where too much would have to be decoded, the keyframe next to a frame stands for it.

        It does so where it lies nearer to that frame than halfway to the next wanted one: times stay in order, and
        what is shown stays as evenly spaced as its keyframes allow.
        """
        stamps = [self._stamps[index] for index in indices]
        needed = sum(self._at_or_before(wanted[-1]) - self._at_or_before(key) + 1 for key, wanted in self._runs(stamps))
        if needed <= MAX_DECODED:
            return list(indices)
        keys = np.array([self._at_or_before(key) for key in self._keys or self._stamps[:1]])
        room = min(later - earlier for earlier, later in pairwise([*indices, indices[-1] + len(self._stamps)]))
        chosen = []
        for index in indices:
            nearest = int(keys[np.abs(keys - index).argmin()])
            chosen.append(nearest if 2 * abs(nearest - index) < room else index)
        return chosen

    def frames(self, indices: Sequence[int], check: Callable[[], None]) -> Iterator["Image"]:
        """See `Clip`. A frame that cannot be decoded is the one before it, as players have it.

        Raises:
            MediaError: None can be decoded.
        """
        last = None
        runs = deque(self._runs([self._stamps[index] for index in indices]))
        while runs:
            key, wanted = runs.popleft()
            try:
                self._container.seek(key, stream=self._stream)
            except self._av.error.FFmpegError as error:
                raise self._damaged(error) from error
            held = None
            waiting = deque(wanted)
            for stamp, frame in self._decoded(frozenset(wanted), check):
                if stamp == key > self._stamps[0] and frame.pict_type in _PREDICTED and not frame.key_frame:
                    # The file's list of keyframes lies; only where the file begins can decoding begin.
                    self._keys = self._stamps[:1]
                    runs = deque(self._runs([*wanted, *chain.from_iterable(later for _, later in runs)]))
                    waiting.clear()
                while waiting and stamp >= waiting[0]:
                    found = frame if stamp == waiting[0] else held
                    last = self._picture(found) if found is not None else last or self._picture(frame)
                    yield last
                    waiting.popleft()
                if not waiting:
                    break
                held = frame
            for _ in waiting:
                if held is not None:
                    last, held = self._picture(held), None
                if last is None:
                    raise self._damaged("none of its frames can be decoded")
                yield last

    def _runs(self, stamps: Sequence[int]) -> list[tuple[int, list[int]]]:
        """Frames that are decoded in one go, and the keyframe where that begins."""
        runs: list[tuple[int, list[int]]] = []
        for stamp in stamps:
            at = bisect_right(self._keys, stamp)
            key = self._keys[at - 1] if at else self._stamps[0]
            if runs and self._at_or_before(key) < self._at_or_before(runs[-1][1][-1]) + SEEK_AHEAD:
                runs[-1][1].append(stamp)
            else:
                runs.append((key, [stamp]))
        return runs

    def _at_or_before(self, stamp: int) -> int:
        """The number of the frame that is shown at a time."""
        return bisect_right(self._stamps, stamp) - 1

    def _decoded(self, wanted: frozenset[int], check: Callable[[], None]) -> Iterator[tuple[int, Any]]:
        """Frames from where the file stands, in the order in which they are shown, and when that is.

        Those that no other is predicted from are left out, unless they are wanted.
        """
        context = self._stream.codec_context
        count = 0
        for packet in chain(self._packets(check), [None]):
            needed = self._counted or packet is None or packet.pts is None or packet.pts in wanted
            context.skip_frame = "DEFAULT" if needed else "NONREF"
            frames = []
            with suppress(self._av.error.FFmpegError):
                frames = self._stream.decode(packet)
            for frame in frames:
                stamp = frame.pts if frame.pts is not None else frame.dts
                if self._counted:
                    stamp = self._stamps[min(count, len(self._stamps) - 1)]
                    count += 1
                if stamp is not None:
                    yield stamp, frame

    def _picture(self, frame: Any) -> "Image":
        """One frame in RGB, upright; FFmpeg converts it from whatever colour space it says it has."""
        from PIL import Image

        check_frame_size(frame.width, frame.height, self._at)
        clear = frame.format.has_palette or any(component.is_alpha for component in frame.format.components)
        try:
            image = Image.fromarray(frame.to_ndarray(format="rgba" if clear else "rgb24"))
        except (self._av.error.FFmpegError, ValueError) as error:
            raise self._damaged(error) from error
        turn = _turn_of(frame)
        return to_rgb(image if turn is None else image.transpose(turn))

    def close(self) -> None:
        """See `Clip`."""
        self._container.close()
        self._file.close()


def _turn_of(frame: Any) -> "Transpose | None":
    """How a frame has to be turned or flipped to stand upright, by the matrix that its file gives it.

    Of a matrix that turns by another angle than a right one's multiples, the nearest of them.
    """
    from PIL.Image import Transpose

    found = frame.side_data.get("DISPLAYMATRIX")
    if found is None:
        return None
    # FFmpeg's libavutil/display.h: x' = a x + c y, y' = b x + d y, in 16.16 fixed point, downwards.
    a, b, _, c, d = np.frombuffer(bytes(found), dtype=np.int32, count=5)
    if abs(int(a)) >= abs(int(b)):
        return {
            (True, True): Transpose.ROTATE_180, (True, False): Transpose.FLIP_LEFT_RIGHT,
            (False, True): Transpose.FLIP_TOP_BOTTOM,
        }.get((a < 0, d < 0))  # fmt: skip
    return {
        (False, False): Transpose.TRANSPOSE, (True, True): Transpose.TRANSVERSE, (False, True): Transpose.ROTATE_270,
        (True, False): Transpose.ROTATE_90,
    }[bool(b < 0), bool(c < 0)]  # fmt: skip


def _import_av(place: str) -> Any:
    try:
        return import_module("av")
    except ImportError as error:
        raise MediaError(
            f"{place}: video files need PyAV: pip install '.[video]'; animated GIF, WebP and APNG files and "
            "lists of pictures do not"
        ) from error
