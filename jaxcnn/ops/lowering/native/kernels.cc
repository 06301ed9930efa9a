// The handlers that XLA calls.
#include <cstdint>
#include <exception>
#include <stdexcept>
#include <string>

#include "dense.h"
#include "depthwise.h"
#include "geometry.h"
#include "moments.h"
#include "pages.h"
#include "parallel.h"
#include "storage.h"
#include "winograd.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace jaxcnn {
namespace {

using Numbers = ffi::Span<const int64_t>;

Axis axis(ffi::Span<const int64_t> image, ffi::Span<const int64_t> result, ffi::Span<const int64_t> kernel, int i,
          Numbers strides, Numbers before, Numbers dilation) {
  return {image[i + 1], result[i + 1], kernel[i], strides[i], before[i], dilation[i]};
}

// Images, kernel and results are (batch, height, width, channels) and (height, width, channels / groups, outputs).
Geometry geometry(const ffi::AnyBuffer& image, const ffi::AnyBuffer& result, const ffi::AnyBuffer& kernel,
                  Numbers strides, Numbers before, Numbers dilation, int64_t groups) {
  auto i = image.dimensions(), r = result.dimensions(), k = kernel.dimensions();
  return {i[0],
          i[3],
          r[3],
          groups,
          axis(i, r, k, 0, strides, before, dilation),
          axis(i, r, k, 1, strides, before, dilation),
          i[3]};
}

template <typename T>
struct Type {
  using type = T;
};

// Runs the work for the dtype of a buffer, and turns exceptions into errors of the program.
template <typename Work>
ffi::Error in_dtype(ffi::DataType dtype, const Work& work) {
  try {
    switch (dtype) {
      case ffi::F32:
        work(Type<float>{});
        return ffi::Error::Success();
      case ffi::F64:
        work(Type<double>{});
        return ffi::Error::Success();
      case ffi::BF16:
        work(Type<BFloat16>{});
        return ffi::Error::Success();
      case ffi::F16:
        if constexpr (kReadsFloat16) {
          work(Type<Float16>{});
          return ffi::Error::Success();
        }
        [[fallthrough]];
      default:
        return ffi::Error::InvalidArgument("expected a floating-point dtype that the kernels read");
    }
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("jaxcnn: ") + error.what());
  }
}

// The numbers of a buffer. XLA has no C++ types for those of 16 bits.
template <typename S>
S* data(const ffi::AnyBuffer& buffer) {
  return static_cast<S*>(buffer.untyped_data());
}

// How to compute; the Python side chooses.
enum class Algorithm : int64_t { kDirect = 0, kDepthwise = 1, kWinograd = 2 };

template <typename T>
void check(Algorithm algorithm, const Geometry& g) {
  auto small = [](const Axis& axis) { return axis.taps == 3 && axis.stride == 1 && axis.dilation == 1; };
  const bool one_each = g.groups == g.channels && g.outputs == g.channels && g.channels >= kLanes<T>;
  const bool whole = g.groups == 1 && g.channels % kLanes<T> == 0 && g.outputs % kLanes<T> == 0;
  if (algorithm == Algorithm::kDepthwise && !one_each) throw std::invalid_argument("not a depthwise kernel");
  if (algorithm == Algorithm::kWinograd && !(whole && small(g.rows) && small(g.columns)))
    throw std::invalid_argument("not a kernel for Winograd's algorithm");
}

ffi::Error run_convolve(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer kernel, ffi::Result<ffi::AnyBuffer> y,
                        Numbers strides, Numbers before, Numbers dilation, int64_t groups, int64_t algorithm) {
  return in_dtype(x.element_type(), [&](auto type) {
    using S = typename decltype(type)::type;
    using T = Wide<S>;
    Workers workers(pool);
    const Geometry g = geometry(x, *y, kernel, strides, before, dilation, groups);
    const S* image = data<S>(x);
    const Widened<S> wide_kernel(data<S>(kernel), kernel.element_count(), workers);
    const T* numbers = wide_kernel.get();
    S* to = data<S>(*y);
    prefer_large_pages(to, y->size_bytes());
    check<T>(Algorithm(algorithm), g);
    switch (Algorithm(algorithm)) {
      case Algorithm::kDepthwise:
        return depthwise::gather<S>(g, Reads::forward(g.rows), Reads::forward(g.columns), image, numbers, to, workers);
      case Algorithm::kWinograd:
        if (winograd::suits(g, numbers)) return winograd::convolve<S>(g, image, numbers, to, workers);
        [[fallthrough]];
      case Algorithm::kDirect:
        return dense::convolve<S>(g, image, numbers, to, workers);
    }
  });
}

