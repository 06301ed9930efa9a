"""The operations once more, in NumPy loops and float64: slow, and simple enough to be checked by reading."""

import itertools
import math

import numpy as np

NUMPY_PAD_MODE = {"zeros": "constant", "edge": "edge", "reflect": "reflect", "circular": "wrap"}


def pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def explicit_padding(image_shape, window_shape, strides, padding, dilation=1):
    """Returns ((top, bottom), (left, right)) for every spelling of a padding."""
    if padding == "VALID":
        padding = 0
    if isinstance(padding, int):
        return ((padding, padding), (padding, padding))
    if padding not in ("SAME", "SAME_LOWER"):
        return padding
    pairs = []
    for size, window, stride, rate in zip(image_shape, window_shape, pair(strides), pair(dilation), strict=True):
        outputs = math.ceil(size / stride)
        missing = max((outputs - 1) * stride + rate * (window - 1) + 1 - size, 0)
        less, more = missing // 2, missing - missing // 2
        pairs.append((less, more) if padding == "SAME" else (more, less))
    return tuple(pairs)


def conv_output_size(image_shape, window_shape, strides, padding, dilation=1):
    """Counts the places at which the dilated window lies within the padded image."""
    sides = explicit_padding(image_shape, window_shape, strides, padding, dilation)
    return tuple(
        len(range(-before, size + after - rate * (window - 1), stride))
        for size, window, stride, rate, (before, after) in zip(
            image_shape, window_shape, pair(strides), pair(dilation), sides, strict=True
        )
    )


def conv(x, kernel, bias=None, *, strides=1, padding="SAME", dilation=1, groups=1, border="zeros"):
    (stride_y, stride_x), (rate_y, rate_x) = pair(strides), pair(dilation)
    height, width, group_inputs, outputs = kernel.shape
    pads = explicit_padding(x.shape[:2], (height, width), strides, padding, dilation)
    padded = np.pad(np.asarray(x, np.float64), (*pads, (0, 0)), mode=NUMPY_PAD_MODE[border])
    reach_y, reach_x = rate_y * (height - 1) + 1, rate_x * (width - 1) + 1
    y = np.zeros((*conv_output_size(x.shape[:2], (height, width), strides, pads, dilation), outputs))
    for row, column, output in np.ndindex(y.shape):
        top, left = row * stride_y, column * stride_x
        first = output // (outputs // groups) * group_inputs
        patch = padded[top : top + reach_y : rate_y, left : left + reach_x : rate_x]
        y[row, column, output] = np.sum(patch[..., first : first + group_inputs] * kernel[..., output])
    return y if bias is None else y + bias


def conv_transpose(x, kernel, bias=None, *, strides=1, padding=0, output_padding=0, dilation=1, groups=1):
    """Stamps the kernel, weighted by each pixel, onto an empty canvas; then takes the padding off."""
    (stride_y, stride_x), (rate_y, rate_x) = pair(strides), pair(dilation)
    extra_y, extra_x = pair(output_padding)
    height, width, group_inputs, outputs = kernel.shape
    (top, bottom), (left, right) = explicit_padding(x.shape[:2], (height, width), 1, padding)
    rows = (x.shape[0] - 1) * stride_y + rate_y * (height - 1) + 1 + extra_y
    columns = (x.shape[1] - 1) * stride_x + rate_x * (width - 1) + 1 + extra_x
    canvas = np.zeros((rows, columns, outputs))
    for row, column, tap_y, tap_x, output in np.ndindex(*x.shape[:2], height, width, outputs):
        first = output // (outputs // groups) * group_inputs
        stamp = x[row, column, first : first + group_inputs] @ kernel[tap_y, tap_x, :, output]
        canvas[row * stride_y + tap_y * rate_y, column * stride_x + tap_x * rate_x, output] += stamp
    y = canvas[top : rows - bottom, left : columns - right]
    return y if bias is None else y + bias


