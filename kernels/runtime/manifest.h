#ifndef PSTMO_EDGE_RUNTIME_MANIFEST_H_
#define PSTMO_EDGE_RUNTIME_MANIFEST_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "json.h"
#include "result.h"

namespace pstmo_edge {

// One artifact of a bundle.
struct FileEntry {
  std::string name;  // plain: letters, digits, '.', '-' and '_'
  uint64_t size = 0;
  std::string sha256;
};

// What the runtime needs of a bundle's manifest.json; pstmo_edge/manifest.py holds the whole schema.
struct Manifest {
  // input
  std::string skeleton;
  std::vector<std::string> joints;
  int frames = 0;
  int t_downsample = 1;
  double frame_rate = 0;
  int target_index = 0;
  int lookahead_frames = 0;
  // output
  std::string pose_skeleton;
  // model
  std::string model;
  int layers = 0;
  int channels = 0;
  int hidden = 0;
  int heads = 0;
  // precision, target
  std::string precision;
  std::string target;
  int weight_bits = 0;
  std::vector<std::string> requires_features;

  std::vector<FileEntry> files;
};

constexpr size_t kMaxManifestBytes = 4u << 20;
constexpr int kSchemaVersion = 1;
constexpr std::string_view kManifestName = "manifest.json";
constexpr std::string_view kBackendName = "native";

// The manifest of these bytes: its schema version first (a newer file can look any way), then its own digest and its
// exact form, then every field that the runtime uses; a field that it does not know is an error.
Result<Manifest> parse_manifest(std::string_view bytes);

// Its first steps, whatever backend it is for: schema version, digest and form. The bytes must outlive the document.
Result<Json> parse_document(std::string_view bytes);

// The files that such a document lists.
Result<std::vector<FileEntry>> read_file_list(const Json& document);

// The last step alone, for a document whose digest is known to be right or beside the point.
Result<Manifest> read_manifest(const Json& document);

}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_RUNTIME_MANIFEST_H_
