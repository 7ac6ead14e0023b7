#include "cuda_bundles.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "engine.h"
#include "sha256.h"
#include "tensors.h"

namespace pstmo_edge {
namespace testing {
namespace {

constexpr int kThreads = 64, kSharedBytes = 49 * 1024;
constexpr int kFewBlock = 4, kManyBlock = 16;  // tokens of a program

std::string quoted(const std::string& text) { return "\"" + text + "\""; }

// A parameter of a kernel: as the stand-in's source declares it and as the plan fills it.
struct Given {
  std::string name, type, value;
};
using Arguments = std::vector<Given>;

Given buffer(const std::string& name, const std::string& of) {
  return {name, "*fp32", "[\"buffer\"," + quoted(of) + "]"};
}
Given weight(const std::string& name, const std::string& of) {
  return {name, "*fp32", "[\"weight\"," + quoted(of) + "]"};
}
Given count(const std::string& name, int fixed, int by_window) {
  return {name, "i32", "[\"count\"," + std::to_string(fixed) + "," + std::to_string(by_window) + "]"};
}
const Given kEps = {"eps", "fp32", "[\"float\",1e-12]"};

std::string axis(int fixed, int by_window, int each) {
  return "[" + std::to_string(fixed) + "," + std::to_string(by_window) + "," + std::to_string(each) + "]";
}

// A kernel's constants and grid for one size of its blocks.
struct Variant {
  std::string constants, grid;
};

class PlanWriter {
 public:
  explicit PlanWriter(const BundleSpec& spec) : spec_(spec) {}

  CudaFiles write(bool single) {
    add_weights();
    encoder();
    int tokens = spec_.frames;
    const std::vector<int> strides = strides_of(spec_.frames);
    for (int i = 0; i < spec_.layers; ++i) {
      const bool last = i + 1 == spec_.layers;
      layer("Transformer.model.layers." + std::to_string(i), tokens, 1, 1, last ? position(0) : "");
    }
    for (size_t i = 0; i < strides.size(); ++i) {
      const bool has_table = i + 1 < strides.size() && i < 2;
      layer("Transformer_reduce.model.layers." + std::to_string(i), tokens, strides[i], 3,
            has_table ? position(i + 1) : "");
    }
    linear("fcn.1", "", kOutputs, tokens, buffer("x_ptr", at_), "poses");
    files_.weights = arrays_.bytes();
    files_.plan = document(single);
    return std::move(files_);
  }

 private:
  static constexpr int kInputs = 34, kOutputs = 51;

  static std::string position(size_t i) { return "Transformer_reduce.model.pos_embedding_" + std::to_string(i + 1); }

