// 3x3 convolutions of stride 1 by Winograd's minimal filtering, F(4x4, 3x3): a quarter of the multiplications.
//
// Lavin & Gray, "Fast algorithms for convolutional neural networks", 2016, section 4, with the interpolation points
// 0, 1, -1, 1/2, -2 and infinity of Barabasz, Anderson, Soodhalter & Gregg, "Error analysis and improving the accuracy of
// Winograd convolution for deep neural networks", 2020: a tile of 4x4 results is A^T [(G k G^T) * (B^T d B)] A for the 6x6
// pixels d under it. Summed over channels the products in the middle are 36 matrix products.
//
// The rounding error is relative to the largest of those 36 pixels. A result whose own pixels are all far smaller is therefore
// computed by the plain sum, and so is a tile with a result that is not finite.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "gemm.h"
#include "geometry.h"
#include "parallel.h"
#include "plain.h"
#include "simd.h"
#include "storage.h"

namespace jaxcnn::winograd {

inline constexpr int kTile = 4;
inline constexpr int kPatch = 6;
inline constexpr int kPoints = kPatch * kPatch;

inline constexpr double kB[kPatch][kPatch] = {{1, -1.5, -2, 1.5, 1, 0}, {0, -1, .5, 2.5, 1, 0},
                                              {0, 1, -2.5, .5, 1, 0},   {0, -2, -1, 2, 1, 0},
                                              {0, .5, -1, -.5, 1, 0},   {0, 1, -1.5, -2, 1.5, 1}};
inline constexpr double kG[kPatch][3] = {{1, 0, 0},
                                         {1. / 3, 1. / 3, 1. / 3},
                                         {-1. / 3, 1. / 3, -1. / 3},
                                         {-16. / 15, -8. / 15, -4. / 15},
                                         {1. / 15, -2. / 15, 4. / 15},
                                         {0, 0, 1}};
inline constexpr double kA[kTile][kPatch] = {
    {1, 1, 1, 1, 1, 0}, {0, 1, -1, .5, -2, 0}, {0, 1, 1, .25, 4, 0}, {0, 1, -1, .125, -8, 1}};

// A matrix that is known when the program is compiled, so that products with 0, 1 and -1 cost nothing.
struct B {
  static constexpr int kRows = kPatch, kColumns = kPatch;
  static constexpr double at(int i, int j) { return kB[i][j]; }
};
struct G {
  static constexpr int kRows = kPatch, kColumns = 3;
  static constexpr double at(int i, int j) { return kG[i][j]; }
};
struct A {
  static constexpr int kRows = kTile, kColumns = kPatch;
  static constexpr double at(int i, int j) { return kA[i][j]; }
};
template <typename M>
struct Transposed {
  static constexpr int kRows = M::kColumns, kColumns = M::kRows;
  static constexpr double at(int i, int j) { return M::at(j, i); }
};

// to[i] = sum_j M[i][j] * from[j], for vectors that lie `to_step` and `from_step` apart. Unrolled, the tests are decided
// by the compiler.
template <typename M, typename T>
inline __attribute__((always_inline)) void transform(const Vector<T>* from, int from_step, Vector<T>* to, int to_step) {
#pragma GCC unroll 6
  for (int i = 0; i < M::kRows; ++i) {
    Vector<T> sum = {};
    bool empty = true;
#pragma GCC unroll 6
    for (int j = 0; j < M::kColumns; ++j) {
      const double factor = M::at(i, j);
      if (factor == 0) continue;
      const Vector<T> value = from[j * from_step];
      const Vector<T> term = factor == 1 ? value : value * static_cast<T>(factor);
      sum = empty ? term : sum + term;
      empty = false;
    }
    to[i * to_step] = sum;
  }
}

// M from M^T: `from` is (M::kColumns, M::kColumns), `to` is (M::kRows, M::kRows).
template <typename M, typename T>
inline __attribute__((always_inline)) void transform_both(const Vector<T>* from, Vector<T>* to) {
  Vector<T> half[M::kRows * M::kColumns];
#pragma GCC unroll 6
  for (int j = 0; j < M::kColumns; ++j) transform<M, T>(from + j, M::kColumns, half + j, M::kColumns);
#pragma GCC unroll 6
  for (int i = 0; i < M::kRows; ++i) transform<M, T>(half + i * M::kColumns, 1, to + i * M::kRows, 1);
}

// The tiles of images of (rows, columns) pixels.
struct Tiles {
  int64_t images, down, across;

