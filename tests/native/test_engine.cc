// The engine in every instruction set that this CPU has: near to the portable one, and with the same bits whatever the
// number of threads, the batch, or whether frames are encoded one by one.
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "../../kernels/runtime/engine.h"
#include "bundles.h"
#include "check.h"

namespace {

using pstmo_edge::Engine;
using pstmo_edge::EngineOptions;
using pstmo_edge::Isa;
using pstmo_edge::ModelConfig;
using pstmo_edge::TensorTable;
using pstmo_edge::testing::BundleSpec;

constexpr size_t kPose = 17 * 3, kFrame = 17 * 2;
constexpr int kBatch = 2;

ModelConfig config_of(const BundleSpec& spec) {
  ModelConfig config;
  config.frames = spec.frames, config.layers = spec.layers, config.channels = spec.channels;
  config.hidden = spec.hidden, config.heads = spec.heads;
  return config;
}

std::unique_ptr<Engine> open(const BundleSpec& spec, const std::string& weights, Isa isa, int threads) {
  auto table = TensorTable::parse(reinterpret_cast<const uint8_t*>(weights.data()), weights.size());
  CHECK(table.ok());
  EngineOptions options;
  options.isa = isa, options.threads = threads;
  auto engine = Engine::create(config_of(spec), table.value(), options);
  if (!engine.ok()) {
    CHECK(engine.error().status == PSTMO_EDGE_STATUS_CPU_UNSUPPORTED);
    return nullptr;
  }
  return std::move(engine.value());
}

std::vector<float> keypoints_of(const BundleSpec& spec) {
  std::mt19937 generator(3);
  std::uniform_real_distribution<float> draw(-0.7F, 0.7F);
  std::vector<float> keypoints(static_cast<size_t>(kBatch * spec.frames) * kFrame);
  for (float& value : keypoints) value = draw(generator);
  return keypoints;
}

std::vector<float> infer(Engine& engine, const std::vector<float>& keypoints) {
  std::vector<float> poses(kBatch * kPose);
  engine.infer(keypoints.data(), kBatch, poses.data());
  return poses;
}

bool same(const float* a, const float* b, size_t count) { return std::memcmp(a, b, count * sizeof(float)) == 0; }

double farthest(const std::vector<float>& a, const std::vector<float>& b) {
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    worst = std::fabs(difference) <= worst ? worst : std::fabs(difference);  // NaN is the farthest
  }
  return worst;
}

void check_bits(const BundleSpec& spec, Engine& engine, const std::vector<float>& keypoints,
                const std::vector<float>& expected) {
  const std::vector<float> poses = infer(engine, keypoints);
  CHECK(same(poses.data(), expected.data(), poses.size()));
  const size_t frames = static_cast<size_t>(spec.frames), width = static_cast<size_t>(engine.token_floats());
  std::vector<float> tokens(frames * width), pose(kPose);
  std::vector<const float*> pointers(frames);
  for (size_t window = 0; window < kBatch; ++window) {
    const float* const first = keypoints.data() + window * frames * kFrame;
    engine.infer(first, 1, pose.data());
    CHECK(same(pose.data(), expected.data() + window * kPose, kPose));
    for (size_t f = 0; f < frames; ++f) {
      pointers[f] = tokens.data() + f * width;
      engine.encode_frame(first + f * kFrame, tokens.data() + f * width);
    }
    engine.infer_tokens(pointers.data(), pose.data());
    CHECK(same(pose.data(), expected.data() + window * kPose, kPose));
  }
}

void check(const BundleSpec& spec) {
  const std::string weights = pstmo_edge::testing::weights_of(spec);
  const std::vector<float> keypoints = keypoints_of(spec);
  const std::vector<float> reference = infer(*open(spec, weights, Isa::Portable, 1), keypoints);
  const double scale = farthest(reference, std::vector<float>(reference.size()));
  CHECK(scale > 0 && std::isfinite(scale));
  for (const Isa isa : {Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Neon, Isa::NeonDotprod}) {
    const std::unique_ptr<Engine> engine = open(spec, weights, isa, 1);
    if (engine == nullptr) continue;
    const std::vector<float> poses = infer(*engine, keypoints);
    const double worst = farthest(poses, reference);
    std::printf("%3d frames, %d channels%s, %s: %.1e of the largest output\n", spec.frames, spec.channels,
                spec.words  ? ", INT8 and 16-bit"
                : spec.int8 ? ", INT8"
                            : "",
                engine->kernels().name, worst / scale);
    // A float's rounding can move a code of INT8 by one; the weights are random, which amplifies that.
    CHECK(worst <= (spec.int8 ? 2e-2 : 1e-5) * scale);
    for (const int threads : {1, 2}) check_bits(spec, *open(spec, weights, isa, threads), keypoints, poses);
  }
}

}  // namespace

int main() {
  for (const int frames : {9, 27, 351}) {  // strides of 1, 3, and 9 and 13
    for (const int format : {0, 1, 2}) {
      BundleSpec spec;
      spec.frames = frames, spec.int8 = format > 0, spec.words = format > 1;
      check(spec);
    }
  }
  BundleSpec wide;
  wide.layers = 1, wide.channels = 256, wide.hidden = 512, wide.heads = 8;
  check(wide);
  wide.int8 = true;
  check(wide);
  wide.words = true;
  check(wide);
  return check_result();
}