  // Those of the bundle, and each norm's gain and shift in one.
  void add_weights() {
    const std::string bytes = weights_of(spec_);
    const Result<TensorTable> table = TensorTable::parse(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
    const auto bytes_of = [](const Tensor& tensor) {
      return std::string(static_cast<const char*>(tensor.data), static_cast<size_t>(tensor.bytes()));
    };
    for (size_t i = 0; i < table.value().size(); ++i) {
      const Tensor& tensor = table.value()[i];
      const std::string name(tensor.name);
      arrays_.add(name, "F32", {tensor.elements()}, bytes_of(tensor));
      const size_t end = name.rfind(".norm.weight");
      if (end == std::string::npos) continue;
      const Tensor* const shift = table.value().find(name.substr(0, end) + ".norm.bias");
      arrays_.add(name.substr(0, end) + ".norm", "F32", {2, tensor.elements()}, bytes_of(tensor) + bytes_of(*shift));
    }
  }

  void encoder() {
    Arguments arguments = {buffer("x_ptr", "keypoints")};
    const char* const products[] = {"encoder.fc_1", "encoder.layers.0.w1", "encoder.layers.0.w2", "encoder.fc_2"};
    for (int i = 0; i < 4; ++i) product(arguments, std::to_string(i + 1), products[i]);
    arguments.push_back(weight("position_ptr", "Transformer.pos_embedding"));
    arguments.push_back(buffer("out_ptr", at_));
    arguments.push_back(count("rows", 0, spec_.frames));
    arguments.push_back(count("frames", spec_.frames, 0));
    const std::string constants = "constant INPUTS 34\nconstant HIDDEN " + std::to_string(2 * spec_.channels) +
                                  "\nconstant CHANNELS " + std::to_string(spec_.channels);
    launch("spatial_encoder", spec_.frames, arguments,
           [&](int block) { return Variant{constants, axis(0, spec_.frames, block)}; });
  }

  void layer(const std::string& name, int& tokens, int stride, int taps, const std::string& table) {
    const int kept = (tokens + stride - 1) / stride;
    const std::string next = at_ == "tokens_0" ? "tokens_1" : "tokens_0";
    linear(name + ".self_attn.qkv", name + ".sublayer.0.norm", 3 * spec_.channels, tokens, buffer("x_ptr", at_), "qkv");
    attention(tokens);
    Arguments arguments = {buffer("x_ptr", at_), buffer("mixed_ptr", "mixed")};
    product(arguments, "0", name + ".self_attn.out");
    arguments.push_back(weight("norm_ptr", name + ".sublayer.1.norm"));
    product(arguments, "1", name + ".feed_forward.w_1");
    product(arguments, "2", name + ".feed_forward.w_2");
    if (!table.empty()) arguments.push_back(weight("position_ptr", table));
    arguments.push_back(buffer("out_ptr", next));
    for (const Given& each : {count("rows", 0, kept), count("tokens", tokens, 0), count("kept", kept, 0),
                              count("stride", stride, 0), kEps}) {
      arguments.push_back(each);
    }
    const std::string constants = "constant CHANNELS " + std::to_string(spec_.channels) + "\nconstant HIDDEN " +
                                  std::to_string(spec_.hidden) + "\nconstant TAPS " + std::to_string(taps);
    launch("feed_forward", kept, arguments, [&](int block) { return Variant{constants, axis(0, kept, block)}; });
    tokens = kept, at_ = next;
  }

  void linear(const std::string& name, const std::string& norm, int columns, int tokens, const Given& from,
              const std::string& to) {
    Arguments arguments = {from};
    if (!norm.empty()) arguments.push_back(weight("norm_ptr", norm));
    product(arguments, "", name);
    for (const Given& each : {buffer("out_ptr", to), count("rows", 0, tokens), kEps}) arguments.push_back(each);
    constexpr int kSpan = 40;
    const std::string constants = "constant CHANNELS " + std::to_string(spec_.channels) + "\nconstant COLUMNS " +
                                  std::to_string(columns) + "\nconstant NORM " + (norm.empty() ? "0" : "1") +
                                  "\nconstant SPAN " + std::to_string(kSpan);
    launch("norm_linear", tokens, arguments,
           [&](int block) { return Variant{constants, axis(0, tokens, block) + "," + axis(columns, 0, kSpan)}; });
  }

  void attention(int tokens) {
    const Arguments arguments = {buffer("qkv_ptr", "qkv"), buffer("out_ptr", "mixed"), count("windows", 0, 1),
                                 count("tokens", tokens, 0)};
    const std::string constants = "constant HEADS " + std::to_string(spec_.heads) + "\nconstant WIDTH " +
                                  std::to_string(spec_.channels / spec_.heads);
    launch("attention", tokens, arguments, [&](int block) {
      const int pack = std::max(1, block / tokens);  // windows that one program takes whole
      const std::string blocks = pack > 1 ? axis(1, 0, 1) : axis(tokens, 0, block);
      return Variant{
          constants + "\nconstant PACK " + std::to_string(pack) + "\nconstant BLOCK_Q " + std::to_string(block),
          axis(0, 1, pack) + "," + blocks + "," + axis(spec_.heads, 0, 1)};
    });
  }

  static void product(Arguments& arguments, const std::string& number, const std::string& name) {
    arguments.push_back(weight("w" + number + "_ptr", name + ".weight"));
    arguments.push_back(weight("b" + number + "_ptr", name + ".bias"));
  }

  template <typename VariantOf>
  void launch(const std::string& entry, int tokens, const Arguments& arguments, VariantOf variant_of) {
    std::string values, declared;
    for (const Given& each : arguments) {
      values += each.value + ",";
      declared += "\nargument " + each.name + " " + each.type;
    }
    launches_ += (launches_.empty() ? "" : ",") + ("{\"tokens\":" + std::to_string(tokens)) + ",\"arguments\":[" +
                 values + "[\"null\"],[\"null\"]]";
    for (const int block : {kFewBlock, kManyBlock}) {
      const Variant variant = variant_of(block);
      const std::string name = entry + "_" + std::to_string(files_.cubins.size());
      const std::string constants = "\nconstant BLOCK_M " + std::to_string(block) + "\n" + variant.constants;
      add_kernel(name, entry, kSharedBytes, declared + constants);
      launches_ += std::string(",\"") + (block == kFewBlock ? "few" : "many") + "\":{\"kernel\":" + quoted(name) +
                   ",\"grid\":[" + variant.grid + "]}";
    }
    launches_ += "}";
  }

  void add_kernel(const std::string& name, const std::string& entry, int shared, const std::string& rest) {
    files_.cubins.emplace_back(
        name, cubin_of("standin " + entry + " " + std::to_string(kThreads) + " " + std::to_string(shared) + rest));
    kernels_ += (kernels_.empty() ? "" : ",") + quoted(name) + ":" + described(entry, shared) + "}";
  }

  static std::string described(const std::string& entry, int shared) {
    return "{\"entry\":" + quoted(entry) + ",\"threads\":" + std::to_string(kThreads) +
           ",\"shared_bytes\":" + std::to_string(shared);
  }

  std::string document(bool single) {
    const auto bytes = [&](int values) { return std::to_string(spec_.frames * values * 4); };
    std::string text = "{\"schema\":1,\"chip\":\"sm_87\",\"frames\":" + std::to_string(spec_.frames) +
                       ",\"few_below\":64,\"most_windows\":4096,\"driver\":12000,\"weights_sha256\":" +
                       quoted(sha256_hex(files_.weights)) + ",\"buffers\":{\"keypoints\":" + bytes(kInputs);
    for (const char* name : {"tokens_0", "tokens_1", "mixed"}) {
      text += "," + quoted(name) + ":" + bytes(spec_.channels);
    }
    text += ",\"qkv\":" + bytes(3 * spec_.channels) + ",\"poses\":" + std::to_string(kOutputs * 4) + "},\"kernels\":{" +
            kernels_ + "},\"launches\":[" + launches_ + "]";
    if (single) {
      files_.cubins.emplace_back("single_window", cubin_of("standin single_window 64 0\nargument network *i8"
                                                           "\nargument keypoints *i8\nargument poses *i8"
                                                           "\nargument workspace *i8"));
      text += ",\"single\":" + described("single_window", 0) +
              R"(,"driver":12000,"network":[["null"],["count",9,0],["weight","fcn.1.weight"]],"workspace":4096})";
    }
    return text + "}";
  }

  const BundleSpec& spec_;
  CudaFiles files_;
  ArrayFile arrays_;
  std::string kernels_, launches_, at_ = "tokens_0";
};

}  // namespace

CudaFiles cuda_files_of(const BundleSpec& spec, bool single) { return PlanWriter(spec).write(single); }

std::string cubin_of(const std::string& text) {
  std::string head(128, '\0');
  std::memcpy(head.data(),
              "\x7f"
              "ELF\2\1\1",
              7);
  const auto put = [&](size_t at, uint64_t value, size_t width) {
    for (size_t i = 0; i < width; ++i) head[at + i] = static_cast<char>(value >> (8 * i) & 255);
  };
  put(16, 2, 2), put(18, 190, 2), put(20, 1, 4), put(40, 64, 8);          // type, machine, version, sections' place
  put(52, 64, 2), put(58, 64, 2), put(60, 1, 2);                          // sizes of header and section entry, sections
  put(64 + 4, 1, 4), put(64 + 24, 128, 8), put(64 + 32, text.size(), 8);  // its type, place and size
  return head + text;
}

std::string pack_cubins(const Files& cubins) {
  ArrayFile file;
  for (const auto& [name, bytes] : cubins) file.add(name, "U8", {static_cast<int64_t>(bytes.size())}, bytes);
  return file.bytes();
}

std::string replaced(const std::string& text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  if (at == std::string::npos) {
    std::fprintf(stderr, "there is no %s to replace\n", from.c_str());
    std::exit(2);
  }
  return text.substr(0, at) + to + text.substr(at + from.size());
}

void write_cuda_bundle(const std::string& folder, const BundleSpec& spec, const CudaFiles& files) {
  write_bundle(folder, spec,
               {{"gpu-weights.safetensors", files.weights},
                {"gpu-sm_87.json", files.plan},
                {"gpu-sm_87.safetensors", pack_cubins(files.cubins)}});
}

}  // namespace testing
}  // namespace pstmo_edge
