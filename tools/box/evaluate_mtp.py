"""How often the multi-token-prediction module guesses the decoder's next-but-one token.

    pip install -e '.[parity]'
    python -m tools.box.evaluate_mtp --model mlx_qwen35/box --count 400

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
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from tools.box import about_pictures, about_text, about_tools
from tools.box.batches import Encoder, collate
from tools.box.evaluate import SEED
from tools.box.network import MultiTokenPrediction

KINDS = {"pictures": about_pictures.TASKS, "text": about_text.TASKS, "tools": about_tools.TASKS}


def main() -> None:
    """Print the acceptance by kind of task, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--count", type=int, default=400, help="dialogues of each kind")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model = AutoModelForImageTextToText.from_pretrained(options.model, dtype=torch.float32).eval()
    mtp = MultiTokenPrediction(model.config).eval()
    weights = load_file(options.model / "model.safetensors")
    own = {name.removeprefix("mtp."): value.float() for name, value in weights.items() if name.startswith("mtp.")}
    mtp.load_state_dict(own)
    encoder = Encoder(options.model)
    accepted: dict[str, int] = defaultdict(int)
    guesses: dict[str, int] = defaultdict(int)
    for kind, tasks in KINDS.items():
        for number in range(options.count):
            rng = Random(f"{SEED}-mtp-{kind}-{number}")
            example = encoder.encode(tasks.draw(rng), thinking=rng.random() < 0.5)
            batch = collate([example], pad=0)
            with torch.no_grad():
                arguments = {name: batch[name] for name in ("pixel_values", "image_grid_thw") if name in batch}
                hidden = model.model(
                    input_ids=batch["input_ids"], position_ids=batch["position_ids"], **arguments
                ).last_hidden_state
                greedy = model.lm_head(hidden).argmax(-1)
                # At position i the decoder writes greedy[i]. The texts are right, so what follows it is there too.
                next_embeds = model.get_input_embeddings()(batch["input_ids"][:, 1:-1])
                rotary = model.model.language_model.rotary_emb(hidden, batch["position_ids"][:, :, :-2])
                guess = model.lm_head(mtp(next_embeds, hidden[:, :-2], rotary)).argmax(-1)
            written = batch["learn"][:, 1:-1] & batch["learn"][:, 2:]
            as_greedy = (greedy[:, :-2] == batch["input_ids"][:, 1:-1]) & written
            guesses[kind] += int(as_greedy.sum())
            accepted[kind] += int(((guess == greedy[:, 1:-1]) & as_greedy).sum())
    report = {kind: round(accepted[kind] / guesses[kind], 4) for kind in KINDS}
    report["all"] = round(sum(accepted.values()) / sum(guesses.values()), 4)
    print(json.dumps(report, indent=2))
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
