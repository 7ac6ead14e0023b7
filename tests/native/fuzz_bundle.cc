// Fuzzes the bundle reader: a manifest and weights from anywhere, in memory.
//
// Read as it is, a manifest almost never passes its digest, so by choice it is sealed again first: then every field is
// reached, and with it the engine that is made of it. Built with Clang's -fsanitize=fuzzer it is a libFuzzer target;
// with fuzz_main.cc it runs anywhere. Built with PSTMO_EDGE_PLANTED (tests/native/CMakeLists.txt) it must find what was
// planted.

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "bundle.h"
#include "bundles.h"
#include "engine.h"
#include "fuzz.h"

namespace {

using pstmo_edge::testing::kFuzzHead;

constexpr int64_t kLargestNetwork = 64 * 1024;  // larger ones are refused here for speed alone, not for safety

bool is_small(const pstmo_edge::Manifest& manifest) {
  return int64_t{manifest.frames} * manifest.channels <= kLargestNetwork && manifest.hidden <= 256 &&
         manifest.channels <= 256;
}

void run_engine(const pstmo_edge::Manifest& manifest, const pstmo_edge::TensorTable& tensors) {
  pstmo_edge::ModelConfig config;
  config.frames = manifest.frames, config.layers = manifest.layers, config.channels = manifest.channels;
  config.hidden = manifest.hidden, config.heads = manifest.heads, config.target_index = manifest.target_index;
  pstmo_edge::EngineOptions options;
  options.threads = 1, options.isa = pstmo_edge::Isa::Portable;
  auto engine = pstmo_edge::Engine::create(config, tensors, options);
  if (!engine.ok()) return;
  std::vector<float> keypoints(static_cast<size_t>(manifest.frames) * 34, 0.1f), pose(51);
  engine.value()->infer(keypoints.data(), 1, pose.data());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < kFuzzHead) return 0;
  const size_t manifest_size = pstmo_edge::testing::fuzz_text_size(data, size);
  std::string text(reinterpret_cast<const char*>(data) + kFuzzHead, manifest_size);
  if ((data[0] & 1) != 0) text = pstmo_edge::testing::sealed(text);
  // A copy of exactly this size, so that a sanitizer sees one byte too many.
  const std::vector<uint8_t> weights(data + kFuzzHead + manifest_size, data + size);
  const auto manifest = pstmo_edge::parse_manifest(text);
  const auto tensors = pstmo_edge::TensorTable::parse(weights.data(), weights.size());
  if (tensors.ok()) {
    unsigned sum = 0;  // read every byte that the table says is there
    for (size_t i = 0; i < tensors.value().size(); ++i) {
      const pstmo_edge::Tensor& tensor = tensors.value()[i];
      for (int64_t k = 0; k < tensor.bytes(); ++k) sum += static_cast<const uint8_t*>(tensor.data)[k];
    }
    const volatile unsigned kept = sum;
    (void)kept;
  }
  if (manifest.ok() && tensors.ok() && is_small(manifest.value())) run_engine(manifest.value(), tensors.value());
  return 0;
}

std::vector<std::string> pstmo_edge::testing::fuzz_seeds() {
  std::vector<std::string> seeds;
  for (const int format : {0, 1, 2}) {
    BundleSpec spec;
    spec.int8 = format > 0, spec.words = format > 1;
    const std::string weights = weights_of(spec);
    seeds.push_back(fuzz_input(sealed(manifest_of(spec, weights)), weights));
  }
  return seeds;
}
