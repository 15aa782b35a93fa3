"""The stride-2 convolution pair: one halves an image's size, its transpose doubles it.

On accelerators both are XLA's convolutions. On the CPU they are matrix products, and so are all their gradients. Rows
of one parity see every other row of the kernel, so a stride-2 convolution of 4 or 5 taps a side is a sum of stride-1
convolutions of 2 or 3. Minimal filtering (Winograd 1980; Lavin & Gray 2015, arXiv 1509.09308) computes those, two
output pixels at a time, with 9/16 of a direct convolution's products for 4 taps and 16/25 for 5.
"""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.typing import DTypeLike

_NHWC = ("NHWC", "HWIO", "NHWC")
_THIN = 16  # with fewer input channels or features, gathering patches is cheaper than minimal filtering
# In ``with without_layouts(True):`` programs are traced without layouts, which ``jax.export`` refuses.
without_layouts = jax.make_user_context(False)
native_down = partial(lax.conv_general_dilated, window_strides=(2, 2), padding="SAME", dimension_numbers=_NHWC)
native_up = partial(lax.conv_transpose, strides=(2, 2), padding="SAME", dimension_numbers=_NHWC)


def conv_down(x: Array, kernel: Array) -> Array:
    """Return the stride-2 convolution with SAME padding, equal to ``lax.conv_general_dilated``.

    The image x is (N, H, W, C), H and W even, the kernel (k, k, C, features), k 4 or 5; the result is
    (N, H/2, W/2, features).
    """
    return lax.platform_dependent(x, kernel, cpu=down_by_matmuls, default=native_down)


def conv_up(x: Array, kernel: Array) -> Array:
    """Return the stride-2 transposed convolution with SAME padding, equal to ``lax.conv_transpose``.

    The image x is (N, H, W, C), the kernel (k, k, C, features), k 4 or 5; the result is (N, 2 H, 2 W, features).
    """
    return lax.platform_dependent(x, kernel, cpu=up_by_matmuls, default=native_up)


class StridedConv(nn.Module):
    """A stride-2 convolution, down or up, with weights drawn from N(0, 0.02).

    The bias is for layers without batch normalisation, which would cancel it.
    """

    features: int
    kernel_size: int
    up: bool
    use_bias: bool
    dtype: DTypeLike  # data type of the computation; the weights are float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(0.02), shape)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        x = conv_up(x, kernel) if self.up else conv_down(x, kernel)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
            x = x + jnp.broadcast_to(bias.astype(self.dtype), x.shape)
        return x


