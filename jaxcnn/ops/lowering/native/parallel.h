// A parallel loop on the thread pool that XLA lends to a call.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <unordered_map>

#include "simd.h"
#include "xla/ffi/api/ffi.h"

namespace jaxcnn {

// Large blocks that buffers have given back. A fresh block costs a page fault for every 4 KiB, which takes longer than the
// arithmetic of a small convolution; so the next buffer takes one of these.
class Spares {
 public:
  static Spares& get() {
    static Spares* spares = new Spares;  // never destroyed: threads may outlive the statics
    return *spares;
  }

  void* take(size_t bytes) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      auto found = blocks_.lower_bound(bytes);
      if (found != blocks_.end() && found->first <= 2 * bytes) {
        void* block = found->second;
        kept_ -= found->first;
        sizes_[block] = found->first;
        blocks_.erase(found);
        return block;
      }
    }
    void* block = std::aligned_alloc(kAlignment, bytes);
    if (block == nullptr) throw std::bad_alloc();
    std::lock_guard<std::mutex> lock(mutex_);
    sizes_[block] = bytes;
    return block;
  }

  void give_back(void* block) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto size = sizes_.find(block);
    blocks_.emplace(size->second, block);
    kept_ += size->second;
    sizes_.erase(size);
    while (kept_ > kMostKept) {
      auto smallest = blocks_.begin();
      kept_ -= smallest->first;
      std::free(smallest->second);
      blocks_.erase(smallest);
    }
  }

  static constexpr size_t kAlignment = 64;

 private:
  static constexpr size_t kMostKept = size_t{128} << 20;

  std::mutex mutex_;
  std::multimap<size_t, void*> blocks_;
  std::unordered_map<void*, size_t> sizes_;
  size_t kept_ = 0;
};

// Memory for one call, aligned to cache lines and not initialised.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t size)
      : data_(static_cast<T*>(Spares::get().take((static_cast<size_t>(size) * sizeof(T) / Spares::kAlignment + 1) *
                                                 Spares::kAlignment))) {}
  ~Buffer() { Spares::get().give_back(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* get() const { return data_; }

 private:
  T* data_;
};

class Workers {
 public:
  explicit Workers(xla::ffi::ThreadPool pool) : pool_(pool) {}

  // Threads that work at a time; for the sizes of items, never for what is added to what.
  int64_t count() const { return std::max<int64_t>(1, pool_.num_threads()); }

  // Calls work(i) for each i in [0, count), on the calling thread and on idle ones, and returns when all are done.
  //
  // The caller works too and waits only for items that a running thread has taken: a helper that starts late finds
  // none left. So a call on a thread of the pool itself cannot wait for ever.
  template <typename Work>
  void for_each(int64_t count, const Work& work) {
    int64_t helpers = std::min<int64_t>(pool_.num_threads(), count) - 1;
    if (helpers <= 0) {
      for (int64_t i = 0; i < count; ++i) work(i);
      return;
    }
    struct Progress {
      std::atomic<int64_t> next{0};
      std::atomic<int64_t> done{0};
      std::mutex mutex;
      std::exception_ptr error;
    };
    auto progress = std::make_shared<Progress>();
    // `work` lives until all items are done, and a helper touches it only while it holds one.
    auto run = [progress, count, &work] {
      for (int64_t i; (i = progress->next.fetch_add(1)) < count;) {
        try {
          work(i);
        } catch (...) {
          // Kept until nobody works any more: an exception must neither end a thread of the pool nor leave `work` in use.
          std::lock_guard<std::mutex> lock(progress->mutex);
          progress->error = std::current_exception();
        }
        progress->done.fetch_add(1, std::memory_order_release);
      }
    };
    for (int64_t i = 0; i < helpers; ++i) pool_.Schedule(std::function<void()>(run));
    run();
    while (progress->done.load(std::memory_order_acquire) < count) std::this_thread::yield();
    if (progress->error) std::rethrow_exception(progress->error);
  }

 private:
  xla::ffi::ThreadPool pool_;
};

// Splits a reduction over images into parts that do not depend on the number of threads, so that neither do the sums.
inline int64_t parts_of(int64_t images, int64_t values) {
  constexpr int64_t kMostParts = 8, kMostValues = 1 << 21;
  return std::max<int64_t>(1, std::min({kMostParts, images, kMostValues / std::max<int64_t>(values, 1)}));
}

// Adds parts of equal size, in order.
template <typename T>
void add_parts(const T* parts, int64_t count, int64_t size, T* to, Workers& workers) {
  constexpr int64_t kPiece = 4096;
  workers.for_each(ceil_div(size, kPiece), [&](int64_t piece) {
    const int64_t stop = std::min(size, (piece + 1) * kPiece);
    for (int64_t i = piece * kPiece; i < stop; ++i) {
      T sum = parts[i];
      for (int64_t part = 1; part < count; ++part) sum += parts[part * size + i];
      to[i] = sum;
    }
  });
}

}  // namespace jaxcnn
