// Convolutions of one kernel for each channel: no sums over channels, so the work is done vector by vector of channels.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "gemm.h"
#include "geometry.h"
#include "parallel.h"
#include "simd.h"
#include "storage.h"

namespace jaxcnn::depthwise {

// Calls work(c) for vectors that cover all channels; the last one overlaps the one before it.
template <typename T, typename Work>
inline void for_each_vector(int64_t channels, const Work& work) {
  for (int64_t c = 0; c + kLanes<T> <= channels; c += kLanes<T>) work(c);
  if (channels % kLanes<T> != 0) work(channels - kLanes<T>);
}

// The pixels of a phase for which all taps find a pixel to read.
inline Inside inside_all(const Reads& reads, int64_t phase) {
  Inside all{0, reads.count(phase)};
  for (const auto& tap : reads.phases[phase]) {
    const Inside one = inside(reads, phase, tap);
    all = {std::max(all.start, one.start), std::min(all.stop, one.stop)};
  }
  return {all.start, std::max(all.start, all.stop)};
}

// Some rows of one vector of channels, with zeros around them, so that no tap has to look where the image ends.
template <typename T>
struct Window {
  const T* pixels;
  int64_t first_row;
  int64_t rows;
  int64_t columns;  // from column `lowest` on
  int64_t lowest;

