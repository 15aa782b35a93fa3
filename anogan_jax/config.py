"""The typed configuration that ``get_config()`` in configs/*.py returns: training settings and scoring settings.

Each field declares its default, its help text and its range once. ``--help`` shows them, and values of the command
line, config files and config.json are checked against them. Compiled code never sees the configuration: factories take
its values.
"""

import dataclasses
import json
import math
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints

import numpy as np
import pydantic
from flax.traverse_util import flatten_dict

from anogan_jax.errors import UserError
from anogan_jax.files import replacing

Source = Literal["auto", "tfds", "idx", "npz", "folder", "packaged", "arrays"]
Prior = Literal["normal", "uniform"]
Precision = Literal["float32", "bfloat16"]
Objective = Literal["gan", "wgan_gp"]
Start = Literal["bank", "random", "encoder"]
FeatureSpace = Literal["structure", "pixels", "discriminator"]
Optimizer = Literal["soap", "adam"]
Discrimination = Literal["feature_matching", "cross_entropy"]


def _as_text(classes: Any) -> Any:
    """Return the number of a class as text."""
    return str(classes) if isinstance(classes, int) and not isinstance(classes, bool) else classes


def _as_window(window: Any) -> Any:
    """Return the two numbers of a text such as ``0,4095``, or None for an empty text."""
    if window in ("", "auto", None):
        return window or None
    try:
        low, high = (float(each) for each in (window.strip("()[] ").split(",") if isinstance(window, str) else window))
    except (ValueError, TypeError, OverflowError):
        low = high = math.nan
    if not low < high:
        raise ValueError("must be LOW,HIGH with LOW below HIGH, such as 0,4095; or auto; or empty")
    return low, high


Window = Annotated[tuple[float, float] | Literal["auto"] | None, pydantic.BeforeValidator(_as_window)]
Classes = Annotated[str | None, pydantic.BeforeValidator(_as_text)]  # a number is accepted too, and becomes text


def setting(default: Any, text: str, **bounds: float) -> Any:
    """Declare a field: its default, its help text, and bounds of its value as pydantic names them (ge, gt, le, lt)."""
    return field(default=default, metadata={"description": text, **bounds})


class _Checked:
    __pydantic_config__ = pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@dataclass
class DataConfig(_Checked):
    """The images, and which of them are normal."""

    source: Source = setting(
        "auto",
        "kind of data; auto: the first available of data prepared by TFDS, idx files, a TFDS download, packaged images",
    )
    name: str = setting(
        "", "name of the data set in TensorFlow Datasets, of its idx folder, or in a package, such as mnist or digits"
    )
    dir: str = setting("", "folder of the files; with source npz the file itself")
    roi: str = setting(
        "",
        "region of interest; pixels outside get its mean colour. The path of a mask for all images; a folder of masks "
        "named like the images (another one may be given when scoring); or threshold:LEVEL:PARTS, the PARTS (1 "
        "without :PARTS) largest connected parts brighter than the grey level LEVEL",
    )
    labels: str = setting(
        "",
        "CSV of a folder's images: file, label[, split][, mask], with or without a header",
    )
    normal: Classes = setting(
        None, "normal class, by number or name, or several, such as 0,1,4; all other classes are anomalous"
    )
    anomalous: Classes = setting(None, "anomalous class, or several; all other classes are normal")
    attribute: str = setting(
        "", "attribute of a TensorFlow data set, such as Eyeglasses, whose value 0 or 1 is an image's class"
    )
    crop: int | None = setting(None, "height and width in pixels to which images are cropped, at their middle", ge=8)
    window: Window = setting(
        None,
        "LOW,HIGH: the pixel values that become black and white, such as 0,4095; auto: quantiles of the training "
        "images; empty: the range of the pixels' type",
    )
    normalize_contrast: bool = setting(
        False, "remove each image's own brightness and contrast; from patches, those of their whole image"
    )
    held_out: float = setting(0.1, "share of the normal training images that is held out to calibrate", gt=0, lt=1)
    keep_held_out: bool = setting(True, "keep held-out images in the detector, to calibrate other scoring settings")
    contamination: float = setting(0.0, "share of anomalous training images mixed in, for experiments", ge=0, lt=1)
    test_limit: int | None = setting(None, "score a fixed random sample of this many test images", ge=1, le=2**31)
    max_pixels: int = setting(2**26, "largest number of pixels of an image file that is read", ge=1, le=2**40)

    def __post_init__(self) -> None:
        self.normal, self.anomalous = _as_text(self.normal), _as_text(self.anomalous)


