"""A video in a prompt: every pair of its frames in a vision block of its own, behind the time at which it was seen."""

import re
from collections.abc import Sequence

from mlx_qwen35.checkpoints.config import MediaTokens
from mlx_qwen35.errors import PromptMismatchError
from mlx_qwen35.prompts.tokenizer import Tokenizer
from mlx_qwen35.prompts.videos import PreparedVideo

# Tokens before a vision block among which its timestamp is looked for; it has about ten.
_STAMP_TOKENS = 24


class VideoRuns:
    """Puts a run of vision blocks where a prompt names a video, or leaves the run that is there already.

    Source:
        mlx-vlm 0.7.10, models/qwen3_vl/processing_qwen3_vl.py, and transformers 4.57, Qwen3VLProcessor: the template's
        whole `<|vision_start|><|video_pad|><|vision_end|>` is replaced. transformers 5.24 replaces only what is in the
        middle of it.

    Args:
        tokens: The checkpoint's, with one for videos.
    """

    def __init__(self, tokens: MediaTokens, tokenizer: Tokenizer) -> None:
        assert tokens.video_token_id is not None
        self._tokenizer = tokenizer
        self._start, self._pad, self._end = (
            tokens.vision_start_token_id,
            tokens.video_token_id,
            tokens.vision_end_token_id,
        )

    def in_text(self, text: str, videos: Sequence[PreparedVideo]) -> str:
        """A finished prompt with every video's run, so that timestamps become tokens together with the text before.

        Where the number of placeholders is another, the text stays, and `in_ids` looks into it.
        """
        start, pad, end = (self._tokenizer.decode([token]) for token in (self._start, self._pad, self._end))
        if text.count(pad) != len(videos):
            return text
        given = iter(videos)

        def run(match: re.Match[str]) -> str:
            video = next(given)
            if _is_expanded(video, text[: match.start()].removesuffix(start)):
                return match[0]
            return "".join(
                f"{stamp(seconds)}{start}{pad * pair.tokens}{end}"
                for seconds, pair in zip(video.timestamps, video.frames, strict=True)
            )

        start_pad_end, alone = re.escape(start + pad + end), re.escape(pad)
        return re.sub(f"{start_pad_end}|{alone}", run, text)

    def in_ids(self, input_ids: Sequence[int], videos: Sequence[PreparedVideo]) -> list[int]:
        """Token ids, shape (S,), with every video's run; timestamps are tokenised by themselves.

        Raises:
            PromptMismatchError: Placeholders stand neither for videos nor for merged patches of their frames.
        """
        ids = list(input_ids)
        found, patches = ids.count(self._pad), sum(video.tokens for video in videos)
        if found not in (len(videos), patches):
            expanded = f" or {patches} (one per merged patch of their frames)" if videos else ""
            raise PromptMismatchError(
                f"prompt: expected {len(videos)} video placeholders (one per video){expanded}, found {found}"
            )
        if found != len(videos):
            return ids
        out: list[int] = []
        given, cursor = iter(videos), 0
        for index, token in enumerate(input_ids):
            if token != self._pad:
                continue
            video, first, stop = next(given), index, index + 1
            wrapped = ids[index - 1 : index] == [self._start] and ids[stop : stop + 1] == [self._end]
            if wrapped:
                first, stop = index - 1, index + 2
            if _is_expanded(video, self._tokenizer.decode(ids[max(0, first - _STAMP_TOKENS) : first])):
                continue
            out += [*ids[cursor:first], *self._run(video)]
            cursor = stop
        return out + ids[cursor:]

    def _run(self, video: PreparedVideo) -> list[int]:
        run: list[int] = []
        for seconds, pair in zip(video.timestamps, video.frames, strict=True):
            run += self._tokenizer.encode_text(stamp(seconds))
            run += [self._start, *[self._pad] * pair.tokens, self._end]
        return run


def stamp(seconds: float) -> str:
    """What stands before a pair of frames."""
    return f"<{seconds:.1f} seconds>"


def _is_expanded(video: PreparedVideo, before: str) -> bool:
    """Whether a placeholder that could be a whole video or its only merged patch is the latter, by the text before."""
    return video.tokens == 1 and before.endswith(stamp(video.timestamps[0]))
