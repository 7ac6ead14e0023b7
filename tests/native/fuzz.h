#ifndef PSTMO_EDGE_TESTS_NATIVE_FUZZ_H_
#define PSTMO_EDGE_TESTS_NATIVE_FUZZ_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

// What a fuzzer is made of: fuzz_bundle.cc or fuzz_plan.cc, and fuzz_main.cc or Clang's libFuzzer.
//
// An input is one byte of choice, three bytes of a text's length, the text (JSON), a safetensors file.

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace pstmo_edge {
namespace testing {

// Good inputs to change.
std::vector<std::string> fuzz_seeds();

constexpr size_t kFuzzHead = 4;

inline std::string fuzz_input(const std::string& text, const std::string& file) {
  std::string input = "\1";
  for (int shift = 0; shift < 24; shift += 8) input += static_cast<char>(text.size() >> shift & 255);
  return input + text + file;
}

// Bytes of an input's text; the file follows.
inline size_t fuzz_text_size(const uint8_t* data, size_t size) {
  const size_t length = size_t{data[1]} | size_t{data[2]} << 8 | size_t{data[3]} << 16;
  return length < size - kFuzzHead ? length : size - kFuzzHead;
}

}  // namespace testing
}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_TESTS_NATIVE_FUZZ_H_
