"""TFDS's mock of prepared data sets, but with images that are encoded, and decoded when they are read."""

import io
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.testing.mocking import RandomFakeGenerator


@dataclass
class Rows:
    """Random rows, read as TFDS's own data source reads them."""

    features: Any
    count: int
    decoders: Any

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Any:
        row, file = RandomFakeGenerator(self.features, self.count)[range(self.count)[i]], io.BytesIO()
        Image.fromarray(np.squeeze(row["image"])).save(file, "PNG")
        return self.features.decode_example_np(row | {"image": file.getvalue()}, decoders=self.decoders)


def mock_tfds(count: int) -> AbstractContextManager[None]:
    """Give every split of every data set this many rows; TFDS's own mock can skip no decoding without TensorFlow."""

    def as_data_source(builder: Any, split: str, decoders: Any = None) -> Rows:
        return Rows(builder.info.features, count, decoders)

    return tfds.testing.mock_data(as_data_source_fn=as_data_source)
