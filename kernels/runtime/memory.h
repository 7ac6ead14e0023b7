#ifndef PSTMO_EDGE_RUNTIME_MEMORY_H_
#define PSTMO_EDGE_RUNTIME_MEMORY_H_

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

namespace pstmo_edge {

// Arrays that start on a cache line, hold zeros at first, and live as long as this.
class Memory {
 public:
  template <typename T>
  T* take(size_t count) {
    const size_t bytes = count * sizeof(T) + kLine;
    blocks_.push_back(std::make_unique<uint8_t[]>(bytes));
    total_ += bytes;
    const auto start = reinterpret_cast<uintptr_t>(blocks_.back().get());
    return reinterpret_cast<T*>((start + kLine - 1) / kLine * kLine);
  }
  size_t bytes() const { return total_; }

 private:
  static constexpr size_t kLine = 64;
  std::vector<std::unique_ptr<uint8_t[]>> blocks_;
  size_t total_ = 0;
};

}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_RUNTIME_MEMORY_H_