def down_by_matmuls(x: Array, kernel: Array) -> Array:
    """Return ``conv_down`` as products of matrices."""
    split, split_taps, join = _algorithm(kernel.shape, (x.shape[0], x.shape[1] // 2, x.shape[2] // 2))
    filters = [taps.reshape(-1, taps.shape[-1]) for taps in split_taps(kernel)]
    return join([pixels @ taps for pixels, taps in zip(split(x), filters, strict=True)])


def up_by_matmuls(x: Array, kernel: Array) -> Array:
    """Return ``conv_up`` as products of matrices: the transpose of ``conv_down``, with the kernel rotated by 180°."""
    features = kernel.shape[-1]
    split, split_taps, join = _algorithm(kernel.shape, x.shape[:3])
    taps = [jnp.moveaxis(each, -2, 0) for each in split_taps(kernel[::-1, ::-1])]
    filters = [each.reshape(len(each), -1) for each in taps]
    image = jax.ShapeDtypeStruct((x.shape[0], 2 * x.shape[1], 2 * x.shape[2], features), x.dtype)
    tiles = [jax.ShapeDtypeStruct((leaf.shape[0], x.shape[-1]), x.dtype) for leaf in jax.eval_shape(split, image)]
    (products,) = jax.linear_transpose(join, tiles)(x)
    _, add_up = jax.vjp(split, jnp.zeros(image.shape, image.dtype))
    return materialize(add_up([p @ f for p, f in zip(products, filters, strict=True)])[0])


def materialize(array: Array) -> Array:
    """Return the same array, forced into memory on the CPU.

    Otherwise XLA fuses it into each of its readers and computes it once for each, and a loop that also reshapes is
    several times slower than two separate loops.
    """
    on_cpu = lax.optimization_barrier if without_layouts.value else _in_row_order
    return lax.platform_dependent(array, cpu=on_cpu, default=lambda array: array)


@jax.jit  # JAX refuses layouts outside of compiled programs
def _in_row_order(array: Array) -> Array:
    return with_layout_constraint(array, Layout(major_to_minor=tuple(range(array.ndim))))


class _Algorithm(NamedTuple):
    """A stride-2 convolution as products of matrices: join(split(image) @ split_taps(kernel)); all three are linear."""

    split: Callable[[Array], list[Array]]  # image (N, H, W, C) to matrices of 4 C columns or a multiple
    split_taps: Callable[[Array], list[Array]]  # kernel (k, k, C, features) to (..., C, features), as many arrays
    join: Callable[[list[Array]], Array]  # their products to (N, H/2, W/2, features)


def _algorithm(kernel_shape: Sequence[int], outputs: Sequence[int]) -> _Algorithm:
    """Choose the algorithm for a kernel of this shape and outputs (N, H/2, W/2)."""
    choice = _patches if min(kernel_shape[2:]) < _THIN else _minimal_filtering
    return choice(-(-kernel_shape[0] // 2), *outputs)


def _patches(reach: int, batch: int, height: int, width: int) -> _Algorithm:
    """Multiply the patch of each output pixel by the whole kernel: one product."""

    def split(image: Array) -> list[Array]:
        pairs = _pixel_pairs(image, height + reach - 1, width + reach - 1)
        shifted = [pairs[:, i : i + height, j : j + width] for i in range(reach) for j in range(reach)]
        return [jnp.concatenate(shifted, axis=-1).reshape(batch * height * width, -1)]

    def split_taps(kernel: Array) -> list[Array]:
        return [_tap_pairs(kernel, reach).swapaxes(1, 2).reshape(-1, *kernel.shape[2:])]

    return _Algorithm(split, split_taps, lambda products: products[0].reshape(batch, height, width, -1))


def _minimal_filtering(reach: int, batch: int, height: int, width: int) -> _Algorithm:
    """Filter minimally, F(2x2, reach x reach): one product for each of (reach + 1)^2 points, of all output tiles."""
    for_pixels, for_taps, for_outputs = _FILTERS[reach]
    points = reach + 1
    rows, columns = -(-height // 2), -(-width // 2)  # number of tiles

    def split(image: Array) -> list[Array]:
        pairs = _pixel_pairs(image, 2 * rows + reach - 1, 2 * columns + reach - 1)
        seen = [_seen(line, 2, columns, points) for line in _seen(pairs, 1, rows, points)]
        return [point.reshape(-1, point.shape[-1]) for line in _transform(for_pixels, seen) for point in line]

    def split_taps(kernel: Array) -> list[Array]:
        pairs = _tap_pairs(kernel, reach)
        taps = [[pairs[i, :, j] for j in range(reach)] for i in range(reach)]
        return [point for line in _transform(for_taps, taps) for point in line]

    def join(products: list[Array]) -> Array:
        tiles = iter([product.reshape(batch, rows, columns, -1) for product in products])
        grid = [[next(tiles) for _ in range(points)] for _ in range(points)]
        lines = [jnp.stack(line, axis=3) for line in _transform(for_outputs, grid)]
        outputs = jnp.stack(lines, axis=2).reshape(batch, 2 * rows, 2 * columns, -1)
        return lax.optimization_barrier(outputs)[:, :height, :width]

    return _Algorithm(split, split_taps, join)


def _pixel_pairs(image: Array, rows: int, columns: int) -> Array:
    """Return pairs of rows and of columns, (N, rows, columns, 4 C).

    Pair i holds the pixels 2 i - 1 and 2 i; output i sees ``reach`` pairs from pair i on.
    """
    batch, height, width, channels = image.shape
    padding = ((0, 0), (1, 2 * rows - 1 - height), (1, 2 * columns - 1 - width), (0, 0))
    pairs = jnp.pad(image, padding).reshape(batch, rows, 2, columns, 2 * channels).swapaxes(2, 3)
    return _materialize_forward(pairs).reshape(batch, rows, columns, 4 * channels)


# Forward only: in the gradient, the overlap-add is faster when it is fused with its reader.
_materialize_forward = jax.custom_jvp(materialize)
_materialize_forward.defjvp(lambda primals, tangents: (materialize(*primals), lax.optimization_barrier(*tangents)))


def _tap_pairs(kernel: Array, reach: int) -> Array:
    """Return the kernel in the same pairs, (reach, 2, reach, 2, C, features), zero-padded if its size is odd."""
    size, _, channels, features = kernel.shape
    padding = ((0, 2 * reach - size), (0, 2 * reach - size), (0, 0), (0, 0))
    return jnp.pad(kernel, padding).reshape(reach, 2, reach, 2, channels, features)


def _seen(pairs: Array, axis: int, tiles: int, points: int) -> list[Array]:
    """Return the pairs that the two outputs of a tile see along one axis, each for all tiles."""

    def every_other(first: int, which: int) -> Array:
        # Not a strided slice, because its gradient is a dilation, which is slow.
        part = lax.slice_in_dim(pairs, first, first + 2 * tiles, axis=axis)
        part = part.reshape(*part.shape[:axis], tiles, 2, *part.shape[axis + 1 :])
        return lax.index_in_dim(part, which, axis + 1, keepdims=False)

    return [every_other(0, 0)] + [every_other(i, 1) for i in range(points - 1)]


def _transform(matrix: Sequence[Sequence[float]], grid: Sequence[Sequence[Array]]) -> list[list[Array]]:
    """Return matrix @ grid @ matrix.T, for a grid of arrays."""

    def combine(parts: Sequence[Array]) -> list[Array]:
        terms = ([weight * part for weight, part in zip(row, parts, strict=True) if weight] for row in matrix)
        return [reduce(jnp.add, row) for row in terms]

    columns = [combine(column) for column in zip(*(combine(line) for line in grid), strict=True)]
    return [list(line) for line in zip(*columns, strict=True)]


# By reach: the matrices for pixels, for taps and for outputs.
_FILTERS = {
    2: (
        ((1, -1, 0), (0, 1, 0), (0, 1, -1)),
        ((1, 0), (1, 1), (0, 1)),
        ((1, 1, 0), (0, 1, -1)),
    ),
    3: (
        ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
        ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
        ((1, 1, 1, 0), (0, 1, -1, -1)),
    ),
}
