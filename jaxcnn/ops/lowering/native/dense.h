// Convolutions of dense and grouped kernels as matrix products whose rows are read in place.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "gemm.h"
#include "geometry.h"
#include "parallel.h"
#include "plain.h"
#include "storage.h"

namespace jaxcnn::dense {

// The most pixels that an item of work writes: their inputs fit into the first caches, and a panel of the kernel is read
// once for all of them.
inline constexpr int64_t kPixels = 120;

// Pixels of an item so that all threads get the same number of items of the same size, in whole blocks of rows.
inline int64_t pixels_of_item(int64_t pixels, int64_t threads) {
  constexpr int64_t kRows = rows_of_block(kPanelVectors);
  int64_t items = ceil_div(pixels, kPixels);
  if (items < 8 * threads) items = ceil_div(items, threads) * threads;
  return std::min(kPixels, ceil_div(ceil_div(pixels, items), kRows) * kRows);
}

// Brings one tap of a panel into the form that it is multiplied in, [channel][vectors * lanes], or with channels and outputs
// exchanged.
template <typename T>
void pack_panel(const Geometry& g, const T* kernel, bool exchanged, int64_t group, int64_t tap, const Panel& panel, T* to) {
  const int64_t channels = g.group_channels(), outputs = g.group_outputs(), wide = panel.vectors * kLanes<T>;
  const T* from = kernel + tap * channels * g.outputs + group * outputs;
  if (exchanged) {
    // In square blocks, so that neither side is walked across far apart lines for long.
    for (int64_t start = 0; start < outputs; start += 16) {
      const int64_t stop = std::min(start + 16, outputs);
      for (int64_t j = 0; j < wide; ++j)
        for (int64_t k = start; k < stop; ++k)
          to[k * wide + j] = j < panel.width ? from[(panel.start + j) * g.outputs + k] : T(0);
    }
    return;
  }
  for (int64_t k = 0; k < channels; ++k) {
    std::copy_n(from + k * g.outputs + panel.start, panel.width, to + k * wide);
    std::fill_n(to + k * wide + panel.width, wide - panel.width, T(0));
  }
}

// The pixels that one phase of a convolution, or of its transpose, writes, and the taps that it reads for them.
template <typename S>
struct Phase {
  const Reads& rows;
  const Reads& columns;
  int64_t row_phase;
  int64_t column_phase;
  int64_t row_count;
  int64_t column_count;
  int64_t pixels;
  std::vector<int32_t> taps;  // of the kernel

  Phase(const Geometry& g, const Reads& rows, const Reads& columns, int64_t row_phase, int64_t column_phase)
      : rows(rows),
        columns(columns),
        row_phase(row_phase),
        column_phase(column_phase),
        row_count(rows.count(row_phase)),
        column_count(columns.count(column_phase)),
        pixels(g.images * row_count * column_count) {
    for (const auto& row : rows.phases[row_phase])
      for (const auto& column : columns.phases[column_phase]) taps.push_back(row.tap * g.columns.taps + column.tap);
  }

  int64_t terms() const { return static_cast<int64_t>(taps.size()); }

  // Finds where some pixels are written, and what each tap reads for them: [tap][stride], zeros outside of the image.
  void locate(int64_t start, int64_t count, const S* from, int64_t from_stride, const S* zeros, const S** sources,
              int64_t stride, S* to, int64_t to_stride, S** targets) const {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t pixel = start + i, column = pixel % column_count;
      const int64_t row = pixel / column_count % row_count, image = pixel / column_count / row_count;
      const int64_t to_row = row * rows.period + row_phase, to_column = column * columns.period + column_phase;
      targets[i] = to + ((image * rows.to_size + to_row) * columns.to_size + to_column) * to_stride;
      int64_t t = 0;
      for (const auto& row_tap : rows.phases[row_phase]) {
        const int64_t from_row = rows.source(row, row_tap);
        for (const auto& column_tap : columns.phases[column_phase]) {
          const int64_t from_column = columns.source(column, column_tap);
          const int64_t at = (image * rows.from_size + from_row) * columns.from_size + from_column;
          sources[t++ * stride + i] = from_row < 0 || from_column < 0 ? zeros : from + at * from_stride;
        }
      }
    }
  }
};

