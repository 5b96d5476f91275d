"""Train the checkpoint in the box from nothing.

    pip install -e '.[parity]'
    python -m tools.box.train --out build/box

Everything is seeded; the loss curve goes to loss.csv in the output directory. A run that was interrupted goes
on from its last saved state; --start goes on from a finished checkpoint, such as the one in the package, with
another --seed for other pictures.
"""

import argparse
import csv
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch.nn import functional
from torch.utils.data import DataLoader

from tools.box.batches import Batches, draw_dialogue
from tools.box.muon import Muon
from tools.box.network import MultiTokenPrediction, Seen, freeze_blocks, make_config, make_model
from tools.box.tower import teach
from tools.box.vocabulary import CHAT_TEMPLATE, SPECIAL, WORDS, write_tokenizer

SEED = 20260
VOCAB_SIZE = 1024


def draw_texts() -> list[str]:
    """What the tokenizer learns from: a sample of everything that is ever said."""
    rng = Random(SEED)
    texts = []
    for _ in range(6000):
        dialogue = draw_dialogue(rng)
        texts += [json.dumps(tool) for tool in dialogue.tools]
        for turn in dialogue.turns:
            texts += [turn.question, turn.answer, turn.reasoning, *turn.tool_results]
            for call in turn.tool_calls:
                texts += [f"<function={call['name']}>\n", *(f"<parameter={name}>\n" for name in call["arguments"])]
    return [*texts, *[CHAT_TEMPLATE.read_text()] * 20]


