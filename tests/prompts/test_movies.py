"""Video files: the right frames at the right times, whatever the file says, and a clear word about all others."""

import io
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlx_qwen35.errors import MediaError
from mlx_qwen35.prompts import movies
from mlx_qwen35.prompts.clips import Clip
from mlx_qwen35.prompts.media_types import video_container
from mlx_qwen35.prompts.movies import MovieClip
from tests.prompts.clips import HEIGHT, WIDTH, movie, near, picture, shades

av = pytest.importorskip("av", reason="needs the video extra")


def opened(data: bytes) -> MovieClip:
    container = video_container(data)
    assert container is not None
    return MovieClip(io.BytesIO(data), container, "video", "it", lambda: None)


def frames_of(clip: Clip, indices: list[int]) -> list[Image.Image]:
    return list(clip.frames(indices, lambda: None))


def decoded_by(data: bytes) -> list[np.ndarray]:
    """Every frame, one after the other, as PyAV's shortest loop has them."""
    with av.open(io.BytesIO(data)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


KINDS: dict[str, dict[str, Any]] = {
    "mp4": {"options": {"bf": "3", "g": "12"}},
    "mov": {"container": "mov", "codec": "libx265", "options": {"x265-params": "log-level=none:keyint=12"}},
    "mkv": {"container": "matroska", "options": {"bf": "3", "g": "12", "x264-params": "open-gop=1"}},
    "webm": {"container": "webm", "codec": "libvpx-vp9", "options": {"g": "12"}},
    "avi": {"container": "avi", "codec": "mpeg4", "options": {"bf": "2", "g": "12", "qmin": "1", "qmax": "2"}},
    "avi, H.264": {"container": "avi", "options": {"bf": "3", "g": "12"}},
    "pictures": {"container": "avi", "codec": "mjpeg", "pixels": "yuvj420p"},
    "in parts": {"muxer": {"movflags": "frag_keyframe+empty_moov"}, "options": {"g": "12"}},
    "a live stream": {"container": "webm", "codec": "libvpx-vp9", "muxer": {"live": "1"}, "options": {"g": "12"}},
}


@pytest.mark.some(4)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ahead", [0, 16], ids=["seeking", "going on"])
def test_frames_are_those_that_playing_shows(monkeypatch: pytest.MonkeyPatch, kind: str, ahead: int) -> None:
    """Bit for bit, whether decoding passes over keyframes or goes on at the next one."""
    monkeypatch.setattr(movies, "SEEK_AHEAD", ahead)
    data = movie(40, **KINDS[kind])
    expected, clip = decoded_by(data), opened(data)
    assert len(clip.times) == len(expected) == 40
    np.testing.assert_allclose(clip.times, np.arange(40) / 24, rtol=0, atol=1e-12)
    assert clip.fps == 24
    for indices in ([0, 13, 26, 39], [1, 2, 3], [11, 12, 13, 35], list(range(40)), [38]):
        found = frames_of(clip, indices)
        assert near(shades(found), indices)
        for image, index in zip(found, indices, strict=True):
            np.testing.assert_array_equal(np.asarray(image), expected[index])


def test_only_what_the_wanted_frames_need_is_decoded_and_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the keyframe before each one, without what nothing is predicted from."""
    data = movie(96, options={"g": "24", "bf": "2", "x264-params": "b-pyramid=none:scenecut=0:b-adapt=0"})
    clip = opened(data)
    read: list[Any] = []
    decoded: list[int] = []
    converted: list[int] = []
    packets, decode, convert = MovieClip._packets, MovieClip._decoded, MovieClip._picture

    def noted(items: Any, into: list[Any]) -> Any:
        for item in items:
            into.append(item)
            yield item

    monkeypatch.setattr(MovieClip, "_packets", lambda *a: noted(packets(*a), read))
    monkeypatch.setattr(MovieClip, "_decoded", lambda *a: noted(decode(*a), decoded))
    monkeypatch.setattr(MovieClip, "_picture", lambda clip, frame: converted.append(frame.pts) or convert(clip, frame))
    assert near(shades(frames_of(clip, [2, 90])), [2, 90])
    assert len(converted) == 2
    # Two keyframes' runs up to what is wanted, and what the decoder's threads have in work; a third of those frames.
    assert len(read) < 3 + 19 + 2 * (movies.MAX_THREADS + 4)
    assert len(decoded) < len(read) / 2


def test_times_are_the_frames_own() -> None:
    """A variable frame rate, as screens and phones are recorded; from the first frame on."""
    shown = [500, 540, 1000, 1510, 1520, 4500]
    for container in ("mp4", "matroska"):
        clip = opened(movie(6, container, times=shown))
        np.testing.assert_allclose(clip.times, [(time - 500) / 1000 for time in shown], atol=1e-3)
        assert clip.times[0] == 0
        assert near(shades(frames_of(clip, [0, 2, 5])), [0, 2, 5])


def remuxed(data: bytes, change: Callable[[Any], None], container: str) -> bytes:
    """The same packets with other times."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(buffer, "w", format=container) as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                change(packet)
                packet.stream = stream
                output.mux(packet)
    return buffer.getvalue()


def shift(packet: Any) -> None:
    packet.pts -= 6 * 512
    packet.dts -= 6 * 512


def flatten(packet: Any) -> None:
    packet.pts = packet.dts


def test_what_an_edit_list_cuts_away_is_not_there() -> None:
    """A clip that was cut keeps the frames before it, because others are predicted from them."""
    clip = opened(remuxed(movie(24, options={"bf": "0", "g": "24"}), shift, "mp4"))
    assert len(clip.times) == 18
    assert clip.times[0] == 0
    assert near(shades(frames_of(clip, [0, 1, 17])), [6, 7, 23])


def call_key(packet: Any) -> None:
    packet.is_keyframe = True


def test_keyframes_that_are_none_are_not_begun_at() -> None:
    """Old phones and careless programs call any frame one; what is predicted from nothing is a gray smear."""
    data = remuxed(movie(40, codec="mpeg4", options={"bf": "0", "g": "40"}), call_key, "mp4")
    expected, clip = decoded_by(data), opened(data)
    indices = [5, 24, 39]
    for image, index in zip(frames_of(clip, indices), indices, strict=True):
        np.testing.assert_array_equal(np.asarray(image), expected[index])


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_frames_that_come_in_another_order_than_their_times_are_counted(container: str) -> None:
    """Put together from a bare stream: packets' times rise, and decoded frames' do not."""
    data = remuxed(movie(24, options={"bf": "3", "g": "12"}), flatten, container)
    with av.open(io.BytesIO(data)) as file:
        stamps = [frame.pts for frame in file.decode(video=0)]
    assert stamps != sorted(stamps)
    clip, expected = opened(data), decoded_by(data)
    assert len(clip.times) == len(expected) >= 22
    for index in ([3, 7, 20], range(len(expected))):
        for found, number in zip(frames_of(clip, list(index)), index, strict=True):
            np.testing.assert_array_equal(np.asarray(found), expected[number])


def test_a_frame_rate_that_lies_counts_for_nothing() -> None:
    """The header says a thousand frames a second, the frames come at ten."""
    clip = opened(movie(20, "matroska", fps=1000, times=[100 * number for number in range(20)]))
    assert clip.fps == pytest.approx(10)


def test_a_duration_that_lies_counts_for_nothing() -> None:
    """Every header of an MP4 that has one says an hour."""
    data = bytearray(movie(24))
    for box, at in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20)):
        place = data.index(box) + at
        data[place : place + 4] = struct.pack(">I", 3600 * 12288)
    clip = opened(bytes(data))
    assert clip.times[-1] == pytest.approx(23 / 24)
    assert near(shades(frames_of(clip, [0, 23])), [0, 23])


