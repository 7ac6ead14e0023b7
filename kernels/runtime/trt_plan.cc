#include "trt_plan.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <initializer_list>
#include <utility>
#include <vector>

#include "json.h"
#include "manifest.h"
#include "sha256.h"

namespace pstmo_edge {
namespace {

constexpr std::string_view kGraph = "model.onnx", kBuildPlan = "build_plan.json", kEngine = "model.plan",
                           kRecord = "engine.json";
constexpr size_t kMaxEngineBytes = size_t{1} << 30;
constexpr size_t kMaxRecordBytes = 1u << 16;
constexpr size_t kKeyBytes = 32;
constexpr size_t kBlock = 64;  // of SHA-256
constexpr const char* kAgain = ": run `pstmo-edge compile` on this device";

Error damaged(const std::string& what) { return {PSTMO_EDGE_STATUS_BUNDLE_DAMAGED, what + kAgain}; }
Error foreign(const std::string& what) { return {PSTMO_EDGE_STATUS_BUNDLE_FOREIGN, what + kAgain}; }

// What was read of a bundle's folder.
struct Files {
  std::vector<FileEntry> entries;
  Bytes engine, record, plan;

  const FileEntry* find(std::string_view name) const {
    const auto found =
        std::find_if(entries.begin(), entries.end(), [&](const auto& each) { return each.name == name; });
    return found == entries.end() ? nullptr : &*found;
  }
};

// The value at a path of names, or nullptr.
const Json* at(const Json& document, std::initializer_list<std::string_view> path) {
  const Json* value = &document;
  for (const std::string_view name : path) {
    if (value != nullptr) value = value->find(name);
  }
  return value;
}

std::string text_at(const Json& document, std::initializer_list<std::string_view> path) {
  const Json* value = at(document, path);
  return value == nullptr || value->text() == nullptr ? std::string() : *value->text();
}

// A whole number within limits, or -1.
int number_at(const Json& document, std::initializer_list<std::string_view> path, int low, int high) {
  const Json* value = at(document, path);
  const std::optional<int64_t> number = value == nullptr ? std::nullopt : value->integer();
  return number && *number >= low && *number <= high ? static_cast<int>(*number) : -1;
}

int length_at(const Json& document, std::initializer_list<std::string_view> path) {
  const Json* value = at(document, path);
  return value == nullptr || value->items().size() > 256 ? 0 : static_cast<int>(value->items().size());
}

Outcome read_file(const Folder& folder, const FileEntry& entry, size_t limit, Bytes* out) {
  Result<Bytes> bytes = folder.read(entry.name, limit);
  if (!bytes) return bytes.error();
  if (bytes->size() != entry.size || sha256_hex(bytes->text()) != entry.sha256) {
    return damaged(entry.name + " was changed since it was written (its size or SHA-256 differs)");
  }
  *out = std::move(*bytes);
  return Unit{};
}

// Every file of the bundle verified, those that are needed kept.
Result<Files> read_files(const Folder& folder, const Json& manifest) {
  Result<std::vector<FileEntry>> entries = read_file_list(manifest);
  if (!entries) return entries.error();
  Files files;
  files.entries = std::move(*entries);
  if (files.find(kEngine) == nullptr) return foreign("it is portable and not compiled yet");
  for (const std::string_view name : {kGraph, kBuildPlan, kRecord}) {
    if (files.find(name) == nullptr) return damaged("it lists no " + std::string(name));
  }
  for (const FileEntry& entry : files.entries) {
    Bytes* keep = entry.name == kEngine      ? &files.engine
                  : entry.name == kRecord    ? &files.record
                  : entry.name == kBuildPlan ? &files.plan
                                             : nullptr;
    if (keep != nullptr) {
      const Outcome read = read_file(folder, entry, entry.name == kEngine ? kMaxEngineBytes : kMaxRecordBytes, keep);
      if (!read) return read.error();
      continue;
    }
    const Result<std::string> digest = folder.digest(entry.name, entry.size);
    if (!digest) return digest.error();
    if (digest.value() != entry.sha256) return damaged(entry.name + " was changed since it was written");
  }
  return files;
}

// The key's bytes; refused where another user could have read or written them.
Result<std::string> read_key(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0 && errno == ENOENT) return foreign("it was compiled elsewhere: there is no key at " + path);
  if (descriptor < 0) return Error{PSTMO_EDGE_STATUS_BUNDLE_UNREADABLE, "cannot read the key " + path};
  struct stat status;
  std::string key(kKeyBytes + 1, '\0');
  const bool regular = ::fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode);
  const ssize_t got = regular ? ::read(descriptor, key.data(), key.size()) : -1;
  ::close(descriptor);
  if (got < 0) return Error{PSTMO_EDGE_STATUS_BUNDLE_UNREADABLE, "cannot read the key " + path};
  if ((status.st_mode & 0077) != 0) {
    return Error{PSTMO_EDGE_STATUS_BUNDLE_FOREIGN,
                 "others may read " + path + ", the key that engines are trusted by: chmod 600 " + path};
  }
  key.resize(static_cast<size_t>(got));
  if (key.size() != kKeyBytes)
    return foreign(path + " is no key of " + std::to_string(kKeyBytes) + " bytes: remove it");
  return key;
}

