#ifndef PSTMO_EDGE_TESTS_NATIVE_FUZZ_BUNDLE_H_
#define PSTMO_EDGE_TESTS_NATIVE_FUZZ_BUNDLE_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "bundles.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace pstmo_edge {
namespace testing {

// A good bundle as the fuzzer's input.
std::string fuzz_seed(const BundleSpec& spec);

}  // namespace testing
}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_TESTS_NATIVE_FUZZ_BUNDLE_H_
