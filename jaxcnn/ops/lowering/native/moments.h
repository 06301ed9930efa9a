// Sums over the pixels of each image and channel, in one pass.
#pragma once

#include <algorithm>
#include <cstdint>

#include "parallel.h"
#include "simd.h"

namespace jaxcnn {

// Adds up, over `count` rows that lie `stride` apart, y and (x - shift) * y; or, with y = x - shift, it and its square.
template <typename T, bool kOwn, int kVectors>
inline void sum_rows(const T* x, const T* y, const T* shift, int64_t count, int64_t stride, T* first, T* second) {
  Vector<T> origin[kVectors], sum[kVectors] = {}, product[kVectors] = {};
  for (int v = 0; v < kVectors; ++v) origin[v] = load(shift + v * kLanes<T>);
  for (int64_t row = 0; row < count; ++row, x += stride, y += stride) {
    for (int v = 0; v < kVectors; ++v) {
      const Vector<T> centred = load(x + v * kLanes<T>) - origin[v];
      const Vector<T> other = kOwn ? centred : load(y + v * kLanes<T>);
      sum[v] += other;
      product[v] += centred * other;
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    store(first + v * kLanes<T>, sum[v]);
    store(second + v * kLanes<T>, product[v]);
  }
}

// Writes both sums, each (images, channels), of (images, pixels, channels); y is not read where kOwn.
template <typename T, bool kOwn>
void moments(int64_t images, int64_t pixels, int64_t channels, const T* x, const T* y, const T* shift,
             int64_t shift_step, T* first, T* second, Workers& workers) {
  // Short pieces: their sums are added up apart, which keeps the rounding of long sums small.
  constexpr int64_t kPiece = 256, kWide = 4 * kLanes<T>;
  const int64_t pieces = ceil_div(pixels, kPiece), size = pieces * channels;
  Buffer<T> firsts(images * size), seconds(images * size);
  workers.for_each(images * pieces, [&](int64_t item) {
    const int64_t image = item / pieces, start = item % pieces * kPiece, count = std::min(kPiece, pixels - start);
    const T* from = x + (image * pixels + start) * channels;
    const T* other = kOwn ? from : y + (image * pixels + start) * channels;
    const T* origin = shift + image * shift_step;
    T *to = firsts.get() + item * channels, *square = seconds.get() + item * channels;
    auto sum = [&](auto vectors, int64_t c) {
      sum_rows<T, kOwn, vectors>(from + c, other + c, origin + c, count, channels, to + c, square + c);
    };
    int64_t c = 0;
    for (; c + kWide <= channels; c += kWide) sum(std::integral_constant<int, 4>{}, c);
    for (; c + kLanes<T> <= channels; c += kLanes<T>) sum(std::integral_constant<int, 1>{}, c);
    if (c == channels) return;
    if (channels >= kLanes<T>) return sum(std::integral_constant<int, 1>{}, channels - kLanes<T>);
    for (; c < channels; ++c) {
      T total = 0, product = 0;
      for (int64_t row = 0; row < count; ++row) {
        const T centred = from[row * channels + c] - origin[c], value = kOwn ? centred : other[row * channels + c];
        total += value;
        product += centred * value;
      }
      to[c] = total;
      square[c] = product;
    }
  });
  for (int64_t image = 0; image < images; ++image) {
    for (int64_t c = 0; c < channels; ++c) {
      T total = 0, product = 0;
      for (int64_t piece = 0; piece < pieces; ++piece) {
        total += firsts.get()[(image * pieces + piece) * channels + c];
        product += seconds.get()[(image * pieces + piece) * channels + c];
      }
      first[image * channels + c] = total;
      second[image * channels + c] = product;
    }
  }
}

}  // namespace jaxcnn
