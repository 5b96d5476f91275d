"""The training script: its optimizer, its forms of the reference, and one step from the checkpoint in the package."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from mlx_qwen35 import ModelKit
from mlx_qwen35.checkpoints.config import ModelConfig
from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.prompts.images import ImagePreprocessor

if TYPE_CHECKING:
    from tools.box.dialogues import Picture
    from tools.box.trained import Trained

torch = pytest.importorskip("torch", reason="needs the parity extra")
pytestmark = pytest.mark.parity


def test_updates_are_nearly_orthogonal() -> None:
    """Oracle: singular values, which Newton-Schulz brings close to 1 whatever they were."""
    from tools.box.muon import orthogonal

    torch.manual_seed(1)
    for shape in ((3, 20, 50), (2, 50, 20)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(*shape) * 7))
        assert values.min() > 0.6
        assert values.max() < 1.3


def test_matrices_of_one_shape_move_alike(tmp_path: Path) -> None:
    """Orthogonalised together or alone, a matrix takes the same step."""
    from tools.box.muon import Muon

    torch.manual_seed(2)
    weights, gradients = torch.randn(2, 8, 12), torch.randn(2, 8, 12)
    together = [torch.nn.Parameter(weight.clone()) for weight in weights]
    alone = [torch.nn.Parameter(weight.clone()) for weight in weights]
    optimizers = [Muon(together, lr=0.1), *(Muon([parameter], lr=0.1) for parameter in alone)]
    for parameters in (together, alone):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
    for optimizer in optimizers:
        optimizer.step()
    for one, other, start in zip(together, alone, weights, strict=True):
        torch.testing.assert_close(one, other)
        assert (one - start).abs().max() > 0.01


@pytest.fixture(scope="module")
def trained() -> "Trained":
    from tools.box.trained import load

    return load(BOX).eval()


def some_pictures() -> "list[Picture]":
    from tools.box.about_pictures import any_scene
    from tools.box.dialogues import Picture

    return [Picture(any_scene(Random(f"picture-{number}"))) for number in range(3)]


def test_lean_functions_give_what_the_references_give() -> None:
    """Oracle: transformers' own functions, also their gradients."""
    from transformers.models.qwen3_5 import modeling_qwen3_5 as reference

    from tools.box import lean

    torch.manual_seed(3)
    for length in (40, 64, 150, 320):
        parts = [torch.randn(2, length, heads, 8, requires_grad=True) for heads in (2, 2, 4)]
        gates = {"g": (-torch.rand(2, length, 4)).requires_grad_(), "beta": torch.rand(2, length, 4).requires_grad_()}
        found = lean.delta_rule(*parts, **gates)
        expected = reference.torch_chunk_gated_delta_rule(*parts, **gates, use_qk_l2norm_in_kernel=True)[0]
        torch.testing.assert_close(found, expected)
        weights = torch.randn_like(found)
        one, other = (
            torch.autograd.grad((value * weights).sum(), [*parts, *gates.values()]) for value in (found, expected)
        )
        torch.testing.assert_close(one, other)
    x, weight = torch.randn(2, 20, 6), torch.randn(6, 4)
    convolved = torch.nn.functional.conv1d(torch.nn.functional.pad(x.mT, (3, 0)), weight[:, None], groups=6)
    torch.testing.assert_close(lean.causal_convolution(x, weight), torch.nn.functional.silu(convolved).mT)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_compiled_gives_what_it_gives_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32; oracle: the same function as it is, over batches of several shapes."""
    from tools.box import lean

    calls = []

    def gated(hidden: Any, gate: Any) -> Any:
        calls.append(torch.compiler.is_compiling())
        return hidden * gate.sigmoid() + hidden.cumsum(1)

    function = lean.fused(gated)
    monkeypatch.setattr(lean, "COMPILED", {"cpu"})
    for shape in ((2, 5, 8), (3, 7, 8), (1, 4, 8)):
        hidden, gate = torch.randn(*shape), torch.randn(*shape)
        torch.testing.assert_close(function(hidden, gate), hidden * gate.sigmoid() + hidden.cumsum(1))
    # A single row is left as it is.
    assert calls == [True, True, False]


def test_states_give_the_gradients_that_autograd_gives() -> None:
    """Oracle: the same two formulas, left to autograd; float64, also of a loss over the states themselves."""
    from tools.box.lean import States

    torch.manual_seed(5)
    shapes = ((3, 2, 4, 8), (3, 2, 8, 5), (3, 2, 8, 4), (3, 2, 1, 1))
    key, new, old, kept = parts = [torch.rand(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    state, states, written = torch.zeros(2, 4, 5, dtype=torch.float64), [], []
    for k, n, o, keep in zip(key, new, old, kept, strict=True):
        states.append(state)
        written.append(n - o @ state)
        state = keep * state + k @ written[-1]
    expected, found = (torch.stack(states), torch.stack(written)), States.apply(*parts)
    torch.testing.assert_close(found, expected)
    weights = [torch.randn_like(part) for part in found]
    one, other = (
        torch.autograd.grad(sum((part * weight).sum() for part, weight in zip(each, weights, strict=True)), parts)
        for each in (found, expected)
    )
    torch.testing.assert_close(one, other)


def test_the_decoder_over_a_padded_batch_gives_what_the_reference_gives(trained: "Trained") -> None:
    """Oracle: transformers' own language model, float32, on each row alone, also the embeddings' gradient; 1e-4."""
    from tools.box.about_pictures import single
    from tools.box.about_text import spell
    from tools.box.batches import Encoder, collate
    from tools.box.forward import layers_of

    encoder, text = Encoder(BOX), trained.model.model.language_model
    makers = (lambda rng: single("describe", rng), spell)
    examples = [encoder.encode(make(Random(f"row {number}")), thinking=False) for number, make in enumerate(makers)]
    batch, embeddings = collate(examples, pad=0), text.embed_tokens.weight
    layers = layers_of(trained.model, batch, None)
    assert len(layers) == len(text.layers) + 1
    outputs, found = 0.0, layers[-1]
    for row, example in enumerate(examples):
        size = len(example.input_ids)
        (expected,) = text(
            inputs_embeds=text.embed_tokens(torch.tensor(example.input_ids)[None]),
            position_ids=torch.tensor(example.position_ids)[:, None],
        ).last_hidden_state
        torch.testing.assert_close(found[row, :size], expected, atol=1e-4, rtol=1e-4)
        weights = torch.randn_like(expected)
        outputs = outputs + torch.stack([(weights * found[row, :size]).sum(), (weights * expected).sum()])
    one, other = (torch.autograd.grad(output, embeddings, retain_graph=True)[0] for output in outputs)
    torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_a_padded_batch_of_pictures_gives_what_each_gives_alone(trained: "Trained") -> None:
    """Oracle: transformers' own vision tower, on the pixels of the runtime's own image processor."""
    from tools.box.batches import collate_shown, show
    from tools.box.cutting import resized
    from tools.box.forward import tokens_of
    from tools.box.prepare import size_of

    vision = ModelConfig.from_file(BOX / "config.json").vision
    assert vision is not None
    preprocessor = ImagePreprocessor(BOX, vision)
    pictures = some_pictures()
    batch = collate_shown([show(picture) for picture in pictures])
    found = tokens_of(trained.tower.merge(trained.tower.blocks(batch["frames"], batch["pairs"], batch["grids"])), batch)
    prepared = [preprocessor(Image.fromarray(resized(picture.image, size_of(*picture.image.size))))
                for picture in pictures]  # fmt: skip
    assert len({image.grid_thw for image in prepared}) > 1
    expected = trained.model.model.visual(
        torch.from_numpy(np.concatenate([image.pixel_values for image in prepared])),
        grid_thw=torch.tensor([image.grid_thw for image in prepared]),
    ).pooler_output
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_run_that_continues_another_leaves_the_tower_alone(trained: "Trained") -> None:
    """Answers about a picture give the decoder and the MTP module gradients, and the tower none."""
    from tools.box.about_pictures import single
    from tools.box.batches import Encoder, collate

    example = Encoder(BOX).encode(single("describe", Random("tower")), thinking=False)
    assert len(example.places)
    found = trained.answers_alone(collate([example], pad=0))
    (found["loss"] + found["mtp"]).backward()
    learning = {name for name, parameter in trained.named_parameters() if parameter.grad is not None}
    trained.zero_grad(set_to_none=True)
    assert not any(".visual." in name for name in learning)
    assert any(name.startswith("model.model.language_model.layers.0.") for name in learning)
    assert any(name.startswith("mtp.layers.0.") for name in learning)


@torch.no_grad()
def test_a_chain_of_drafts_is_one_of_single_drafts(trained: "Trained") -> None:
    """Oracle: the module over a sequence that ends with its own output in the place of the decoder's hidden states."""
    from tools.box.trained import DEPTHS

    torch.manual_seed(4)
    text = trained.model.model.language_model
    embeds, hidden = torch.randn(2, 2, 9, text.config.hidden_size)
    rotary = text.rotary_emb(hidden, torch.arange(9).expand(3, 2, -1))
    chained = trained.mtp(embeds, hidden, rotary, DEPTHS)
    assert len(chained) == DEPTHS > 2
    for first in (0, 2, 5):
        known = hidden
        for depth, found in enumerate(chained):
            (single,) = trained.mtp(embeds, known, rotary)
            at = first + depth
            torch.testing.assert_close(found[:, at], single[:, at], atol=1e-4, rtol=1e-4)
            known = torch.cat([known[:, : at + 1], single[:, at : at + 1], known[:, at + 2 :]], 1)