// What an item of work reads and writes, in the type that it computes in. Numbers of 16 bits are converted here, for one item
// at a time, so that they stay in a cache and are converted once for all taps and panels; others are used in place.
template <typename S, typename T = Wide<S>>
class Desk {
 public:
  // `sources` are (terms, stride), of which the first `count` of each term are read: `depth` numbers each, or S zeros.
  // Results have `width` numbers.
  Desk(const S** sources, int64_t terms, int64_t stride, int64_t count, int64_t depth, const S* zeros,
       const T* wide_zeros, S** targets, int64_t width)
      : count_(count), width_(width), targets_(targets) {
    if constexpr (!kIsHalf<S>) {
      sources_ = sources;
      results_ = targets;
    } else {
      places_.assign(terms * stride, wide_zeros);
      const S *lowest = nullptr, *highest = nullptr;
      for (int64_t t = 0; t < terms; ++t) {
        for (int64_t i = 0; i < count; ++i) {
          const S* source = sources[t * stride + i];
          if (source == zeros) continue;
          if (lowest == nullptr || source < lowest) lowest = source;
          if (highest == nullptr || source > highest) highest = source;
        }
      }
      // Neighbouring pixels share what their taps read: then all from the first to the last pixel are converted, once.
      const int64_t spanned = lowest == nullptr ? 0 : highest - lowest + depth;
      const bool together = spanned <= terms * count * depth;
      pixels_ = std::make_unique<Buffer<T>>((together ? spanned : terms * count * depth) + count * width);
      T* to = pixels_->get();
      wide_results_.resize(count);
      for (int64_t i = 0; i < count; ++i, to += width) wide_results_[i] = to;
      if (together && lowest != nullptr) widen(lowest, spanned, to);
      for (int64_t t = 0; t < terms; ++t) {
        for (int64_t i = 0; i < count; ++i) {
          const S* source = sources[t * stride + i];
          if (source == zeros) continue;
          if (together) {
            places_[t * stride + i] = to + (source - lowest);
          } else {
            T* place = to + (t * count + i) * depth;
            widen(source, depth, place);
            places_[t * stride + i] = place;
          }
        }
      }
      sources_ = places_.data();
      results_ = wide_results_.data();
    }
  }

  const T* const* sources() const { return sources_; }
  T* const* results() const { return results_; }

  // Writes the results to memory.
  void store() const {
    if constexpr (kIsHalf<S>)
      for (int64_t i = 0; i < count_; ++i) round_to(results_[i], width_, targets_[i]);
  }

 private:
  int64_t count_, width_;
  S** targets_;
  const T* const* sources_;
  T* const* results_;
  std::vector<const T*> places_;
  std::vector<T*> wide_results_;
  std::unique_ptr<Buffer<T>> pixels_;
};

