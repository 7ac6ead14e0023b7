#include "bundles.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>
#include <vector>

#include "engine.h"
#include "json.h"
#include "sha256.h"

namespace pstmo_edge {
namespace testing {
namespace {

// xorshift32: the same weights on every machine.
class Random {
 public:
  explicit Random(uint32_t seed) : state_(seed * 2654435761u + 1) {}
  float uniform() {  // -1 .. 1
    state_ ^= state_ << 13, state_ ^= state_ >> 17, state_ ^= state_ << 5;
    return static_cast<float>(state_ >> 8) / 8388608.0f - 1.0f;
  }

 private:
  uint32_t state_;
};

class Weights {
 public:
  explicit Weights(const BundleSpec& spec) : random_(spec.seed), int8_(spec.int8), words_(spec.words) {}

  void linear(const std::string& name, int in, int out, bool end = false) {
    const float bound = std::sqrt(3.0f / static_cast<float>(in));
    if (int8_ && (words_ || !end)) {
      const bool word = words_ && layers_++ % 2 == 0;
      std::string codes;
      for (int i = 0; i < in * out; ++i) codes += static_cast<char>(static_cast<int8_t>(random_.uniform() * 63.0f));
      add(name + ".weight", "I8", {out, in}, codes);
      add(name + ".weight_scale", "F32", {out}, floats(out, [&] { return bound / 63.0f; }));
      add(name + ".input_scale", "F32", {1}, floats(1, [&] { return 4.0f / (word ? 32767.0f : 127.0f); }));
      if (word) {
        add(name + ".input_zero_point", "I16", {1}, std::string(2, '\0'));
      } else {
        add(name + ".input_zero_point", "U8", {1}, std::string(1, static_cast<char>(128)));
      }
    } else {
      add(name + ".weight", "F32", {out, in}, floats(in * out, [&] { return random_.uniform() * bound; }));
    }
    add(name + ".bias", "F32", {out}, floats(out, [&] { return random_.uniform() * 0.1f; }));
  }

  void norm(const std::string& name, int channels) {
    add(name + ".weight", "F32", {channels}, floats(channels, [&] { return 1 + 0.1f * random_.uniform(); }));
    add(name + ".bias", "F32", {channels}, floats(channels, [&] { return 0.1f * random_.uniform(); }));
  }

  void table(const std::string& name, int frames, int channels) {
    add(name, "F32", {1, frames, channels}, floats(frames * channels, [&] { return random_.uniform(); }));
  }

  void layer(const std::string& name, int channels, int hidden, int taps) {
    linear(name + ".self_attn.qkv", channels, 3 * channels);
    linear(name + ".self_attn.out", channels, channels);
    linear(name + ".feed_forward.w_1", channels, hidden);
    linear(name + ".feed_forward.w_2", taps * hidden, channels);
    norm(name + ".sublayer.0.norm", channels);
    norm(name + ".sublayer.1.norm", channels);
  }

  std::string file() const { return file_.bytes(); }

 private:
  template <typename Next>
  static std::string floats(int count, Next next) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = next();
    std::string bytes(values.size() * sizeof(float), '\0');
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
  }

  void add(const std::string& name, const char* dtype, const std::vector<int64_t>& shape, const std::string& bytes) {
    file_.add(name, dtype, shape, bytes);
  }

