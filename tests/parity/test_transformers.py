"""The same cases against transformers' own classes, live; needs torch (the parity extra)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlx_qwen35 import ModelKit
from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.patches.mrope import multimodal_angles
from tests.conftest import Bench
from tests.parity.cases import CASES, SHAPES, TOLERANCE, rows_of
from tests.patches.test_mrope import SECTIONS
from tests.tiny import DENSE, IDS, MOE, YARN, Shape

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_logits_equal_the_live_reference(
    shape: Shape, name: str, kits: Callable[[Shape], ModelKit], references: Callable[[Shape], object]
) -> None:
    """float32, whole prompt: TOLERANCE of the largest logit, equal argmax; also keeps the golden files honest."""
    case, kit = CASES[name], kits(shape)
    prompt = kit.process_prompt(case.input_ids, **case.media)
    expected = references(shape).logits(prompt)  # type: ignore[attr-defined]
    logits = np.array(kit.logits(prompt))
    np.testing.assert_array_equal(logits.argmax(-1), expected.argmax(-1))
    assert np.abs(logits - expected).max() <= TOLERANCE * np.abs(expected).max()
    with np.load(Path(__file__).parent / "goldens" / f"{shape.name}.npz") as file:
        argmax, golden, scale = (file[f"{name}/{part}"] for part in ("argmax", "logits", "scale"))
    np.testing.assert_array_equal(expected.argmax(-1), argmax)
    assert np.abs(expected[rows_of(len(expected))] - golden).max() <= TOLERANCE * scale


@pytest.mark.parametrize("name", ["text", "two images", "an image, then a video"])
def test_the_model_in_the_package_equals_the_reference(name: str) -> None:
    """A checkpoint in bfloat16, which both compute in float32: TOLERANCE of the largest logit, equal argmax."""
    pytest.importorskip("torch", reason="needs torch: pip install -e '.[parity]'")
    from tests.parity.reference import Reference

    case = CASES[name]
    with ModelKit.load(BOX) as kit:
        media = [{"type": kind[:-1], kind[:-1]: one} for kind, found in case.media.items() for one in found]
        content = [*media, {"type": "text", "text": "Where is the red circle?"}]
        prompt = kit.process_prompt([{"role": "user", "content": content}])
        expected, logits = Reference(BOX).logits(prompt), np.array(kit.logits(prompt))
    np.testing.assert_array_equal(logits.argmax(-1), expected.argmax(-1))
    assert np.abs(logits - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("shape", [DENSE, MOE], ids=lambda shape: shape.name)
@pytest.mark.parametrize("name", ["text", "two images", "an image, then a video"])
def test_greedy_decoding_equals_the_reference(
    shape: Shape, name: str, kits: Callable[[Shape], ModelKit], references: Callable[[Shape], object]
) -> None:
    """24 tokens, each the argmax of the reference on everything before it."""
    case, kit = CASES[name], kits(shape)
    prompt = kit.process_prompt(case.input_ids, **case.media)
    # A model with random weights would write placeholders, for which the reference wants an image.
    media = [IDS["<|image_pad|>"], IDS["<|video_pad|>"]]
    result = kit.generate(prompt, max_tokens=24, temperature=0.0, logit_bias=dict.fromkeys(media, -1000.0))
    whole = kit.process_prompt([*case.input_ids, *result.tokens], **case.media)
    expected = references(shape).logits(whole)  # type: ignore[attr-defined]
    expected[:, media] = -np.inf
    start = len(prompt.input_ids) - 1
    assert result.tokens == tuple(expected[start : start + len(result.tokens)].argmax(-1))


@pytest.mark.parametrize(("rotary_dims", "section"), SECTIONS)
@pytest.mark.parametrize("rope", [DENSE.rope, YARN.rope], ids=["default", "yarn"])
def test_angles_equal_the_reference(
    rope: tuple[tuple[str, object], ...], rotary_dims: int, section: tuple[int, int, int]
) -> None:
    """Qwen3_5TextRotaryEmbedding over tokens whose three positions all differ; float32, to 2e-5."""
    torch = pytest.importorskip("torch", reason="needs torch: pip install -e '.[parity]'")
    import mlx.core as mx
    from mlx_lm.models.rope_utils import initialize_rope
    from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig
    from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5TextRotaryEmbedding

    parameters = {"rope_theta": 100.0, "partial_rotary_factor": 0.25, "mrope_section": list(section), **dict(rope)}
    config = Qwen3_5TextConfig(head_dim=4 * rotary_dims, max_position_embeddings=128, rope_parameters=dict(parameters))
    positions = np.random.Generator(np.random.PCG64(1)).permutation(60).reshape(3, 2, 10)
    expected = Qwen3_5TextRotaryEmbedding(config)(torch.zeros(1), torch.from_numpy(positions))
    module = initialize_rope(rotary_dims, 100.0, False, parameters, 128)
    found = multimodal_angles(module, rotary_dims, section, mx.array(positions))
    for one, other in zip(found, expected, strict=True):
        # transformers writes both halves of the rotary dimensions.
        np.testing.assert_allclose(np.array(one[:, 0]), other[..., : rotary_dims // 2].numpy(), atol=2e-5)


def test_positions_of_random_layouts_equal_the_reference(kit: ModelKit, references: Callable[[Shape], object]) -> None:
    """Property test: any mix of text and images, adjacent or not, against Qwen3_5Model.get_rope_index."""
    from hypothesis import given, settings
    from hypothesis import strategies as st

    from mlx_qwen35.prompts.images import PreparedImage
    from mlx_qwen35.prompts.positions import lay_out
    from mlx_qwen35.prompts.prompt import Prompt

    reference = references(DENSE)
    grids = st.tuples(st.integers(1, 7), st.integers(1, 7))
    pieces = st.lists(st.one_of(st.integers(1, 30), grids), min_size=1, max_size=9)

    @settings(max_examples=150, deadline=None)
    @given(pieces.filter(lambda pieces: any(isinstance(piece, tuple) for piece in pieces)))
    def check(pieces: list[int | tuple[int, int]]) -> None:
        ids: list[int] = []
        images = []
        for piece in pieces:
            if isinstance(piece, int):
                ids += [5] * piece
            else:
                height, width = piece
                ids += [IDS["<|image_pad|>"]] * (height * width)
                empty = np.zeros((0, 0), np.float32)
                images.append(PreparedImage(empty, (1, 2 * height, 2 * width), (1, height, width), ""))
        layout = lay_out(ids, [image.merged_grid_thw for image in images], image_token_id=IDS["<|image_pad|>"])
        prompt = Prompt(np.array(ids, np.int32), layout, tuple(images))
        positions, delta = reference.rope_index(prompt)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(prompt.position_ids, positions)
        assert prompt.rope_delta == delta

    check()


def test_positions_with_videos_equal_the_reference(kit: ModelKit, references: Callable[[Shape], object]) -> None:
    """Property test: text, images and videos in any order, each pair of frames behind a text of its own."""
    from hypothesis import given, settings
    from hypothesis import strategies as st

    from mlx_qwen35.prompts.builder import GivenMedia, PromptBuilder
    from mlx_qwen35.prompts.images import PreparedImage
    from mlx_qwen35.prompts.videos import PreparedVideo
    from tests.parity.cases import IMAGE, VIDEO

    reference = references(DENSE)
    side = st.integers(1, 6)
    image = st.tuples(side, side)
    video = st.tuples(side, side, st.lists(st.floats(0, 5000), min_size=1, max_size=6))
    pieces = st.lists(st.one_of(st.integers(1, 30), image, video), min_size=1, max_size=7)

    def unit(height: int, width: int) -> PreparedImage:
        pixels = np.zeros((4 * height * width, 1536), np.float32)
        return PreparedImage(pixels, (1, 2 * height, 2 * width), (1, height, width), "")

    class Ready:
        """An add-on to which everything is prepared already."""

        def __getattr__(self, name: str) -> object:
            return getattr(kit.vision, name)

        def prepare_image(self, source: PreparedImage, **options: object) -> PreparedImage:
            return source

        def prepare_video(self, source: PreparedVideo, **options: object) -> PreparedVideo:
            return source

    builder = PromptBuilder(kit.config, kit.tokenizer, Ready())  # type: ignore[arg-type]

    @settings(max_examples=60, deadline=None)
    @given(pieces.filter(lambda pieces: any(isinstance(piece, tuple) for piece in pieces)))
    def check(pieces: list[object]) -> None:
        ids: list[int] = []
        images, videos = [], []
        for piece in pieces:
            match piece:
                case int():
                    ids += [5] * piece
                case (int() as height, int() as width):
                    ids += IMAGE
                    images.append(unit(height, width))
                case (int() as height, int() as width, list() as times):
                    ids += VIDEO
                    videos.append(PreparedVideo(tuple(unit(height, width) for _ in times), tuple(times)))
        prompt = builder.build(ids, GivenMedia(images, videos), {})
        positions, delta = reference.rope_index(prompt)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(prompt.position_ids, positions)
        assert prompt.rope_delta == delta

    check()


@pytest.mark.parametrize("shape", [DENSE, MOE], ids=lambda shape: shape.name)
def test_what_is_seen_of_a_video_equals_the_reference(
    shape: Shape,
    benches: Callable[[Shape], Bench],
    kits: Callable[[Shape], ModelKit],
    references: Callable[[Shape], object],
) -> None:
    """Embeddings of its frames, and the decoder's hidden states over the whole prompt; seen backwards they differ."""
    torch = pytest.importorskip("torch", reason="needs torch: pip install -e '.[parity]'")
    import mlx.core as mx

    case, bench = CASES["one video"], benches(shape)
    reference = references(shape).model.model  # type: ignore[attr-defined]
    states = []
    for frames in (case.videos[0], case.videos[0][::-1]):
        prompt = kits(shape).process_prompt(case.input_ids, videos=[frames])
        pixels = torch.from_numpy(np.concatenate([pair.pixel_values for pair in prompt.media]))
        grid = torch.tensor([(len(prompt.media), *prompt.media[0].grid_thw[1:])])
        positions = torch.from_numpy(prompt.position_ids.astype(np.int64))[:, None]  # type: ignore[union-attr]
        ids = torch.from_numpy(prompt.input_ids.astype(np.int64))[None]
        with torch.no_grad():
            seen = torch.cat(reference.get_video_features(pixels, grid).pooler_output).numpy()
            expected = (
                reference(ids, pixel_values_videos=pixels, video_grid_thw=grid, position_ids=positions)
                .last_hidden_state[0]
                .numpy()
            )
        (piece,) = prompt.pieces
        features = np.array(mx.concatenate(bench.vision.encode(piece, prompt.media)))
        assert np.abs(features - seen).max() <= TOLERANCE * np.abs(seen).max()
        decoder = bench.model.language_model.model
        hidden = np.array(decoder(mx.array(prompt.input_ids)[None], bench.cache(prompt))[0])
        assert np.abs(hidden - expected).max() <= TOLERANCE * np.abs(expected).max()
        states.append(expected[-1])
    assert np.abs(states[0] - states[1]).max() > 0.01 * np.abs(states[0]).max()
