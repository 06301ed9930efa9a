// Matrix products in registers: the two loops that nearly all of the time is spent in.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "simd.h"

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

// Adds up rows of numbers times panels:
//   to[i][0:width] = sum over t < terms and k < depth of  from[t * stride + i][k] * panel[term[t]][k][0:width]
// where each term of the panel is (depth, vectors * lanes).
template <typename T, int kRows, int kVectors>
inline void multiply_block(int64_t terms, int64_t depth, const T* const* from, int64_t stride, const T* panel,
                           const int32_t* term, T* const* to, int width) {
  constexpr int kWide = kVectors * kLanes<T>;
  Vector<T> sum[kRows][kVectors] = {};
  for (int64_t t = 0; t < terms; ++t) {
    const T* b = panel + term[t] * depth * kWide;
    const T* row[kRows];
    for (int i = 0; i < kRows; ++i) row[i] = from[t * stride + i];
    for (int64_t k = 0; k < depth; ++k, b += kWide) {
      Vector<T> column[kVectors];
      for (int v = 0; v < kVectors; ++v) column[v] = load(b + v * kLanes<T>);
      for (int i = 0; i < kRows; ++i) {
        const T a = row[i][k];
        for (int v = 0; v < kVectors; ++v) sum[i][v] += column[v] * a;
      }
    }
  }
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
                          const T* panel, const int32_t* term, T* const* to, const Panel& shape) {
  with_constant<kPanelVectors>(shape.vectors, [&](auto vectors) {
    constexpr int kRows = rows_of_block(vectors);
    int64_t i = 0;
    for (; i + kRows <= rows; i += kRows)
      multiply_block<T, kRows, vectors>(terms, depth, from + i, stride, panel, term, to + i, shape.width);
    with_constant<kRows - 1>(static_cast<int>(rows - i), [&](auto rest) {
      multiply_block<T, rest, vectors>(terms, depth, from + i, stride, panel, term, to + i, shape.width);
    });
  });
}

// A run of rows of two matrices that lie at equal distances.
template <typename T>
struct Run {
  const T* a;
  const T* b;
  int64_t count;
};

// Adds products of columns of two tall matrices:
//   to[i * to_stride + j] += sum over the rows r of all runs of  a[r][i] * b[r][j],  i < kRows, j < width
// The last vector of a narrower panel overlaps the one before it. Of a panel of less than one vector (kNarrow) whole
// vectors of b are read, and only its columns are written.
template <typename T, int kRows, int kVectors, bool kNarrow>
inline void accumulate_block(const Run<T>* runs, int64_t count, int64_t a_stride, int64_t b_stride, int64_t a_start,
                             int64_t b_start, T* to, int64_t to_stride, int width) {
  constexpr int kLane = kLanes<T>;
  const int last = kNarrow ? 0 : width - kLane;
  auto offset = [last](int v) { return v == kVectors - 1 ? last : v * kLane; };
  Vector<T> sum[kRows][kVectors] = {};
  for (int64_t r = 0; r < count; ++r) {
    const T* a = runs[r].a + a_start;
    const T* b = runs[r].b + b_start;
    for (int64_t k = 0; k < runs[r].count; ++k, a += a_stride, b += b_stride) {
      Vector<T> column[kVectors];
      for (int v = 0; v < kVectors; ++v) column[v] = load(b + offset(v));
      for (int i = 0; i < kRows; ++i) {
        const T value = a[i];
        for (int v = 0; v < kVectors; ++v) sum[i][v] += column[v] * value;
      }
    }
  }
  for (int i = 0; i < kRows; ++i) {
    T* line = to + i * to_stride;
    if constexpr (kNarrow) {
      for (int j = 0; j < width; ++j) line[j] += sum[i][0][j];
    } else {
      for (int v = 0; v < kVectors; ++v) sum[i][v] += load(line + offset(v));
      for (int v = 0; v < kVectors; ++v) store(line + offset(v), sum[i][v]);
    }
  }
}

// The same for any number of columns of a, [a_start, a_stop).
template <typename T>
inline void accumulate_columns(const Run<T>* runs, int64_t count, int64_t a_stride, int64_t b_stride, int64_t a_start,
                               int64_t a_stop, const Panel& shape, T* to, int64_t to_stride) {
  auto block = [&](auto rows, auto vectors, auto narrow, int64_t i) {
    accumulate_block<T, rows, vectors, narrow>(runs, count, a_stride, b_stride, i, shape.start,
                                               to + i * to_stride + shape.start, to_stride, shape.width);
  };
  auto blocks = [&](auto vectors, auto narrow) {
    constexpr int kRows = rows_of_block(vectors);
    int64_t i = a_start;
    for (; i + kRows <= a_stop; i += kRows) block(std::integral_constant<int, kRows>{}, vectors, narrow, i);
    with_constant<kRows - 1>(static_cast<int>(a_stop - i), [&](auto rest) { block(rest, vectors, narrow, i); });
  };
  if (shape.width < kLanes<T>) return blocks(std::integral_constant<int, 1>{}, std::true_type{});
  with_constant<kPanelVectors>(shape.vectors, [&](auto vectors) { blocks(vectors, std::false_type{}); });
}

}  // namespace jaxcnn