// Writes each pixel of `to` as the sum over its taps of a pixel of `from` times the tap's matrix: a convolution where
// `rows` and `columns` are forward reads, its transpose where they are transposed and the kernel is exchanged.
//
// Many pixels are split between the threads, and the kernel is packed once for all of them. Where there are few, packing
// would take as long as the products: then the panels are split, and each is packed by the thread that multiplies it.
//
// `plain`, if given, recomputes the pixels of an item with a result that is not finite.
template <typename S, typename T = Wide<S>>
void gather(const Geometry& g, const Reads& rows, const Reads& columns, const S* from, const T* kernel, bool exchanged,
            S* to, Workers& workers, PlainSums<T>* plain = nullptr) {
  constexpr int64_t kFewPixels = 256;
  const int64_t depth = exchanged ? g.group_outputs() : g.group_channels();
  const int64_t width = exchanged ? g.group_channels() : g.group_outputs();
  const int64_t from_stride = exchanged ? g.outputs : g.pixel, to_stride = width * g.groups;
  const auto panels = panels_of<T>(width);
  const int64_t panel_count = static_cast<int64_t>(panels.size());
  const std::vector<S> zeros(depth * g.groups, S{});
  const std::vector<T> wide_zeros(kIsHalf<S> ? depth * g.groups : 0, T(0));
  const T* no_pixel;
  if constexpr (kIsHalf<S>)
    no_pixel = wide_zeros.data();
  else
    no_pixel = zeros.data();
  for (int64_t row_phase = 0; row_phase < rows.period; ++row_phase) {
    for (int64_t column_phase = 0; column_phase < columns.period; ++column_phase) {
      const Phase<S> phase(g, rows, columns, row_phase, column_phase);
      const int64_t pixels = phase.pixels, terms = phase.terms(), group_size = packed_size<T>(terms * depth, width);
      if (pixels == 0) continue;
      auto pack = [&](int64_t group, int64_t term, const Panel& panel, T* to) {
        pack_panel<T>(g, kernel, exchanged, group, phase.taps[term], panel,
                      to + term * depth * panel.vectors * kLanes<T>);
      };
      auto multiply = [&](int64_t group, const Panel& panel, const T* packed, int64_t count, const T* const* sources,
                          int64_t stride, T* const* targets, T** panel_targets) {
        for (int64_t i = 0; i < count; ++i) panel_targets[i] = targets[i] + group * width + panel.start;
        multiply_rows<T>(count, terms, depth, sources, stride, group * depth, packed, panel_targets, panel);
      };
      auto mend = [&](int64_t count, const T* const* sources, int64_t stride, T* const* targets) {
        if (plain == nullptr || all_finite(targets, count, to_stride)) return;
        for (int64_t i = 0; i < count; ++i) plain->write(sources + i, stride, phase.taps, terms, no_pixel, targets[i]);
      };
      if (pixels <= kFewPixels) {
        std::vector<const S*> sources(terms * pixels);
        std::vector<S*> targets(pixels);
        phase.locate(0, pixels, from, from_stride, zeros.data(), sources.data(), pixels, to, to_stride, targets.data());
        const Desk<S> desk(sources.data(), terms, pixels, pixels, depth * g.groups, zeros.data(), no_pixel,
                           targets.data(), to_stride);
        workers.for_each(g.groups * panel_count, [&](int64_t item) {
          const Panel& panel = panels[item % panel_count];
          const int64_t group = item / panel_count;
          Buffer<T> packed(terms * depth * panel.vectors * kLanes<T>);
          for (int64_t term = 0; term < terms; ++term) pack(group, term, panel, packed.get());
          T* panel_targets[kFewPixels];
          multiply(group, panel, packed.get(), pixels, desk.sources(), pixels, desk.results(), panel_targets);
        });
        mend(pixels, desk.sources(), pixels, desk.results());
        desk.store();
        continue;
      }
      Buffer<T> packed(g.groups * group_size);
      workers.for_each(g.groups * terms, [&](int64_t item) {
        const int64_t group = item / terms, term = item % terms;
        for (const Panel& panel : panels)
          pack(group, term, panel, packed.get() + group * group_size + packed_start<T>(terms * depth, panel));
      });
      const int64_t at_once = pixels_of_item(pixels, workers.count());
      workers.for_each(ceil_div(pixels, at_once), [&](int64_t item) {
        const int64_t start = item * at_once, count = std::min(at_once, pixels - start);
        std::vector<const S*> sources(terms * kPixels);
        S* targets[kPixels];
        T* panel_targets[kPixels];
        phase.locate(start, count, from, from_stride, zeros.data(), sources.data(), kPixels, to, to_stride, targets);
        const Desk<S> desk(sources.data(), terms, kPixels, count, depth * g.groups, zeros.data(), no_pixel, targets,
                           to_stride);
        for (int64_t group = 0; group < g.groups; ++group)
          for (const Panel& panel : panels)
            multiply(group, panel, packed.get() + group * group_size + packed_start<T>(terms * depth, panel), count,
                     desk.sources(), kPixels, desk.results(), panel_targets);
        mend(count, desk.sources(), kPixels, desk.results());
        desk.store();
      });
    }
  }
}

