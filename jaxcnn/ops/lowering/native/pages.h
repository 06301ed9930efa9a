// Large pages under the memory that XLA takes from the system.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace jaxcnn {

#if defined(MADV_HUGEPAGE)

// XLA takes fresh memory for every run of a program, one piece that holds all arrays but its results, and a first write to
// each 4 KiB of it interrupts the work: a tenth of a training step and more. So the first kernel of a run that writes
// into such a piece asks for large pages under all of it, also where XLA's own loops will write.
class Mappings {
 public:
  static Mappings& get() {
    static Mappings* mappings = new Mappings;  // never destroyed: threads may outlive the statics
    return *mappings;
  }

  // Asks for large pages under the mapping that holds these bytes. Only a hint: without an answer nothing changes.
  void prefer_large_pages(const void* data, size_t bytes) {
    const auto start = reinterpret_cast<uintptr_t>(data), stop = start + bytes;
    if (bytes < kLargePage) return;
    std::lock_guard<std::mutex> lock(mutex_);
    // The next run mostly gets the same place. Where it did not, part of the range is not mapped, and the hint fails;
    // a larger piece in its place is asked for in part.
    for (const Range& range : known_)
      if (range.start <= start && stop <= range.stop && advise(range)) return;
    const Range found = find(start);
    advise(found);
    known_[next_++ % known_.size()] = found;
  }

 private:
  struct Range {
    uintptr_t start = 0;
    uintptr_t stop = 0;
  };

  static constexpr size_t kLargePage = size_t{2} << 20;

  static bool advise(const Range& range) {
    return madvise(reinterpret_cast<void*>(range.start), range.stop - range.start, MADV_HUGEPAGE) == 0;
  }

  // Reads the mapping that holds an address from the system's list, a fraction of a millisecond; an empty one if none does.
  static Range find(uintptr_t address) {
    Range found;
    std::FILE* maps = std::fopen("/proc/self/maps", "r");
    if (maps == nullptr) return found;
    char* line = nullptr;
    size_t size = 0;
    while (getline(&line, &size, maps) > 0) {
      unsigned long start, stop;
      if (std::sscanf(line, "%lx-%lx", &start, &stop) == 2 && start <= address && address < stop) {
        found = {start, stop};
        break;
      }
    }
    std::free(line);
    std::fclose(maps);
    return found;
  }

  std::mutex mutex_;
  std::array<Range, 4> known_;
  size_t next_ = 0;
};

// A system whose memory is in pieces can take seconds to find large pages, which they save only in many steps. So only a
// process that computes for a while asks for them.
//
// JAXCNN_LARGE_PAGES=1 asks for them at once. JAXCNN_LARGE_PAGES=0 turns the hint off, for containers whose memory is so
// scarce that a page which is partly used must not count whole.
inline bool large_pages_wanted() {
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::seconds kPatience{10};
  static const Clock::time_point first_call = Clock::now();
  static const char* const setting = std::getenv("JAXCNN_LARGE_PAGES");
  if (setting == nullptr || *setting == '\0') return Clock::now() - first_call >= kPatience;
  return std::strcmp(setting, "0") != 0;
}

inline void prefer_large_pages(const void* data, size_t bytes) {
  if (large_pages_wanted()) Mappings::get().prefer_large_pages(data, bytes);
}

#else

inline void prefer_large_pages(const void*, size_t) {}

#endif

}  // namespace jaxcnn
