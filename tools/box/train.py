"""Train the checkpoint in the box from nothing.

    apt install $(grep -v '#' tools/box/fonts.txt | cut -d' ' -f1 | sort -u)
    pip install -e '.[parity]'
    python -m tools.box.train --out build/box

Everything is seeded, and the schedule goes by the clock: a run takes the minutes that it is given, on whatever
machine, and learns more on a fast one. The loss curve goes to loss.csv in the output directory.

    python -m tools.box.train --continue-from mlx_qwen35/box --out build/box --device cpu --steps 1000 --rate 1e-3 \\
        --batch-tokens 4096 --pool 96 --workers 1

goes on from a finished checkpoint, for machines without a GPU: the vision tower stays as it is, the decoder and the MTP
module learn from answers alone, and the schedule goes by the steps, so that a run can be had again. Its seed, and so
all that it draws, is another than the first run's, and its tokenizer the same. With
`--drafts-alone` the decoder stays as it is too, and only the MTP module learns, from what the decoder would write.
"""

import argparse
import csv
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from tools.box import lean
from tools.box.batches import CONTINUED, TO_DRAFT, Batch, Batches, LabelledPictures, draw_dialogue
from tools.box.labels import TOLD
from tools.box.muon import Muon
from tools.box.network import make_config
from tools.box.numbers import fonts, listed
from tools.box.prepare import CLIP_PIXELS, PIXELS
from tools.box.trained import Trained
from tools.box.vocabulary import CHAT_TEMPLATE, SPECIAL, WORDS, write_tokenizer

