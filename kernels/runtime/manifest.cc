#include "manifest.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <initializer_list>
#include <limits>
#include <utility>

#include "sha256.h"

namespace pstmo_edge {
namespace {

constexpr std::string_view kDigest = "manifest_sha256";
constexpr std::string_view kLibraryName = "libpstmo_edge";
constexpr std::array<int, 3> kVersion = {PSTMO_EDGE_VERSION_MAJOR, PSTMO_EDGE_VERSION_MINOR, PSTMO_EDGE_VERSION_PATCH};
constexpr std::string_view kNormalisation = "screen: x / w * 2 - 1, y / w * 2 - h / w";

Error damaged(std::string what) { return {PSTMO_EDGE_STATUS_BUNDLE_DAMAGED, std::move(what) + "; build it again"}; }

Error foreign(std::string what) { return {PSTMO_EDGE_STATUS_BUNDLE_FOREIGN, std::move(what)}; }

// The fields of one object, read one by one. The first mistake is kept; after it, reading returns defaults.
class Fields {
 public:
  Fields(const Json* object, std::string path, Error* mistake)
      : object_(object), path_(std::move(path)), mistake_(mistake) {
    static const Json kEmpty;
    if (object_ == nullptr || !object_->is(Json::Kind::Object)) note("", "an object was expected");
    if (object_ == nullptr) object_ = &kEmpty;
  }

  Fields inside(std::string_view name) const {
    return Fields(object_->find(name), path_ + std::string(name) + ".", mistake_);
  }

  void only(std::initializer_list<std::string_view> known) const {
    for (const JsonMember& member : object_->members()) {
      if (std::find(known.begin(), known.end(), member.name) == known.end())
        note(member.name, "this version does not know it");
    }
  }

  int64_t integer(std::string_view name, int64_t low, int64_t high) const {
    const Json* field = object_->find(name);
    const std::optional<int64_t> value = field == nullptr ? std::nullopt : field->integer();
    if (value && *value >= low && *value <= high) return *value;
    note(name, "a whole number from " + std::to_string(low) + " to " + std::to_string(high) + " was expected");
    return low;
  }

  int small(std::string_view name, int low, int high) const { return static_cast<int>(integer(name, low, high)); }

  double positive(std::string_view name, double high) const {
    const Json* field = object_->find(name);
    const std::optional<double> value = field == nullptr ? std::nullopt : field->number();
    if (value && *value > 0 && *value <= high) return *value;
    note(name, "a positive number was expected");
    return high;
  }

  std::string text(std::string_view name) const {
    const Json* field = object_->find(name);
    const std::string* value = field == nullptr ? nullptr : field->text();
    if (value != nullptr && value->size() <= 200 && value->find('\0') == std::string::npos) return *value;
    note(name, "a text of at most 200 bytes was expected");
    return {};
  }

  std::vector<std::string> texts(std::string_view name, size_t limit) const {
    std::vector<std::string> values;
    const Json* field = object_->find(name);
    if (field == nullptr || !field->is(Json::Kind::Array) || field->items().size() > limit) {
      note(name, "a list of at most " + std::to_string(limit) + " was expected");
      return values;
    }
    for (const Json& item : field->items()) {
      if (item.text() == nullptr || item.text()->size() > 200) note(name, "texts were expected");
      values.push_back(item.text() == nullptr ? std::string() : *item.text());
    }
    return values;
  }

  const Json* find(std::string_view name) const { return object_->find(name); }

  void note(std::string_view name, const std::string& what) const {
    if (!mistake_->text.empty()) return;
    std::string field = path_ + std::string(name);
    while (!field.empty() && field.back() == '.') field.pop_back();
    *mistake_ = damaged("manifest.json cannot be used: " + (field.empty() ? "the whole" : field) + ": " + what);
  }