@dataclass
class PatchConfig(_Checked):
    """Large images: training on random patches and scoring in overlapping tiles, both of the model's size."""

    enabled: bool = setting(False, "use patches; otherwise each image is resized to the model's size")
    scale: float = setting(1.0, "resize images by this factor first", gt=0, le=64)
    min_contrast: float = setting(0.0, "skip patches whose grey levels have a smaller standard deviation", ge=0, le=255)


@dataclass
class ModelConfig(_Checked):
    """The DCGAN."""

    image_size: int = setting(32, "height and width in pixels: 8, 16, 32, 64, ...", ge=8, le=1024)
    channels: int = setting(1, "1 for grey, 3 for RGB", ge=1, le=16)
    width: int = setting(32, "features of the layer next to the image, doubled when the size is halved", ge=1, le=1024)
    kernel_size: int = setting(4, "side of the convolution kernels: 4 or 5", ge=4, le=5)
    latent_size: int = setting(32, "dimensions of z", ge=1, le=4096)
    latent_prior: Prior = setting("normal", "distribution of z: N(0, I), or uniform on [-1, 1]")
    precision: Precision = setting("float32", "data type of the computation; bfloat16 is meant for accelerators")


@dataclass
class TrainConfig(_Checked):
    """Adversarial training."""

    objective: Objective = setting(
        "gan", "training objective; wgan_gp: a Wasserstein critic with gradient penalty, which needs train.beta1=0"
    )
    steps: int = setting(4_000, "update steps", ge=1, le=10**9)
    batch_size: int = setting(64, "images per step on all devices together; a multiple of their number", ge=2, le=2**16)
    learning_rate: float = setting(2e-4, "learning rate of Adam", gt=0, le=1)
    beta1: float = setting(0.5, "beta1 of Adam", ge=0, lt=1)
    ema_decay: float = setting(0.999, "decay of the generator's moving average, which is used for scoring", ge=0, le=1)
    flip: bool = setting(False, "augment: mirror at random, horizontally and vertically")
    rotate: bool = setting(False, "augment: rotate at random by multiples of 90 degrees")
    log_every: int = setting(50, "steps between two log lines", ge=1, le=10**9)
    sample_every: int = setting(500, "steps between two pictures of generated images", ge=1, le=10**9)
    checkpoint_every: int = setting(500, "steps between two checkpoints", ge=1, le=10**9)
    tensorboard: bool = setting(False, "also write losses and samples as TensorBoard event files")


@dataclass
class EncoderConfig(_Checked):
    """An encoder of images to z, trained after the GAN (f-AnoGAN), for search.start=encoder."""

    steps: int = setting(0, "update steps; 0 trains no encoder", ge=0, le=10**9)
    learning_rate: float = setting(5e-4, "initial learning rate of Adam; it decays to 0", gt=0, le=1)
    feature_weight: float = setting(
        1.0, "kappa of the izif loss, the weight of its features; 0 gives the izi loss", ge=0, le=1e6
    )
    feature_layer: int = setting(-1, "hidden layer of the discriminator whose features izif compares")


@dataclass
class SegmenterConfig(_Checked):
    """A network that marks damage, trained after the GAN on pseudo-anomalies: randomly damaged training images."""

    steps: int = setting(0, "update steps; 0 trains no segmenter", ge=0, le=10**9)
    learning_rate: float = setting(2e-3, "highest learning rate of AdamW's one-cycle schedule", gt=0, le=1)
    weight: float = setting(0.1, "share of the segmenter in the score", ge=0, le=1)