// Few channels leave little to do for each tap. The taps of a row that lie next to each other in memory, with their
// channels, are then one tap of so many channels; for that the borders have to be there.
inline bool merges(const Geometry& g) {
  constexpr int64_t kFewChannels = 8;
  return g.groups == 1 && g.channels <= kFewChannels && g.columns.taps > 1 && g.columns.dilation == 1;
}

inline Geometry merged(const Geometry& g) {
  Geometry m = g;
  m.rows.size = (g.rows.out_size - 1) * g.rows.stride + (g.rows.taps - 1) * g.rows.dilation + 1;
  m.columns.size = (g.columns.out_size - 1) * g.columns.stride + g.columns.taps;
  m.rows.before = m.columns.before = 0;
  m.columns.taps = 1;
  m.channels = g.columns.taps * g.channels;
  return m;
}

// Copies images with their borders of zeros, as `merged` wants them.
template <typename S>
void add_borders(const Geometry& g, const Geometry& m, const S* x, S* to, Workers& workers) {
  workers.for_each(g.images * m.rows.size, [&](int64_t item) {
    const int64_t image = item / m.rows.size, row = item % m.rows.size - g.rows.before;
    S* line = to + item * m.columns.size * g.channels;
    const int64_t first = std::clamp<int64_t>(g.columns.before, 0, m.columns.size);
    const int64_t skipped = std::max<int64_t>(0, -g.columns.before);
    const int64_t count =
        row < 0 || row >= g.rows.size ? 0 : std::clamp<int64_t>(g.columns.size - skipped, 0, m.columns.size - first);
    std::fill_n(line, first * g.channels, S{});
    std::copy_n(x + ((image * g.rows.size + std::max<int64_t>(row, 0)) * g.columns.size + skipped) * g.channels,
                count * g.channels, line + first * g.channels);
    std::fill_n(line + (first + count) * g.channels, (m.columns.size - first - count) * g.channels, S{});
  });
}

// Small groups leave vectors partly unused, so several form one kernel with zeros between them.
template <typename T>
int64_t bundled_groups(const Geometry& g) {
  if (g.groups == 1) return 1;
  int64_t together = std::max<int64_t>(1, kLanes<T> / std::min(g.group_channels(), g.group_outputs()));
  while (g.groups % together != 0) --together;
  return together;
}

inline Geometry in_bundles(const Geometry& g, int64_t together) {
  Geometry bundled = g;
  bundled.groups = g.groups / together;
  return bundled;
}

// Writes a kernel (taps, channels, outputs) as (taps, together * channels, outputs), with zeros between the groups.
template <typename T>
void bundle(const Geometry& g, int64_t together, const T* kernel, T* to, Workers& workers) {
  const int64_t channels = g.group_channels(), outputs = g.group_outputs();
  workers.for_each(g.taps() * together * channels, [&](int64_t item) {
    const int64_t tap = item / channels / together, member = item / channels % together, channel = item % channels;
    const T* from = kernel + (tap * channels + channel) * g.outputs;
    T* line = to + item * g.outputs;
    std::fill_n(line, g.outputs, T(0));
    for (int64_t group = member; group < g.groups; group += together)
      std::copy_n(from + group * outputs, outputs, line + group * outputs);
  });
}

// Undoes `bundle`: takes what belongs to each group.
template <typename T>
void unbundle(const Geometry& g, int64_t together, const T* bundled, T* to, Workers& workers) {
  const int64_t channels = g.group_channels(), outputs = g.group_outputs();
  workers.for_each(g.taps() * channels, [&](int64_t item) {
    const int64_t tap = item / channels, channel = item % channels;
    for (int64_t group = 0; group < g.groups; ++group) {
      const int64_t line = (tap * together + group % together) * channels + channel;
      std::copy_n(bundled + line * g.outputs + group * outputs, outputs, to + item * g.outputs + group * outputs);
    }
  });
}