TURNS: dict[str, tuple[dict[str, Any], Callable[[np.ndarray], np.ndarray]]] = {
    # By what a player shows of the black corner at the top left; FFmpeg's angles are counterclockwise.
    "left": ({"degrees": 90}, lambda stored: np.rot90(stored, 1)),
    "right": ({"degrees": -90}, lambda stored: np.rot90(stored, -1)),
    "upside down": ({"degrees": 180}, lambda stored: stored[::-1, ::-1]),
    "mirrored": ({"degrees": 0, "hflip": True}, lambda stored: stored[:, ::-1]),
    "flipped": ({"degrees": 0, "vflip": True}, lambda stored: stored[::-1]),
    # Checked with the program ffmpeg, which turns what it decodes.
    "left and mirrored": ({"degrees": 90, "hflip": True}, lambda stored: stored.swapaxes(0, 1)[::-1, ::-1]),
    "right and mirrored": ({"degrees": -90, "hflip": True}, lambda stored: stored.swapaxes(0, 1)),
}


@pytest.mark.parametrize("turn", TURNS)
def test_frames_stand_upright(turn: str) -> None:
    """By the file's own matrix, against the stored frame turned by hand."""
    options, expected = TURNS[turn]
    data = movie(2, **options)
    (found,) = frames_of(opened(data), [0])
    np.testing.assert_array_equal(np.asarray(found), expected(decoded_by(data)[0]))


