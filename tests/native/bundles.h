#ifndef PSTMO_EDGE_TESTS_NATIVE_BUNDLES_H_
#define PSTMO_EDGE_TESTS_NATIVE_BUNDLES_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

// Bundles of random weights for tests, written without the Python package.

namespace pstmo_edge {
namespace testing {

struct BundleSpec {
  int frames = 9;
  int layers = 1;
  int channels = 32;
  int hidden = 32;
  int heads = 1;
  int t_downsample = 1;
  std::string frame_rate = "50.0";
  int target_index = 4;
  int lookahead_frames = 4;
  bool int8 = false;
  bool words = false;  // with int8: every other layer reads activations of 16 bits, and the two ends are integers too
  std::string target = "generic";
  int weight_bits = 7;
  std::string required = "[]";  // JSON
  std::string backend = "native";
  std::string model = "p-stmo-s";
  int schema_version = 1;
  uint32_t seed = 1;
};

// A safetensors file, array by array.
class ArrayFile {
 public:
  void add(const std::string& name, const char* dtype, const std::vector<int64_t>& shape, const std::string& bytes);
  std::string bytes() const;

 private:
  std::string header_, data_;
};

// The bytes of weights.safetensors.
std::string weights_of(const BundleSpec& spec);

using Files = std::vector<std::pair<std::string, std::string>>;  // names and bytes

// The manifest of these weights and other files, not sealed: a JSON text without its digest.
std::string manifest_of(const BundleSpec& spec, const std::string& weights, const Files& others = {});

// A JSON object's text with its digest, in the form that bundle.py writes; "" where it is no JSON object.
std::string sealed(const std::string& manifest);

void write_file(const std::string& path, const std::string& bytes);
std::string read_file(const std::string& path);

// A fresh folder below the system's temporary one.
std::string make_folder();
// A new folder with the bundle in it; returns its path.
std::string write_bundle(const BundleSpec& spec);
void write_bundle(const std::string& folder, const BundleSpec& spec, const Files& others = {});

}  // namespace testing
}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_TESTS_NATIVE_BUNDLES_H_
