// Sums over the pixels of each image and channel, which read them from memory once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "parallel.h"
#include "simd.h"
#include "storage.h"

namespace jaxcnn {

// Adds up, over `count` rows that lie `stride` apart, y and (x - shift) * y.
template <typename S, int kVectors, typename T = Wide<S>>
inline void sum_products(const S* x, const S* y, const T* shift, int64_t count, int64_t stride, T* first, T* second) {
  Vector<T> origin[kVectors], sum[kVectors] = {}, product[kVectors] = {};
  for (int v = 0; v < kVectors; ++v) origin[v] = load(shift + v * kLanes<T>);
  for (int64_t row = 0; row < count; ++row, x += stride, y += stride) {
    for (int v = 0; v < kVectors; ++v) {
      const Vector<T> other = load_wide(y + v * kLanes<T>);
      sum[v] += other;
      product[v] += (load_wide(x + v * kLanes<T>) - origin[v]) * other;
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    store(first + v * kLanes<T>, sum[v]);
    store(second + v * kLanes<T>, product[v]);
  }
}

// Writes the mean of x - shift over such rows, and the sum of squared deviations from it. The second pass, about the mean of
// the first, keeps the deviations small whatever the shift (Chan, Golub & LeVeque 1983); it reads the rows from a cache.
template <typename S, int kVectors, typename T = Wide<S>>
inline void sum_deviations(const S* x, const T* shift, int64_t count, int64_t stride, T* mean, T* squares) {
  Vector<T> origin[kVectors], middle[kVectors] = {}, rest[kVectors] = {}, square[kVectors] = {};
  for (int v = 0; v < kVectors; ++v) origin[v] = load(shift + v * kLanes<T>);
  for (int64_t row = 0; row < count; ++row)
    for (int v = 0; v < kVectors; ++v) middle[v] += load_wide(x + row * stride + v * kLanes<T>) - origin[v];
  const T share = T(1) / static_cast<T>(count);
  for (int v = 0; v < kVectors; ++v) middle[v] *= share;
  for (int64_t row = 0; row < count; ++row) {
    for (int v = 0; v < kVectors; ++v) {
      const Vector<T> deviation = load_wide(x + row * stride + v * kLanes<T>) - origin[v] - middle[v];
      rest[v] += deviation;
      square[v] += deviation * deviation;
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    store(mean + v * kLanes<T>, middle[v] + rest[v] * share);
    store(squares + v * kLanes<T>, square[v] - rest[v] * rest[v] * share);
  }
}

// Pixels of a piece. Their sums are accumulated separately, which keeps the rounding of long sums small.
inline constexpr int64_t kPiece = 64;

// Calls work(image, start, count, place, vectors, channel) for pieces of the pixels of each image and vectors of channels;
// what belongs to a piece is kept at `place`. Channels that fill no vector are left to `scalar`, one at a time.
template <typename T, typename Work, typename Scalar>
void for_each_piece(int64_t images, int64_t pixels, int64_t channels, Workers& workers, const Work& work,
                    const Scalar& scalar) {
  constexpr int64_t kWide = 4 * kLanes<T>;
  const int64_t pieces = ceil_div(pixels, kPiece);
  workers.for_each(images * pieces, [&](int64_t item) {
    const int64_t image = item / pieces, start = item % pieces * kPiece, count = std::min(kPiece, pixels - start);
    const int64_t at = (image * pixels + start) * channels, place = item * channels;
    int64_t c = 0;
    for (; c + kWide <= channels; c += kWide) work(image, at + c, count, place + c, std::integral_constant<int, 4>{}, c);
    for (; c + kLanes<T> <= channels; c += kLanes<T>)
      work(image, at + c, count, place + c, std::integral_constant<int, 1>{}, c);
    if (c == channels) return;
    if (channels >= kLanes<T>) {
      c = channels - kLanes<T>;
      return work(image, at + c, count, place + c, std::integral_constant<int, 1>{}, c);
    }
    for (; c < channels; ++c) scalar(image, at + c, count, place + c, c);
  });
}

// Writes the sums of y and of (x - shift) * y, each (images, channels), of x and y (images, pixels, channels).
template <typename S, typename T = Wide<S>>
void moments(int64_t images, int64_t pixels, int64_t channels, const S* x, const S* y, const T* shift,
             int64_t shift_step, T* first, T* second, Workers& workers) {
  const int64_t pieces = ceil_div(pixels, kPiece);
  Buffer<T> firsts(images * pieces * channels), seconds(images * pieces * channels);
  for_each_piece<T>(
      images, pixels, channels, workers,
      [&](int64_t image, int64_t at, int64_t count, int64_t place, auto vectors, int64_t c) {
        sum_products<S, vectors>(x + at, y + at, shift + image * shift_step + c, count, channels, firsts.get() + place,
                                 seconds.get() + place);
      },
      [&](int64_t image, int64_t at, int64_t count, int64_t place, int64_t c) {
        T total = 0, product = 0;
        for (int64_t i = at; i < at + count * channels; i += channels) {
          const T other = widened(y[i]);
          total += other;
          product += (widened(x[i]) - shift[image * shift_step + c]) * other;
        }
        firsts.get()[place] = total;
        seconds.get()[place] = product;
      });
  for (int64_t image = 0; image < images; ++image) {
    for (int64_t c = 0; c < channels; ++c) {
      double total = 0, product = 0;
      for (int64_t piece = 0; piece < pieces; ++piece) {
        total += firsts.get()[(image * pieces + piece) * channels + c];
        product += seconds.get()[(image * pieces + piece) * channels + c];
      }
      first[image * channels + c] = static_cast<T>(total);
      second[image * channels + c] = static_cast<T>(product);
    }
  }
}

// Writes the mean of x - shift, and the sum of squared deviations from it, each (images, channels).
template <typename S, typename T = Wide<S>>
void own_moments(int64_t images, int64_t pixels, int64_t channels, const S* x, const T* shift, int64_t shift_step,
                 T* mean, T* squares, Workers& workers) {
  const int64_t pieces = ceil_div(pixels, kPiece);
  Buffer<T> means(images * pieces * channels), sums(images * pieces * channels);
  for_each_piece<T>(
      images, pixels, channels, workers,
      [&](int64_t image, int64_t at, int64_t count, int64_t place, auto vectors, int64_t c) {
        sum_deviations<S, vectors>(x + at, shift + image * shift_step + c, count, channels, means.get() + place,
                                   sums.get() + place);
      },
      [&](int64_t image, int64_t at, int64_t count, int64_t place, int64_t c) {
        const T origin = shift[image * shift_step + c];
        double middle = 0, square = 0;
        for (int64_t i = at; i < at + count * channels; i += channels) middle += widened(x[i]) - origin;
        middle /= static_cast<double>(count);
        for (int64_t i = at; i < at + count * channels; i += channels) {
          const double deviation = widened(x[i]) - origin - middle;
          square += deviation * deviation;
        }
        means.get()[place] = static_cast<T>(middle);
        sums.get()[place] = static_cast<T>(square);
      });
  for (int64_t image = 0; image < images; ++image) {
    for (int64_t c = 0; c < channels; ++c) {
      double total = 0, square = 0;
      auto each = [&](const auto& add) {
        for (int64_t piece = 0; piece < pieces; ++piece) {
          const int64_t place = (image * pieces + piece) * channels + c;
          add(std::min(kPiece, pixels - piece * kPiece), means.get()[place], sums.get()[place]);
        }
      };
      each([&](int64_t count, double middle, double) { total += middle * static_cast<double>(count); });
      const double whole = total / static_cast<double>(pixels);
      each([&](int64_t count, double middle, double sum) {
        square += sum + (middle - whole) * (middle - whole) * static_cast<double>(count);
      });
      mean[image * channels + c] = static_cast<T>(whole);
      squares[image * channels + c] = static_cast<T>(square);
    }
  }
}

}  // namespace jaxcnn