def compose_kernels(first, second, *, first_strides=1, first_dilation=1, second_dilation=1):
    """Collects, for each pair of taps, the pixel that the second one reads through the first."""
    (stride_y, stride_x), (rate_y, rate_x) = pair(first_strides), pair(first_dilation)
    step_y, step_x = stride_y * pair(second_dilation)[0], stride_x * pair(second_dilation)[1]
    rows = rate_y * (first.shape[0] - 1) + step_y * (second.shape[0] - 1) + 1
    columns = rate_x * (first.shape[1] - 1) + step_x * (second.shape[1] - 1) + 1
    composed = np.zeros((rows, columns, first.shape[2], second.shape[3]))
    for y1, x1, y2, x2 in np.ndindex(*first.shape[:2], *second.shape[:2]):
        composed[rate_y * y1 + step_y * y2, rate_x * x1 + step_x * x2] += first[y1, x1] @ second[y2, x2]
    return composed


def pool_starts(size, window, stride, padding, ceil_mode):
    """Returns where the windows of one axis begin, in pixels of the unpadded image.

    With `ceil_mode` a last window may reach over the padded end, if it begins before the trailing padding.
    """
    low, high = padding
    starts = []
    for start in itertools.count(-low, stride):
        fits = start + window <= size + high
        covered = bool(starts) and starts[-1] + window >= size + high
        if not (fits or (ceil_mode and start < size and not covered)):
            return starts
        starts.append(start)


def pool_windows(x, window_shape, strides, padding, ceil_mode, dilation=1):
    """Returns, per axis, the list of (start, end, step) in pixels of the unpadded image."""
    window_shape = pair(window_shape)
    strides = window_shape if strides is None else pair(strides)
    pads = explicit_padding(x.shape[:2], window_shape, strides, padding, dilation)
    extents = [rate * (window - 1) + 1 for window, rate in zip(window_shape, pair(dilation), strict=True)]
    return [
        [(start, start + extent, rate) for start in pool_starts(size, extent, stride, pad, ceil_mode)]
        for size, extent, stride, pad, rate in zip(x.shape[:2], extents, strides, pads, pair(dilation), strict=True)
    ]


def max_pool_with_indices(x, window_shape, *, strides=None, padding="VALID", ceil_mode=False, dilation=1):
    return max_with_indices(x, *pool_windows(x, window_shape, strides, padding, ceil_mode, dilation))


def max_with_indices(x, row_windows, column_windows):
    height, width, channels = x.shape
    y = np.full((len(row_windows), len(column_windows), channels), -np.inf)
    indices = np.full(y.shape, -1)
    for i, j, channel in np.ndindex(y.shape):
        for row, column in itertools.product(range(*row_windows[i]), range(*column_windows[j])):
            inside = 0 <= row < height and 0 <= column < width
            if not inside:
                continue
            value = x[row, column, channel]
            # The first pixel is taken even if it is -inf; a later one only if it is larger: ties go to the first. NaN
            # is larger than all, another NaN included.
            if indices[i, j, channel] < 0 or value > y[i, j, channel] or np.isnan(value):
                y[i, j, channel] = value
                indices[i, j, channel] = row * width + column
    return y, indices


def max_pool(x, window_shape, **options):
    return max_pool_with_indices(x, window_shape, **options)[0]


def scatter_add(values, indices, image_shape):
    """Adds each value to the pixel at its index: the gradient of a maximum whose place is known."""
    height, width, channels = image_shape
    image = np.zeros((height * width, channels))
    for i, j, channel in np.ndindex(values.shape):
        image[indices[i, j, channel], channel] += values[i, j, channel]
    return image.reshape(image_shape)


def avg_pool(x, window_shape, *, strides=None, padding="VALID", ceil_mode=False, count_include_pad=True):
    height, width, channels = x.shape
    row_windows, column_windows = pool_windows(x, window_shape, strides, padding, ceil_mode)
    resolved = pair(window_shape) if strides is None else strides
    (_, bottom), (_, right) = explicit_padding((height, width), pair(window_shape), resolved, padding)
    y = np.zeros((len(row_windows), len(column_windows), channels))
    for i, j in np.ndindex(y.shape[:2]):
        (top, end, _), (left, stop, _) = row_windows[i], column_windows[j]
        inside = x[max(top, 0) : min(end, height), max(left, 0) : min(stop, width)]
        # What a window of ceil_mode has beyond the padding counts in neither convention.
        padded_count = (min(end, height + bottom) - top) * (min(stop, width + right) - left)
        count = padded_count if count_include_pad else inside.shape[0] * inside.shape[1]
        y[i, j] = inside.sum(axis=(0, 1)) / count
    return y


