"""The config: what is saved is loaded; a value that cannot work is refused with the name of its field."""

import json
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from anogan_jax.config import (
    PRESETS,
    Config,
    DataConfig,
    TrainConfig,
    differences,
    help_text,
    is_scoring,
    load,
    save,
    to_fields,
    validate,
    with_preset,
    with_values,
)
from anogan_jax.errors import UserError


def test_any_text_of_unicode_is_a_value():
    """A folder's name may hold a line break and a question mark."""
    assert validate(with_values(Config(), {"data.dir": "what\n? é"})).data.dir == "what\n? é"


def test_numbers_of_numpy_are_values():
    config = validate(with_values(Config(), {"search.steps": np.int64(3), "alpha": np.float32(0.5)}))
    assert (config.search.steps, config.alpha) == (3, 0.5)


def test_objects_of_a_config_are_checked():
    numbers = Config(DataConfig(dir=Path("a/b")), train=TrainConfig(steps=np.int64(4)), alpha=np.float32(0.5))
    config = validate(numbers)
    assert (config.data.dir, config.train.steps, config.alpha) == ("a/b", 4, 0.5)
    assert type(config.train.steps) is int
    with pytest.raises(UserError, match=r"^train\.steps=array\(\[4\]\): a ndarray is not the value of a setting$"):
        validate(Config(train=TrainConfig(steps=np.array([4]))))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("data.dir", "caf\udce9", r"data\.dir='caf\\udce9': is not valid UTF-8"),
        ("data.window", (0, 10**400), "LOW,HIGH"),
    ],
)
def test_values_that_json_cannot_hold_are_named(name, value, message):
    with pytest.raises(UserError, match=message):
        validate(with_values(Config(), {name: value}))


def test_saved_config_is_loaded_unchanged(tmp_path):
    config = Config(data=DataConfig(name="mnist", normal=3))
    save(config, tmp_path / "config.json")
    assert load(tmp_path / "config.json") == config
    assert differences(config, load(tmp_path / "config.json")) == []
    (found,) = differences(config, replace(config, seed=4))
    assert found.startswith("seed=0, not 4")


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("search", "stepz", 3, r"search\.stepz"),
        ("search", "steps", "many", r"search\.steps='many'"),
        ("search", "steps", True, r"search\.steps=True"),
        ("data", "normal", 1.5, r"data\.normal=1\.5"),
        ("model", "image_size", 28, r"model\.image_size=28"),
    ],
)
def test_wrong_field_in_a_file_is_named(tmp_path, section, field, value, message):
    path = tmp_path / "config.json"
    save(Config(), path)
    values = json.loads(path.read_text())
    values[section][field] = value
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=message) as raised:
        load(path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("given", [8, "8"])
def test_class_is_a_number_or_text(tmp_path, given):
    """In Python, in a file of an earlier version, and set later."""
    config = Config(data=DataConfig(normal=given))
    later = Config()
    later.data.normal = given
    save(config, tmp_path / "config.json")
    (tmp_path / "config.json").write_text(
        (tmp_path / "config.json").read_text().replace('"normal": "8"', '"normal": 8')
    )
    assert '"normal": 8' in (tmp_path / "config.json").read_text()
    assert load(tmp_path / "config.json") == validate(later) == config == Config(data=DataConfig(normal="8"))


@pytest.mark.parametrize("content", ["{", "[]", "3", '{"search": 3}', b"\xff\xfe"])
def test_file_that_is_not_a_config_is_refused(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=r"config\.json"):
        load(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.json"):
        load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data.source", "web"),
        ("data.held_out", 1.0),
        ("data.held_out", 0.0),
        ("data.contamination", -0.1),
        ("data.test_limit", 0),
        ("patches.scale", 0.0),
        ("model.kernel_size", 3),
        ("model.image_size", 4),
        ("model.latent_prior", "cauchy"),
        ("train.steps", 0),
        ("train.learning_rate", 0.0),
        ("train.learning_rate", float("nan")),
        ("train.learning_rate", float("inf")),
        ("train.batch_size", 1),
        ("train.ema_decay", 1.5),
        ("encoder.steps", -1),
        ("encoder.feature_layer", 3),
        ("bank.size", 0),
        ("bank.inverted", -1),
        ("bank.max_deviation", 0.0),
        ("search.start", "nowhere"),
        ("search.starts", 0),
        ("search.steps", -1),
        ("search.features", "miles"),
        ("search.optimizer", "sgd"),
        ("search.discrimination", "sigmoid"),
        ("search.feature_layer", 3),
        ("search.discrimination_weight", -0.1),
        ("pooling.share", 0.0),
        ("pooling.stride", 33),
        ("alpha", 0.0),
        ("alpha", True),
        ("seed", -1),
        ("seed", "0"),
        ("seed", 2**64),
        ("patches.scale", 1e9),
        ("model.latent_size", 10**12),
        ("model.image_size", 2**30),
        ("search.steps", 10**30),
        ("data.dir", [ROOT]),
        ("model", None),
        ("search", 3),
    ],
)
def test_value_that_cannot_work_is_refused_by_name(name, value):
    with pytest.raises(UserError, match=name.replace(".", r"\.")) as raised:
        validate(with_values(Config(), {name: value}))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data.labels": "labels.csv"}, r"data\.labels=labels\.csv.*data\.source=folder"),
        ({"data.normal": 1, "data.anomalous": 2}, r"data\.normal and data\.anomalous"),
        ({"search.start": "encoder", "search.starts": 1}, r"encoder\.steps=0"),
        ({"search.start": "encoder", "encoder.steps": 5, "search.starts": 2}, r"search\.starts=2"),
        ({"rotation.steps": 5, "patches.enabled": True}, r"rotation\.steps=5 and patches\.enabled=True"),
        ({"rotation.steps": 5, "train.rotate": True}, r"rotation\.steps=5 and train\.rotate=True"),
        ({"rotation.steps": 5, "train.flip": True}, r"rotation\.steps=5 and train\.flip=True"),
    ],
)
def test_values_that_contradict_each_other_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        validate(with_values(Config(), values))