ffi::Error run_input_gradient(ffi::ThreadPool pool, ffi::AnyBuffer dy, ffi::AnyBuffer kernel,
                              ffi::Result<ffi::AnyBuffer> dx, Numbers strides, Numbers before, Numbers dilation,
                              int64_t groups, int64_t algorithm) {
  return in_dtype(dy.element_type(), [&](auto type) {
    using S = typename decltype(type)::type;
    using T = Wide<S>;
    Workers workers(pool);
    const Geometry g = geometry(*dx, dy, kernel, strides, before, dilation, groups);
    const S* gradient = data<S>(dy);
    const Widened<S> wide_kernel(data<S>(kernel), kernel.element_count(), workers);
    const T* numbers = wide_kernel.get();
    S* to = data<S>(*dx);
    prefer_large_pages(to, dx->size_bytes());
    check<T>(Algorithm(algorithm), g);
    switch (Algorithm(algorithm)) {
      case Algorithm::kDepthwise:
        // depthwise::gather multiplies the kernel by zeros beyond the outputs, which would make NaN.
        if (!all_finite(&numbers, 1, g.taps() * g.channels)) return dense::input_gradient<S>(g, gradient, numbers, to, workers);
        return depthwise::gather<S>(g, Reads::transposed(g.rows), Reads::transposed(g.columns), gradient, numbers, to,
                                    workers);
      case Algorithm::kWinograd:
        if (winograd::suits(g, numbers)) return winograd::input_gradient<S>(g, gradient, numbers, to, workers);
        [[fallthrough]];
      case Algorithm::kDirect:
        return dense::input_gradient<S>(g, gradient, numbers, to, workers);
    }
  });
}

ffi::Error run_kernel_gradient(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer dy,
                               ffi::Result<ffi::AnyBuffer> dk, Numbers strides, Numbers before, Numbers dilation,
                               int64_t groups, int64_t algorithm) {
  return in_dtype(x.element_type(), [&](auto type) {
    using S = typename decltype(type)::type;
    using T = Wide<S>;
    Workers workers(pool);
    const Geometry g = geometry(x, dy, *dk, strides, before, dilation, groups);
    const S *image = data<S>(x), *gradient = data<S>(dy);
    T* to = dk->typed_data<T>();
    prefer_large_pages(to, dk->size_bytes());
    check<T>(Algorithm(algorithm), g);
    switch (Algorithm(algorithm)) {
      case Algorithm::kDepthwise:
        return depthwise::kernel_gradient<S>(g, image, gradient, to, workers);
      case Algorithm::kWinograd:
        if (winograd::kernel_gradient<S>(g, image, gradient, to, workers)) return;
        [[fallthrough]];
      case Algorithm::kDirect:
        return dense::kernel_gradient<S>(g, image, gradient, to, workers);
    }
  });
}

// Values from one image's shift to the next: none where all share one.
int64_t shift_step(const ffi::AnyBuffer& shift) { return shift.dimensions()[0] == 1 ? 0 : shift.dimensions()[1]; }

ffi::Error run_moments(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer y, ffi::AnyBuffer shift,
                       ffi::Result<ffi::AnyBuffer> first, ffi::Result<ffi::AnyBuffer> second) {
  return in_dtype(x.element_type(), [&](auto type) {
    using S = typename decltype(type)::type;
    using T = Wide<S>;
    Workers workers(pool);
    const auto size = x.dimensions();
    moments<S>(size[0], size[1], size[2], data<S>(x), data<S>(y), shift.typed_data<T>(),
               shift_step(shift), first->typed_data<T>(), second->typed_data<T>(), workers);
  });
}

ffi::Error run_own_moments(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer shift,
                           ffi::Result<ffi::AnyBuffer> mean, ffi::Result<ffi::AnyBuffer> squares) {
  return in_dtype(x.element_type(), [&](auto type) {
    using S = typename decltype(type)::type;
    using T = Wide<S>;
    Workers workers(pool);
    const auto size = x.dimensions();
    own_moments<S>(size[0], size[1], size[2], data<S>(x), shift.typed_data<T>(), shift_step(shift),
                   mean->typed_data<T>(), squares->typed_data<T>(), workers);
  });
}

auto binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<ffi::AnyBuffer>()
      .Arg<ffi::AnyBuffer>()
      .Ret<ffi::AnyBuffer>()
      .Attr<Numbers>("strides")
      .Attr<Numbers>("before")
      .Attr<Numbers>("dilation")
      .Attr<int64_t>("groups")
      .Attr<int64_t>("algorithm");
}

}  // namespace
}  // namespace jaxcnn

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_convolve, jaxcnn::run_convolve, jaxcnn::binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_input_gradient, jaxcnn::run_input_gradient, jaxcnn::binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_kernel_gradient, jaxcnn::run_kernel_gradient, jaxcnn::binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_moments, jaxcnn::run_moments,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_own_moments, jaxcnn::run_own_moments,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>());

// Whether the library computes with float16; it always does with bfloat16.
extern "C" const bool jaxcnn_reads_float16 = jaxcnn::kReadsFloat16;
