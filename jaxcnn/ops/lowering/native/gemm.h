// Matrix products in registers: the two loops that nearly all of the time is spent in.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "simd.h"
#include "storage.h"

namespace jaxcnn {

// The columns of a matrix are cut into panels of at most kPanelVectors vectors. A block of rows and a panel are
// multiplied in registers: 24 sums and what they are made from fit into the 32 registers of AVX-512, 12 into the 16 of
// others.
#if defined(__AVX512F__)
inline constexpr int kPanelVectors = 4;
constexpr int rows_of_block(int vectors) { return vectors == 4 ? 6 : 8; }
#else
inline constexpr int kPanelVectors = 2;
constexpr int rows_of_block(int vectors) { return vectors == 2 ? 6 : 8; }
#endif
inline constexpr int kMostRows = 8;

template <typename T>
inline constexpr int kPanelWidth = kPanelVectors* kLanes<T>;

// A panel: columns [start, start + width), in `vectors` vectors of which the last may be partly unused.
struct Panel {
  int64_t start;
  int width;
  int vectors;
};

template <typename T>
std::vector<Panel> panels_of(int64_t columns) {
  std::vector<Panel> panels;
  for (int64_t start = 0; start < columns; start += kPanelWidth<T>) {
    int width = static_cast<int>(std::min<int64_t>(kPanelWidth<T>, columns - start));
    panels.push_back({start, width, static_cast<int>(ceil_div(width, kLanes<T>))});
  }
  return panels;
}

// Values that a packed matrix of `rows` rows takes: panel after panel, each (rows, vectors * lanes) and filled with zeros.
template <typename T>
int64_t packed_size(int64_t rows, int64_t columns) {
  return rows * ceil_div(columns, kLanes<T>) * kLanes<T>;
}

// Where a panel of a packed matrix starts.
template <typename T>
int64_t packed_start(int64_t rows, const Panel& panel) {
  return rows * panel.start;
}

// Calls f with std::integral_constant<int, n>, so that n can size arrays of registers.
template <int kMost, typename F>
inline void with_constant(int n, const F& f) {
  if constexpr (kMost > 0) {
    if (n == kMost) return f(std::integral_constant<int, kMost>{});
    with_constant<kMost - 1>(n, f);
  }
}

// Terms of a partial sum, or up to twice as many. Rounding errors grow with the square root of a sum's length, so a sum of
// partial sums is more accurate, for a few additions more.
inline constexpr int64_t kRow = 128;

// The longest sum computed as one partial sum.
inline constexpr int64_t kShort = kRow + kRow / 4;

// Partial sums in registers, and for long sums the total of the earlier ones.
template <typename T, int kRows, int kVectors, bool kLong>
struct Sums {
  Vector<T> row[kRows][kVectors] = {};
  Vector<T> before[kRows][kVectors];
  int64_t most = kRow;
  int64_t length = 0;
  bool first = true;

  // Counts added terms, and starts a new partial sum when this one is full.
  inline __attribute__((always_inline)) void added(int64_t terms) {
    if constexpr (!kLong) return;
    length += terms;
    if (length < most) return;
    for (int i = 0; i < kRows; ++i) {
      for (int v = 0; v < kVectors; ++v) {
        before[i][v] = first ? row[i][v] : before[i][v] + row[i][v];
        row[i][v] = Vector<T>{};
      }
    }
    length = 0;
    first = false;
  }

