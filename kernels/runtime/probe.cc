#include "probe.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <string_view>

#include "engine.h"

struct pstmo_edge_probe {
  std::unique_ptr<pstmo_edge::Engine> engine;
  std::vector<const float*> tokens;
  pstmo_edge::Profile profile;
};

namespace {

using pstmo_edge::Isa;

bool parse_isa(std::string_view name, Isa& isa) {
  constexpr struct {
    std::string_view name;
    Isa isa;
  } kNames[] = {{"auto", Isa::Auto},          {"portable", Isa::Portable}, {"avx2", Isa::Avx2},
                {"avx512-vnni", Isa::Avx512}, {"neon", Isa::Neon},         {"neon-dotprod", Isa::NeonDotprod}};
  for (const auto& known : kNames) {
    if (known.name == name) return isa = known.isa, true;
  }
  return false;
}

void explain(std::string_view text, char* error, size_t size) {
  if (size == 0) return;
  const size_t length = std::min(text.size(), size - 1);
  std::memcpy(error, text.data(), length);
  error[length] = '\0';
}

pstmo_edge_probe* open(const void* weights, size_t size, const pstmo_edge::ModelConfig& config,
                       const pstmo_edge::EngineOptions& options, char* error, size_t error_size) {
  auto table = pstmo_edge::TensorTable::parse(static_cast<const uint8_t*>(weights), size);
  if (!table.ok()) return explain(table.error().text, error, error_size), nullptr;
  auto engine = pstmo_edge::Engine::create(config, table.value(), options);
  if (!engine.ok()) return explain(engine.error().text, error, error_size), nullptr;
  auto probe = std::make_unique<pstmo_edge_probe>();
  probe->engine = std::move(engine.value());
  probe->tokens.resize(static_cast<size_t>(config.frames));
  probe->profile.parts.resize(probe->engine->parts().size());
  return probe.release();
}

}  // namespace

extern "C" pstmo_edge_probe* pstmo_edge_probe_open(const void* weights, size_t size, int32_t frames, int32_t layers,
                                                   int32_t threads, const char* isa, char* error,
                                                   size_t error_size) noexcept {
  pstmo_edge::ModelConfig config;
  config.frames = frames, config.layers = layers;
  pstmo_edge::EngineOptions options;
  options.threads = threads;
  if (!parse_isa(isa, options.isa)) return explain("no such instruction set", error, error_size), nullptr;
  try {
    return open(weights, size, config, options, error, error_size);
  } catch (const std::bad_alloc&) {
    return explain("memory ran out", error, error_size), nullptr;
  }
}

extern "C" void pstmo_edge_probe_close(pstmo_edge_probe* probe) noexcept { delete probe; }

extern "C" const char* pstmo_edge_probe_isa(const pstmo_edge_probe* probe) noexcept {
  return probe->engine->kernels().name;
}

extern "C" size_t pstmo_edge_probe_memory(const pstmo_edge_probe* probe) noexcept {
  return probe->engine->memory_bytes();
}

extern "C" void pstmo_edge_probe_infer(pstmo_edge_probe* probe, const float* keypoints, int32_t batch,
                                       float* poses) noexcept {
  probe->engine->infer(keypoints, batch, poses);
}

extern "C" void pstmo_edge_probe_encode(pstmo_edge_probe* probe, const float* frame, float* token) noexcept {
  probe->engine->encode_frame(frame, token);
}

extern "C" void pstmo_edge_probe_infer_tokens(pstmo_edge_probe* probe, const float* tokens, int32_t oldest,
                                              float* pose) noexcept {
  const size_t frames = probe->tokens.size(), width = static_cast<size_t>(probe->engine->token_floats());
  for (size_t i = 0; i < frames; ++i) {
    probe->tokens[i] = tokens + (static_cast<size_t>(oldest) + i) % frames * width;
  }
  probe->engine->infer_tokens(probe->tokens.data(), pose);
}

extern "C" int32_t pstmo_edge_probe_parts(const pstmo_edge_probe* probe) noexcept {
  return static_cast<int32_t>(probe->engine->parts().size());
}

extern "C" const char* pstmo_edge_probe_part(const pstmo_edge_probe* probe, int32_t part) noexcept {
  return probe->engine->parts()[static_cast<size_t>(part)].c_str();
}

extern "C" void pstmo_edge_probe_profile(pstmo_edge_probe* probe, double* nanoseconds, double* multiply_adds,
                                         int32_t* formats) noexcept {
  for (pstmo_edge::Profile::Part& part : probe->profile.parts) {
    *nanoseconds++ = static_cast<double>(part.nanoseconds);
    *multiply_adds++ = part.multiply_adds;
    *formats++ = static_cast<int32_t>(part.format);
    part = {};
  }
  probe->engine->set_profile(&probe->profile);
}

extern "C" double pstmo_edge_probe_peak(const char* isa, int32_t weight_bits, int32_t format,
                                        int32_t iterations) noexcept {
  Isa wanted = Isa::Auto;
  const pstmo_edge::Kernels* kernels = parse_isa(isa, wanted) ? pstmo_edge::find_kernels(wanted, weight_bits) : nullptr;
  if (kernels == nullptr) return 0;
  return (format == 0 ? kernels->peak_float : format == 1 ? kernels->peak_int8 : kernels->peak_word)(iterations);
}