SEED = 20261
# Of what a run that continues another draws: held-out seeds and the first run's begin otherwise.
GOES_ON = "continued"
VOCAB_SIZE = 1280


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
        "temporal_patch_size": 2, "merge_size": 2, "size": PIXELS, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }  # fmt: skip
    (out / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    settings.pop("image_processor_type")
    settings |= {"video_processor_type": "Qwen3VLVideoProcessor", "size": CLIP_PIXELS, "fps": 2, "min_frames": 2}
    (out / "video_preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    generation = {
        "do_sample": False,
        "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
        "pad_token_id": ids["<|endoftext|>"],
    }
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    return ids


# Of a batch of a run from nothing, one in so many rows has MTP's drafts asked for: chains of them take long.
DRAFTED = 4
# Batches of pictures that wait for their second turn.
HELD = 48
# The tower's learning rate when the decoder learns too.
AFTERWARDS = 0.3
WEIGHTS = {"loss": 1.0, "mtp": 0.25, "seen": 0.3, "tower": 0.15}


def make_optimizers(trained: nn.Module, tower: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for everything else.

    Args:
        tower: The learning rate of the vision tower's blocks as a share of everything else's.
    """
    named = [(name, p) for name, p in trained.named_parameters() if p.requires_grad]
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        inner = parameter.ndim == 2 and "embed" not in name and "head" not in name
        groups.setdefault((inner, "visual" in name and "merger" not in name), []).append(parameter)
    muon, adam = (
        [
            {"params": found, "scale": tower if seeing else 1.0}
            for (inner, seeing), found in groups.items()
            if inner == way
        ]
        for way in (True, False)
    )
    return [
        Muon(muon, lr=0.0, momentum=0.95, weight_decay=0.02),
        torch.optim.AdamW(adam, lr=0.0, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def rate_at(share: float, peak: float, end: float) -> float:
    """Linear warm-up, a plateau, and a linear way down to a share of the peak, by the time that has passed."""
    return peak * min(share / 0.02 + 0.01, 1.0, end + (1 - end) * (1 - share) / 0.4)


@contextmanager
def profiled(wanted: bool) -> Iterator[None]:
    """Print how long the processor took to start the kernels of a step, and which of them take the GPU's time."""
    if not wanted:
        yield
        return
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    with torch.profiler.profile() as profile:
        began = time.monotonic()
        yield
        issued = time.monotonic() - began
        wait()
        took = time.monotonic() - began
    print(f"    a step was started in {1000 * issued:.0f} ms and done in {1000 * took:.0f} ms", flush=True)
    column = f"self_{'device' if torch.cuda.is_available() else 'cpu'}_time_total"
    print(profile.key_averages().table(sort_by=column, row_limit=25, max_name_column_width=90), flush=True)


def drafts_alone(trained: Trained) -> None:
    """Have nothing but the MTP module learn."""
    trained.requires_grad_(False)
    trained.mtp.requires_grad_(True)


def export(model: nn.Module, mtp: nn.Module, out: Path) -> None:
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


@dataclass(frozen=True)
class Phase:
    """A part of a run, in which the learning rate goes up and down once.

    Args:
        minutes: How long it takes, where it goes by the clock.
        weights: Of the losses.
        tower: See make_optimizers.
        end: The last rate as a share of the highest.
        steps: How long it takes, where it goes by the steps.
    """

    name: str
    minutes: float
    weights: dict[str, float]
    tower: float
    end: float
    steps: int | None = None

    def share(self, step: int, seconds: float) -> float:
        """How much of it has passed, 1 at its end."""
        return step / self.steps if self.steps else seconds / (60 * self.minutes)


class Run:
    """One training run: where it computes, how long it takes, and what it writes down."""

    def __init__(self, trained: Trained, options: argparse.Namespace) -> None:
        self.trained, self.options = trained, options
        self.device = torch.device(options.device)
        self.file = (options.out / "loss.csv").open("w", buffering=1, newline="")
        self.curve = csv.writer(self.file)
        self.curve.writerow(["phase", "step", "loss", "token_accuracy", "mtp_accuracy", "seen_loss", "tower_loss",
                             "seconds"])  # fmt: skip
        self.began = self.saved = time.monotonic()

    def batches(self, dataset: IterableDataset[Batch]) -> Iterator[Batch]:
        """Batches on the device, from workers that draw from now on, until nobody holds the iterator any more."""
        workers = self.options.workers
        loader = DataLoader(
            dataset, batch_size=None, num_workers=workers, prefetch_factor=2 if workers else None,
            pin_memory=self.device.type == "cuda",
        )  # fmt: skip
        return ({name: self._on_device(part) for name, part in batch.items()} for batch in loader)

    def twice(self, stream: Iterator[Batch]) -> Iterator[Batch]:
        """Every batch, and once more a while later: pictures take longer to draw than to learn from."""
        rng, held = Random(self.options.seed), []
        for batch in stream:
            yield batch
            held.append(batch)
            if len(held) > HELD:
                yield held.pop(rng.randrange(HELD))

    def _on_device(self, part: Any) -> Any:
        if isinstance(part, list):
            return [self._on_device(one) for one in part]
        return part.to(self.device, non_blocking=True) if isinstance(part, torch.Tensor) else part

    def learn(self, phase: Phase, stream: Iterator[Batch], losses: Callable[[Batch], dict[str, torch.Tensor]]) -> None:
        """One phase, from its own warm-up to its own end."""
        optimizers = make_optimizers(self.trained, phase.tower)
        first, step, window, waited = time.monotonic(), 0, [], 0.0
        while (share := phase.share(step, time.monotonic() - first)) < 1 and step != self.options.most_steps:
            rate = rate_at(share, self.options.rate, phase.end)
            asked = time.monotonic()
            batch = next(stream)
            waited += time.monotonic() - asked
            with profiled(self.options.profile_step == step + 1):
                window.append(self._step(batch, optimizers, rate, phase.weights, losses))
            if step == 0 and self.device.type == "cuda":
                # The clock begins when everything is compiled.
                torch.cuda.synchronize()
                first = time.monotonic()
            step += 1
            if step % self.options.report_every == 0:
                self.report(phase.name, step, window)
                print(f"    waited {1000 * waited / len(window):.0f} ms a step for batches", flush=True)
                window.clear()
                waited = 0.0
            if time.monotonic() - self.saved > 60 * self.options.save_minutes:
                self.save()
        self.save()

    def _step(
        self, batch: Batch, optimizers: Sequence[torch.optim.Optimizer], rate: float, weights: dict[str, float],
        losses: Callable[[Batch], dict[str, torch.Tensor]],
    ) -> dict[str, torch.Tensor]:  # fmt: skip
        """One batch; returns what `losses` found."""
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["scale"] * rate
            optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            found = losses(batch)
        torch.stack([weights[key] * value for key, value in found.items() if key in weights]).sum().backward()
        nn.utils.clip_grad_norm_(self.trained.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        return {key: value.detach() for key, value in found.items()}

    def autocast(self) -> AbstractContextManager[Any]:
        """bfloat16 for matrix products where the device is made for it."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda")

    def report(self, name: str, step: int, window: list[dict[str, torch.Tensor]]) -> None:
        """One line of the curve, the means over the last steps."""

        def mean(key: str) -> str:
            # Of MTP's drafts the first one of a chain, as there are most of them.
            values = [found[key].flatten()[0] for found in window if key in found]
            return f"{torch.stack(values).mean().item():.4f}" if values else ""

        seconds = f"{time.monotonic() - self.began:.1f}"
        row = [name, step, *(mean(key) for key in ("loss", "right", "mtp_right", "seen", "tower")), seconds]
        self.curve.writerow(row)
        print(*row, flush=True)
        chained = torch.stack([found["mtp_right"] for found in window if "mtp_right" in found] or [torch.zeros(0)])
        print("    drafts by place", *(f"{share:.3f}" for share in chained.mean(0).tolist()), flush=True)
        rights = [found["tower_right"] for found in window if "tower_right" in found]
        if rights:
            shares = torch.stack(rights).mean(0).tolist()
            print("   ", *(f"{key} {share:.3f}" for key, share in zip(TOLD, shares, strict=True)), flush=True)

    def save(self) -> None:
        """Write the checkpoint as it is now."""
        export(self.trained.model, self.trained.mtp, self.options.out)
        self.saved = time.monotonic()


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and write a checkpoint directory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--continue-from", type=Path, help="a checkpoint to go on from, in place of random weights")
    parser.add_argument("--drafts-alone", action="store_true", help="of such a run: only the MTP module learns")
    parser.add_argument("--steps", type=int, default=300, help="of a run that continues another")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tower-minutes", type=float, default=3.0, help="of the vision tower alone, before all else")
    parser.add_argument("--minutes", type=float, default=6.0, help="of everything together")
    parser.add_argument("--workers", type=int, default=14, help="processes that draw")
    parser.add_argument("--batch-pictures", type=int, default=256, help="while the tower learns alone")
    parser.add_argument("--batch-tokens", type=int, default=40960)
    parser.add_argument("--pool", type=int, default=768, help="dialogues that are sorted by length together")
    parser.add_argument("--compile", action="store_true", help="on a CPU too: some minutes first, then faster steps")
    parser.add_argument("--most-steps", type=int, help="of a phase, whatever its minutes")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--save-minutes", type=float, default=2.0)
    parser.add_argument("--profile-step", type=int, help="of a phase: print which kernels take that step's time")
    parser.add_argument("--report-every", type=int, default=100, help="steps from one line of the curve to the next")
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    if options.compile:
        lean.COMPILED.add(torch.device(options.device).type)
    # cuDNN makes a plan for every new shape, which takes longer than the attention itself.
    torch.backends.cuda.enable_cudnn_sdp(False)
    if options.device != "cpu":
        torch.set_float32_matmul_precision("high")
        # The processes that draw need the other cores.
        torch.set_num_threads(1)
    if len(fonts()) < len(listed()):
        print(
            f"{len(listed()) - len(fonts())} of {len(listed())} fonts are missing; see tools/box/fonts.txt", flush=True
        )
    ids = write_directory(options.out, options.continue_from)
    trained = Trained(make_config(VOCAB_SIZE, ids))
    if options.continue_from is not None:
        trained.start_from(options.continue_from)
    trained.tower.prepare(torch.device(options.device))
    trained.to(options.device)
    count, extra = (sum(p.numel() for p in module.parameters()) for module in (trained.model, trained.mtp))
    print(f"{count} parameters and {extra} of MTP", flush=True)
    run = Run(trained, options)
    pad, pool, tokens = ids["<|endoftext|>"], options.pool, options.batch_tokens
    if options.continue_from is None:
        pictures = LabelledPictures(seed=options.seed, pictures=options.batch_pictures)
        dialogues = Batches(options.out, seed=options.seed, tokens=tokens, pad=pad, pool=pool, drafted=DRAFTED)
        alone = Phase("tower", options.tower_minutes, {"tower": 1.0}, tower=1.0, end=AFTERWARDS)
        # The first pool of dialogues takes seconds to draw: it is there when the tower is done.
        then = run.batches(dialogues)
        run.learn(alone, run.twice(run.batches(pictures)), trained.tower_loss)
        run.learn(Phase("all", options.minutes, WEIGHTS, tower=AFTERWARDS, end=0.005), then, trained.losses)
    else:
        seed = f"{GOES_ON}-{options.seed}"
        world, drafted = (TO_DRAFT, 1) if options.drafts_alone else (CONTINUED, DRAFTED)
        dialogues = Batches(
            options.out, seed=seed, tokens=tokens, pad=pad, pool=pool, world=world, drafted=drafted
        )  # fmt: skip
        longer = Phase("continued", 0.0, WEIGHTS, tower=0.0, end=0.005, steps=options.steps)
        if options.drafts_alone:
            drafts_alone(trained)
        losses = trained.drafts_alone if options.drafts_alone else trained.answers_alone
        run.learn(longer, run.batches(dialogues), losses)
    run.file.close()


if __name__ == "__main__":
    main()
