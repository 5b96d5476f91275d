"""The rotary embedding's settings, in every form that transformers reads."""

import copy
import math
from typing import Any

import pytest

from mlx_qwen35.checkpoints.config import ModelConfig
from mlx_qwen35.checkpoints.rope import RopeConfig
from mlx_qwen35.errors import ConfigError
from tests.tiny import DENSE, config_of

# Fields of text_config that take the place of its `rope_parameters`.
FORMS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "null": {"rope_parameters": None, "rope_scaling": None},
    "empty": {"rope_parameters": {}},
    "theta beside": {"rope_theta": 5e5},
    "both beside": {"rope_theta": 1000.0, "partial_rotary_factor": 0.5},
    "no theta": {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
    "no type": {"rope_parameters": {"rope_theta": 77.0}},
    "theta beside and inside": {"rope_theta": 5.0, "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}},
    "the old type": {"rope_theta": 5e5, "rope_scaling": {"type": "yarn", "factor": 2.0}},
    "the old name": {"rope_scaling": {"rope_type": "default", "rope_theta": 7.0}},
    "an old type beside the new one": {"rope_parameters": {"rope_type": "default", "type": "yarn", "factor": 2.0}},
    "a left over factor": {"rope_parameters": {"rope_type": "default", "factor": 2.0}},
    "yarn": {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}},
    "positions beside": {
        "original_max_position_embeddings": 32,
        "rope_parameters": {"rope_type": "yarn", "factor": 2.0},
    },
    "positions beside and inside": {
        "original_max_position_embeddings": 32,
        "rope_parameters": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64},
    },
    "an empty old name": {"rope_scaling": {}, "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}},
    "a null that it does not know": {"rope_parameters": {"rope_type": "default", "alpha": None}},
    "yarn of all positions": {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e7}},
}

YARN: dict[str, Any] = {"rope_type": "yarn", "factor": 2.0}


def text_of(form: dict[str, Any]) -> dict[str, Any]:
    raw = config_of(DENSE)["text_config"]
    del raw["rope_parameters"]
    return {**raw, **form}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_is_read_as_transformers_reads_it(form: dict[str, Any]) -> None:
    from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig

    config = Qwen3_5TextConfig(**copy.deepcopy(text_of(form)))
    # Once more, as _compute_yarn_parameters does: only then it knows of what stands beside them.
    config.standardize_rope_params()
    expected = config.rope_parameters
    rope = ModelConfig.from_dict(config_of(DENSE) | {"text_config": text_of(form)}).text.rope
    assert rope.theta == expected["rope_theta"]
    assert rope.rotary_dims == 64 * expected["partial_rotary_factor"]
    assert (rope.yarn is not None) == (expected["rope_type"] == "yarn")
    if rope.yarn is not None:
        assert rope.yarn.factor == expected["factor"]
        assert rope.yarn.original_max_position_embeddings == expected["original_max_position_embeddings"]
    # Qwen3_5TextRotaryEmbedding's own default.
    assert rope.mrope_section == (11, 11, 10)


@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        ({}, 1 + 0.1 * math.log(4)),
        ({"mscale": 0.707}, 1 + 0.1 * math.log(4)),
        ({"mscale_all_dim": 0.707}, 1 + 0.1 * math.log(4)),
        ({"mscale": 0.0, "mscale_all_dim": 0.707}, 1 + 0.1 * math.log(4)),
        ({"mscale": 0.707, "mscale_all_dim": None}, 1 + 0.1 * math.log(4)),
        ({"mscale": 0.707, "mscale_all_dim": 2.0}, (1 + 0.0707 * math.log(4)) / (1 + 0.2 * math.log(4))),
        ({"mscale": 0.707, "mscale_all_dim": 2.0, "attention_factor": 1.5}, 1.5),
        ({"factor": 0.5}, 1.0),
    ],
    ids=str,
)
def test_what_yarn_multiplies_by(settings: dict[str, Any], factor: float) -> None:
    """By hand, from _compute_yarn_parameters; tests/patches/test_yarn.py holds the same against it, with torch."""
    form = {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, **settings}}
    rope = ModelConfig.from_dict(config_of(DENSE) | {"text_config": text_of(form)}).text.rope
    assert rope.yarn is not None
    assert rope.yarn.attention_factor == pytest.approx(factor, rel=1e-12)