// In a time that does not tell where they differ.
bool same(std::string_view one, std::string_view other) {
  unsigned differs = one.size() != other.size();
  for (size_t i = 0; i < one.size() && i < other.size(); ++i) {
    differs |= static_cast<unsigned char>(one[i]) ^ static_cast<unsigned char>(other[i]);
  }
  return differs == 0;
}

Outcome check_signature(const Json& record, const Files& files, const std::string& key_path) {
  std::vector<std::string> names;
  for (const JsonMember& member : record.members()) names.push_back(member.name);
  std::sort(names.begin(), names.end());
  if (names != std::vector<std::string>{"dla_core", "engine_sha256", "key", "tag", "version_compatible"})
    return damaged("engine.json is damaged");
  const Result<std::string> key = read_key(key_path);
  if (!key) return key.error();
  if (!same(text_at(record, {"tag"}), hmac_sha256_hex(key.value(), record.canonical("tag"))))
    return foreign("model.plan was not signed by this device's key, so it is not opened");
  if (!same(text_at(record, {"engine_sha256"}), sha256_hex(files.engine.text())))
    return damaged("model.plan is not the engine that was signed, so it is not opened");
  return Unit{};
}

std::vector<int> numbers_of(std::string_view text) {
  std::vector<int> numbers;
  while (!text.empty()) {
    int number = 0;
    const auto [stopped, problem] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (problem != std::errc()) break;
    numbers.push_back(number);
    text.remove_prefix(static_cast<size_t>(stopped - text.data()));
    if (!text.empty()) text.remove_prefix(1);
  }
  return numbers;
}

// Python names 10.3.0 what the library calls 10.3.0.26, so the parts that both have are compared, three at least. A
// version compatible engine opens with later ones of the same major version.
bool version_fits(std::string_view compiled, std::string_view here, bool compatible) {
  std::vector<int> theirs = numbers_of(compiled), ours = numbers_of(here);
  const size_t parts = std::min(theirs.size(), ours.size());
  if (parts < 3) return false;
  theirs.resize(parts), ours.resize(parts);
  return compatible ? theirs[0] == ours[0] && theirs <= ours : theirs == ours;
}

std::string shortened(const std::string& text) { return text.size() == 64 ? text.substr(0, 12) : text; }

// The name of the first thing that the plan was compiled for and that is another here.
Outcome check_host(const Json& record, const Json& manifest, const Files& files, const TrtHost& host) {
  const bool compatible = record.find("version_compatible")->canonical() == "true";
  const std::string tensorrt = text_at(record, {"key", "tensorrt"});
  const std::pair<std::string_view, std::string> here[] = {
      {"graph_sha256", files.find(kGraph)->sha256},
      {"weights_sha256", text_at(manifest, {"model", "weights_sha256"})},
      {"precision", text_at(manifest, {"precision", "requested"})},
      {"tensorrt", version_fits(tensorrt, host.tensorrt, compatible) ? tensorrt : host.tensorrt},
      {"device", host.device},
      {"capability", host.capability},
      {"driver", host.driver},
  };
  if (at(record, {"key"})->members().size() != std::size(here)) return damaged("engine.json is damaged");
  std::string differences;
  for (const auto& [name, ours] : here) {
    const Json* theirs = at(record, {"key", name});
    if (theirs == nullptr || theirs->text() == nullptr) return damaged("engine.json is damaged");
    if (*theirs->text() == ours) continue;
    differences += (differences.empty() ? "" : "; ") + std::string(name) + " " + shortened(ours) + " here, " +
                   shortened(*theirs->text()) + " in the engine";
  }
  if (differences.empty()) return Unit{};
  return foreign("it was compiled for something else: " + differences);
}