def test_every_number_has_an_upper_bound():
    """A number out of all reach is refused at once, before it fills the memory."""
    for name, value in to_fields(Config()).items():
        if type(value) in (int, float):
            with pytest.raises(UserError, match=name.replace(".", r"\.")):
                validate(with_values(Config(), {name: 10**400 if type(value) is int else 1e300}))


def test_values_are_set_in_a_copy():
    config = Config()
    changed = with_values(config, {"search.steps": 64, "alpha": 0.01})
    assert (changed.search.steps, changed.alpha) == (64, 0.01)
    assert config == Config()


@pytest.mark.parametrize("name", PRESETS)
def test_preset_changes_search_settings_alone_and_is_valid(name):
    config = with_values(Config(), {"encoder.steps": 5, "search.feature_layer": 0})
    preset = with_preset(config, name)
    validate(preset)
    assert replace(preset, search=config.search) == config
    assert preset.search.feature_layer == 0
    unused = {} if preset.search.steps else {"optimizer": "soap", "learning_rate": 0.1}
    again = with_preset(with_preset(config, "paper"), name)
    assert replace(again.search, **unused) == replace(preset.search, **unused)  # nothing is left of an earlier preset


def test_unknown_preset_is_named():
    with pytest.raises(UserError, match=r"'fast'; the presets are anogan"):
        with_preset(Config(), "fast")


def test_default_search_is_the_preset_anogan():
    assert with_preset(Config(), "anogan") == Config()


def test_settings_of_the_model_and_of_training_are_not_scoring_settings():
    scoring = [name for name in to_fields(Config()) if is_scoring(name)]
    assert {name.split(".")[0] for name in scoring} == {"search", "pooling", "segmenter", "rotation", "alpha", "data"}
    assert {"data.source", "data.normal", "data.keep_held_out", "segmenter.steps", "rotation.steps"}.isdisjoint(scoring)
    assert {name for name in to_fields(Config()) if name.startswith(("search.", "pooling."))} < set(scoring)


def test_help_names_every_field_with_its_default():
    text = help_text()
    for name, value in to_fields(Config()).items():
        assert f"--config.{name}={value}" in text


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.stem)
def test_config_file_is_valid(path):
    config = runpy.run_path(str(path))["get_config"]()
    validate(config)
    assert type(config) is Config