def write_directory(out: Path, start: Path | None = None) -> dict[str, int]:
    """Everything of the checkpoint except the weights; returns the control tokens' ids.

    Weights that were trained with a tokenizer go on with it: that of `start`, or the one that is there.
    """
    out.mkdir(parents=True, exist_ok=True)
    if start is not None:
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(start / name, out)
    if (out / "tokenizer.json").exists():
        tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
        ids = {token: tokenizer.token_to_id(token) for token in SPECIAL + WORDS}
    else:
        ids = write_tokenizer(out, draw_texts(), VOCAB_SIZE)
    config = make_config(VOCAB_SIZE, ids)
    config.save_pretrained(out)
    settings = {
        "image_processor_type": "Qwen2VLImageProcessorFast", "processor_class": "Qwen3VLProcessor", "patch_size": 16,
        "temporal_patch_size": 2, "merge_size": 2, "size": {"shortest_edge": 64 * 64, "longest_edge": 192 * 192},
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    }  # fmt: skip
    (out / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    generation = {
        "do_sample": False,
        "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
        "pad_token_id": ids["<|endoftext|>"],
    }
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    return ids


def losses_of(model: Any, mtp: Any, batch: dict[str, torch.Tensor], *, with_mtp: bool) -> tuple[torch.Tensor, ...]:
    """Cross entropy of the assistant's tokens and of MTP's guesses one token further, and both accuracies."""
    learn, input_ids = batch["learn"], batch["input_ids"]
    arguments = {name: batch[name] for name in ("pixel_values", "image_grid_thw") if name in batch}
    hidden = model.model(
        input_ids=input_ids, attention_mask=batch["attention_mask"], position_ids=batch["position_ids"], **arguments
    ).last_hidden_state
    chosen = learn[:, 1:]
    logits = model.lm_head(hidden[:, :-1][chosen])
    targets = input_ids[:, 1:][chosen]
    loss = functional.cross_entropy(logits.float(), targets)
    right = (logits.argmax(-1) == targets).float().mean()
    if not with_mtp:
        return loss, torch.zeros(()), right, torch.tensor(torch.nan)
    embed = model.get_input_embeddings()
    position_ids = batch["position_ids"][:, :, :-2]
    rotary = model.model.language_model.rotary_emb(hidden, position_ids)
    guessed = mtp(embed(input_ids[:, 1:-1]), hidden[:, :-2], rotary)
    chosen = learn[:, 2:] & learn[:, 1:-1]
    mtp_logits = model.lm_head(guessed[chosen])
    mtp_targets = input_ids[:, 2:][chosen]
    mtp_loss = functional.cross_entropy(mtp_logits.float(), mtp_targets)
    mtp_right = (mtp_logits.argmax(-1) == mtp_targets).float().mean()
    return loss, mtp_loss, right, mtp_right


def make_optimizers(modules: list[torch.nn.Module], rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for everything else."""
    named = [(name, p) for module in modules for name, p in module.named_parameters() if p.requires_grad]
    inner = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    kept = {id(p) for p in inner}
    outer = [p for _, p in named if id(p) not in kept]
    return [
        Muon(inner, lr=rate, momentum=0.95, weight_decay=0.02),
        torch.optim.AdamW(outer, lr=rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def rate_at(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, a plateau, and a linear way down over the last third."""
    warm, down = 100, int(0.65 * steps)
    return peak * min((step + 1) / warm, 1.0, max(0.02, (steps - step) / max(steps - down, 1)))


def export(model: torch.nn.Module, mtp: torch.nn.Module, out: Path) -> None:
    """Write model.safetensors as transformers and Qwen lay it out, in bfloat16."""
    tensors = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    tensors |= {f"mtp.{name}": value for name, value in mtp.state_dict().items()}
    save_file(
        {
            # The decay rates go through two exponentials; bfloat16 would be too coarse for them.
            name: value.contiguous() if name.endswith("A_log") else value.to(torch.bfloat16).contiguous()
            for name, value in tensors.items()
        },
        out / "model.safetensors",
        metadata={"format": "pt"},
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and write a checkpoint directory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="a checkpoint to go on from, in place of random weights")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--tower-steps", type=int, default=1000, help="of the vision tower alone, before all else")
    parser.add_argument("--batch-tokens", type=int, default=2304)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--mtp-weight", type=float, default=0.4)
    parser.add_argument("--mtp-every", type=int, default=3, help="steps from one that trains MTP to the next")
    parser.add_argument("--seen-weight", type=float, default=0.2)
    parser.add_argument("--save-every", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    state_file = options.out / "training_state.pt"
    ids = write_directory(options.out, options.start)
    config = make_config(VOCAB_SIZE, ids)
    model = make_model(config)
    mtp = MultiTokenPrediction(config)
    count = sum(p.numel() for p in model.parameters())
    print(f"{count} parameters and {sum(p.numel() for p in mtp.parameters())} of MTP", flush=True)
    visual = model.model.visual
    if options.start is not None:
        tensors = load_file(options.start / "model.safetensors")
        own = {name.removeprefix("mtp."): value for name, value in tensors.items() if name.startswith("mtp.")}
        mtp.load_state_dict(own)
        decoder = {name: value for name, value in tensors.items() if not name.startswith("mtp.")}
        model.load_state_dict(decoder | {"lm_head.weight": decoder["model.language_model.embed_tokens.weight"]})
    elif not state_file.exists():
        teach(
            visual,
            options.out,
            seed=options.seed,
            steps=options.tower_steps,
            optimizers=lambda modules: make_optimizers(modules, options.rate),
            rate_at=lambda step: rate_at(step, options.tower_steps, options.rate),
        )
    freeze_blocks(visual)
    seen = Seen(model)
    trained = torch.nn.ModuleList([model, mtp, seen])
    optimizers = make_optimizers([trained], options.rate)
    first, first_pool = 0, 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        first, first_pool = state["step"], state["pool"] + 1
        trained.load_state_dict(state["trained"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    dataset = Batches(
        options.out, seed=options.seed, tokens=options.batch_tokens, pad=ids["<|endoftext|>"], first_pool=first_pool
    )
    loader = DataLoader(dataset, batch_size=None, num_workers=1, prefetch_factor=8)
    file = (options.out / "loss.csv").open("a" if first else "w", buffering=1, newline="")
    curve = csv.writer(file)
    if not first:
        curve.writerow(["step", "loss", "token_accuracy", "mtp_accuracy", "seen_loss", "seconds"])
    began, window = time.time(), []
    for step, batch in zip(range(first, options.steps), loader, strict=False):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step, options.steps, options.rate)
            optimizer.zero_grad(set_to_none=True)
        with_mtp = step % options.mtp_every == 0
        loss, mtp_loss, right, mtp_right = losses_of(model, mtp, batch, with_mtp=with_mtp)
        told = seen(batch["seen"], batch["input_ids"] == ids["<|image_pad|>"])
        (loss + options.mtp_weight * mtp_loss + options.seen_weight * told).backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        window.append((loss.item(), right.item(), mtp_right.item(), told.item()))
        if (step + 1) % 50 == 0:
            means = np.nanmean(window, axis=0)
            curve.writerow([step + 1, *(f"{value:.4f}" for value in means), f"{time.time() - began:.0f}"])
            print(step + 1, *(f"{value:.4f}" for value in means), f"{time.time() - began:.0f}s", flush=True)
            window.clear()
        if (step + 1) % options.save_every == 0 or step + 1 == options.steps:
            state = {"step": step + 1, "pool": int(batch["pool"]), "trained": trained.state_dict()}
            torch.save(state | {"optimizers": [optimizer.state_dict() for optimizer in optimizers]}, state_file)
            export(model, mtp, options.out)
    file.close()


if __name__ == "__main__":
    main()