 private:
  const Json* object_;
  std::string path_;
  Error* mistake_;
};

bool is_plain_name(const std::string& name) {
  const auto word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; };
  return !name.empty() && name.size() <= 128 && static_cast<unsigned char>(name[0]) < 0x80 && word(name[0]) &&
         std::all_of(
             name.begin(), name.end(),
             [&](char c) { return static_cast<unsigned char>(c) < 0x80 && (word(c) || c == '.' || c == '-'); });
}

bool is_sha256(const std::string& text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  return text;
}

std::vector<FileEntry> read_files(const Fields& fields, Error* mistake) {
  std::vector<FileEntry> files;
  const Json* list = fields.find("files");
  if (list == nullptr || !list->is(Json::Kind::Array) || list->items().size() > 64) {
    fields.note("files", "a list of at most 64 was expected");
    return files;
  }
  std::vector<std::string> names = {std::string(kManifestName)};
  for (const Json& item : list->items()) {
    const Fields entry(&item, "files." + std::to_string(files.size()) + ".", mistake);
    entry.only({"path", "size", "sha256"});
    files.push_back(
        {entry.text("path"), static_cast<uint64_t>(entry.integer("size", 0, int64_t{1} << 40)), entry.text("sha256")});
    if (!is_plain_name(files.back().name)) entry.note("path", "a plain file name was expected");
    if (!is_sha256(files.back().sha256)) entry.note("sha256", "64 hexadecimal digits were expected");
    names.push_back(lower(files.back().name));  // file systems that do not tell A from a
  }
  std::sort(names.begin(), names.end());
  if (std::adjacent_find(names.begin(), names.end()) != names.end()) fields.note("files", "one file is named twice");
  return files;
}

void read_input(const Fields& input, Manifest* out) {
  input.only({"skeleton", "joints", "channels", "frames", "t_downsample", "frame_rate", "target_index",
              "lookahead_frames", "normalisation", "units"});
  out->skeleton = input.text("skeleton");
  out->joints = input.texts("joints", 256);
  out->frames = input.small("frames", 1, 4096);
  out->t_downsample = input.small("t_downsample", 1, 256);
  out->frame_rate = input.positive("frame_rate", 1000);
  out->target_index = input.small("target_index", 0, out->frames - 1);
  out->lookahead_frames = input.small("lookahead_frames", 0, out->frames - 1 - out->target_index);
}

void read_model(const Fields& model, Manifest* out) {
  model.only({"name", "config", "parameters", "weights_sha256"});
  out->model = model.text("name");
}

void read_config(const Fields& config, Manifest* out) {
  if (config.small("frames", 1, 4096) != out->frames) config.note("frames", "it differs from input.frames");
  if (config.small("joints", 1, 256) != PSTMO_EDGE_JOINTS) config.note("joints", "17 were expected");
  out->layers = config.small("layers", 0, 64);
  out->channels = config.small("channels", 1, 4096);
  out->hidden = config.small("hidden", 1, 16384);
  out->heads = config.small("heads", 1, 256);
  if (out->channels % out->heads != 0) config.note("heads", "they do not divide the channels");
}

// What only another program, or a newer version of this one, can run.
const char* misfit(const Fields& all, const Manifest& manifest) {
  if (manifest.model != "p-stmo-s" && manifest.model != "p-stmo") return "this library runs p-stmo and p-stmo-s";
  if (all.inside("input").texts("channels", 16) != std::vector<std::string>{"x", "y"})
    return "it reads more than x and y";
  if (manifest.joints.size() != PSTMO_EDGE_JOINTS) return "it reads another number of joints than 17";
  if (all.inside("input").text("normalisation") != kNormalisation) return "its keypoints are normalised in another way";
  if (all.inside("output").text("units") != "metres") return "its poses are not in metres";
  const Json* emitted = all.inside("output").find("frames");
  if (emitted != nullptr && !emitted->is(Json::Kind::Null)) return "it gives many poses a window";
  return nullptr;
}

// The numbers of "0.1.0", at most three; what follows another character is not read.
std::array<int, 3> numbers_of(std::string_view text) {
  std::array<int, 3> numbers = {};
  for (int& number : numbers) {
    const auto [stopped, problem] = std::from_chars(text.data(), text.data() + text.size(), number);
    text.remove_prefix(static_cast<size_t>(stopped - text.data()));
    if (problem != std::errc() || text.empty() || text.front() != '.') break;
    text.remove_prefix(1);
  }
  return numbers;
}

// What the bundle asks of this library and it has not: "" where it has all.
std::string lacking(const Fields& backend) {
  const Json* versions = backend.find("versions");
  if (versions == nullptr) return "";
  for (const JsonMember& wanted : versions->members()) {
    const std::string text = wanted.value.text() == nullptr ? "" : *wanted.value.text();
    const bool at_least = text.compare(0, 2, ">=") == 0, exactly = text.compare(0, 2, "==") == 0;
    const std::array<int, 3> asked = numbers_of(std::string_view(text).substr(at_least || exactly ? 2 : 0));
    const bool fits = at_least ? kVersion >= asked : kVersion == asked;
    if (wanted.name != kLibraryName || !fits) return wanted.name + " " + text;
  }
  return "";
}

std::string quoted(std::string_view text) { return "'" + std::string(text) + "'"; }

Outcome check_schema(const Json& document) {
  const Json* field = document.find("schema_version");
  const std::optional<int64_t> version = field == nullptr ? std::nullopt : field->integer();
  if (!version || *version < 1) return damaged("manifest.json is damaged: it has no schema_version");
  if (*version <= kSchemaVersion) return Unit{};
  return Error{PSTMO_EDGE_STATUS_BUNDLE_NEWER, "it was made by a newer pstmo-edge (schema " + std::to_string(*version) +
                                                   ", this library reads up to " + std::to_string(kSchemaVersion) +
                                                   "): install a newer libpstmo_edge"};
}

// Whether the bytes are what pstmo_edge/bundle.py wrote: two digests of one content would be a changed bit let through,
// so the form counts byte for byte as well.
bool is_unchanged(const Json& document, std::string_view bytes) {
  const auto& members = document.members();
  const std::string* digest = members.empty() || members.back().name != kDigest ? nullptr : members.back().value.text();
  return digest != nullptr && *digest == sha256_hex(document.canonical(kDigest)) && document.indented() + "\n" == bytes;
}

}  // namespace