def rope_of(**parameters: Any) -> RopeConfig:
    return ModelConfig.from_dict(config_of(DENSE) | {"text_config": text_of({"rope_parameters": parameters})}).text.rope


def test_yarn_s_bounds_are_what_the_paper_has_unless_they_are_given() -> None:
    for given in ({}, {"beta_fast": None, "beta_slow": None, "truncate": None}):
        yarn = rope_of(**YARN, **given).yarn
        assert yarn is not None
        assert (yarn.beta_fast, yarn.beta_slow, yarn.truncate) == (32.0, 1.0, True)
    yarn = rope_of(**YARN, beta_fast=16, beta_slow=0.5, truncate=False).yarn
    assert yarn is not None
    assert (yarn.beta_fast, yarn.beta_slow, yarn.truncate) == (16.0, 0.5, False)


def test_a_factor_of_null_is_how_much_longer_the_context_is() -> None:
    """As _compute_yarn_parameters computes it."""
    form = {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 64}
    raw = text_of({"rope_parameters": form, "max_position_embeddings": 256})
    yarn = ModelConfig.from_dict(config_of(DENSE) | {"text_config": raw}).text.rope.yarn
    assert yarn is not None
    assert yarn.factor == 4.0


@pytest.mark.parametrize("section", [[8, 0, 0], [0, 0, 8], [3, 3, 2]])
def test_an_axis_may_have_no_frequencies(section: list[int]) -> None:
    assert rope_of(mrope_section=section).mrope_section == tuple(section)


def test_the_old_name_and_the_new_one_may_say_the_same() -> None:
    """Each alone what the other does not, too."""
    for parameters in ({}, {"rope_theta": 1e7}, {"rope_theta": None}, {"partial_rotary_factor": 0.25}):
        form = {"rope_scaling": {"type": "yarn", "factor": 2.0, "rope_theta": 1e7}, "rope_parameters": parameters}
        rope = ModelConfig.from_dict(config_of(DENSE) | {"text_config": text_of(form)}).text.rope
        assert (rope.theta, rope.rotary_dims) == (1e7, 16)


def test_qwen2_vl_s_type_is_the_default() -> None:
    """mlx-lm reads it; transformers refuses it for this model."""
    form = {"rope_scaling": {"type": "mrope", "mrope_section": [3, 3, 2]}}
    rope = ModelConfig.from_dict(config_of(DENSE) | {"text_config": text_of(form)}).text.rope
    assert (rope.yarn, rope.mrope_section) == (None, (3, 3, 2))


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling.rope_type: only 'default' and 'yarn'"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling.factor: expected a number, found nothing"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2.0}, "rope_parameters": {"rope_theta": 1e7}},
            r"rope_scaling: expected it alone or with the rope_theta of rope_parameters \(10000000.0\), found 10000.0",
        ),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2.0}, "rope_parameters": {"mrope_section": [3, 3, 2]}},
            r"with the mrope_section of rope_parameters \(\[3, 3, 2\]\), found None",
        ),
        ({"rope_parameters": {"partial_rotary_factor": 1.5}}, "partial_rotary_factor: .* at most 1, found 1.5"),
        ({"rope_parameters": {"partial_rotary_factor": 0.01}}, "expected an even number of dimensions, found 0 of 64"),
        ({"rope_parameters": {"mrope_section": [8]}}, "mrope_section: expected three numbers that sum to 8"),
        ({"rope_parameters": {"mrope_section": [4, 4, 8]}}, "mrope_section: expected three numbers that sum to 8"),
        ({"rope_parameters": {"mrope_section": [True, 4, 3]}}, "mrope_section: expected three numbers that sum to 8"),
        ({"rope_parameters": {"mrope_section": [9, -1, 0]}}, "mrope_section: expected three numbers that sum to 8"),
        ({"rope_parameters": YARN | {"attention_factor": 0}}, "attention_factor: expected a number above 0"),
        ({"rope_parameters": YARN | {"mscale": float("nan")}}, "mscale: expected a number above 0"),
        ({"rope_parameters": YARN | {"truncate": 1}}, "truncate: expected true or false, found 1"),
        ({"rope_parameters": YARN | {"rope_theta": 1.0}}, "rope_theta: expected a number other than 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_computed_is_refused(form: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(config_of(DENSE) | {"text_config": text_of(form)})
