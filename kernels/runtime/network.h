#ifndef PSTMO_EDGE_RUNTIME_NETWORK_H_
#define PSTMO_EDGE_RUNTIME_NETWORK_H_

#include <string>
#include <vector>

#include "engine.h"
#include "memory.h"

namespace pstmo_edge {

struct Norm {
  const float* gain = nullptr;
  const float* bias = nullptr;
};

// One transformer layer, plain (stride 0) or strided.
struct Layer {
  int tokens_in = 0;
  int tokens_out = 0;
  int stride = 0;
  int attention_part = 0;            // its number in profiles
  const float* positions = nullptr;  // [tokens_in][channels], added to what comes in; or nullptr
  const float* mask = nullptr;       // of attention's scores, [tokens_in, padded]
  Norm before_attention, before_feed_forward;
  Linear query, key_value, out, w_1, w_2;
};

constexpr int kNormsPart = 0, kCopiesPart = 1;

// P-STMO with its weights packed for some kernels.
struct Network {
  ModelConfig config;
  const Kernels* kernels = nullptr;
  Linear fc_1, w1, w2, fc_2, head;
  std::vector<Layer> layers;
  std::vector<std::string> parts;  // names for profiles; the first two are no layers

  int width() const { return config.channels / config.heads; }  // of a head
};

// Packs the weights into `memory`. Every tensor that is missing or wrong is named in the one error.
Result<Network> load_network(const ModelConfig& config, const TensorTable& tensors, Isa isa, Memory& memory);

}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_RUNTIME_NETWORK_H_
