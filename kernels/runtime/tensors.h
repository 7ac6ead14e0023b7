#ifndef PSTMO_EDGE_RUNTIME_TENSORS_H_
#define PSTMO_EDGE_RUNTIME_TENSORS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "result.h"

namespace pstmo_edge {

enum class Dtype : uint8_t { F32, F16, BF16, I8, U8, I16, I32 };

// Bytes of one element.
int64_t size_of(Dtype dtype);

constexpr int kMaxRank = 4;

// One array of a safetensors file: row-major, little-endian, inside memory that somebody else owns.
struct Tensor {
  std::string_view name;
  Dtype dtype = Dtype::F32;
  int rank = 0;
  int64_t dims[kMaxRank] = {};
  const void* data = nullptr;  // 8-byte aligned where the file is; never rely on more

  int64_t elements() const;
  int64_t bytes() const { return elements() * size_of(dtype); }
};

// The arrays of a safetensors file by name. The file's bytes must outlive the table.
//
// Format: 8 bytes of header size (little-endian), a JSON object from name to dtype, shape and data_offsets, then the
// data (https://github.com/huggingface/safetensors). Every offset and size is checked against the file; gaps, overlaps,
// bytes left over, names given twice and types not listed above are errors.
class TensorTable {
 public:
  TensorTable(TensorTable&&) = default;  // a copy would have the names of the original
  TensorTable& operator=(TensorTable&&) = default;

  static Result<TensorTable> parse(const uint8_t* bytes, size_t size);

  // The array of that name, or nullptr.
  const Tensor* find(std::string_view name) const;
  size_t size() const { return tensors_.size(); }
  const Tensor& operator[](size_t i) const { return tensors_[i]; }  // sorted by name

 private:
  TensorTable() = default;

  // The names lie in one string that never moves with the table, so that the views into it stay good.
  std::vector<char> names_;
  std::vector<Tensor> tensors_;
};

}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_RUNTIME_TENSORS_H_
