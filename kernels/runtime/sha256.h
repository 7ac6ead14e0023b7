#ifndef PSTMO_EDGE_RUNTIME_SHA256_H_
#define PSTMO_EDGE_RUNTIME_SHA256_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace pstmo_edge {

// SHA-256 (FIPS 180-4, section 6.2), fed in pieces of any size.
class Sha256 {
 public:
  void update(const void* data, size_t size);
  // The digest as 64 hexadecimal digits in lower case; ends the use of this object.
  std::string hex();

 private:
  void compress(const uint8_t* blocks, size_t count);

  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, 64> rest_ = {};  // what has come in since the last full block
  uint64_t bytes_ = 0;
};

std::string sha256_hex(std::string_view bytes);

}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_RUNTIME_SHA256_H_
