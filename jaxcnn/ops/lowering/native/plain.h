// Direct convolution sums, used where a faster algorithm is inaccurate.
//
// Bundles of groups multiply the channels of other groups by zeros, and Winograd's algorithm adds pixels to a result that
// its window does not hold. Both are right while all numbers are finite and of similar size: zero times infinity is not
// zero, and terms that cancel leave their rounding errors.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>

#include "geometry.h"
#include "parallel.h"
#include "simd.h"

namespace jaxcnn {

// Whether all numbers of some rows are finite: x - x is zero for finite x only.
template <typename T>
inline bool all_finite(const T* const* rows, int64_t count, int64_t size) {
  Vector<T> sums = {};
  T sum = 0;
  for (int64_t row = 0; row < count; ++row) {
    const T* numbers = rows[row];
    int64_t i = 0;
    for (; i + kLanes<T> <= size; i += kLanes<T>) sums += load(numbers + i) - load(numbers + i);
    for (; i < size; ++i) sum += numbers[i] - numbers[i];
  }
  for (int lane = 0; lane < kLanes<T>; ++lane) sum += sums[lane];
  return sum == 0;
}

// Direct sums with one kernel (taps, depth, groups * width), one pixel at a time.
template <typename T>
class PlainSums {
 public:
  // Of a convolution; or, with inputs and outputs of each group exchanged, of its transpose. `turned` reverses the taps.
  PlainSums(const Geometry& g, const T* kernel, bool exchanged, bool turned = false)
      : g_(g), kernel_(kernel), exchanged_(exchanged), turned_(turned) {}

  // Writes to[group * width + j] = sum over taps and k < depth of
  // sources[t * stride][group * depth + k] * kernel[taps[t]][k][group * width + j]. A convolution has zeros around its image;
  // what its transpose has beyond the outputs, `zeros`, is left out: it would make NaN of a kernel that is not finite.
  template <typename Taps>
  void write(const T* const* sources, int64_t stride, const Taps& taps, int64_t count, const T* zeros, T* to) {
    const T* kernel = exchanged_ ? exchange() : kernel_;
    const int64_t depth = exchanged_ ? g_.group_outputs() : g_.group_channels();
    const int64_t width = exchanged_ ? g_.group_channels() : g_.group_outputs(), row = width * g_.groups;
    constexpr int64_t kAtOnce = 64;
    for (int64_t group = 0; group < g_.groups; ++group) {
      for (int64_t start = 0; start < width; start += kAtOnce) {
        const int64_t at_once = std::min(kAtOnce, width - start);
        T sum[kAtOnce] = {};
        for (int64_t t = 0; t < count; ++t) {
          if (exchanged_ && sources[t * stride] == zeros) continue;
          const T* from = sources[t * stride] + group * depth;
          const T* numbers = kernel + taps[t] * depth * row + group * width + start;
          for (int64_t k = 0; k < depth; ++k, numbers += row)
            for (int64_t j = 0; j < at_once; ++j) sum[j] += from[k] * numbers[j];
        }
        std::copy_n(sum, at_once, to + group * width + start);
      }
    }
  }

 private:
  const T* exchange() {
    std::call_once(once_, [this] {
      const int64_t channels = g_.group_channels(), outputs = g_.group_outputs(), taps = g_.taps();
      exchanged_kernel_ = std::make_unique<Buffer<T>>(taps * channels * g_.outputs);
      T* to = exchanged_kernel_->get();
      for (int64_t tap = 0; tap < taps; ++tap) {
        const T* from = kernel_ + (turned_ ? taps - 1 - tap : tap) * channels * g_.outputs;
        for (int64_t o = 0; o < outputs; ++o)
          for (int64_t group = 0; group < g_.groups; ++group)
            for (int64_t c = 0; c < channels; ++c) *to++ = from[c * g_.outputs + group * outputs + o];
      }
    });
    return exchanged_kernel_->get();
  }

  const Geometry& g_;
  const T* kernel_;
  bool exchanged_;
  bool turned_;
  std::once_flag once_;
  std::unique_ptr<Buffer<T>> exchanged_kernel_;
};

}  // namespace jaxcnn