@dataclass
class RotationConfig(_Checked):
    """A network, trained after the GAN, that classifies quarter turns of images; many anomalies confuse it."""

    steps: int = setting(0, "update steps; 0 trains no rotation network", ge=0, le=10**9)
    learning_rate: float = setting(2e-3, "highest learning rate of AdamW's one-cycle schedule", gt=0, le=1)
    weight: float = setting(
        0.1, "weight of the rotation term T(x), in standard deviations of the held-out images' A(x)", ge=0, le=100
    )


@dataclass
class BankConfig(_Checked):
    """Images that are made once after training: generated images, where searches start, and references."""

    size: int = setting(32_768, "number of random images drawn from the generator", ge=1, le=2**22)
    inverted: int = setting(
        8_192,
        "number of training images to invert, that is, to search the z whose generated image is nearest; these images "
        "and z are the bank. 0: the bank holds random images, as it always does with patches",
        ge=0,
        le=2**22,
    )
    references: int = setting(8_192, "number of training images or patches kept to compare with", ge=0, le=2**20)
    max_deviation: float = setting(
        2.0,
        "a training image whose distance to random generated images exceeds the median by more than this many robust "
        "standard deviations is left out: it is not inverted and not a reference",
        gt=0,
        le=1e6,
    )


@dataclass
class SearchConfig(_Checked):
    """How an image is reconstructed and compared."""

    start: Start = setting("bank", "where searches start: nearest images of the bank, random z, or the encoder's z")
    starts: int = setting(8, "starts per image; the mean features of the images found are compared", ge=1, le=1024)
    steps: int = setting(8, "gradient steps from each start; 0 compares the starts themselves", ge=0, le=10**6)
    features: FeatureSpace = setting(
        "structure", "feature space of retrieval and residual: edge structure, pixels, or the discriminator's features"
    )
    reference_weight: float = setting(0.75, "share of the references in the residual, if there are any", ge=0, le=1)
    optimizer: Optimizer = setting("soap", "optimizer of z: soap with a decaying rate, or adam with a constant one")
    learning_rate: float = setting(0.01, "learning rate of the search, for the gradient steps on z", gt=0, le=1e3)
    discrimination: Discrimination = setting("feature_matching", "discrimination loss; cross_entropy: Yeh et al. 2016")
    discrimination_weight: float = setting(0.0, "lambda, the share of the discrimination loss", ge=0, le=1)
    feature_layer: int = setting(-1, "hidden layer of the discriminator whose features are compared")


@dataclass
class PoolingConfig(_Checked):
    """How an image in patches, or the segmenter, gets a score from its map."""

    share: float = setting(
        0.01, "the score is the mean of the map's highest values; this is their share of its pixels", gt=0, le=1
    )
    stride: int | None = setting(
        None, "largest distance in pixels between two neighbouring tiles; None: half a tile", ge=1, le=1024
    )