def test_what_is_transparent_is_composed_on_white() -> None:
    """As images are; without its alpha the clip would be black."""
    frames = [np.zeros((HEIGHT, WIDTH, 4), np.uint8) for _ in range(2)]
    for frame in frames:
        frame[:, WIDTH // 2 :, 3] = 255
    data = movie(2, "mov", "png", pixels="rgba", frames=frames)
    found = np.asarray(frames_of(opened(data), [0])[0])
    assert (found[:, : WIDTH // 2] == 255).all()
    assert (found[:, WIDTH // 2 :] == 0).all()


def test_odd_sides_and_other_pixels_are_read() -> None:
    for size, pixels in (((95, 63), "yuv444p"), ((WIDTH, HEIGHT), "yuv420p10le")):
        clip = opened(movie(3, size=size, pixels=pixels))
        assert clip.size == size
        assert near(shades(frames_of(clip, [0, 2])), [0, 2])


@pytest.mark.parametrize("container", ["mp4", "matroska", "avi"])
def test_of_a_file_that_was_cut_short_what_is_there_is_shown(container: str) -> None:
    """The frames that came through, and the last of them for one that came in part."""
    muxer = {"movflags": "frag_keyframe+empty_moov"} if container == "mp4" else {}
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (24, HEIGHT, WIDTH, 3), dtype=np.uint8)
    data = movie(24, container, "mpeg4", frames=list(noise), muxer=muxer, options={"g": "4"})
    whole, half = opened(data), opened(data[: len(data) // 2])
    count = len(half.times)
    assert 3 < count < 21
    assert half.times == pytest.approx(whole.times[:count], abs=1e-3)
    for found, expected in zip(frames_of(half, [0, 2, count - 2]), frames_of(whole, [0, 2, count - 2]), strict=True):
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    assert len(frames_of(half, [0, count - 1])) == 2


def test_frames_that_cannot_be_decoded_are_those_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    data = movie(12, "avi", "mjpeg", pixels="yuvj420p")
    starts = [at for at in range(len(data)) if data[at : at + 3] == b"\xff\xd8\xff"]
    assert len(starts) == 12
    broken = bytearray(data)
    for number in (0, 4, 5, 11):
        broken[starts[number] : starts[number] + 640] = bytes(640)
    found = shades(frames_of(opened(bytes(broken)), [0, 3, 4, 5, 6, 11]))
    assert len(found) == 6
    assert near(found[1:3], [3, 3])
    everything = bytearray(data)
    for start in starts:
        everything[start : start + 640] = bytes(640)
    with pytest.raises(MediaError, match=r"^video: it: the video is damaged or cut short \(none of its frames can be"):
        frames_of(opened(bytes(everything)), [0, 3])


def sound() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def greedy() -> bytes:
    """A table of two thousand million entries, for which FFmpeg has no memory."""
    data = bytearray(movie(4))
    place = data.index(b"stts") + 8
    data[place : place + 4] = struct.pack(">I", 2**31 - 1)
    return bytes(data)


BAD: dict[str, tuple[Any, str]] = {
    "sound": (sound, r"expected a video stream, found audio"),
    "no index": (lambda: movie(4).partition(b"moov")[0], r"the video is damaged or cut short \("),
    "a header": (lambda: movie(4)[:40], r"the video is damaged or cut short \("),
    "a table without end": (greedy, r"the video is damaged or cut short \(Cannot allocate memory\)"),
    "garbage": (lambda: movie(4)[:40] + b"\xff" * 4000, r"the video is damaged or cut short \("),
    "an old codec": (
        lambda: movie(4, "avi", "msvideo1", pixels="rgb555le"),
        r"expected video as H.264, .*found msvideo1",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_video_that_can_be_read_is_refused(kind: str) -> None:
    make, message = BAD[kind]
    with pytest.raises(MediaError, match=rf"^video: it: {message}"):
        opened(make())


def test_frames_larger_than_any_video_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_qwen35.prompts.clips.MAX_FRAME_PIXELS", WIDTH * HEIGHT - 1)
    with pytest.raises(MediaError, match=r"^video: it: expected frames of at most 6143 pixels, found 96 x 64"):
        opened(movie(2))


def test_more_frames_than_nine_hours_have_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movies, "MAX_PACKETS", 10)
    assert len(opened(movie(10)).times) == 10
    with pytest.raises(MediaError, match=r"^video: it: expected a video of at most 10 frames, found more"):
        opened(movie(11))


def test_of_a_long_video_keyframes_stand_for_what_lies_near_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """At their own times; where there is none near, the frame itself is decoded."""
    clip = opened(movie(90, options={"g": "30", "x264-params": "scenecut=0"}))
    wanted = [0, 18, 36, 54, 72, 89]
    assert clip.choose(wanted) == wanted
    monkeypatch.setattr(movies, "MAX_DECODED", 20)
    chosen = clip.choose(wanted)
    assert chosen == [0, 18, 30, 60, 72, 89]
    assert near(shades(frames_of(clip, chosen)), chosen)


def test_who_wants_no_more_is_heard_while_the_file_is_read() -> None:
    data = movie(24)
    for limit in (3, 28):
        calls: list[int] = []

        def check(calls: list[int] = calls, limit: int = limit) -> None:
            calls.append(1)
            if len(calls) == limit:
                raise KeyError("enough")

        with pytest.raises(KeyError):
            next(MovieClip(io.BytesIO(data), "mov", "video", "it", check).frames([0, 23], check))
        assert len(calls) == limit


def test_what_a_file_names_beside_itself_is_not_opened(tmp_path: Path) -> None:
    """A QuickTime file may keep its pictures in another one, wherever that lies."""
    (tmp_path / "secret.mov").write_bytes(movie(4, "mov"))
    clip = opened(movie(4))
    with pytest.raises(OSError, match="consists of several files"):
        clip._refuse_another(str(tmp_path / "secret.mov"), 1, {})


def test_the_file_is_closed_with_the_clip_and_after_an_error() -> None:
    file = io.BytesIO(movie(4))
    clip = MovieClip(file, "mov", "video", "it", lambda: None)
    clip.close()
    assert file.closed
    file = io.BytesIO(sound())
    with pytest.raises(MediaError):
        MovieClip(file, "mov", "video", "it", lambda: None)
    assert file.closed


def test_without_pyav_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MediaError, match=r"^video: video files need PyAV: pip install '\.\[video\]'; animated"):
        MovieClip(io.BytesIO(b""), "mov", "video", "it", lambda: None)


def test_a_picture_of_the_helper_tells_its_number() -> None:
    """The tests above rest on it."""
    assert near(shades([picture(number) for number in range(30)]), list(range(30)))
    assert not near(shades([picture(3)]), [4])