def test_where_drafts_learn_alone_nothing_else_does(trained: "Trained") -> None:
    from tools.box.about_pictures import single
    from tools.box.batches import Encoder, collate
    from tools.box.dialogues import Dialogue, Turn
    from tools.box.train import drafts_alone
    from tools.box.trained import load

    learner = load(BOX)
    drafts_alone(learner)
    spelled = Dialogue((Turn("spell", "Spell the word house.", "h-o-u-s-e.", ""),))
    batch = collate([Encoder(BOX).encode(spelled, thinking=False)], pad=0)
    found = learner.drafts_alone(batch)
    assert found["mtp_right"][0] == 1.0  # of the first draft, which this checkpoint is good at
    found["mtp"].backward()
    short = Encoder(BOX).encode(single("how_many", Random("few")), thinking=False)
    brief = learner.drafts_alone(collate([short], pad=0))
    assert torch.isfinite(brief["mtp"])
    assert brief["mtp_right"].tolist()[2:] == [0.0, 0.0]  # there is nothing to draft so far ahead
    learning = {name for name, parameter in learner.named_parameters() if parameter.grad is not None}
    assert learning == {f"mtp.{name}" for name, _ in learner.mtp.named_parameters()}


def test_drafts_are_asked_for_in_the_first_rows_of_a_batch_and_are_those_of_the_whole(trained: "Trained") -> None:
    """Oracle: the same rows where drafts are asked for in all of them."""
    from tools.box.about_text import spell
    from tools.box.batches import Encoder, collate
    from tools.box.forward import decode

    examples = [Encoder(BOX).encode(spell(Random(f"row {number}")), thinking=False) for number in range(3)]
    with torch.no_grad():
        batch, some = collate(examples, pad=0), collate(examples, pad=0, drafted=2)
        hidden = decode(trained.model, batch, None)
        rows = [list(trained.drafts(each, hidden)) for each in (batch, some)]
    within = 2 * batch["input_ids"].shape[1]
    for (every, states), (at, found) in zip(*rows, strict=True):
        assert 0 < len(at) < len(every)
        torch.testing.assert_close(at, every[every < within])
        torch.testing.assert_close(found, states[every < within])


