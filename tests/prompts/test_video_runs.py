"""A video's run in a prompt: vision blocks behind timestamps, from text and from ids."""

from types import SimpleNamespace

import numpy as np
import pytest

from mlx_qwen35.checkpoints.config import MediaTokens
from mlx_qwen35.errors import PromptMismatchError
from mlx_qwen35.prompts.images import PreparedImage
from mlx_qwen35.prompts.tokenizer import Tokenizer
from mlx_qwen35.prompts.video_runs import VideoRuns, stamp
from mlx_qwen35.prompts.videos import PreparedVideo
from tests.tiny import IDS, write_tokenizer

START, PAD, END = "<|vision_start|>", "<|video_pad|>", "<|vision_end|>"
VIDEO = START + PAD + END


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory)
    return Tokenizer(directory)


@pytest.fixture(scope="module")
def runs(tokenizer: Tokenizer) -> VideoRuns:
    return VideoRuns(MediaTokens(IDS["<|image_pad|>"], IDS[PAD], IDS[START], IDS[END]), tokenizer)


def video(tokens: int, *times: float) -> PreparedVideo:
    """Pairs of frames of so many tokens each."""
    pair = PreparedImage(np.zeros((4 * tokens, 1)), (1, 2, 2 * tokens), (1, 1, tokens), "")
    return PreparedVideo((pair,) * len(times), times)


def test_the_template_s_block_gives_way_to_one_for_every_pair(runs: VideoRuns) -> None:
    found = runs.in_text(f"a{VIDEO}b{PAD}c", [video(2, 0.25, 1.0), video(1, 12.34)])
    assert found == (
        f"a<0.2 seconds>{START}{PAD * 2}{END}<1.0 seconds>{START}{PAD * 2}{END}b<12.3 seconds>{START}{PAD}{END}c"
    )


@pytest.mark.parametrize(("indices", "fps"), [([0, 6, 12, 18], 24.0), ([0, 1], 2.0), ([0, 40, 81], 29.97)])
def test_the_run_equals_the_reference_s(runs: VideoRuns, indices: list[int], fps: float) -> None:
    """transformers' Qwen3VLProcessor renders it, of 2 x 3 merged patches."""
    from transformers import Qwen3VLProcessor
    from transformers.video_utils import VideoMetadata

    processor = Qwen3VLProcessor.__new__(Qwen3VLProcessor)
    processor.video_token, processor.vision_start_token, processor.vision_end_token = PAD, START, END
    processor.video_processor = SimpleNamespace(merge_size=2, temporal_patch_size=2)
    times = processor._calculate_timestamps(list(indices), fps, 2)
    inputs = {
        "video_grid_thw": np.array([[len(times), 4, 6]]),
        "video_metadata": [VideoMetadata(total_num_frames=100, fps=fps, frames_indices=list(indices))],
    }
    expected = processor.replace_video_token(inputs, 0)
    assert runs.in_text(f"Look: {VIDEO}\nwhat?", [video(6, *times)]) == f"Look: {expected}\nwhat?"


def test_times_become_tokens_together_with_the_text_before(runs: VideoRuns, tokenizer: Tokenizer) -> None:
    """As in the reference, which tokenises the whole text once; ids of a caller stay as they are."""
    clip = video(1, 0.5)
    text = runs.in_text(f"what is 1{VIDEO}", [clip])
    assert text == f"what is 1<0.5 seconds>{START}{PAD}{END}"
    ids = tokenizer.encode(f"what is 1{VIDEO}")
    assert runs.in_ids(ids, [clip]) == [*ids[:-3], *tokenizer.encode("<0.5 seconds>"), *ids[-3:]]


def test_ids_get_the_run_too(runs: VideoRuns, tokenizer: Tokenizer) -> None:
    """Around a placeholder, with or without a vision block; other tokens stay where they are."""
    clips = [video(2, 0.0, 1.0), video(3, 2.0)]
    ids = [5, *tokenizer.encode(VIDEO), 6, IDS["<|image_pad|>"], IDS[PAD], 7]
    first = f"{stamp(0.0)}{START}{PAD * 2}{END}{stamp(1.0)}{START}{PAD * 2}{END}"
    expected = [5, *tokenizer.encode(first), 6, IDS["<|image_pad|>"]]
    expected += [*tokenizer.encode(f"{stamp(2.0)}{START}{PAD * 3}{END}"), 7]
    assert runs.in_ids(ids, clips) == expected
    assert runs.in_ids(expected, clips) == expected
    assert runs.in_ids([5, 6], []) == [5, 6]