// `gather` with groups in bundles.
template <typename S, typename T = Wide<S>>
void gather_bundles(const Geometry& g, const Reads& rows, const Reads& columns, const S* from, const T* kernel,
                    bool exchanged, S* to, Workers& workers) {
  const int64_t together = bundled_groups<T>(g), size = g.taps() * g.group_channels() * g.outputs;
  PlainSums<T> plain(g, kernel, exchanged);
  if (together == 1) {
    const bool plainly = exchanged && !all_finite(&kernel, 1, size);
    return gather<S>(g, rows, columns, from, kernel, exchanged, to, workers, plainly ? &plain : nullptr);
  }
  Buffer<T> bundled(together * size);
  bundle<T>(g, together, kernel, bundled.get(), workers);
  gather<S>(in_bundles(g, together), rows, columns, from, bundled.get(), exchanged, to, workers, &plain);
}

template <typename S, typename T = Wide<S>>
void convolve(const Geometry& g, const S* x, const T* kernel, S* to, Workers& workers) {
  if (merges(g)) {
    const Geometry m = merged(g);
    Buffer<S> bordered(g.images * m.rows.size * m.columns.size * g.channels);
    add_borders<S>(g, m, x, bordered.get(), workers);
    return convolve<S>(m, bordered.get(), kernel, to, workers);
  }
  gather_bundles<S>(g, Reads::forward(g.rows), Reads::forward(g.columns), x, kernel, false, to, workers);
}

template <typename S, typename T = Wide<S>>
void input_gradient(const Geometry& g, const S* dy, const T* kernel, S* to, Workers& workers) {
  gather_bundles<S>(g, Reads::transposed(g.rows), Reads::transposed(g.columns), dy, kernel, true, to, workers);
}

