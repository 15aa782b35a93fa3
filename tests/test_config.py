"""The config: what is saved is what is loaded; what cannot work names its field."""

import json

import pytest

from anogan_jax.config import Config, DataConfig, differences, load, save, to_fields, validate
from anogan_jax.errors import UserError


def test_round_trip(tmp_path):
    config = Config(data=DataConfig(name="mnist", normal=3))
    save(config, tmp_path / "config.json")
    assert load(tmp_path / "config.json") == config
    assert differences(config, load(tmp_path / "config.json")) == []


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("search", "stepz", 3, r"unknown field search\.stepz"),
        ("search", "steps", "many", r"search\.steps='many': must be int"),
        ("search", "steps", True, r"search\.steps=True: must be int"),
        ("data", "normal", 1.5, r"data\.normal=1\.5: must be int or null"),
        ("model", "image_size", 28, r"model\.image_size=28"),
    ],
)
def test_a_damaged_file_names_the_field(tmp_path, section, field, value, message):
    path = tmp_path / "config.json"
    save(Config(), path)
    values = json.loads(path.read_text())
    values[section][field] = value
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=message):
        load(path)


def test_files_that_are_no_config(tmp_path):
    path = tmp_path / "config.json"
    for content, message in (("{", "not a JSON file"), ("[]", "must be a JSON object")):
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            load(path)
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data.source", "web"),
        ("data.held_out", 1.0),
        ("data.test_limit", 0),
        ("model.kernel_size", 3),
        ("model.latent_prior", "cauchy"),
        ("train.steps", 0),
        ("train.learning_rate", 0.0),
        ("train.batch_size", 1),
        ("train.ema_decay", 1.5),
        ("search.discrimination", "sigmoid"),
        ("search.feature_layer", 3),
        ("search.discrimination_weight", -0.1),
        ("search.restarts", 0),
        ("search.method", "encoder"),
        ("search.neighbours", 0),
        ("alpha", 0.0),
        ("seed", -1),
    ],
)
def test_values_that_cannot_work_name_their_field(name, value):
    config = Config()
    assert name in to_fields(config)
    *sections, field = name.split(".")
    node = config
    for section in sections:
        node = getattr(node, section)
    setattr(node, field, value)
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        validate(config)


def test_two_protocols_at_once_are_refused():
    with pytest.raises(UserError, match="both set"):
        validate(Config(data=DataConfig(normal=1, anomalous=2)))
