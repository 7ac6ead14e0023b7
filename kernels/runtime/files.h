#ifndef PSTMO_EDGE_RUNTIME_FILES_H_
#define PSTMO_EDGE_RUNTIME_FILES_H_

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

#include "result.h"

namespace pstmo_edge {

// Bytes at an address that is a multiple of 64.
class Bytes {
 public:
  Bytes() = default;
  explicit Bytes(size_t size);  // throws std::bad_alloc
  uint8_t* data() { return data_.get(); }
  const uint8_t* data() const { return data_.get(); }
  size_t size() const { return size_; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_.get()), size_}; }

 private:
  struct Free {
    void operator()(uint8_t* data) const { std::free(data); }
  };
  std::unique_ptr<uint8_t, Free> data_;
  size_t size_ = 0;
};

// An opened folder. Files are opened relative to it, so that a folder renamed or swapped meanwhile cannot mix two
// bundles.
class Folder {
 public:
  static Result<Folder> open(const char* path);
  Folder(Folder&& other) noexcept : descriptor_(other.descriptor_) { other.descriptor_ = -1; }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder();

  // The whole of a regular file of at most `limit` bytes, read once.
  Result<Bytes> read(const std::string& name, size_t limit) const;

  // The SHA-256 of a regular file that must have `size` bytes, without keeping it.
  Result<std::string> digest(const std::string& name, uint64_t size) const;

 private:
  explicit Folder(int descriptor) : descriptor_(descriptor) {}
  int descriptor_ = -1;
};

}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_RUNTIME_FILES_H_
