"""How often the multi-token-prediction module guesses the decoder's next-but-one token.

    pip install -e '.[parity]'
    python -m tools.box.evaluate_mtp --model mlx_qwen35/box --count 100 --out docs/box/mtp.json

Greedy: at every token that the assistant writes, the module gets the decoder's hidden state and the token
that the decoder writes next, and its guess counts if it is what the decoder writes after that. The oracle is
transformers' own decoder; the module follows the published layout (embedding first, shared head).
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from random import Random

import torch

from tools.box import about_clips, about_functions, about_pictures, about_several, about_text, about_tools
from tools.box.batches import Batch, Encoder, collate
from tools.box.evaluate import SEED
from tools.box.forward import decode
from tools.box.trained import Trained, load

KINDS = {
    "one picture": about_pictures.TASKS,
    "several pictures": about_several.TASKS,
    "clips": about_clips.TASKS,
    "text": about_text.TASKS,
    "tools": about_tools.TASKS,
    "functions": about_functions.TASKS,
}


@torch.no_grad()
def guessed(trained: Trained, batch: Batch) -> tuple[int, int]:
    """How many of the module's guesses are what the decoder writes, and how many there are."""
    merged = None
    if "frames" in batch:
        merged = trained.tower.merge(trained.tower.blocks(batch["frames"], batch["pairs"], batch["grids"]))
    hidden = decode(trained.model, batch, merged)
    greedy = trained.model.lm_head(hidden).argmax(-1).flatten()
    guess = trained.model.lm_head(trained.ahead(batch, hidden)).argmax(-1).flatten()
    at = batch["mtp_at"]
    following = batch["input_ids"].roll(-1, 1).flatten()
    # At token i the decoder writes greedy[i]. The texts are right, so what follows it is there too.
    as_written = at[greedy[at] == following[at]]
    return int((guess[as_written] == greedy[as_written + 1]).sum()), len(as_written)


def main() -> None:
    """Print the acceptance by kind of task, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--count", type=int, default=100, help="dialogues of each kind")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    trained = load(options.model).eval()
    encoder = Encoder(options.model)
    right: dict[str, int] = defaultdict(int)
    guesses: dict[str, int] = defaultdict(int)
    for kind, tasks in KINDS.items():
        for number in range(options.count):
            rng = Random(f"{SEED}-mtp-{kind}-{number}")
            example = encoder.encode(tasks.draw(rng), thinking=rng.random() < 0.5)
            hits, asked = guessed(trained, collate([example], pad=0))
            right[kind] += hits
            guesses[kind] += asked
    report = {kind: round(right[kind] / guesses[kind], 4) for kind in KINDS}
    report["all"] = round(sum(right.values()) / sum(guesses.values()), 4)
    print(json.dumps(report, indent=2))
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
