// Resizes pictures of 8 bits bilinearly with antialias: first along the rows, rounded to 8 bits, then along the columns.
//
// A pixel of the result is a mean of the pixels below a triangle, whose half width is the scale, at least 1. Weights are
// integers with 22 bits after the point, as in Pillow, whose results are the same along each axis.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int kBits = 22;
constexpr int32_t kHalf = 1 << (kBits - 1);
constexpr int kChannels = 3;

// Rows that are resized together. A pixel of each, in 4 bytes, makes a vector, and all have the same weights.
constexpr int kRows = 4;
constexpr int kLanes = 4 * kRows;

struct Pixels {
  uint8_t values[kLanes];

  uint8_t* of(int row) { return values + 4 * row; }
};

// For each pixel of the result along one axis: the first pixel of the picture that counts, and the weights.
class Weights {
 public:
  // The part from `begin` to `end` of an axis of `length` pixels becomes `size` pixels.
  Weights(int length, float begin, float end, int size) : first(size), count(size) {
    const double scale = static_cast<double>(end - begin) / size, reach = std::max(scale, 1.0);
    most_ = 2 * static_cast<int>(std::ceil(reach)) + 1;
    values_.resize(static_cast<size_t>(size) * most_);
    std::vector<double> shares(most_);
    for (int i = 0; i < size; ++i) {
      const double centre = begin + (i + 0.5) * scale;
      first[i] = std::max(static_cast<int>(centre - reach + 0.5), 0);
      count[i] = std::min(static_cast<int>(centre + reach + 0.5), length) - first[i];
      double sum = 0;
      for (int k = 0; k < count[i]; ++k) {
        shares[k] = std::max(0.0, 1 - std::abs((k + first[i] - centre + 0.5) * (1 / reach)));
        sum += shares[k];
      }
      for (int k = 0; k < count[i]; ++k) {
        values_[static_cast<size_t>(i) * most_ + k] = static_cast<int32_t>(0.5 + shares[k] / sum * (1 << kBits));
      }
    }
  }

  const int32_t* of(int i) const { return values_.data() + static_cast<size_t>(i) * most_; }

  std::vector<int> first, count;

 private:
  int most_;
  std::vector<int32_t> values_;
};

}  // namespace

// pixels: `height` rows of `width` pixels of 3 channels; the rows start `stride` bytes apart. box: left, top, right and
// bottom of the part, inside the picture, that becomes `rows` times `columns` pixels.
extern "C" void jaxcnn_resample(const uint8_t* pixels, int64_t stride, int height, int width, const float* box,
                                uint8_t* result, int rows, int columns) {
  const Weights across(width, box[0], box[2], columns), down(height, box[1], box[3], rows);
  const int top = down.first[0], bottom = down.first[rows - 1] + down.count[rows - 1];
  const int left = across.first[0], right = across.first[columns - 1] + across.count[columns - 1];
  const size_t line = static_cast<size_t>(columns) * kChannels;
  std::vector<Pixels> together(right - left), narrow(columns);
  std::vector<uint8_t> between((bottom - top) * line + 1);
  for (int y = top; y < bottom; y += kRows) {
    const int taken = std::min(kRows, bottom - y);
    for (int row = 0; row < taken; ++row) {
      const uint8_t* from = pixels + (y + row) * stride + kChannels * left;
      // Copies of 4 bytes are faster than of 3; after the last pixel there may be no byte.
      const int last = right - left - 1;
      for (int x = 0; x < last; ++x) std::memcpy(together[x].of(row), from + kChannels * x, 4);
      std::memcpy(together[last].of(row), from + kChannels * last, kChannels);
    }
    for (int x = 0; x < columns; ++x) {
      const int32_t* weights = across.of(x);
      const Pixels* from = together.data() + across.first[x] - left;
      int32_t sums[kLanes];
      for (int i = 0; i < kLanes; ++i) sums[i] = kHalf;
      for (int k = 0; k < across.count[x]; ++k) {
        for (int i = 0; i < kLanes; ++i) sums[i] += weights[k] * from[k].values[i];
      }
      for (int i = 0; i < kLanes; ++i) narrow[x].values[i] = static_cast<uint8_t>(sums[i] >> kBits);
    }
    for (int row = 0; row < taken; ++row) {
      uint8_t* to = between.data() + (y + row - top) * line;
      // The fourth byte is overwritten by the next pixel.
      for (int x = 0; x < columns; ++x) std::memcpy(to + kChannels * x, narrow[x].of(row), 4);
    }
  }
  std::vector<int32_t> sums(line);
  for (int y = 0; y < rows; ++y) {
    std::fill(sums.begin(), sums.end(), kHalf);
    for (int k = 0; k < down.count[y]; ++k) {
      const int32_t weight = down.of(y)[k];
      const uint8_t* from = between.data() + (down.first[y] - top + k) * line;
      for (size_t i = 0; i < line; ++i) sums[i] += weight * from[i];
    }
    // Weights are not negative, and their sum is 1 up to a rounding: no result exceeds 255.
    for (size_t i = 0; i < line; ++i) result[y * line + i] = static_cast<uint8_t>(sums[i] >> kBits);
  }
}
