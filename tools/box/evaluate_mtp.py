"""How often the multi-token-prediction module drafts what the decoder writes, by the draft's place in a chain.

    pip install -e '.[parity]'
    python -m tools.box.evaluate_mtp --model mlx_qwen35/box --count 100 --out docs/box/mtp.json

Greedy: at every token that the assistant writes, the module gets the decoder's hidden state and the token
that the decoder writes next, and its draft counts if it is what the decoder writes after that. A further draft of a
chain is asked for where those before it were right. The oracle is
transformers' own decoder; the module follows the published layout (embedding first, shared head).
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

import torch

from tools.box import (
    about_clips,
    about_functions,
    about_pictures,
    about_programs,
    about_several,
    about_text,
)
from tools.box.batches import Batch, Encoder, collate
from tools.box.evaluate import SEED
from tools.box.forward import decode
from tools.box.trained import Trained, load

KINDS = {
    "one picture": about_pictures.TASKS,
    "several pictures": about_several.TASKS,
    "clips": about_clips.TASKS,
    "text": about_text.TASKS,
    "functions": about_functions.TASKS,
    "programs": about_programs.TASKS,
}


@torch.no_grad()
def drafted(trained: Trained, batch: Batch) -> list[tuple[int, int]]:
    """By place, how many of the module's drafts are what the decoder writes, and how many there are."""
    merged = None
    if "frames" in batch:
        merged = trained.tower.merge(trained.tower.blocks(batch["frames"], batch["pairs"], batch["grids"]))
    hidden = decode(trained.model, batch, merged)
    greedy = trained.model.lm_head(hidden).argmax(-1).flatten()
    following = batch["input_ids"].roll(-1, 1).flatten()
    # At token i the decoder writes greedy[i]. The texts are right, so what follows it is there too.
    asked = greedy == following
    found = []
    for at, states in trained.drafts(batch, hidden):
        at, draft = at[asked[at]], trained.model.lm_head(states).argmax(-1)[asked[at]]
        right = draft == greedy[at + 1]
        found.append((int(right.sum()), len(at)))
        # The next one of these chains is asked for at the next token, if the decoder writes that.
        going_on = torch.zeros_like(asked)
        going_on[at[right] + 1] = True
        asked = going_on & (greedy == following)
    return found


def share(counts: Sequence[tuple[int, int]]) -> float:
    """Of all drafts together."""
    return round(sum(right for right, _ in counts) / max(sum(asked for _, asked in counts), 1), 4)


def main() -> None:
    """Print the acceptance by kind of task, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--count", type=int, default=100, help="dialogues of each kind")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    trained = load(options.model).eval()
    encoder = Encoder(options.model)
    found: dict[str, list[list[tuple[int, int]]]] = {kind: [] for kind in KINDS}
    for kind, tasks in KINDS.items():
        for number in range(options.count):
            rng = Random(f"{SEED}-mtp-{kind}-{number}")
            example = encoder.encode(tasks.draw(rng), thinking=rng.random() < 0.5)
            found[kind].append(drafted(trained, collate([example], pad=0)))
    found["all"] = [one for kind in KINDS for one in found[kind]]
    report = {kind: [share(of_place) for of_place in zip(*counted, strict=True)] for kind, counted in found.items()}
    print(json.dumps(report))
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