@dataclass
class Config(_Checked):
    """All settings."""

    data: DataConfig = field(default_factory=DataConfig)
    patches: PatchConfig = field(default_factory=PatchConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    rotation: RotationConfig = field(default_factory=RotationConfig)
    bank: BankConfig = field(default_factory=BankConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    pooling: PoolingConfig = field(default_factory=PoolingConfig)
    alpha: float = setting(0.05, "images with a p-value <= alpha are anomalies", gt=0, lt=1)
    seed: int = setting(0, "seed of all random numbers", ge=0, lt=2**32)


class Preset(NamedTuple):
    """A named way to search."""

    summary: str
    search: dict[str, Any]  # the fields of SearchConfig that it sets


_BANK = {"start": "bank", "starts": 8, "features": "structure", "reference_weight": 0.75, "discrimination_weight": 0.0}
_PAPER = {"start": "random", "starts": 1, "steps": 500, "features": "pixels", "discrimination_weight": 0.1}
_PAPER |= {"optimizer": "adam", "learning_rate": 0.1, "reference_weight": 0.0}
PRESETS = {
    "anogan": Preset(
        "8 gradient steps from each of the 8 nearest images of the bank, and the 8 nearest references, by structure",
        _BANK | {"steps": 8, "optimizer": "soap", "learning_rate": 0.01},
    ),
    "nearest": Preset(
        "the 8 nearest images of the bank and the 8 nearest references, no gradient step", _BANK | {"steps": 0}
    ),
    "encoder": Preset(
        "the encoder's reconstruction, no gradient step (f-AnoGAN); needs encoder.steps",
        _BANK | {"start": "encoder", "starts": 1, "steps": 0, "reference_weight": 0.0},
    ),
    "paper": Preset(
        "500 Adam steps from a random z in pixels and discriminator features (Schlegl et al. 2017)",
        _PAPER | {"discrimination": "feature_matching"},
    ),
    "yeh": Preset(
        "the same with the discriminator's cross entropy (Yeh et al. 2016)",
        _PAPER | {"discrimination": "cross_entropy"},
    ),
}
_CHANGES_SCORES = ("search.", "pooling.", "segmenter.weight", "rotation.weight")
# Settings that may be given when scoring:
_SCORING = (*_CHANGES_SCORES, "alpha", "data.dir", "data.labels", "data.max_pixels", "data.roi", "data.test_limit")


def get_config() -> Config:
    """Return the defaults, as a config file does."""
    return Config()


def with_preset(config: Config, name: str) -> Config:
    """Return the config with the search settings of a preset; the feature layer stays.

    >>> with_preset(Config(), "nearest").search.steps
    0
    """
    if name not in PRESETS:
        raise UserError(f"no preset is called {name!r}; the presets are {', '.join(PRESETS)}")
    return replace(config, search=replace(config.search, **PRESETS[name].search))


def hidden_layers(image_size: int) -> int:
    """Return the number of hidden layers of the discriminator: one for each halving of the size down to 4x4."""
    return image_size.bit_length() - 3


def is_scoring(name: str) -> bool:
    """Return whether the field of this dotted name may be given when scoring."""
    return name.startswith(_SCORING)


def changes_scores(name: str) -> bool:
    """Return whether another value of the scoring setting of this dotted name needs another calibration."""
    return name.startswith(_CHANGES_SCORES)


def with_values(config: Config, values: dict[str, Any]) -> Config:
    """Return the config with other values of some fields, by their dotted names.

    >>> with_values(Config(), {"search.steps": 64, "alpha": 0.01}).alpha
    0.01
    """
    for name, given in values.items():
        *section, last = name.split(".")
        value = given.item() if isinstance(given, np.generic) else given
        node = replace(getattr(config, section[0]), **{last: value}) if section else value
        config = replace(config, **{section[0] if section else last: node})
    return config


def to_fields(config: Config) -> dict[str, Any]:
    """Return every field's value by its dotted name, such as "search.steps"."""
    return flatten_dict(dataclasses.asdict(config), sep=".")


def with_window_of(config: Config, trained: Config) -> Config:
    """Return the config with "auto" replaced by the window that training found."""
    return with_values(config, {"data.window": trained.data.window}) if config.data.window == "auto" else config


def differences(ours: Config, theirs: Config) -> list[str]:
    """Return the fields that differ, each as ``name=ours, not theirs``."""
    others = to_fields(theirs)
    pairs = [(name, value, others[name]) for name, value in to_fields(ours).items()]
    return [f"{name}={value!r}, not {other!r}" for name, value, other in pairs if value != other]


def help_text() -> str:
    """Return every field with its default, type and help text."""
    lines = []
    for part in dataclasses.fields(Config):
        section = getattr(Config(), part.name)
        is_section = dataclasses.is_dataclass(section)
        lines += [f"\n{part.name}: {section.__doc__}"] if is_section else [""]
        for each in dataclasses.fields(section) if is_section else [part]:
            name = f"{part.name}.{each.name}" if is_section else each.name
            of = get_type_hints(section if is_section else Config)[each.name]
            kind = of.__name__ if isinstance(of, type) else str(of).replace("typing.", "")
            kind = kind.replace("tuple[float, float]", "LOW,HIGH").replace("NoneType", "None")
            kind = re.sub(r"Union|Optional|Literal|[\[\]']", "", kind).replace(", ", " | ")
            when = "; may be given when scoring" if is_scoring(name) else ""
            lines.append(f"  --config.{name}={each.default}  ({kind}{when})\n      {each.metadata['description']}")
    return "\n".join(lines).strip()


def validate(config: Config) -> Config:
    """Return the config with every field's type and range checked, and the settings that depend on each other.

    Raises:
      UserError: names the first field whose value cannot work.
    """
    for name, value in to_fields(config).items():
        if not isinstance(value, str | int | float | tuple | list | np.generic | os.PathLike | None):
            raise UserError(f"{name}={value!r}: a {type(value).__name__} is not the value of a setting")
        try:
            str(value).encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{name}={value!r}: is not valid UTF-8; rename it") from error
    return from_json(json.dumps(dataclasses.asdict(config), default=_plain))


def _plain(value: Any) -> Any:
    """Return a number of NumPy as Python's, a path as text, and others as text in a list, which no setting accepts."""
    if isinstance(value, np.generic):
        return value.item()
    return os.fspath(value) if isinstance(value, os.PathLike) else [repr(value)]


def save(config: Config, path: Path) -> None:
    """Write the config as JSON."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")


def load(path: Path) -> Config:
    """Read a config that ``save`` wrote.

    Raises:
      UserError: the file does not exist, is not JSON, or has an unknown field, a wrong type or value.
    """
    try:
        return from_json(path.read_text(), f"{path}: ")
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def from_json(text: str, where: str = "") -> Config:
    """Return the config of a JSON text; raise UserError, which begins with ``where``, if a field cannot work."""
    try:
        config = _CHECKER.validate_json(text)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"] if isinstance(part, str) and part.isidentifier())
        reason = first["msg"].removeprefix("Value error, ").replace("Unexpected keyword argument", "unknown field")
        reason = f"{reason[0].lower()}{reason[1:]}"
        raise UserError(f"{where}{name}={first['input']!r}: {reason}" if name else f"{where}{reason}") from error
    if conflict := _conflict(config):
        raise UserError(where + conflict)
    return config


def _conflict(config: Config) -> str:
    """Return which settings contradict each other and how, or an empty string."""
    size, stride, search = config.model.image_size, config.pooling.stride, config.search
    if size & (size - 1):
        return f"model.image_size={size}: must be 8, 16, 32, 64, ..."
    if stride is not None and stride > size:
        return f"pooling.stride={stride}: must be at most model.image_size={size}, or pixels are left out"
    layers = hidden_layers(size)
    for name, layer in (("search", search.feature_layer), ("encoder", config.encoder.feature_layer)):
        if not -layers <= layer < layers:
            return (
                f"{name}.feature_layer={layer}: the discriminator for {size}x{size} pixels has {layers} hidden layers, "
                f"0 to {layers - 1}"
            )
    if search.start == "encoder" and not config.encoder.steps:
        return "encoder.steps=0: search.start=encoder needs an encoder; train with --config.encoder.steps=2000"
    if search.start == "encoder" and search.starts > 1:
        return f"search.starts={search.starts}: an encoder gives one start; set search.starts=1"
    if config.bank.references and not config.data.keep_held_out:
        return (
            "data.keep_held_out=False: references are training images kept in the detector; set bank.references=0 too"
        )
    if config.data.labels and config.data.source != "folder":
        return f"data.labels={config.data.labels}: is only for images of a folder; set data.source=folder"
    for name in ("normal", "anomalous"):
        if getattr(config.data, name) == "":
            return f"data.{name}: is empty; is a shell variable not set?"
    if config.data.normal is not None and config.data.anomalous is not None:
        return "data.normal and data.anomalous are both set: give one"
    reasons = {
        "patches.enabled": (config.patches.enabled, "the rotation network needs whole images"),
        "train.rotate": (config.train.rotate, "images are rotated at random, so their orientation is unknown"),
        "train.flip": (
            config.train.flip,
            "images mirrored in both directions are rotated by 180 degrees, so their orientation is unknown",
        ),
    }
    for name, (is_set, reason) in reasons.items():
        if config.rotation.steps and is_set:
            return f"rotation.steps={config.rotation.steps} and {name}=True: {reason}; give one of them"
    return ""


_CHECKER = pydantic.TypeAdapter(Config)
