"""Pictures and token ids in whatever a caller has them: arrays of any library, buffers, open files."""

import io
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_qwen35 import ModelKit
from mlx_qwen35.errors import MediaError, PromptError
from mlx_qwen35.prompts.images import open_image
from tests.parity.cases import CASES
from tests.prompts.test_images import encoded, noise
from tests.tiny import IDS

PICTURE = noise(96, 64)
PIXELS = np.asarray(PICTURE)
IMAGE_IDS = [IDS["<|vision_start|>"], IDS["<|image_pad|>"], IDS["<|vision_end|>"], 5]


def torch_tensor(values: Any) -> Any:
    return pytest.importorskip("torch", reason="needs torch: pip install -e '.[parity]'").tensor(np.asarray(values))


ARRAYS: dict[str, Callable[[Any], Any]] = {
    "numpy": np.array,
    "numpy, another order": np.asfortranarray,
    "numpy, int64": lambda values: np.array(values, np.int64),
    "numpy, float32": lambda values: np.array(values, np.float32),
    "mlx": mx.array,
    "mlx, int32": lambda values: mx.array(np.array(values, np.int32)),
    "mlx, float32": lambda values: mx.array(np.array(values, np.float32)),
    "torch": torch_tensor,
    "torch with a gradient": lambda values: torch_tensor(values).float().requires_grad_(),
}
BUFFERS: dict[str, Callable[[Path], Any]] = {
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "a part of a buffer": lambda path: memoryview(b"xx" + path.read_bytes())[2:],
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "an open file": lambda path: path.open("rb"),
    "an unbuffered file": lambda path: path.open("rb", buffering=0),
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "a path out of numpy's array": lambda path: np.array([str(path)])[0],
    "a data: URL out of numpy's array": lambda path: np.array(
        ["data:;base64," + b64encode(path.read_bytes()).decode()]
    )[0],
}


def hash_of(kit: ModelKit, *, part: Any = None, images: Any = None) -> list[str]:
    content = [{"type": "image"} if part is None else {"type": "image", "image": part}, {"type": "text", "text": "?"}]
    prompt = kit.process_prompt([{"role": "user", "content": content}], images=images)
    return [image.content_hash for image in prompt.images]


@pytest.fixture(scope="module")
def expected(kit: ModelKit) -> list[str]:
    return hash_of(kit, part=PICTURE)


@pytest.mark.parametrize("make", ARRAYS.values(), ids=ARRAYS)
def test_an_array_is_a_picture_wherever_one_may_be_given(
    kit: ModelKit, expected: list[str], make: Callable[[Any], Any]
) -> None:
    array = make(PIXELS)
    assert hash_of(kit, part=array) == expected
    assert hash_of(kit, images=[array]) == expected
    assert hash_of(kit, images=array) == expected
    assert hash_of(kit, images=array[None]) == expected
    assert [image.content_hash for image in kit.process_prompt(IMAGE_IDS, images=array).images] == expected


@pytest.mark.parametrize("make", BUFFERS.values(), ids=BUFFERS)
def test_a_buffer_or_an_open_file_is_a_picture_any_number_of_times(
    kit: ModelKit, expected: list[str], make: Callable[[Path], Any], tmp_path: Path
) -> None:
    path = tmp_path / "picture.png"
    PICTURE.save(path)
    source = make(path)
    try:
        assert hash_of(kit, part=source) == hash_of(kit, images=source) == hash_of(kit, images=[source]) == expected
        assert hash_of(kit, part=source) == expected
    finally:
        if hasattr(source, "close"):
            source.close()


def test_a_stream_that_cannot_go_back_is_read_from_where_it_is() -> None:
    class Response(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            return encoded(PICTURE)

        def seekable(self) -> bool:
            return False

    assert open_image(Response(), "image").size == (96, 64)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (PIXELS.astype(np.float32) / 255, r"found one of shape \(64, 96, 3\) and type float32"),
        (PIXELS.transpose(2, 0, 1), r"expected an array of shape \(H, W, 3\) .*, found one of shape \(3, 64, 96\)"),
        (PIXELS[..., 0], r"found one of shape \(64, 96\)"),
        (PIXELS.astype(np.int16) - 1, r"with whole numbers from 0 to 255"),
        (PIXELS.astype(np.int16) + 1, r"with whole numbers from 0 to 255"),
        (PIXELS > 9, r"and type bool"),
        (np.full((4, 4, 3), np.nan), r"and type float64"),
        (np.zeros((0, 5, 3), np.uint8), r"array of shape \(0, 5, 3\): expected an image, found no pixels"),
        (mx.array(PIXELS).astype(mx.bfloat16) / 255, r"and type mlx.core.bfloat16"),
        (np.array("a"), r"and type <U1"),
        (io.StringIO("text"), r"expected a file opened for reading bytes \('rb'\), found str"),
        (io.BytesIO(b""), r"found an empty file"),
    ],
)
def test_what_is_no_picture_is_refused(source: Any, message: str) -> None:
    with pytest.raises(MediaError, match=rf"^images\[0\]: .*{message}"):
        open_image(source, "images[0]")