def test_a_block_that_is_open_on_one_side_is_no_block(runs: VideoRuns, tokenizer: Tokenizer) -> None:
    ids = [IDS[START], IDS[PAD], 7]
    assert runs.in_ids(ids, [video(1, 0.0)]) == [IDS[START], *tokenizer.encode(f"{stamp(0.0)}{VIDEO}"), 7]
    ids = [7, IDS[PAD], IDS[END]]
    assert runs.in_ids(ids, [video(1, 0.0)]) == [7, *tokenizer.encode(f"{stamp(0.0)}{VIDEO}"), IDS[END]]
    # What stands at the very end does not stand before the first token.
    ids = [IDS[PAD], IDS[END], 7, IDS[START]]
    assert runs.in_ids(ids, [video(1, 0.0)]) == [*tokenizer.encode(f"{stamp(0.0)}{VIDEO}"), *ids[1:]]


def test_a_time_that_stands_further_back_belongs_to_something_else(runs: VideoRuns, tokenizer: Tokenizer) -> None:
    clip = video(1, 0.5)
    text = f"at {stamp(0.5)} it moves {VIDEO}"
    expected = f"at {stamp(0.5)} it moves {stamp(0.5)}{VIDEO}"
    assert runs.in_text(text, [clip]) == expected
    before = tokenizer.encode(f"at {stamp(0.5)} it moves ")
    found = runs.in_ids([*before, *tokenizer.encode(VIDEO)], [clip])
    assert found == [*before, *tokenizer.encode(f"{stamp(0.5)}{VIDEO}")]


def test_of_several_videos_each_is_looked_at_by_itself(runs: VideoRuns, tokenizer: Tokenizer) -> None:
    """One whose time stands there and one whose does not; also where much stands between them."""
    clips = [video(1, 0.5), video(1, 1.5)]
    for between in ("and", "the quick brown fox " * 20):
        text = f"{stamp(0.5)}{VIDEO}{between}{VIDEO}"
        expected = f"{stamp(0.5)}{VIDEO}{between}{stamp(1.5)}{VIDEO}"
        assert runs.in_text(text, clips) == expected
        middle = tokenizer.encode(between)
        ids = [*tokenizer.encode(f"{stamp(0.5)}{VIDEO}"), *middle, *tokenizer.encode(VIDEO)]
        parts = [f"{stamp(0.5)}{VIDEO}", f"{stamp(1.5)}{VIDEO}"]
        first, second = (tokenizer.encode(part) for part in parts)
        assert runs.in_ids(ids, clips) == [*first, *middle, *second]


@pytest.mark.parametrize("text", [f"a {stamp(0.5)}{VIDEO}b", f"{stamp(0.5)}{VIDEO}"])
def test_a_video_of_one_merged_patch_is_expanded_if_its_time_stands_there(
    runs: VideoRuns, tokenizer: Tokenizer, text: str
) -> None:
    """One placeholder can be a whole video or a part of one; a second look changes nothing."""
    clip = video(1, 0.5)
    assert runs.in_text(text, [clip]) == text
    ids = tokenizer.encode(text)
    assert runs.in_ids(ids, [clip]) == ids
    assert runs.in_text(text.replace("0.5", "1.5"), [clip]).count("seconds") == 2


@pytest.mark.parametrize(
    ("count", "clips", "message"),
    [
        (1, [], r"^prompt: expected 0 video placeholders \(one per video\), found 1$"),
        (
            0,
            [video(2, 0.0)],
            r"expected 1 video placeholders .* or 2 \(one per merged patch of their frames\), found 0$",
        ),
        (3, [video(2, 0.0, 1.0), video(1, 0.0)], r"expected 2 video placeholders .* or 5 .*, found 3$"),
    ],
)
def test_a_wrong_number_of_placeholders_is_refused(
    runs: VideoRuns, count: int, clips: list[PreparedVideo], message: str
) -> None:
    text = "a" + PAD * count
    assert runs.in_text(text, clips) == text
    with pytest.raises(PromptMismatchError, match=message):
        runs.in_ids([5, *[IDS[PAD]] * count], clips)
