"""Where images come from: sources, conversion to uint8 squares, one-class protocols."""

from anogan_jax.data.images import ImageSet, Queries, read_input, to_model_range, to_pixels
from anogan_jax.data.one_class import OneClass, load_one_class

__all__ = ["ImageSet", "OneClass", "Queries", "load_one_class", "read_input", "to_model_range", "to_pixels"]