  Random random_;
  bool int8_, words_;
  int layers_ = 0;
  ArrayFile file_;
};

std::string field(const std::string& name, const std::string& json) { return "\"" + name + "\":" + json + ","; }
std::string text(const std::string& name, const std::string& value) { return field(name, "\"" + value + "\""); }
std::string number(const std::string& name, size_t value) { return field(name, std::to_string(value)); }
std::string count(const std::string& name, int value) { return field(name, std::to_string(value)); }

std::string object(std::string fields) {
  fields.back() = '}';  // the last comma
  return "{" + fields;
}

std::string entry_of(const std::string& name, const std::string& bytes) {
  return object(text("path", name) + number("size", bytes.size()) + text("sha256", sha256_hex(bytes)));
}

// Removed when the program ends.
struct Folders {
  std::vector<std::string> paths;
  ~Folders() {
    std::error_code ignored;
    for (const std::string& path : paths) std::filesystem::remove_all(path, ignored);
  }
};

constexpr const char* kJoints =
    R"(["Hip","RHip","RKnee","RFoot","LHip","LKnee","LFoot","Spine","Thorax","Neck/Nose","Head","LShoulder","LElbow","LWrist","RShoulder","RElbow","RWrist"])";

}  // namespace

void ArrayFile::add(const std::string& name, const char* dtype, const std::vector<int64_t>& shape,
                    const std::string& bytes) {
  std::string dims;
  for (const int64_t dim : shape) dims += (dims.empty() ? "" : ",") + std::to_string(dim);
  header_ += (header_.empty() ? "\"" : ",\"") + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":[" + dims +
             "],\"data_offsets\":[" + std::to_string(data_.size()) + "," + std::to_string(data_.size() + bytes.size()) +
             "]}";
  data_ += bytes;
}

std::string ArrayFile::bytes() const {
  std::string header = "{" + header_ + "}";
  header.append((8 - header.size() % 8) % 8, ' ');
  std::string bytes(8, '\0');
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(header.size() >> (8 * i) & 255);
  return bytes + header + data_;
}

std::string weights_of(const BundleSpec& spec) {
  Weights weights(spec);
  const int channels = spec.channels;
  weights.linear("encoder.fc_1", 34, 2 * channels, true);
  weights.linear("encoder.layers.0.w1", 2 * channels, 2 * channels);
  weights.linear("encoder.layers.0.w2", 2 * channels, 2 * channels);
  weights.linear("encoder.fc_2", 2 * channels, channels);
  weights.table("Transformer.pos_embedding", spec.frames, channels);
  for (int i = 0; i < spec.layers; ++i) {
    weights.layer("Transformer.model.layers." + std::to_string(i), channels, spec.hidden, 1);
  }
  const size_t strides = strides_of(spec.frames).size();
  for (size_t i = 0; i < strides; ++i) {
    weights.layer("Transformer_reduce.model.layers." + std::to_string(i), channels, spec.hidden, 3);
  }
  for (int i = 1; i <= 3; ++i) {
    weights.table("Transformer_reduce.model.pos_embedding_" + std::to_string(i), spec.frames, channels);
  }
  weights.linear("fcn.1", channels, 51, true);
  return weights.file();
}

std::string manifest_of(const BundleSpec& spec, const std::string& weights, const Files& others) {
  const std::string digest = sha256_hex(weights);
  const std::string input = object(
      text("skeleton", "human36m-17") + field("joints", kJoints) + field("channels", R"(["x","y"])") +
      count("frames", spec.frames) + count("t_downsample", spec.t_downsample) + field("frame_rate", spec.frame_rate) +
      count("target_index", spec.target_index) + count("lookahead_frames", spec.lookahead_frames) +
      text("normalisation", "screen: x / w * 2 - 1, y / w * 2 - h / w") +
      text("units", "pixels before normalisation, image width 2 after it"));
  const std::string output =
      object(text("skeleton", "human36m-17") + field("joints", kJoints) + field("frames", "null") +
             text("units", "metres") + text("frame", "camera, root-relative") +
             text("camera_convention", "x right, y down, z forward, away from the camera"));
  const std::string config =
      object(count("frames", spec.frames) + count("layers", spec.layers) + count("channels", spec.channels) +
             count("hidden", spec.hidden) + count("heads", spec.heads) + count("joints", 17) + field("dropout", "0.1"));
  const std::string model = object(text("name", spec.model) + field("config", config) +
                                   number("parameters", weights.size() / 4) + text("weights_sha256", digest));
  const std::string precision =
      object(text("requested", spec.int8 ? "int8" : "fp32") + field("layers", "[]") + field("left_in_float", "[]"));
  const std::string target =
      object(text("name", spec.target) + count("weight_bits", spec.int8 ? spec.weight_bits : 32) +
             field("requires", spec.required));
  const std::string backend = object(text("name", spec.backend) + text("version", "0.1.0") + field("versions", "{}"));
  std::string files = entry_of("weights.safetensors", weights);
  for (const auto& [name, bytes] : others) files += "," + entry_of(name, bytes);
  return object(count("schema_version", spec.schema_version) + text("pstmo_edge_version", "0.1.0") +
                text("created", "2026-01-01T00:00:00Z") + field("input", input) + field("output", output) +
                field("model", model) + field("precision", precision) + field("target", target) +
                field("backend", backend) + field("calibration", "null") + field("accuracy", "null") +
                field("files", "[" + files + "]"));
}

std::string sealed(const std::string& manifest) {
  const Result<Json> document = Json::parse(manifest);
  if (!document || document.value().members().empty()) return "";
  const std::string digest = sha256_hex(document.value().canonical("manifest_sha256"));
  std::string whole = "{";
  for (const JsonMember& member : document.value().members()) {
    if (member.name != "manifest_sha256") {
      whole.append(member.raw_name).append(":").append(member.value.canonical()).append(",");
    }
  }
  whole += "\"manifest_sha256\":\"" + digest + "\"}";
  return Json::parse(whole).value().indented() + "\n";
}

void write_file(const std::string& path, const std::string& bytes) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  const bool written = file != nullptr && std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size();
  if (!written || std::fclose(file) != 0) {
    std::perror(path.c_str());
    std::exit(2);
  }
}

std::string read_file(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) {
    std::perror(path.c_str());
    std::exit(2);
  }
  std::string bytes;
  char piece[4096];
  for (size_t got; (got = std::fread(piece, 1, sizeof piece, file)) > 0;) bytes.append(piece, got);
  std::fclose(file);
  return bytes;
}

std::string make_folder() {
  const char* base = std::getenv("TMPDIR");
  std::string path = std::string(base == nullptr ? "/tmp" : base) + "/pstmo_edge_XXXXXX";
  if (::mkdtemp(path.data()) == nullptr) {
    std::perror(path.c_str());
    std::exit(2);
  }
  static Folders folders;
  folders.paths.push_back(path);
  return path;
}

std::string write_bundle(const BundleSpec& spec) {
  const std::string folder = make_folder();
  write_bundle(folder, spec);
  return folder;
}

void write_bundle(const std::string& folder, const BundleSpec& spec, const Files& others) {
  ::mkdir(folder.c_str(), 0755);
  const std::string weights = weights_of(spec);
  write_file(folder + "/weights.safetensors", weights);
  for (const auto& [name, bytes] : others) write_file(folder + "/" + name, bytes);
  write_file(folder + "/manifest.json", sealed(manifest_of(spec, weights, others)));
}

}  // namespace testing
}  // namespace pstmo_edge