def adaptive_windows(size, outputs):
    return [(i * size // outputs, -(-(i + 1) * size // outputs)) for i in range(outputs)]


def adaptive_avg_pool(x, output_shape):
    rows, columns = (adaptive_windows(*sizes) for sizes in zip(x.shape[:2], pair(output_shape), strict=True))
    return np.array([[x[slice(*row), slice(*column)].mean(axis=(0, 1)) for column in columns] for row in rows])


def adaptive_max_pool_with_indices(x, output_shape):
    rows, columns = (adaptive_windows(*sizes) for sizes in zip(x.shape[:2], pair(output_shape), strict=True))
    return max_with_indices(x, rows, columns)


def dense(x, kernel, bias=None):
    y = np.zeros((*x.shape[:-1], kernel.shape[1]))
    for position in np.ndindex(y.shape):
        y[position] = np.sum(x[position[:-1]] * kernel[:, position[-1]])
    return y if bias is None else y + bias


def normalize(x, mean, var, scale=None, bias=None, *, epsilon):
    y = (x - mean) / np.sqrt(var + epsilon)
    y = y if scale is None else y * scale
    return y if bias is None else y + bias


def group_norm(x, num_groups, scale=None, bias=None, *, epsilon=1e-5):
    y = np.zeros(x.shape)
    size = x.shape[-1] // num_groups
    for first in range(0, x.shape[-1], size):
        group = x[..., first : first + size]
        y[..., first : first + size] = normalize(group, group.mean(), group.var(), epsilon=epsilon)
    return normalize(y, 0.0, 1.0, scale, bias, epsilon=0.0)


def layer_norm(x, scale=None, bias=None, *, epsilon=1e-6):
    y = np.zeros(x.shape)
    for position in np.ndindex(x.shape[:-1]):
        y[position] = normalize(x[position], x[position].mean(), x[position].var(), epsilon=epsilon)
    return normalize(y, 0.0, 1.0, scale, bias, epsilon=0.0)


def local_response_norm(x, *, size=5, alpha=1e-4, beta=0.75, k=1.0):
    y = np.zeros(x.shape)
    for channel in range(x.shape[-1]):
        neighbours = x[..., max(channel - size // 2, 0) : channel + (size - 1) // 2 + 1]
        energy = np.sum(neighbours**2, axis=-1)
        y[..., channel] = x[..., channel] / (k + alpha / size * energy) ** beta
    return y


def resize(x, output_shape, *, method="bilinear", antialias=False):
    rows, columns = pair(output_shape)
    by_row = _resize_weights(x.shape[0], rows, method, antialias)
    by_column = _resize_weights(x.shape[1], columns, method, antialias)
    return np.einsum("ih,jw,hwc->ijc", by_row, by_column, x)


def _resize_weights(size, outputs, method, antialias):
    """Returns the matrix (outputs, size) that resizes one axis, pixel centres at half-integers."""
    weights = np.zeros((outputs, size))
    for i in range(outputs):
        if method == "nearest":
            weights[i, i * size // outputs] = 1
        elif method == "nearest-exact":
            weights[i, (2 * i + 1) * size // (2 * outputs)] = 1
        elif method == "area":
            start, end = adaptive_windows(size, outputs)[i]
            weights[i, start:end] = 1 / (end - start)
        elif antialias:
            stretch = max(size / outputs, 1.0)
            centre = (i + 0.5) * size / outputs
            taps = np.array([_interpolant((j + 0.5 - centre) / stretch, method, -0.5) for j in range(size)])
            weights[i] = taps / taps.sum()
        else:
            centre = (i + 0.5) * size / outputs - 0.5
            for j in range(math.floor(centre) - 1, math.floor(centre) + 3):
                weights[i, min(max(j, 0), size - 1)] += _interpolant(j - centre, method, -0.75)
    return weights


def _interpolant(distance, method, sharpness):
    """Returns the triangle, or the cubic of Keys (1981) with its free parameter `sharpness`."""
    t = abs(distance)
    if method == "bilinear":
        return max(1 - t, 0.0)
    if t < 1:
        return (sharpness + 2) * t**3 - (sharpness + 3) * t**2 + 1
    if t < 2:
        return sharpness * (t**3 - 5 * t**2 + 8 * t - 4)
    return 0.0


def directional_derivative(function, point, direction, step=1.0):
    """Central difference; exact for any step where `function` is linear along `direction`."""
    return (function(point + step * direction) - function(point - step * direction)) / (2 * step)
