"""Ask the checkpoint in the box about three pictures, and write pictures, questions and its answers.

    python -m tools.box.gallery

The pictures go to docs/gallery/, the rest between two marks in README.md.
"""

import re
from pathlib import Path
from random import Random

from PIL import Image

from mlx_qwen35 import ModelKit
from mlx_qwen35.checkpoints.files import BOX
from tools.box.scenes import Scene, Thing, draw

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "docs" / "gallery"
BEGIN, END = "<!-- begin gallery: python -m tools.box.gallery -->", "<!-- end gallery -->"
WHITE, SAND = (255, 255, 255), (250, 244, 230)

SCENES = {
    "shapes.png": Scene(
        3, 1, (64, 64), WHITE,
        (Thing("star", "purple", "large", 0, 0), Thing("circle", "red", "large", 1, 0),
         Thing("square", "blue", "small", 2, 0)),
    ),
    "corners.png": Scene(
        2, 2, (64, 64), SAND,
        (Thing("triangle", "green", "large", 0, 0), Thing("cross", "orange", "large", 1, 1)),
    ),
    "digit.png": Scene(1, 1, (64, 64), WHITE, (Thing("7", "black", "large", 0, 0),)),
}  # fmt: skip
QUESTIONS = {
    "shapes.png": "Describe the picture.",
    "corners.png": "Where is the cross?",
    "digit.png": "Which digit is in the picture?",
}


def pictures() -> dict[str, Image.Image]:
    """The three pictures, the same every time."""
    return {name: draw(scene, Random(7))[0] for name, scene in SCENES.items()}


def block(kit: ModelKit) -> str:
    """The gallery in Markdown, with what the model says now."""
    lines = ["| picture | question | answer |", "|---|---|---|"]
    for name, image in pictures().items():
        parts = [{"type": "image", "image": image}, {"type": "text", "text": QUESTIONS[name]}]
        result = kit.generate(
            kit.process_prompt([{"role": "user", "content": parts}], enable_thinking=False), temperature=0.0
        )
        lines.append(f"| ![{name}](docs/gallery/{name}) | {QUESTIONS[name]} | {result.text.strip()} |")
    return "\n".join([BEGIN, "", *lines, "", END])


def main() -> None:
    """Write the pictures and the README's block."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, image in pictures().items():
        image.save(FOLDER / name)
    with ModelKit.load(BOX) as kit:
        made = block(kit)
    readme = ROOT / "README.md"
    text = readme.read_text()
    readme.write_text(re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: made, text, flags=re.DOTALL))
    print(made)


if __name__ == "__main__":
    main()