Result<TrtPlan> described(const Json& manifest, const Json& record, const Json& build_plan) {
  TrtPlan plan;
  plan.frames = number_at(manifest, {"input", "frames"}, 1, 4096);
  plan.joints = length_at(manifest, {"input", "joints"});
  plan.channels = length_at(manifest, {"input", "channels"});
  plan.pose_joints = length_at(manifest, {"output", "joints"});
  const Json* emitted = at(manifest, {"output", "frames"});
  if (emitted != nullptr && emitted->is(Json::Kind::Object)) plan.poses = number_at(*emitted, {"count"}, 1, 4096);
  plan.batch_min = number_at(build_plan, {"batch_min"}, 1, 65536);
  plan.batch_max = number_at(build_plan, {"batch_max"}, 1, 65536);
  plan.dla_core = number_at(record, {"dla_core"}, 0, 64);
  plan.version_compatible = record.find("version_compatible")->canonical() == "true";
  const int least = std::min({plan.frames, plan.joints, plan.channels, plan.pose_joints, plan.poses, plan.batch_min});
  if (least < 1 || plan.batch_max < plan.batch_min) return damaged("its manifest or build plan cannot be used");
  return plan;
}

Result<Json> parsed(const Bytes& bytes, std::string_view name) {
  Result<Json> document = Json::parse(bytes.text());
  if (!document || !document->is(Json::Kind::Object)) return damaged(std::string(name) + " is damaged");
  return document;
}

}  // namespace

std::string hmac_sha256_hex(std::string_view key, std::string_view message) {
  std::string inner(kBlock, '\x36'), outer(kBlock, '\x5c');
  for (size_t i = 0; i < key.size() && i < kBlock; ++i) {
    inner[i] = static_cast<char>(inner[i] ^ key[i]);
    outer[i] = static_cast<char>(outer[i] ^ key[i]);
  }
  const std::string digest = sha256_hex(inner.append(message));
  for (size_t i = 0; i < digest.size(); i += 2) {
    unsigned byte = 0;
    std::from_chars(digest.data() + i, digest.data() + i + 2, byte, 16);
    outer += static_cast<char>(byte);
  }
  return sha256_hex(outer);
}

Result<TrtPlan> open_trt_plan(const char* path, const TrtHost& host) {
  Result<Folder> folder = Folder::open(path);
  if (!folder) return folder.error();
  const Result<Bytes> text = folder->read(std::string(kManifestName), kMaxManifestBytes);
  if (!text) return text.error();
  const Result<Json> manifest = parse_document(text.value().text());
  if (!manifest) return manifest.error();
  const std::string backend = text_at(manifest.value(), {"backend", "name"});
  if (backend != "tensorrt") {
    return Error{PSTMO_EDGE_STATUS_BUNDLE_FOREIGN,
                 "it was built for '" + backend + "': build it again with --backend tensorrt"};
  }
  Result<Files> files = read_files(*folder, manifest.value());
  if (!files) return files.error();
  const Result<Json> record = parsed(files->record, kRecord), build_plan = parsed(files->plan, kBuildPlan);
  if (!record) return record.error();
  if (!build_plan) return build_plan.error();
  const Outcome signature = check_signature(record.value(), *files, host.key_path);
  if (!signature) return signature.error();
  const Outcome fits = check_host(record.value(), manifest.value(), *files, host);
  if (!fits) return fits.error();
  Result<TrtPlan> plan = described(manifest.value(), record.value(), build_plan.value());
  if (plan) plan->engine = std::move(files->engine);
  return plan;
}

}  // namespace pstmo_edge
