#include "cubin.h"

#include <cstring>

namespace pstmo_edge {
namespace cuda {
namespace {

// Places and sizes of ELF-64 (System V ABI, "ELF-64 Object File Format", version 1.5).
constexpr uint8_t kMagic[] = {0x7f, 'E', 'L', 'F', 2, 1};  // 64 bits, little-endian
constexpr size_t kHeader = 64, kSegmentEntry = 56, kSectionEntry = 64;
constexpr uint64_t kMachineCuda = 190, kTakesNoBytes = 8;

class Elf {
 public:
  Elf(const uint8_t* bytes, size_t size) : bytes_(bytes), size_(size) {}

  bool is_whole() const {
    if (size_ < kHeader || std::memcmp(bytes_, kMagic, sizeof kMagic) != 0 || number(18, 2) != kMachineCuda) {
      return false;
    }
    const uint64_t segments = number(32, 8), sections = number(40, 8);
    const size_t segment_count = number(56, 2), section_count = number(60, 2);
    if (section_count == 0 || number(58, 2) != kSectionEntry || number(62, 2) >= section_count) return false;
    if (segment_count > 0 && number(54, 2) != kSegmentEntry) return false;
    if (!holds(sections, section_count * kSectionEntry)) return false;
    if (segment_count > 0 && !holds(segments, segment_count * kSegmentEntry)) return false;
    for (size_t at = segments, i = 0; i < segment_count; ++i, at += kSegmentEntry) {
      if (!holds(number(at + 8, 8), number(at + 32, 8))) return false;
    }
    for (size_t at = sections, i = 0; i < section_count; ++i, at += kSectionEntry) {
      if (number(at + 4, 4) != kTakesNoBytes && !holds(number(at + 24, 8), number(at + 32, 8))) return false;
    }
    return true;
  }

 private:
  uint64_t number(size_t at, size_t width) const {
    uint64_t value = 0;
    for (size_t i = 0; i < width; ++i) value |= uint64_t{bytes_[at + i]} << (8 * i);
    return value;
  }
  bool holds(uint64_t begin, uint64_t bytes) const { return begin <= size_ && bytes <= size_ - begin; }

  const uint8_t* bytes_;
  size_t size_;
};

}  // namespace

bool is_whole_cubin(const uint8_t* bytes, size_t size) { return Elf(bytes, size).is_whole(); }

}  // namespace cuda
}  // namespace pstmo_edge