Result<Manifest> read_manifest(const Json& document) {
  Error mistake{PSTMO_EDGE_STATUS_OK, {}};
  const Fields all(&document, "", &mistake);
  const Fields backend = all.inside("backend");
  const std::string backend_name = backend.text("name");
  if (mistake.text.empty() && backend_name != kBackendName) {
    return foreign("it was built for " + quoted(backend_name) + " and this library runs bundles of the backend " +
                   quoted(kBackendName) + ": build it again with --backend native");
  }
  const std::string missing = lacking(backend);
  if (mistake.text.empty() && !missing.empty()) {
    return Error{PSTMO_EDGE_STATUS_BUNDLE_NEWER, "it needs " + missing + " and this is " + std::string(kLibraryName) +
                                                     " " + std::to_string(kVersion[0]) + "." +
                                                     std::to_string(kVersion[1]) + "." + std::to_string(kVersion[2]) +
                                                     ": install that, or build the bundle again"};
  }
  all.only({"schema_version", "pstmo_edge_version", "created", "input", "output", "model", "precision", "target",
            "backend", "calibration", "accuracy", "files", kDigest});
  backend.only({"name", "version", "versions"});
  Manifest out;
  read_input(all.inside("input"), &out);
  const Fields output = all.inside("output");
  output.only({"skeleton", "joints", "frames", "units", "frame", "camera_convention"});
  out.pose_skeleton = output.text("skeleton");
  if (output.texts("joints", 256).size() != PSTMO_EDGE_JOINTS) output.note("joints", "17 were expected");
  read_model(all.inside("model"), &out);
  out.precision = all.inside("precision").text("requested");
  const Fields target = all.inside("target");
  target.only({"name", "weight_bits", "requires"});
  out.target = target.text("name");
  out.weight_bits = target.small("weight_bits", 1, 32);
  out.requires_features = target.texts("requires", 64);
  out.files = read_files(all, &mistake);
  if (mistake.text.empty()) {
    const char* reason = misfit(all, out);
    if (mistake.text.empty() && reason != nullptr) return foreign("it holds " + quoted(out.model) + ": " + reason);
    read_config(all.inside("model").inside("config"), &out);
  }
  if (!mistake.text.empty()) return mistake;
  return out;
}

Result<Json> parse_document(std::string_view bytes) {
  Result<Json> document = Json::parse(bytes);
  if (!document) return damaged("manifest.json is damaged: it is not JSON: " + document.error().text);
  if (!document->is(Json::Kind::Object)) return damaged("manifest.json is damaged: it is not a JSON object");
  const Outcome schema = check_schema(*document);
  if (!schema) return schema.error();
  if (!is_unchanged(*document, bytes)) return damaged("manifest.json was changed since it was written");
  return document;
}

Result<std::vector<FileEntry>> read_file_list(const Json& document) {
  Error mistake{PSTMO_EDGE_STATUS_OK, {}};
  std::vector<FileEntry> files = read_files(Fields(&document, "", &mistake), &mistake);
  if (!mistake.text.empty()) return mistake;
  return files;
}

Result<Manifest> parse_manifest(std::string_view bytes) {
  const Result<Json> document = parse_document(bytes);
  if (!document) return document.error();
  return read_manifest(document.value());
}

}  // namespace pstmo_edge