// Computes the gradient of a kernel whose groups are bundles, (taps, group channels, outputs).
template <typename S, typename T = Wide<S>>
void gradient_of_bundles(const Geometry& g, const S* x, const S* dy, T* to, Workers& workers) {
  const int64_t channels = g.group_channels(), outputs = g.group_outputs(), size = g.taps() * channels * g.outputs;
  const Reads rows = Reads::forward(g.rows), columns = Reads::forward(g.columns);
  const int64_t width = g.columns.out_size, pixels = g.images * g.rows.out_size * width;
  const int64_t parts = parts_of(ceil_div(pixels, kPackedRows), size);
  if (pixels == 0) {
    std::fill_n(to, size, T(0));
    return;
  }
  // With few parts the kernel is split as well: along its outputs, for which the images are packed once for each slab and
  // tap, or along its channels, for which the outputs are.
  constexpr int64_t kFewestInSlab = 48, kFewChannels = 32;
  const bool by_outputs = outputs > channels * g.taps();
  const int64_t long_side = by_outputs ? outputs : channels, unit = by_outputs ? kPanelWidth<T> : 1;
  const int64_t most_slabs = parts >= 4 ? 1 : std::clamp<int64_t>(long_side / kFewestInSlab, 1, 16);
  const int64_t slab = ceil_div(ceil_div(long_side, most_slabs), unit) * unit, slabs = ceil_div(long_side, slab);
  // As many channels at a time as the second cache holds, packed.
  const int64_t most_at_once = (192 << 10) / (kPackedRows * sizeof(T)) / 24 * 24;
  Buffer<T> sums(parts == 1 ? 0 : parts * size);
  T* totals = parts == 1 ? to : sums.get();
  workers.for_each(parts * slabs * g.groups, [&](int64_t item) {
    const int64_t part = item / (slabs * g.groups), group = item % g.groups;
    const int64_t slab_start = item / g.groups % slabs * slab, slab_stop = std::min(long_side, slab_start + slab);
    const int64_t first = by_outputs ? 0 : slab_start, last = by_outputs ? channels : slab_stop;
    const auto panels = panels_of<T>(by_outputs ? slab_stop - slab_start : outputs);
    const int64_t output = group * outputs + (by_outputs ? slab_start : 0);
    const int64_t at_once = std::min(last - first, most_at_once);
    T* total = totals + part * size;
    const int64_t begin = pixels * part / parts, end = pixels * (part + 1) / parts;
    const int64_t chunk = ceil_div(end - begin, ceil_div(end - begin, kPackedRows));
    // Few channels, as those of a group, are read in place: packing them would cost more than it saves, unless it has to
    // convert them. The runs, and with them the order of the sums, are the same.
    const bool few = channels <= kFewChannels, packs = kIsHalf<S> || !few;
    Buffer<T> left(packs ? left_size(at_once, left_width(panels)) : 0), right(right_size<T>(outputs));
    std::vector<Run<T>> runs;
    for (int64_t start = begin; start < end; start += chunk) {
      const int64_t stop = std::min(start + chunk, end);
      for (int64_t pixel = start; pixel < stop; ++pixel)
        pack_right<S>(dy + pixel * g.outputs + output, panels, pixel - start, right.get());
      with_left_width(panels, [&](auto left_width) {
        for (const auto& row_tap : rows.phases[0]) {
          for (const auto& column_tap : columns.phases[0]) {
            const Inside span = inside(columns, 0, column_tap);
            T* tap_total = total + (row_tap.tap * g.columns.taps + column_tap.tap) * channels * g.outputs + output;
            for (int64_t channel = first; channel < last; channel += at_once) {
              const int64_t count = std::min(at_once, last - channel);
              runs.clear();
              int64_t packed = 0;
              // Row by row of the results, the pixels that find one to read.
              for (int64_t row = start / width; row * width < stop; ++row) {
                const int64_t from_row = rows.source(row % g.rows.out_size, row_tap);
                const int64_t lowest = std::max(span.start, start - row * width);
                const int64_t highest = std::min(span.stop, stop - row * width);
                if (from_row < 0 || lowest >= highest) continue;
                const S* from = x + ((row / g.rows.out_size * g.rows.size + from_row) * g.columns.size +
                                     lowest * columns.step + column_tap.offset) * g.pixel + group * channels + channel;
                const int64_t place = row * width + lowest - start;
                if constexpr (!kIsHalf<S>) {
                  if (!packs) {
                    runs.push_back({from, place, highest - lowest});
                    continue;
                  }
                }
                if (!few && !runs.empty() && runs.back().start + runs.back().count == place) {
                  runs.back().count += highest - lowest;
                } else {
                  runs.push_back({left.get() + packed * left_width, place, highest - lowest});
                }
                for (int64_t column = lowest; column < highest; ++column, from += columns.step * g.pixel)
                  pack_left<S, left_width>(from, count, packed++, left.get());
              }
              const LeftSteps steps =
                  packs ? LeftSteps{left_width, kLeftStep} : LeftSteps{columns.step * g.pixel, left_width};
              accumulate<T, left_width>(runs.data(), static_cast<int64_t>(runs.size()), start == begin, steps, count,
                                        right.get(), panels, tap_total + channel * g.outputs, g.outputs);
            }
          }
        }
      });
    }
  });
  if (parts > 1) add_parts(sums.get(), parts, size, to, workers);
}

// Computes the gradient of the kernel, (taps, group channels, outputs).
template <typename S, typename T = Wide<S>>
void kernel_gradient(const Geometry& g, const S* x, const S* dy, T* to, Workers& workers) {
  if (merges(g)) {
    const Geometry m = merged(g);
    Buffer<S> bordered(g.images * m.rows.size * m.columns.size * g.channels);
    add_borders<S>(g, m, x, bordered.get(), workers);
    return kernel_gradient<S>(m, bordered.get(), dy, to, workers);
  }
  if (const int64_t together = bundled_groups<T>(g); together > 1) {
    Buffer<T> bundled(g.taps() * together * g.group_channels() * g.outputs);
    gradient_of_bundles<S>(in_bundles(g, together), x, dy, bundled.get(), workers);
    return unbundle<T>(g, together, bundled.get(), to, workers);
  }
  gradient_of_bundles<S>(g, x, dy, to, workers);
}

}  // namespace jaxcnn::dense