  Tiles(int64_t images, int64_t rows, int64_t columns)
      : images(images), down(ceil_div(rows, kTile)), across(ceil_div(columns, kTile)) {}

  int64_t count() const { return images * down * across; }
};

// Tiles of an item of work: few enough for the second cache, enough that a kernel read for them pays.
template <typename T>
int64_t tiles_at_once(int64_t channels, int64_t outputs) {
  const int64_t bytes = kPoints * (channels + outputs) * static_cast<int64_t>(sizeof(T));
  return std::clamp<int64_t>((640 << 10) / bytes / 6 * 6, 24, 96);
}

// The largest allowed ratio between a tile's largest pixel and the largest one under a single of its results.
inline constexpr int kMostRange = 64;

// The largest pixels of all channels in nine blocks of 2x2, which the 6x6 pixels under a tile are cut into. The 3x3 pixels
// under each result hold the whole of at least one block.
template <typename T>
class Range {
 public:
  void add(const Vector<T>* square) {
    for (int i = 0; i < kBlocks; ++i) {
      for (int j = 0; j < kBlocks; ++j) {
        const Vector<T>* corner = square + 2 * (i * kPatch + j);
        const auto top = larger<Bits<T>>(magnitudes<T>(corner[0]), magnitudes<T>(corner[1]));
        const auto bottom = larger<Bits<T>>(magnitudes<T>(corner[kPatch]), magnitudes<T>(corner[kPatch + 1]));
        Vector<Bits<T>>& most = most_[i * kBlocks + j];
        most = larger<Bits<T>>(most, larger<Bits<T>>(top, bottom));
      }
    }
  }

  // Finds the largest pixel of the tile, and whether that of every block under its first results is of like size.
  bool is_small(int64_t down, int64_t across) {
    Bits<T> highest = 0;
    for (int block = 0; block < kBlocks * kBlocks; ++block) {
      Bits<T> most = 0;
      for (int lane = 0; lane < kLanes<T>; ++lane) most = std::max(most, most_[block][lane]);
      blocks_[block] = from_magnitude<T>(most);
      highest = std::max(highest, most);
    }
    highest_ = from_magnitude<T>(highest);
    bool all = true;
    for (int i = 0; 2 * i <= down && i < kBlocks; ++i)
      for (int j = 0; 2 * j <= across && j < kBlocks; ++j) all = all && is_near(blocks_[i * kBlocks + j]);
    return all;
  }

  // Whether the largest pixel is not far above a number.
  bool is_near(T number) const { return highest_ <= kMostRange * number; }

  // Whether it is not far above the block that lies under a result.
  bool is_near_block_under(int64_t row, int64_t column) const {
    return is_near(blocks_[(row + 1) / 2 * kBlocks + (column + 1) / 2]);
  }