  inline __attribute__((always_inline)) void finish() {
    if (!kLong || first) return;
    for (int i = 0; i < kRows; ++i)
      for (int v = 0; v < kVectors; ++v) row[i][v] += before[i][v];
  }
};

// Adds up rows of numbers times panels:
//   to[i][0:width] = sum over t < terms and k < depth of  from[t * stride + i][shift + k] * panel[t][k][0:width]
// where each term of the panel is (depth, vectors * lanes).
template <typename T, int kRows, int kVectors, bool kLong>
inline void multiply_block(int64_t terms, int64_t depth, const T* const* from, int64_t stride, int64_t shift,
                           const T* panel, T* const* to, int width) {
  constexpr int kWide = kVectors * kLanes<T>;
  Sums<T, kRows, kVectors, kLong> sums;
  auto& sum = sums.row;
  for (int64_t t = 0; t < terms; ++t) {
    const T* b = panel + t * depth * kWide;
    const T* row[kRows];
    for (int i = 0; i < kRows; ++i) row[i] = from[t * stride + i] + shift;
    for (int64_t start = 0, stop; start < depth; start = stop) {
      stop = kLong ? std::min(depth, start + kRow) : depth;
      for (int64_t k = start; k < stop; ++k, b += kWide) {
        Vector<T> column[kVectors];
        for (int v = 0; v < kVectors; ++v) column[v] = load(b + v * kLanes<T>);
        for (int i = 0; i < kRows; ++i) {
          const T a = row[i][k];
          for (int v = 0; v < kVectors; ++v) sum[i][v] += column[v] * a;
        }
      }
      sums.added(stop - start);
    }
  }
  sums.finish();
  if (width == kWide) {
    for (int i = 0; i < kRows; ++i)
      for (int v = 0; v < kVectors; ++v) store(to[i] + v * kLanes<T>, sum[i][v]);
    return;
  }
  for (int i = 0; i < kRows; ++i) {
    T whole[kWide];
    for (int v = 0; v < kVectors; ++v) store(whole + v * kLanes<T>, sum[i][v]);
    std::copy_n(whole, width, to[i]);
  }
}

// The same for any number of rows.
template <typename T>
inline void multiply_rows(int64_t rows, int64_t terms, int64_t depth, const T* const* from, int64_t stride,
                          int64_t shift, const T* panel, T* const* to, const Panel& shape) {
  auto multiply = [&](auto vectors, auto is_long) {
    constexpr int kRows = rows_of_block(vectors);
    int64_t i = 0;
    for (; i + kRows <= rows; i += kRows)
      multiply_block<T, kRows, vectors, is_long>(terms, depth, from + i, stride, shift, panel, to + i, shape.width);
    with_constant<kRows - 1>(static_cast<int>(rows - i), [&](auto rest) {
      multiply_block<T, rest, vectors, is_long>(terms, depth, from + i, stride, shift, panel, to + i, shape.width);
    });
  };
  with_constant<kPanelVectors>(shape.vectors, [&](auto vectors) {
    if (terms * depth <= kShort) return multiply(vectors, std::false_type{});
    multiply(vectors, std::true_type{});
  });
}

// Sums of products of rows of two tall matrices, as in gradients of kernels: to += left^T right. Some rows at a time are
// packed into panels, in which the numbers of a block lie next to each other: the rows of a matrix of many columns are
// far apart, and mostly a power of two, so that few of them fit into a cache at once.

inline constexpr int64_t kPackedRows = 224;

// Values between two panels beside the panels themselves, so that they do not compete for the same places of a cache.
inline constexpr int64_t kPanelGap = 16;

template <typename T>
int64_t right_size(int64_t columns) {
  return ceil_div(columns, kPanelWidth<T>) * (kPackedRows * kPanelWidth<T> + kPanelGap);
}

template <typename T>
T* right_panel(T* right, const Panel& panel) {
  return right + panel.start / kPanelWidth<T> * (kPackedRows * kPanelWidth<T> + kPanelGap);
}

// Columns of a panel on the left, for these panels on the right.
inline int left_width(const std::vector<Panel>& panels) { return rows_of_block(panels.front().vectors); }

inline constexpr int64_t kLeftStep = kPackedRows * kMostRows + kPanelGap;

inline int64_t left_size(int64_t columns, int width) { return ceil_div(columns, width) * kLeftStep; }

// Packs one row of the right matrix.
template <typename S, typename T = Wide<S>>
inline void pack_right(const S* from, const std::vector<Panel>& panels, int64_t row, T* right) {
  for (const Panel& panel : panels) {
    const int64_t wide = panel.vectors * kLanes<T>;
    T* to = right_panel(right, panel) + row * wide;
    if (panel.width == kPanelWidth<T>) {
      for (int v = 0; v < kPanelVectors; ++v) store(to + v * kLanes<T>, load_wide(from + panel.start + v * kLanes<T>));
    } else {
      widen(from + panel.start, panel.width, to);
      std::fill_n(to + panel.width, wide - panel.width, T(0));
    }
  }
}

// Packs one row of the left matrix, after the rows before it.
template <typename S, int kWidth, typename T = Wide<S>>
inline void pack_left(const S* from, int64_t columns, int64_t row, T* left) {
  T* to = left + row * kWidth;
  int64_t column = 0;
  if constexpr (std::is_same_v<S, BFloat16>) {
    // Always eight numbers: those too many are overwritten by the next row, or lie in the gap after the last one.
    typedef uint16_t Eight __attribute__((vector_size(16), aligned(2), may_alias));
    typedef uint32_t WideEight __attribute__((vector_size(32), aligned(4), may_alias));
    for (; column + 8 <= columns; column += kWidth, to += kLeftStep) {
      const Eight bits = *reinterpret_cast<const Eight*>(from + column);
      *reinterpret_cast<WideEight*>(to) = __builtin_convertvector(bits, WideEight) << 16;
    }
  }
  for (; column + kWidth <= columns; column += kWidth, to += kLeftStep) {
    if constexpr (kIsHalf<S>)
      for (int i = 0; i < kWidth; ++i) to[i] = widened(from[column + i]);
    else
      std::memcpy(to, from + column, kWidth * sizeof(T));
  }
  for (int i = 0; column < columns; ++column, ++i) to[i] = widened(from[column]);
}

// Packed rows of the right matrix, from `start` on, and those of the left one that they belong to.
template <typename T>
struct Run {
  const T* left;
  int64_t start;
  int64_t count;
};

// How the left matrix lies: values from one row to the next, and from one block of columns to the next. Packed it has
// panels; few columns are read in place.
struct LeftSteps {
  int64_t row;
  int64_t block;
};

// to[i * to_stride + j] += sum over the rows r of all runs of  left[r][shift + i] * right[r][j],  i < kRows, j < width
// or, where they are the first to be added up, = that sum.
template <typename T, int kRows, int kVectors>
inline void accumulate_block(const Run<T>* runs, int64_t count, bool first, int64_t shift, int64_t row_step,
                             const T* right, T* to, int64_t to_stride, int width) {
  constexpr int kWide = kVectors * kLanes<T>;
  for (int i = 0; i < kRows; ++i) __builtin_prefetch(to + i * to_stride, 1);
  Sums<T, kRows, kVectors, true> sums;
  auto& sum = sums.row;
  // Several runs are short ones: shorter partial sums cost little beside changing runs.
  if (count > 1) sums.most = kRow / 2;
  for (int64_t r = 0; r < count; ++r) {
    const T* a = runs[r].left + shift;
    const T* b = right + runs[r].start * kWide;
    for (int64_t start = 0; start < runs[r].count; start += kRow) {
      const int64_t stop = std::min(runs[r].count, start + kRow);
      for (int64_t k = start; k < stop; ++k, a += row_step, b += kWide) {
        Vector<T> column[kVectors];
        for (int v = 0; v < kVectors; ++v) column[v] = load(b + v * kLanes<T>);
        for (int i = 0; i < kRows; ++i) {
          const T value = a[i];
          for (int v = 0; v < kVectors; ++v) sum[i][v] += column[v] * value;
        }
      }
      sums.added(stop - start);
    }
  }
  sums.finish();
  for (int i = 0; i < kRows; ++i) {
    T* line = to + i * to_stride;
    if (width == kWide) {
      for (int v = 0; v < kVectors; ++v)
        store(line + v * kLanes<T>, first ? sum[i][v] : load(line + v * kLanes<T>) + sum[i][v]);
    } else {
      T whole[kWide];
      for (int v = 0; v < kVectors; ++v) store(whole + v * kLanes<T>, sum[i][v]);
      for (int j = 0; j < width; ++j) line[j] = first ? whole[j] : line[j] + whole[j];
    }
  }
}

// The same for all columns of both matrices.
template <typename T, int kWidth>
inline void accumulate(const Run<T>* runs, int64_t count, bool first, const LeftSteps& left, int64_t columns, T* right,
                       const std::vector<Panel>& panels, T* to, int64_t to_stride) {
  for (const Panel& panel : panels) {
    const T* b = right_panel(right, panel);
    with_constant<kPanelVectors>(panel.vectors, [&](auto vectors) {
      int64_t i = 0, shift = 0;
      for (; i + kWidth <= columns; i += kWidth, shift += left.block)
        accumulate_block<T, kWidth, vectors>(runs, count, first, shift, left.row, b, to + i * to_stride + panel.start, to_stride,
                                             panel.width);
      with_constant<kWidth - 1>(static_cast<int>(columns - i), [&](auto rest) {
        accumulate_block<T, rest, vectors>(runs, count, first, shift, left.row, b, to + i * to_stride + panel.start, to_stride,
                                           panel.width);
      });
    });
  }
}

// Calls f with the width of the left panels as a constant.
template <typename F>
inline void with_left_width(const std::vector<Panel>& panels, const F& f) {
  if (left_width(panels) == 6) return f(std::integral_constant<int, 6>{});
  f(std::integral_constant<int, 8>{});
}

}  // namespace jaxcnn