  const T* at(int64_t row, int64_t column) const {
    return pixels + ((row - first_row) * columns + column - lowest) * kLanes<T>;
  }
};

struct RowTap {
  int64_t tap;
  int64_t row;
};

// One row of results of one phase and vector of channels.
template <typename T>
struct Row {
  const Window<T>& window;
  const std::vector<RowTap>& row_taps;
  const std::vector<Reads::Tap>& taps;
  int64_t step;
  const T* kernel;
  int64_t kernel_row;     // numbers from one row of the kernel to the next
  int64_t kernel_column;  // and from one tap to the next
  T* to;
  int64_t to_step;
};

// Sums up the taps for kPixels neighbouring pixels, from the n-th.
template <typename T, int kPixels>
inline void gather_pixels(const Row<T>& row, int64_t n) {
  Vector<T> sum[kPixels] = {};
  for (const RowTap& row_tap : row.row_taps) {
    for (const auto& tap : row.taps) {
      const Vector<T> weight = load(row.kernel + row_tap.tap * row.kernel_row + tap.tap * row.kernel_column);
      const T* from = row.window.at(row_tap.row, n * row.step + tap.offset);
      for (int i = 0; i < kPixels; ++i) sum[i] += weight * load(from + i * row.step * kLanes<T>);
    }
  }
  for (int i = 0; i < kPixels; ++i) store(row.to + (n + i) * row.to_step, sum[i]);
}

// The same where the taps of a row are kTaps neighbouring pixels: each pixel is read once for all of them.
template <typename T, int kPixels, int kTaps>
inline void gather_neighbours(const Row<T>& row, int64_t n) {
  const bool forward = kTaps == 1 || row.taps[1].offset > row.taps[0].offset;
  const auto& lowest = row.taps[forward ? 0 : kTaps - 1];
  const int64_t kernel_step = forward ? row.kernel_column : -row.kernel_column;
  Vector<T> sum[kPixels] = {};
  for (const RowTap& row_tap : row.row_taps) {
    const T* from = row.window.at(row_tap.row, n + lowest.offset);
    const T* kernel = row.kernel + row_tap.tap * row.kernel_row + lowest.tap * row.kernel_column;
    Vector<T> pixels[kPixels + kTaps - 1];
    for (int i = 0; i < kPixels + kTaps - 1; ++i) pixels[i] = load(from + i * kLanes<T>);
    for (int k = 0; k < kTaps; ++k) {
      const Vector<T> weight = load(kernel + k * kernel_step);
      for (int i = 0; i < kPixels; ++i) sum[i] += weight * pixels[i + k];
    }
  }
  for (int i = 0; i < kPixels; ++i) store(row.to + (n + i) * row.to_step, sum[i]);
}

inline constexpr int kMostNeighbours = 7;

// Whether the taps of a row are neighbours, and so few that the pixels under them fit into registers.
inline bool are_neighbours(const Reads& columns) {
  const auto& taps = columns.phases[0];
  if (columns.period != 1 || columns.step != 1 || taps.size() > kMostNeighbours) return false;
  return taps.size() < 2 || std::abs(taps[1].offset - taps[0].offset) == 1;
}

// Calls work(constant size, n) for blocks of 8, 4, 2 and 1 that cover [0, count); the last one may overlap.
template <typename Work>
inline void for_each_block(int64_t count, const Work& work) {
  int64_t n = 0;
  for (; n + 8 <= count; n += 8) work(std::integral_constant<int, 8>{}, n);
  if (n == count) return;
  if (count >= 8) return work(std::integral_constant<int, 8>{}, count - 8);
  if (n + 4 <= count) work(std::integral_constant<int, 4>{}, n), n += 4;
  if (n + 2 <= count) work(std::integral_constant<int, 2>{}, n), n += 2;
  if (n < count) work(std::integral_constant<int, 1>{}, n);
}

// Writes each pixel of `to` as the sum over its taps of a pixel of `from` times the tap's numbers.
template <typename S, typename T = Wide<S>>
void gather(const Geometry& g, const Reads& rows, const Reads& columns, const S* from, const T* kernel, S* to,
            Workers& workers) {
  const int64_t channels = g.channels;
  const bool neighbours = are_neighbours(columns);
  int64_t lowest = 0, highest = columns.from_size - 1;
  for (int64_t phase = 0; phase < columns.period; ++phase) {
    for (const auto& tap : columns.phases[phase]) {
      lowest = std::min(lowest, tap.offset);
      highest = std::max(highest, (columns.count(phase) - 1) * columns.step + tap.offset);
    }
  }
  const int64_t width = highest - lowest + 1, line_bytes = width * kVectorBytes;
  // So many rows at a time that what they read stays in the first cache.
  const int64_t reach = (g.rows.taps - 1) * g.rows.dilation / rows.period + 1;
  const int64_t most_rows = std::max<int64_t>(2, (24 << 10) / line_bytes - reach) / rows.step * rows.period;
  const int64_t at_once = std::clamp<int64_t>(most_rows, 1, rows.to_size), blocks = ceil_div(rows.to_size, at_once);
  workers.for_each(g.images * blocks, [&](int64_t item) {
    const int64_t image = item / blocks, start = item % blocks * at_once;
    const int64_t stop = std::min(start + at_once, rows.to_size);
    std::vector<std::vector<RowTap>> row_taps(stop - start);
    int64_t first_row = rows.from_size, last_row = -1;
    for (int64_t to_row = start; to_row < stop; ++to_row) {
      for (const auto& tap : rows.phases[to_row % rows.period]) {
        const int64_t row = rows.source(to_row / rows.period, tap);
        if (row < 0) continue;
        row_taps[to_row - start].push_back({tap.tap, row});
        first_row = std::min(first_row, row);
        last_row = std::max(last_row, row);
      }
    }
    const int64_t read = std::max<int64_t>(0, last_row - first_row + 1);
    Buffer<T> pixels(read * width * kLanes<T>);
    std::fill_n(pixels.get(), read * width * kLanes<T>, T(0));
    const Window<T> window{pixels.get(), first_row, read, width, lowest};
    // A row of results before it is rounded.
    Buffer<T> results(kIsHalf<S> ? columns.to_size * kLanes<T> : 0);
    for_each_vector<T>(channels, [&](int64_t c) {
      for (int64_t row = 0; row < read; ++row) {
        const S* line = from + (image * rows.from_size + first_row + row) * columns.from_size * channels + c;
        T* place = pixels.get() + (row * width - lowest) * kLanes<T>;
        for (int64_t i = 0; i < columns.from_size; ++i) store(place + i * kLanes<T>, load_wide(line + i * channels));
      }
      for (int64_t to_row = start; to_row < stop; ++to_row) {
        S* to_line = to + (image * rows.to_size + to_row) * columns.to_size * channels + c;
        T* results_line;
        int64_t results_step;
        if constexpr (kIsHalf<S>) {
          results_line = results.get();
          results_step = kLanes<T>;
        } else {
          results_line = to_line;
          results_step = channels;
        }
        for (int64_t phase = 0; phase < columns.period; ++phase) {
          const Row<T> row{window,
                           row_taps[to_row - start],
                           columns.phases[phase],
                           columns.step,
                           kernel + c,
                           g.columns.taps * channels,
                           channels,
                           results_line + phase * results_step,
                           columns.period * results_step};
          for_each_block(columns.count(phase), [&](auto size, int64_t n) {
            if (!neighbours) return gather_pixels<T, size>(row, n);
            with_constant<kMostNeighbours>(static_cast<int>(row.taps.size()),
                                           [&](auto taps) { gather_neighbours<T, size, taps>(row, n); });
          });
        }
        if constexpr (kIsHalf<S>)
          for (int64_t i = 0; i < columns.to_size; ++i)
            store_rounded(to_line + i * channels, load(results.get() + i * kLanes<T>));
      }
    });
  });
}

// Adds, for kTaps neighbouring taps of a kernel's row, the products of the pixels of a row of dy with those of x.
template <typename T, int kTaps>
inline void accumulate_row(const Reads& columns, const Reads::Tap* taps, const T* x, const T* dy, int64_t channels,
                           Inside free, Vector<T>* sum) {
  Vector<T> total[kTaps];
  for (int k = 0; k < kTaps; ++k) total[k] = sum[k];
  const int64_t step = columns.step * channels, count = columns.count(0);
  auto border = [&](int64_t n) {
    for (int k = 0; k < kTaps; ++k) {
      const int64_t column = columns.source(n, taps[k]);
      if (column >= 0) total[k] += load(dy + n * channels) * load(x + column * channels);
    }
  };
  for (int64_t n = 0; n < std::min(free.start, count); ++n) border(n);
  const T* from[kTaps];
  for (int k = 0; k < kTaps; ++k) from[k] = x + taps[k].offset * channels;
  for (int64_t n = free.start; n < free.stop; ++n) {
    const Vector<T> gradient = load(dy + n * channels);
    for (int k = 0; k < kTaps; ++k) total[k] += gradient * load(from[k] + n * step);
  }
  for (int64_t n = std::max(free.start, free.stop); n < count; ++n) border(n);
  for (int k = 0; k < kTaps; ++k) sum[k] = total[k];
}

// Copies one vector of channels of some pixels from storage, (pixels, lanes).
template <typename S, typename T = Wide<S>>
inline void copy_rows(const S* from, int64_t pixels, int64_t channels, T* to) {
  for (int64_t i = 0; i < pixels; ++i) store(to + i * kLanes<T>, load_wide(from + i * channels));
}

// Computes the gradient of the kernel, (taps, 1, channels).
template <typename S, typename T = Wide<S>>
void kernel_gradient(const Geometry& g, const S* x, const S* dy, T* to, Workers& workers) {
  constexpr int kMostTaps = 8;
  const int64_t channels = g.channels, size = g.taps() * channels, all_rows = g.images * g.rows.out_size;
  const Reads rows = Reads::forward(g.rows), columns = Reads::forward(g.columns);
  const Inside free = inside_all(columns, 0);
  const auto& column_taps = columns.phases[0];
  const int64_t row_bytes = (g.columns.out_size + g.columns.size * g.rows.stride) * channels * sizeof(T);
  const int64_t chunk = std::max<int64_t>(1, (256 << 10) / std::max<int64_t>(row_bytes, 1));
  const int64_t parts = parts_of(ceil_div(all_rows, chunk), size);
  Buffer<T> sums(parts * size);
  workers.for_each(parts, [&](int64_t part) {
    T* total = sums.get() + part * size;
    std::fill_n(total, size, T(0));
    // The last vector overlaps its neighbour: what both have is added up twice, apart, and stored once.
    std::vector<T> last(g.taps() * kLanes<T>, T(0));
    const int64_t begin = all_rows * part / parts, end = all_rows * (part + 1) / parts;
    for (int64_t start = begin; start < end; start += chunk) {
      const int64_t stop = std::min(start + chunk, end);
      // The rows of x that are read, of all images one after the other: from the first to the last of them.
      int64_t lowest = g.images * g.rows.size, highest = 0;
      for (int64_t row = start; kIsHalf<S> && row < stop; ++row) {
        for (const auto& row_tap : rows.phases[0]) {
          const int64_t from_row = rows.source(row % g.rows.out_size, row_tap);
          if (from_row < 0) continue;
          lowest = std::min(lowest, row / g.rows.out_size * g.rows.size + from_row);
          highest = std::max(highest, row / g.rows.out_size * g.rows.size + from_row + 1);
        }
      }
      const int64_t read = std::max<int64_t>(0, highest - lowest) * g.columns.size;
      const int64_t written = (stop - start) * g.columns.out_size;
      Buffer<T> pixels(kIsHalf<S> ? read * kLanes<T> : 0), gradients(kIsHalf<S> ? written * kLanes<T> : 0);
      for_each_vector<T>(channels, [&](int64_t c) {
        const T *from_line, *gradient_line;
        int64_t step;
        if constexpr (kIsHalf<S>) {
          if (read > 0) copy_rows(x + lowest * g.columns.size * channels + c, read, channels, pixels.get());
          copy_rows(dy + start * g.columns.out_size * channels + c, written, channels, gradients.get());
          step = kLanes<T>;
          from_line = pixels.get() - lowest * g.columns.size * step;
          gradient_line = gradients.get() - start * g.columns.out_size * step;
        } else {
          step = channels;
          from_line = x + c;
          gradient_line = dy + c;
        }
        const bool overlaps = c % kLanes<T> != 0;
        for (const auto& row_tap : rows.phases[0]) {
          for (int64_t first = 0; first < g.columns.taps; first += kMostTaps) {
            const int count = static_cast<int>(std::min<int64_t>(kMostTaps, g.columns.taps - first));
            const int64_t tap = row_tap.tap * g.columns.taps + first;
            T* place = overlaps ? last.data() + tap * kLanes<T> : total + tap * channels + c;
            const int64_t place_step = overlaps ? kLanes<T> : channels;
            Vector<T> sum[kMostTaps];
            for (int k = 0; k < count; ++k) sum[k] = load(place + k * place_step);
            with_constant<kMostTaps>(count, [&](auto taps) {
              for (int64_t row = start; row < stop; ++row) {
                const int64_t image = row / g.rows.out_size, from_row = rows.source(row % g.rows.out_size, row_tap);
                if (from_row < 0) continue;
                accumulate_row<T, taps>(columns, column_taps.data() + first,
                                        from_line + (image * g.rows.size + from_row) * g.columns.size * step,
                                        gradient_line + row * g.columns.out_size * step, step, free, sum);
              }
            });
            for (int k = 0; k < count; ++k) store(place + k * place_step, sum[k]);
          }
        }
      });
    }
    if (channels % kLanes<T> != 0)
      for (int64_t tap = 0; tap < g.taps(); ++tap)
        std::copy_n(last.data() + tap * kLanes<T>, kLanes<T>, total + (tap + 1) * channels - kLanes<T>);
  });
  add_parts(sums.get(), parts, size, to, workers);
}

}  // namespace jaxcnn::depthwise