 private:
  static constexpr int kBlocks = kPatch / 2;
  Vector<Bits<T>> most_[kBlocks * kBlocks] = {};
  T blocks_[kBlocks * kBlocks];
  T highest_;
};

// Transforms squares of pixels, zero outside of the image, whose first is (tile * kTile - before):
// to[point][tile][channel] = M square M^T. Calls look(tile, square) for each vector of channels.
template <typename S, typename M, typename Look, typename T = Wide<S>>
void transform_tiles(const Tiles& tiles, int64_t first, int64_t count, const S* image, int64_t rows, int64_t columns,
                     int64_t channels, int64_t before_rows, int64_t before_columns, T* to, int64_t capacity,
                     const Look& look) {
  constexpr int kSide = M::kColumns;
  for (int64_t n = 0; n < count; ++n) {
    const int64_t tile = first + n, picture = tile / tiles.across / tiles.down;
    const int64_t row = tile / tiles.across % tiles.down * kTile - before_rows;
    const int64_t column = tile % tiles.across * kTile - before_columns;
    const S* corner = image + ((picture * rows + row) * columns + column) * channels;
    for (int64_t c = 0; c < channels; c += kLanes<T>) {
      Vector<T> square[kSide * kSide], points[kPoints];
      if (row >= 0 && column >= 0 && row + kSide <= rows && column + kSide <= columns) {
        for (int i = 0; i < kSide; ++i)
          for (int j = 0; j < kSide; ++j) square[i * kSide + j] = load_wide(corner + (i * columns + j) * channels + c);
      } else {
        for (int i = 0; i < kSide; ++i)
          for (int j = 0; j < kSide; ++j)
            square[i * kSide + j] = row + i >= 0 && row + i < rows && column + j >= 0 && column + j < columns
                                        ? load_wide(corner + (i * columns + j) * channels + c)
                                        : Vector<T>{};
      }
      look(n, square);
      transform_both<M, T>(square, points);
      for (int p = 0; p < kPoints; ++p) store(to + (p * capacity + n) * channels + c, points[p]);
    }
  }
}

// Transforms kernels (3, 3, channels, outputs) into panels [point][panel][channel][width]; with channels and outputs
// exchanged and the taps turned round for a transposed convolution.
template <typename T>
void transform_kernel(const T* kernel, int64_t channels, int64_t outputs, bool exchanged, T* packed, Workers& workers) {
  const int64_t depth = exchanged ? outputs : channels, width = exchanged ? channels : outputs;
  const auto panels = panels_of<T>(width);
  const int64_t point_size = packed_size<T>(depth, width);
  constexpr int64_t kPiece = kLanes<T>;
  workers.for_each(ceil_div(depth, kPiece), [&](int64_t piece) {
    const int64_t start = piece * kPiece, stop = std::min(depth, start + kPiece);
    for (const Panel& panel : panels) {
      for (int v = 0; v < panel.vectors; ++v) {
        const int64_t column = panel.start + v * kLanes<T>;
        T turned[9][kPiece][kLanes<T>];
        for (int tap = 0; tap < 9; ++tap) {
          if (exchanged) {
            for (int64_t lane = 0; lane < kLanes<T>; ++lane)
              for (int64_t k = start; k < stop; ++k)
                turned[tap][k - start][lane] = kernel[((8 - tap) * channels + column + lane) * outputs + k];
          } else {
            for (int64_t k = start; k < stop; ++k)
              std::copy_n(kernel + (tap * channels + k) * outputs + column, kLanes<T>, turned[tap][k - start]);
          }
        }
        for (int64_t k = start; k < stop; ++k) {
          Vector<T> taps[9], points[kPoints];
          for (int tap = 0; tap < 9; ++tap) taps[tap] = load(turned[tap][k - start]);
          transform_both<G, T>(taps, points);
          const int64_t at = packed_start<T>(depth, panel) + k * panel.vectors * kLanes<T> + v * kLanes<T>;
          for (int p = 0; p < kPoints; ++p) store(packed + p * point_size + at, points[p]);
        }
      }
    }
  });
}

// Finds the largest magnitude of some numbers.
template <typename T>
T largest(const T* numbers, int64_t count) {
  Vector<Bits<T>> most = {};
  for (int64_t i = 0; i < count; i += kLanes<T>) most = larger<Bits<T>>(most, magnitudes<T>(load(numbers + i)));
  Bits<T> highest = 0;
  for (int lane = 0; lane < kLanes<T>; ++lane) highest = std::max(highest, most[lane]);
  return from_magnitude<T>(highest);
}

// Recomputes the results of a tile, (width,) for each of its pixels, whose own pixels are far smaller than the largest of the
// tile; or all of them, if one is not finite.
template <typename S, typename T = Wide<S>>
void mend(const Range<T>& range, bool finite, const S* image, int64_t rows, int64_t columns, int64_t depth, int64_t row,
          int64_t column, const T* zeros, PlainSums<T>& plain, S* corner, int64_t to_step, int64_t width, int64_t down,
          int64_t across) {
  static constexpr int kTaps[9] = {0, 1, 2, 3, 4, 5, 6, 7, 8};
  std::vector<T> pixels(kIsHalf<S> ? 9 * depth : 0), results(kIsHalf<S> ? width : 0);
  for (int64_t i = 0; i < down; ++i) {
    for (int64_t j = 0; j < across; ++j) {
      if (finite && range.is_near_block_under(i, j)) continue;
      const T* sources[9];
      T most = 0;
      for (int tap = 0; tap < 9; ++tap) {
        const int64_t r = row + i + tap / 3, c = column + j + tap % 3;
        sources[tap] = zeros;
        if (r >= 0 && r < rows && c >= 0 && c < columns) {
          const S* pixel = image + (r * columns + c) * depth;
          if constexpr (kIsHalf<S>) {
            widen(pixel, depth, pixels.data() + tap * depth);
            sources[tap] = pixels.data() + tap * depth;
          } else {
            sources[tap] = pixel;
          }
        }
        if (finite) most = std::max(most, largest(sources[tap], depth));
      }
      S* to = corner + i * to_step + j * width;
      if (finite && most == 0) {
        std::fill_n(to, width, S{});
      } else if (!finite || !range.is_near(most)) {
        if constexpr (kIsHalf<S>) {
          plain.write(sources, 1, kTaps, 9, zeros, results.data());
          round_to(results.data(), width, to);
        } else {
          plain.write(sources, 1, kTaps, 9, zeros, to);
        }
      }
    }
  }
}

// Convolves images (images, rows, columns, depth) with a transformed kernel; `before` are the zeros before the first pixel.
template <typename S, typename T = Wide<S>>
void gather(int64_t images, const S* from, int64_t rows, int64_t columns, int64_t depth, int64_t before_rows,
            int64_t before_columns, const T* packed, PlainSums<T>& plain, S* to, int64_t to_rows, int64_t to_columns,
            int64_t width, Workers& workers) {
  const Tiles tiles(images, to_rows, to_columns);
  const auto panels = panels_of<T>(width);
  const int64_t point_size = packed_size<T>(depth, width);
  const int64_t at_once = std::min(tiles_at_once<T>(depth, width), ceil_div(tiles.count(), 2));
  const std::vector<T> zeros(depth, T(0));
  workers.for_each(ceil_div(tiles.count(), at_once), [&](int64_t item) {
    const int64_t first = item * at_once, count = std::min(at_once, tiles.count() - first);
    Buffer<T> patches(kPoints * count * depth), products(kPoints * count * width);
    std::vector<Range<T>> ranges(count);
    transform_tiles<S, B>(tiles, first, count, from, rows, columns, depth, before_rows, before_columns, patches.get(),
                          count, [&](int64_t n, const Vector<T>* square) { ranges[n].add(square); });
    std::vector<const T*> sources(count);
    std::vector<T*> targets(count);
    for (int p = 0; p < kPoints; ++p) {
      for (int64_t i = 0; i < count; ++i) sources[i] = patches.get() + (p * count + i) * depth;
      for (const Panel& panel : panels) {
        for (int64_t i = 0; i < count; ++i) targets[i] = products.get() + (p * count + i) * width + panel.start;
        multiply_rows<T>(count, 1, depth, sources.data(), 0, 0, packed + p * point_size + packed_start<T>(depth, panel),
                         targets.data(), panel);
      }
    }
    for (int64_t n = 0; n < count; ++n) {
      const int64_t tile = first + n, picture = tile / tiles.across / tiles.down;
      const int64_t row = tile / tiles.across % tiles.down * kTile, column = tile % tiles.across * kTile;
      const int64_t down = std::min<int64_t>(kTile, to_rows - row), across = std::min<int64_t>(kTile, to_columns - column);
      S* corner = to + ((picture * to_rows + row) * to_columns + column) * width;
      Vector<T> not_finite = {};
      for (int64_t c = 0; c < width; c += kLanes<T>) {
        Vector<T> points[kPoints], results[kTile * kTile];
        for (int p = 0; p < kPoints; ++p) points[p] = load(products.get() + (p * count + n) * width + c);
        transform_both<A, T>(points, results);
        for (int i = 0; i < kTile * kTile; ++i) not_finite += results[i] - results[i];
        for (int i = 0; i < down; ++i)
          for (int j = 0; j < across; ++j) store_rounded(corner + (i * to_columns + j) * width + c, results[i * kTile + j]);
      }
      T sum = 0;
      for (int lane = 0; lane < kLanes<T>; ++lane) sum += not_finite[lane];
      if (!ranges[n].is_small(down, across) || sum != 0)
        mend<S>(ranges[n], sum == 0, from + picture * rows * columns * depth, rows, columns, depth, row - before_rows,
                column - before_columns, zeros.data(), plain, corner, to_columns * width, width, down, across);
    }
  });
}

// Whether the taps of a kernel, the largest of all channels each, are finite and of like size: the rounding error is relative
// to the largest tap too, also where a result has no pixel under it.
template <typename T>
bool suits(const Geometry& g, const T* kernel) {
  T highest = 0, lowest = std::numeric_limits<T>::infinity();
  for (int tap = 0; tap < 9; ++tap) {
    const T most = largest(kernel + tap * g.channels * g.outputs, g.channels * g.outputs);
    if (!std::isfinite(most)) return false;
    highest = std::max(highest, most);
    lowest = std::min(lowest, most);
  }
  return highest <= kMostRange * lowest;
}

template <typename S, typename T = Wide<S>>
void convolve(const Geometry& g, const S* x, const T* kernel, S* to, Workers& workers) {
  Buffer<T> packed(kPoints * packed_size<T>(g.channels, g.outputs));
  transform_kernel<T>(kernel, g.channels, g.outputs, false, packed.get(), workers);
  PlainSums<T> plain(g, kernel, false);
  gather<S>(g.images, x, g.rows.size, g.columns.size, g.channels, g.rows.before, g.columns.before, packed.get(), plain,
            to, g.rows.out_size, g.columns.out_size, g.outputs, workers);
}

// A convolution itself, with the kernel turned round.
template <typename S, typename T = Wide<S>>
void input_gradient(const Geometry& g, const S* dy, const T* kernel, S* to, Workers& workers) {
  Buffer<T> packed(kPoints * packed_size<T>(g.outputs, g.channels));
  transform_kernel<T>(kernel, g.channels, g.outputs, true, packed.get(), workers);
  PlainSums<T> plain(g, kernel, true, true);
  gather<S>(g.images, dy, g.rows.out_size, g.columns.out_size, g.outputs, 2 - g.rows.before, 2 - g.columns.before,
            packed.get(), plain, to, g.rows.size, g.columns.size, g.channels, workers);
}

// Computes the gradient of the kernel: the transpose of the above with respect to it. Returns whether all results are
// finite; if not, the caller recomputes them directly.
template <typename S, typename T = Wide<S>>
bool kernel_gradient(const Geometry& g, const S* x, const S* dy, T* to, Workers& workers) {
  const Tiles tiles(g.images, g.rows.out_size, g.columns.out_size);
  const auto panels = panels_of<T>(g.outputs);
  // As many tiles as the last cache holds, in which all threads work point by point.
  const int64_t bytes = kPoints * (g.channels + g.outputs) * static_cast<int64_t>(sizeof(T));
  const int64_t at_once = std::min(tiles.count(), std::max<int64_t>(64, (8 << 20) / bytes));
  const int64_t matrix = g.channels * g.outputs;
  Buffer<T> patches(kPoints * at_once * g.channels), gradients(kPoints * at_once * g.outputs), sums(kPoints * matrix);
  constexpr int64_t kPiece = 8;
  auto ignore = [](int64_t, const Vector<T>*) {};
  for (int64_t first = 0; first < tiles.count(); first += at_once) {
    const int64_t count = std::min(at_once, tiles.count() - first);
    workers.for_each(ceil_div(count, kPiece), [&](int64_t piece) {
      const int64_t start = piece * kPiece, size = std::min(kPiece, count - start);
      transform_tiles<S, B>(tiles, first + start, size, x, g.rows.size, g.columns.size, g.channels, g.rows.before,
                            g.columns.before, patches.get() + start * g.channels, count, ignore);
      transform_tiles<S, Transposed<A>>(tiles, first + start, size, dy, g.rows.out_size, g.columns.out_size, g.outputs, 0,
                                        0, gradients.get() + start * g.outputs, count, ignore);
    });
    workers.for_each(kPoints, [&](int64_t p) {
      T* sum = sums.get() + p * matrix;
      const int64_t chunk = ceil_div(count, ceil_div(count, kPackedRows));
      Buffer<T> left(left_size(g.channels, left_width(panels))), right(right_size<T>(g.outputs));
      with_left_width(panels, [&](auto left_width) {
        for (int64_t start = 0; start < count; start += chunk) {
          const Run<T> run{left.get(), 0, std::min(chunk, count - start)};
          for (int64_t row = 0; row < run.count; ++row) {
            pack_left<T, left_width>(patches.get() + (p * count + start + row) * g.channels, g.channels, row, left.get());
            pack_right<T>(gradients.get() + (p * count + start + row) * g.outputs, panels, row, right.get());
          }
          accumulate<T, left_width>(&run, 1, first + start == 0, {left_width, kLeftStep}, g.channels, right.get(), panels,
                                    sum, g.outputs);
        }
      });
    });
  }
  workers.for_each(g.channels, [&](int64_t channel) {
    for (int64_t o = 0; o < g.outputs; o += kLanes<T>) {
      Vector<T> points[kPoints], taps[9];
      const int64_t at = channel * g.outputs + o;
      for (int p = 0; p < kPoints; ++p) points[p] = load(sums.get() + p * matrix + at);
      transform_both<Transposed<G>, T>(points, taps);
      for (int tap = 0; tap < 9; ++tap) store(to + tap * matrix + at, taps[tap]);
    }
  });
  return all_finite(&to, 1, 9 * matrix);
}

}  // namespace jaxcnn::winograd
