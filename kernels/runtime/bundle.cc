#include "bundle.h"

#include <algorithm>
#include <utility>

#include "sha256.h"

namespace pstmo_edge {
namespace {

// Whether it is a CPU's: "vnni" is either form of it.
bool is_cpu_feature(const std::string& name) {
  if (name == "vnni") return true;
  for (uint32_t i = 0; pstmo_edge_cpu_feature_describe(i) != nullptr; ++i) {
    if (name == pstmo_edge_cpu_feature_describe(i)) return true;
  }
  return false;
}

Outcome verify_content(const FileEntry& entry, const std::string& digest) {
  if (digest == entry.sha256) return Unit{};
  return Error{PSTMO_EDGE_STATUS_BUNDLE_DAMAGED,
               entry.name + " was changed since it was written (SHA-256 differs); build it again"};
}

Result<Bytes> read_kept(const Folder& folder, const FileEntry& entry) {
  Result<Bytes> bytes = folder.read(entry.name, kMaxWeightBytes);
  if (!bytes) return bytes;
  if (bytes->size() != entry.size) {
    return Error{PSTMO_EDGE_STATUS_BUNDLE_DAMAGED, entry.name + " has " + std::to_string(bytes->size()) +
                                                       " bytes and the manifest says " + std::to_string(entry.size) +
                                                       "; build it again"};
  }
  const Outcome same = verify_content(entry, sha256_hex(bytes->text()));
  if (!same) return same.error();
  return bytes;
}

Outcome verify_other(const Folder& folder, const FileEntry& entry) {
  const Result<std::string> digest = folder.digest(entry.name, entry.size);
  if (!digest) return digest.error();
  return verify_content(entry, digest.value());
}

}  // namespace

const Bytes* Bundle::find(std::string_view name) const {
  const auto found = std::find_if(others.begin(), others.end(), [&](const auto& other) { return other.first == name; });
  return found == others.end() ? nullptr : &found->second;
}

Result<Bundle> open_bundle(const char* path, const std::vector<std::string>& others) {
  Result<Folder> folder = Folder::open(path);
  if (!folder) return folder.error();
  Result<Bytes> text = folder->read(std::string(kManifestName), kMaxManifestBytes);
  if (!text) return text.error();
  Result<Manifest> manifest = parse_manifest(text->text());
  if (!manifest) return manifest.error();

  Bundle bundle;
  bool found = false;
  for (const FileEntry& entry : manifest->files) {
    if (entry.name == kWeightsName) {
      Result<Bytes> weights = read_kept(*folder, entry);
      if (!weights) return weights.error();
      bundle.weights = std::move(*weights);
      found = true;
    } else if (std::find(others.begin(), others.end(), entry.name) != others.end()) {
      Result<Bytes> bytes = read_kept(*folder, entry);
      if (!bytes) return bytes.error();
      bundle.others.emplace_back(entry.name, std::move(*bytes));
    } else {
      const Outcome verified = verify_other(*folder, entry);
      if (!verified) return verified.error();
    }
  }
  if (!found) {
    return Error{PSTMO_EDGE_STATUS_BUNDLE_DAMAGED, "it lists no " + std::string(kWeightsName) + "; build it again"};
  }
  bundle.manifest = std::move(*manifest);
  return bundle;
}

Outcome check_target(const Manifest& manifest) {
  std::string missing;
  for (const std::string& name : manifest.requires_features) {
    if (!is_cpu_feature(name)) missing += (missing.empty() ? "" : ", ") + name;
  }
  if (missing.empty()) return Unit{};
  return Error{PSTMO_EDGE_STATUS_CPU_UNSUPPORTED, "it was built for " + manifest.target + " and a CPU has no " +
                                                      missing + "; build it again for this CPU with --target"};
}

}  // namespace pstmo_edge