def test_a_further_draft_is_asked_for_where_those_before_it_were_right(
    trained: "Trained", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the module as it is, and of one that is wrong at the second place of every chain."""
    from tools.box.batches import Encoder, collate
    from tools.box.dialogues import Dialogue, Turn
    from tools.box.evaluate_mtp import drafted
    from tools.box.trained import Trained

    # A question of its own, which the checkpoint is good at: what the world draws changes with it.
    spelled = Dialogue((Turn("spell", "Spell the word house.", "h-o-u-s-e.", ""),))
    batch = collate([Encoder(BOX).encode(spelled, thinking=False)], pad=0)
    found = drafted(trained, batch)
    assert found[0][0] == found[0][1] == len(batch["chains"][0])
    for (right, _), (_, asked) in pairwise(found):
        assert 0 < asked <= right
    drafts = Trained.drafts

    def wrong(self: "Trained", *given: Any) -> Iterator[Any]:
        for place, (at, states) in enumerate(drafts(self, *given)):
            yield at, states if place != 1 else -states

    monkeypatch.setattr(Trained, "drafts", wrong)
    (first, second, *others) = drafted(trained, batch)
    assert (first, second) == (found[0], (0, found[1][1]))
    assert others == [(0, 0)] * len(others)


def test_a_phase_by_the_steps_ends_after_them_and_one_by_the_clock_after_its_minutes() -> None:
    from tools.box.train import Phase

    by_steps = Phase("one", 0.0, {}, tower=0.0, end=0.0, steps=40)
    assert [by_steps.share(step, 1e9) for step in (0, 10, 40)] == [0.0, 0.25, 1.0]
    by_clock = Phase("other", 2.0, {}, tower=0.0, end=0.0)
    assert [by_clock.share(1000, seconds) for seconds in (0.0, 30.0, 120.0)] == [0.0, 0.25, 1.0]


def test_a_step_from_the_box(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from tools.box.train import main

    command = ["--continue-from", str(BOX), "--out", str(tmp_path), "--most-steps", "1", "--report-every", "1"]
    main([*command, "--batch-tokens", "300", "--pool", "2", "--workers", "0", "--device", "cpu"])
    assert (tmp_path / "tokenizer.json").read_bytes() == (BOX / "tokenizer.json").read_bytes()
    head, row = (tmp_path / "loss.csv").read_text().splitlines()
    assert head.startswith("phase,step,loss,")
    assert row.startswith("continued,1,")
    after, before = (load_file(path / "model.safetensors") for path in (tmp_path, BOX))
    assert after.keys() == before.keys()
    kept = {name for name, value in before.items() if torch.equal(value, after[name])}
    # The tower stays as it is, whatever the pictures of this step.
    assert {name for name in before if name.startswith("model.visual.")} <= kept
    assert {name.split(".")[0] for name in before.keys() - kept} == {"model", "mtp"}
    with ModelKit.load(tmp_path) as kit:
        messages = [{"role": "user", "content": "Spell the word star."}]
        prompt = kit.process_prompt(messages, enable_thinking=False)
        # The first step of the warm-up is too small to forget anything.
        assert kit.generate(prompt, temperature=0.0, max_tokens=30).text.strip() == "s-t-a-r."


def test_what_the_clip_in_the_readme_gets_for_an_answer() -> None:
    from tools.box import gallery

    assert gallery.clip_row() in (gallery.ROOT / "README.md").read_text()
    with Image.open(gallery.FOLDER / gallery.CLIP) as file:
        for number, frame in enumerate(gallery.clip()):
            file.seek(number)
            assert np.array_equal(np.asarray(file.convert("RGB")), np.asarray(frame))


def test_every_batch_of_pictures_comes_twice_the_second_time_later(tmp_path: Path) -> None:
    from argparse import Namespace

    from tools.box.train import HELD, Run

    run = Run(None, Namespace(device="cpu", out=tmp_path, seed=3))  # type: ignore[arg-type]
    stream = run.twice(iter({"number": number} for number in range(10 * HELD)))
    numbers = [batch["number"] for batch in stream]
    run.file.close()
    times = [[at for at, other in enumerate(numbers) if other == number] for number in range(9 * HELD)]
    assert {len(each) for each in times} <= {1, 2}
    twice = [second - first for first, second in (each for each in times if len(each) == 2)]
    assert len(twice) > 8 * HELD
    assert sorted(twice)[len(twice) // 2] > HELD / 2
    assert sorted(set(numbers)) == list(range(10 * HELD))  # and none is left out


def test_a_step_says_where_its_time_goes(capsys: pytest.CaptureFixture[str]) -> None:
    from tools.box.train import profiled

    with profiled(False):
        torch.ones(3).cumsum(0)
    assert not capsys.readouterr().out
    with profiled(True):
        torch.ones(3).cumsum(0)
    shown = capsys.readouterr().out
    assert "a step was started in" in shown
    assert "aten::cumsum" in shown
