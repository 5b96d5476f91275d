"""Ask the checkpoint in the box about drawings such as a person makes, and write drawings, questions and its answers.

    pip install -e '.[parity]'
    python -m tools.box.gallery

The drawings go to docs/gallery/, the rest between two marks in README.md. One of them is a clip, which transformers'
layers are asked about.
"""

import re
from pathlib import Path

from PIL import Image, ImageDraw

from mlx_qwen35 import ModelKit
from mlx_qwen35.checkpoints.files import BOX

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "docs" / "gallery"
BEGIN, END = "<!-- begin gallery: python -m tools.box.gallery -->", "<!-- end gallery -->"
QUESTIONS = {
    "two.png": ("What do you see?", "What is on the right?", "Is the circle left of the square?"),
    "four.png": ("How many shapes are there?", "What color is the heart?"),
    "number.png": ("What number is this?",),
}
CLIP, CLIP_QUESTION = "clip.gif", "What happens?"


def two() -> Image.Image:
    """What many draw first."""
    image = Image.new("RGB", (160, 96), "white")
    pen = ImageDraw.Draw(image)
    pen.ellipse((14, 22, 66, 74), fill="red")
    pen.rectangle((96, 26, 140, 70), fill="blue")
    return image


def four() -> Image.Image:
    """Outlines and fills on a dark ground."""
    image = Image.new("RGB", (480, 320), (25, 30, 50))
    pen = ImageDraw.Draw(image)
    pen.polygon([(70, 130), (190, 130), (130, 30)], fill=(255, 215, 0))
    pen.ellipse((300, 40, 400, 140), outline=(60, 220, 90), width=9)
    pen.rectangle((60, 200, 200, 270), fill=(255, 140, 0))
    # A heart: two discs and a triangle.
    for x in (300, 350):
        pen.ellipse((x, 190, x + 52, 242), fill=(255, 105, 180))
    pen.polygon([(305, 230), (397, 230), (351, 290)], fill=(255, 105, 180))
    return image


def number() -> Image.Image:
    """Written with a mouse."""
    image = Image.new("RGB", (200, 140), "white")
    pen = ImageDraw.Draw(image)
    for stroke in (
        [(66, 22), (30, 78), (34, 82), (92, 80)],
        [(72, 48), (70, 118)],
        [(112, 44), (120, 30), (138, 24), (154, 34), (156, 52), (138, 80), (112, 114), (164, 112)],
    ):
        pen.line(stroke, fill=(30, 60, 160), width=8, joint="curve")
        for x, y in (stroke[0], stroke[-1]):
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=(30, 60, 160))
    return image


def clip() -> list[Image.Image]:
    """Six frames of a disc that goes to the right."""
    frames = []
    for step in range(6):
        image = Image.new("RGB", (160, 96), "white")
        x = 24 + 22 * step
        ImageDraw.Draw(image).ellipse((x - 18, 30, x + 18, 66), fill="green")
        frames.append(image)
    return frames


def pictures() -> dict[str, Image.Image]:
    """The pictures, the same every time."""
    return {"two.png": two(), "four.png": four(), "number.png": number()}


def rows(kit: ModelKit) -> list[str]:
    """The pictures' part of the table, with what the model says now."""
    lines = []
    for name, image in pictures().items():
        for question in QUESTIONS[name]:
            parts = [{"type": "image", "image": image}, {"type": "text", "text": question}]
            messages = [{"role": "user", "content": parts}]
            result = kit.generate(kit.process_prompt(messages, enable_thinking=False), temperature=0.0)
            lines.append(f"| ![{name}](docs/gallery/{name}) | {question} | {result.text.strip()} |")
    return lines


def clip_row() -> str:
    """The clip's part of the table."""
    from tools.box.evaluate_clips import Speaker

    answer = Speaker(BOX).answer_about(clip(), CLIP_QUESTION)
    return f"| ![{CLIP}](docs/gallery/{CLIP}) | {CLIP_QUESTION} | {answer} |"


def main() -> None:
    """Write the drawings and the README's table."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, image in pictures().items():
        image.save(FOLDER / name)
    first, *others = clip()
    first.save(FOLDER / CLIP, save_all=True, append_images=others, duration=500, loop=0)
    with ModelKit.load(BOX) as kit:
        lines = ["| drawing | question | answer |", "|---|---|---|", *rows(kit), clip_row()]
    made = "\n".join([BEGIN, "", *lines, "", END])
    readme = ROOT / "README.md"
    readme.write_text(
        re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: made, readme.read_text(), flags=re.DOTALL)
    )
    print(made)


if __name__ == "__main__":
    main()
