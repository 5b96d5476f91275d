"""The same cases against transformers' own classes, live; needs torch (the parity extra)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlx_qwen35 import ModelKit
from tests.parity.cases import CASES, SHAPES, TOLERANCE
from tests.tiny import DENSE, IDS, MOE, Shape

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_logits_equal_the_live_reference(
    shape: Shape, name: str, kits: Callable[[Shape], ModelKit], references: Callable[[Shape], object]
) -> None:
    """float32, whole prompt: 1e-4 of the largest logit, equal argmax; also keeps the golden files honest."""
    case, kit = CASES[name], kits(shape)
    prompt = kit.process_prompt(case.input_ids, images=case.images)
    expected = references(shape).logits(prompt)  # type: ignore[attr-defined]
    logits = np.array(kit.logits(prompt))
    np.testing.assert_array_equal(logits.argmax(-1), expected.argmax(-1))
    assert np.abs(logits - expected).max() <= TOLERANCE * np.abs(expected).max()
    golden = np.load(Path(__file__).parent / "goldens" / f"{shape.name}.npz")
    np.testing.assert_array_equal(expected.argmax(-1), golden[f"{name}/argmax"])


@pytest.mark.parametrize("shape", [DENSE, MOE], ids=lambda shape: shape.name)
@pytest.mark.parametrize("name", ["text", "two images"])
def test_greedy_decoding_equals_the_reference(
    shape: Shape, name: str, kits: Callable[[Shape], ModelKit], references: Callable[[Shape], object]
) -> None:
    """24 tokens, each the argmax of the reference on everything before it."""
    case, kit = CASES[name], kits(shape)
    prompt = kit.process_prompt(case.input_ids, images=case.images)
    # A model with random weights would write placeholders, for which the reference wants an image.
    media = [IDS["<|image_pad|>"], IDS["<|video_pad|>"]]
    result = kit.generate(prompt, max_tokens=24, temperature=0.0, logit_bias=dict.fromkeys(media, -1000.0))
    whole = kit.process_prompt([*case.input_ids, *result.tokens], images=case.images)
    expected = references(shape).logits(whole)  # type: ignore[attr-defined]
    expected[:, media] = -np.inf
    start = len(prompt.input_ids) - 1
    assert result.tokens == tuple(expected[start : start + len(result.tokens)].argmax(-1))


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