def test_a_closed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    PICTURE.save(path)
    with path.open("rb") as file:
        pass
    with pytest.raises(MediaError, match=r"the open file cannot be read \(I/O operation on closed file"):
        open_image(file, "images[0]")


def test_an_open_file_is_read_no_further_than_a_picture_may_be_large(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(PICTURE)
    monkeypatch.setattr("mlx_qwen35.prompts.images.MAX_SOURCE_BYTES", len(data) - 1)
    stream = io.BytesIO(data + bytes(1000))
    with pytest.raises(MediaError, match=rf"open file: expected at most {len(data) - 1} bytes, found {len(data)}"):
        open_image(stream, "image")
    assert stream.tell() == len(data)


IDS_AS: dict[str, Callable[[list[int]], Any]] = {
    "numpy": np.array,
    "numpy, a batch of one": lambda ids: np.array([ids], np.uint16),
    "mlx": mx.array,
    "mlx, a batch of one": lambda ids: mx.array([ids]),
    "torch": torch_tensor,
    "torch, a batch of one": lambda ids: torch_tensor([ids]),
    "a batch of one in a BatchEncoding": lambda ids: {"input_ids": [ids], "attention_mask": [[1] * len(ids)]},
    "a tuple": tuple,
    "numpy's numbers": lambda ids: list(np.array(ids)),
}


@pytest.mark.parametrize("make", IDS_AS.values(), ids=IDS_AS)
def test_ids_may_be_an_array(kit: ModelKit, make: Callable[[list[int]], Any]) -> None:
    ids = list(CASES["text"].input_ids)
    assert kit.process_prompt(make(ids)).input_ids.tolist() == ids


@pytest.mark.parametrize(
    "options", [{}, {"return_tensors": "np"}, {"return_tensors": "mlx"}, {"return_tensors": "pt"}], ids=str
)
def test_a_batch_encoding_is_a_prompt(kit: ModelKit, reference_tokenizer: Any, options: dict[str, Any]) -> None:
    if options.get("return_tensors") == "pt":
        pytest.importorskip("torch", reason="needs torch: pip install -e '.[parity]'")
    prompt = kit.process_prompt(reference_tokenizer("hello there", **options))
    assert prompt.input_ids.tolist() == kit.tokenizer.encode("hello there")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (np.array([1.0, 2.0]), r"expected token ids of shape \(S,\), found \(2,\) of type float64"),
        (np.zeros((1, 2, 3), int), r"expected token ids of shape \(S,\), found \(1, 2, 3\)"),
        (np.array([True]), r"of type bool"),
        (np.array([[1, 2], [3, 4]]), r"expected a token id of one prompt, found a batch of 2"),
        ({"input_ids": [[1], [2]]}, r"expected a token id of one prompt, found a batch of 2"),
        (mx.array([1, 400]), r"prompt\[1\]: expected a token id below 352, found 400"),
        (np.array([-1]), r"prompt\[0\]: expected a token id below 352, found -1"),
        ({"input_ids": [1, 2], "attention_mask": [0, 1]}, r"found an attention_mask with zeros"),
        ({"input_ids": [1, 2], "attention_mask": mx.array([[0, 1]])}, r"found an attention_mask with zeros"),
        ({"input_ids": [1, 2], "pixel_values": 1}, r"expected images as images=\[\.\.\.\], found pixel_values"),
        (np.zeros((0,), int), r"prompt: expected at least one token, found none"),
    ],
)
def test_what_is_no_prompt_is_refused(kit: ModelKit, prompt: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        kit.process_prompt(prompt)


def test_an_array_of_pictures_is_as_many(kit: ModelKit) -> None:
    both = np.stack([PIXELS, 255 - PIXELS])
    content = [{"type": "image"}, {"type": "image"}]
    prompt = kit.process_prompt([{"role": "user", "content": content}], images=both)
    each = [hash_of(kit, part=Image.fromarray(pixels))[0] for pixels in both]
    assert [image.content_hash for image in prompt.images] == each
