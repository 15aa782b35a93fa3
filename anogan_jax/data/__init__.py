"""Where images come from: sources, conversion to uint8, one-class protocols, what the model sees of them."""

from anogan_jax.data.images import Images, is_readable, read_ahead, read_input, to_model_range, to_pixels
from anogan_jax.data.one_class import OneClass, load_one_class
from anogan_jax.data.views import as_array, has_content, make_draw, make_fit

__all__ = [
    "Images",
    "OneClass",
    "as_array",
    "has_content",
    "is_readable",
    "load_one_class",
    "make_draw",
    "make_fit",
    "read_ahead",
    "read_input",
    "to_model_range",
    "to_pixels",
]
