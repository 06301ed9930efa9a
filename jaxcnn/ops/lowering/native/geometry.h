// Which pixels a convolution, or its transpose, reads for each pixel it writes.
#pragma once

#include <cstdint>
#include <vector>

#include "simd.h"

namespace jaxcnn {

struct Axis {
  int64_t size;      // pixels of the image
  int64_t out_size;  // pixels of the result
  int64_t taps;      // of the kernel
  int64_t stride;
  int64_t before;  // zeros before the first pixel
  int64_t dilation;
};

struct Geometry {
  int64_t images;
  int64_t channels;  // of an image, all groups together
  int64_t outputs;   // channels of the result, all groups together
  int64_t groups;
  Axis rows;
  Axis columns;
  int64_t pixel;  // values from one pixel of an image to the next

  int64_t taps() const { return rows.taps * columns.taps; }
  int64_t group_channels() const { return channels / groups; }
  int64_t group_outputs() const { return outputs / groups; }
};

// Along one axis: a written pixel `o` of phase o % period reads, for each of the phase's taps, the pixel
// o / period * step + offset, if there is one.
//
// A convolution has one phase and steps by its stride; its transpose has as many phases as the stride and steps by one.
struct Reads {
  struct Tap {
    int64_t tap;
    int64_t offset;
  };

  int64_t period;
  int64_t step;
  int64_t from_size;
  int64_t to_size;
  std::vector<std::vector<Tap>> phases;

  static Reads forward(const Axis& axis) {
    Reads reads{1, axis.stride, axis.size, axis.out_size, {{}}};
    for (int64_t tap = 0; tap < axis.taps; ++tap) reads.phases[0].push_back({tap, tap * axis.dilation - axis.before});
    return reads;
  }

  static Reads transposed(const Axis& axis) {
    Reads reads{axis.stride, 1, axis.out_size, axis.size, std::vector<std::vector<Tap>>(axis.stride)};
    for (int64_t phase = 0; phase < axis.stride; ++phase) {
      for (int64_t tap = 0; tap < axis.taps; ++tap) {
        int64_t distance = phase + axis.before - tap * axis.dilation;
        if (distance % axis.stride == 0) reads.phases[phase].push_back({tap, distance / axis.stride});
      }
    }
    return reads;
  }

  // Number of written pixels of a phase.
  int64_t count(int64_t phase) const { return phase < to_size ? ceil_div(to_size - phase, period) : 0; }

  // The pixel that the n-th written pixel of a phase reads, or -1.
  int64_t source(int64_t n, const Tap& tap) const {
    int64_t at = n * step + tap.offset;
    return at >= 0 && at < from_size ? at : -1;
  }
};

// The written pixels [start, stop) of an axis, of one phase, that find a pixel to read for a tap.
struct Inside {
  int64_t start;
  int64_t stop;
};

inline Inside inside(const Reads& reads, int64_t phase, const Reads::Tap& tap) {
  int64_t start = tap.offset < 0 ? ceil_div(-tap.offset, reads.step) : 0;
  int64_t last = reads.from_size - 1 - tap.offset;
  int64_t stop = last < 0 ? 0 : last / reads.step + 1;
  stop = stop < reads.count(phase) ? stop : reads.count(phase);
  return {start, stop < start ? start : stop};
}

}  // namespace jaxcnn
