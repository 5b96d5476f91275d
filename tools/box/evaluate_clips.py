"""Ask the checkpoint in the box held-out questions about clips, through transformers' layers.

    pip install -e '.[parity]'
    python -m tools.box.evaluate_clips --model mlx_qwen35/box --count 30 --out docs/box/clips.json

The prompts are those that Qwen3.5's processor makes of a video: every pair of frames behind its time, in a block of its
own. An answer counts if it is right to the letter; to clips of the judge, `tools.judge`, if the judge finds no fault.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image

from mlx_qwen35.prompts.positions import MediaLayout
from tools.box import about_clips
from tools.box.batches import Encoder, Shown, collate_shown
from tools.box.dialogues import Clip, Dialogue, Turn
from tools.box.evaluate import SEED
from tools.box.forward import decode
from tools.box.scenes import Ground, Scene
from tools.box.trained import Trained, load

LONGEST = 60


@dataclass(frozen=True)
class DrawnClip(Clip):
    """A clip that somebody else drew; its scenes tell no more than its size."""

    drawn: tuple[Image.Image, ...] = ()

    @cached_property
    def frames(self) -> tuple[Image.Image, ...]:
        """In RGB."""
        return self.drawn


class Speaker:
    """Greedy answers of a checkpoint to dialogues with pictures and clips."""

    def __init__(self, directory: Path) -> None:
        self.trained: Trained = load(directory).eval()
        self.encoder = Encoder(directory)
        self._end = self.encoder.tokenizer.encode("<|im_end|>")[0]

    def answer_about(self, frames: Sequence[Image.Image], question: str, interval: float = 0.5) -> str:
        """To one question about a clip, the last frame repeated to an even number."""
        frames = [*frames, frames[-1]] if len(frames) % 2 else frames
        width, height = frames[0].size
        scene = Scene(width, height, Ground("", ((0, 0, 0),)), frames=len(frames))
        clip = DrawnClip((scene,) * len(frames), interval, tuple(frames))
        return self.answer(Dialogue((Turn("clip", question, "", "", (clip,)),)))

    @torch.no_grad()
    def answer(self, dialogue: Dialogue) -> str:
        """To the last question, without reasoning."""
        ids, shown, layout = self.encoder.prompt(dialogue, thinking=False, with_answer=False)
        merged, places = self._look(shown, layout)
        start = len(ids)
        while len(ids) < start + LONGEST:
            plain = np.broadcast_to(np.arange(len(ids)), (3, len(ids)))
            positions = plain if layout is None else layout.position_ids(0, len(ids)).astype(np.int64)
            batch = {
                "input_ids": torch.tensor([ids]), "position_ids": torch.from_numpy(positions.copy())[:, None], **places,
            }  # fmt: skip
            ids.append(int(self.trained.model.lm_head(decode(self.trained.model, batch, merged)[0, -1]).argmax()))
            if ids[-1] == self._end:
                break
        return self.encoder.tokenizer.decode([token for token in ids[start:] if token != self._end]).strip()

    def _look(
        self, shown: Sequence[Shown], layout: MediaLayout | None
    ) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
        if layout is None:
            return None, {}
        pictures = collate_shown(shown)
        tower = self.trained.tower
        merged = tower.merge(tower.blocks(pictures["frames"], pictures["pairs"], pictures["grids"]))
        places = torch.tensor([token for span in layout.spans for token in range(span.start, span.stop)])
        return merged, {"own": pictures["own"], "places": places}


def own(speaker: Speaker, name: str, count: int, *, verbose: bool) -> float:
    """Share of right answers about clips of this world in which one kind of thing happens."""
    right = 0
    for number in range(count):
        dialogue = about_clips.single(name, Random(f"{SEED}-clip-{name}-{number}"))
        found, turn = speaker.answer(dialogue), dialogue.turns[-1]
        right += found == turn.answer
        if found != turn.answer and verbose:
            print(f"    {turn.question} -> {found!r}, not {turn.answer!r}", flush=True)
    return round(right / count, 4)


def judged(speaker: Speaker, count: int, seed: int, *, verbose: bool) -> dict[str, float]:
    """Shares of answers about the judge's clips that it finds no fault with, by what happens."""
    from tools.judge.clips import clips
    from tools.judge.verdict import judge

    verdicts: dict[str, list[bool]] = {}
    for clip in clips(count, seed=seed):
        found = speaker.answer_about(clip.frames, clip.text, 1 / clip.fps)
        faults = judge(found, clip.expectation)
        verdicts.setdefault(clip.kind, []).append(not faults)
        if faults and verbose:
            print(f"    {clip.text} -> {found!r}: {'; '.join(faults)}", flush=True)
    everything = [right for found_ in verdicts.values() for right in found_]
    shares = {name: round(sum(found_) / len(found_), 4) for name, found_ in verdicts.items()}
    return {"all": round(sum(everything) / len(everything), 4), **shares}


def main() -> None:
    """Print the shares of right answers by what happens, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--count", type=int, default=30, help="questions of each kind")
    parser.add_argument("--judged", type=int, default=0, help="clips of the judge")
    parser.add_argument("--seed", type=int, default=101, help="of the judge's clips")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--verbose", action="store_true", help="show wrong answers")
    options = parser.parse_args()
    speaker = Speaker(options.model)
    shares = {name: own(speaker, name, options.count, verbose=options.verbose) for name in about_clips.EVENTS}
    report = {"own": {"all": round(sum(shares.values()) / len(shares), 4), **shares}}
    if options.judged:
        report["judged"] = judged(speaker, options.judged, options.seed, verbose=options.verbose)
    print(json.dumps(report, indent=2))
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
