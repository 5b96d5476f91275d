"""Write docs/box.md from the loss curve and the evaluations that are kept in docs/box/.

python -m tools.box.evaluate --model mlx_qwen35/box --count 100 --out docs/box/answers.json
python -m tools.box.evaluate_mtp --model mlx_qwen35/box --out docs/box/mtp.json
python -m tools.box.report
"""

import csv
import json
import math
from pathlib import Path
from typing import Any

from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.checkpoints.headers import read_headers

DOCS = Path(__file__).parent.parent.parent / "docs"
KEPT = DOCS / "box"
WIDTH, HEIGHT = 640, 240

PAGE = """\
# The model in the box

A Qwen3.5 of {parameters:.1f} million parameters and an MTP module of {mtp_parameters:.1f} million, trained from
nothing on pictures of shapes and digits that Pillow draws, questions about them, small talk, spelling, sums and
function calls. It is there so that everything can be tried and tested without a download. Its architecture is the
published one, small: 6 GDN and 2 attention layers, interleaved multimodal RoPE, a vision tower of 3 blocks, tied
embeddings, one MTP layer; transformers' own `Qwen3_5ForConditionalGeneration` was the model in training, so loading
it is an import test.

`python -m tools.box.train` makes such a checkpoint. First the vision tower is told, token by token, which kind,
colour and size of thing it shows; then its blocks stay as they are, and the decoder learns from the answers. Beside
them it is asked, in front of and behind its first attention layer, what each token of an image shows, in which image,
row and column it stands, which only its positions tell, what the image before shows there, and which thing a word
means. {history}

![loss curve](box/loss.svg)

Right to the letter, greedy, {count} questions per task with seeds that never occur in training (`python -m
tools.box.evaluate`):

{answers}

## Positions matter

Questions across pictures, with the positions of the later pictures, or of all, replaced by those that text would have,
and with the pictures in the opposite order:

| prompt | {tasks} |
|---|{rule}
{positions}

## Multi-token prediction

How often the module's guess of the token after the next is what the decoder then writes, greedy (`python -m
tools.box.evaluate_mtp`): {mtp}.
"""


# How the weights in the package were made, where that differs from what the script does now.
HISTORY = """\
The weights in the package were trained in three runs of the script: 1,500 steps of an earlier world, which named places
in words ("top left") and asked for no rows and columns; from there to step 3,600 of a world with shorter answers, where
tokens of images were asked for their place alone; and from that checkpoint 3,300 steps of the world as it is. The
tokenizer is that of the first run. The curve shows all three."""


def parameters() -> tuple[int, int]:
    """Of the model and of its MTP module."""
    counts = [0, 0]
    for header in read_headers([BOX / "model.safetensors"]):
        counts[header.name.startswith("mtp.")] += math.prod(header.shape)
    return counts[0], counts[1]


def curve_svg(rows: list[dict[str, str]]) -> str:
    """Loss and token accuracy over the steps."""
    last = int(rows[-1]["step"])
    top = 2.0

    def line(column: str, scale: float, colour: str) -> str:
        points = " ".join(
            f"{int(row['step']) / last * WIDTH:.1f},{HEIGHT * (1 - min(float(row[column]), scale) / scale):.1f}"
            for row in rows
        )
        return f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{points}"/>'

    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-10 -10 {WIDTH + 20} {HEIGHT + 40}" font-size="12">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>'
        f"{line('loss', top, '#c33')}{line('token_accuracy', 1.0, '#36c')}{line('mtp_accuracy', 1.0, '#9bd')}"
        f'<text y="{HEIGHT + 20}">red: loss (0 to {top:g}); blue: share of tokens right (0 to 1); light: of MTP; '
        f"{last} steps</text></svg>\n"
    )


def table(modes: dict[str, Any]) -> list[str]:
    """One row for every task."""
    lines = [f"| task | {' | '.join(modes)} |", f"|---|{'--:|' * len(modes)}"]
    first = next(iter(modes.values()))
    for group, scores in first.items():
        for name in scores:
            label = f"**{group}**" if name == "all" else name
            cells = " | ".join(f"{100 * mode[group][name]:.0f} %" for mode in modes.values())
            lines.append(f"| {label} | {cells} |")
    return lines


def main() -> None:
    """Write the page and the curve."""
    answers = json.loads((KEPT / "answers.json").read_text())
    mtp = json.loads((KEPT / "mtp.json").read_text())
    rows = list(csv.DictReader((KEPT / "loss.csv").open()))
    (KEPT / "loss.svg").write_text(curve_svg(rows))
    modes = {name: answers[name] for name in ("without reasoning", "with reasoning")}
    positions = answers["positions"]
    names = next(iter(positions.values()))
    shares = [f"{name} {100 * share:.0f} %" for name, share in mtp.items()]
    own, extra = parameters()
    page = PAGE.format(
        parameters=own / 1e6,
        mtp_parameters=extra / 1e6,
        history=HISTORY,
        count=answers["questions per task"],
        answers="\n".join(table(modes)),
        tasks=" | ".join(names),
        rule="--:|" * len(names),
        positions="\n".join(
            f"| {how} | {' | '.join(f'{100 * share:.0f} %' for share in found.values())} |"
            for how, found in positions.items()
        ),
        mtp=", ".join(shares),
    )
    (DOCS / "box.md").write_text(page)


if __name__ == "__main__":
    main()
