#include "tensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <utility>

#include "json.h"

namespace pstmo_edge {
namespace {

constexpr size_t kPrefix = 8;              // bytes of header size
constexpr uint64_t kMaxHeader = 4u << 20;  // our files have under 20 KB
constexpr std::string_view kNotes = "__metadata__";

Error damaged(std::string text) { return {PSTMO_EDGE_STATUS_BUNDLE_DAMAGED, "no safetensors file: " + text}; }

uint64_t little_endian(const uint8_t* p) {
  uint64_t value = 0;
  for (size_t i = 0; i < kPrefix; ++i) value |= uint64_t{p[i]} << (8 * i);
  return value;
}

bool parse_dtype(const std::string& name, Dtype& dtype) {
  constexpr std::array<std::pair<std::string_view, Dtype>, 7> kNames = {{{"F32", Dtype::F32},
                                                                         {"F16", Dtype::F16},
                                                                         {"BF16", Dtype::BF16},
                                                                         {"I8", Dtype::I8},
                                                                         {"U8", Dtype::U8},
                                                                         {"I16", Dtype::I16},
                                                                         {"I32", Dtype::I32}}};
  const auto found = std::find_if(kNames.begin(), kNames.end(), [&](auto& entry) { return entry.first == name; });
  if (found != kNames.end()) dtype = found->second;
  return found != kNames.end();
}

// One array's place in the data.
struct Extent {
  uint64_t begin = 0, end = 0;
};

// nullptr, or what is wrong with an entry of the header.
const char* read_entry(const Json& entry, uint64_t data_size, Tensor& tensor, Extent& extent) {
  const Json *dtype = entry.find("dtype"), *shape = entry.find("shape"), *offsets = entry.find("data_offsets");
  if (entry.members().size() != 3 || dtype == nullptr || shape == nullptr || offsets == nullptr) {
    return "it has not the fields dtype, shape and data_offsets alone";
  }
  if (dtype->text() == nullptr || !parse_dtype(*dtype->text(), tensor.dtype)) return "its dtype is not known here";
  if (!shape->is(Json::Kind::Array) || shape->items().size() > kMaxRank) return "its shape is no list of at most 4";
  tensor.rank = static_cast<int>(shape->items().size());
  int64_t room = static_cast<int64_t>(data_size) / size_of(tensor.dtype);  // elements that fit the file
  int64_t elements = 1;
  for (int i = 0; i < tensor.rank; ++i) {
    const std::optional<int64_t> dim = shape->items()[static_cast<size_t>(i)].integer();
    if (!dim || *dim < 1) return "a dimension is no positive number";
    if (*dim > room / elements) return "it is larger than the file";
    tensor.dims[i] = *dim;
    elements *= *dim;
  }
  if (offsets->items().size() != 2) return "its data_offsets are no pair";
  const std::optional<int64_t> begin = offsets->items()[0].integer(), end = offsets->items()[1].integer();
  if (!begin || !end || *begin < 0 || *begin > *end || static_cast<uint64_t>(*end) > data_size) {
    return "its data_offsets lie outside the file";
  }
  extent = {static_cast<uint64_t>(*begin), static_cast<uint64_t>(*end)};
  return *end - *begin == tensor.bytes() ? nullptr : "its data_offsets do not fit its shape";
}

bool cover_exactly(std::vector<Extent> extents, uint64_t data_size) {
  std::sort(extents.begin(), extents.end(), [](Extent a, Extent b) { return a.begin < b.begin; });
  uint64_t covered = 0;
  for (const Extent& extent : extents) {
    if (extent.begin != covered) return false;
    covered = extent.end;
  }
  return covered == data_size;
}

}  // namespace

int64_t size_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::F32:
    case Dtype::I32:
      return 4;
    case Dtype::F16:
    case Dtype::BF16:
    case Dtype::I16:
      return 2;
    case Dtype::I8:
    case Dtype::U8:
      return 1;
  }
  return 1;
}

int64_t Tensor::elements() const {
  int64_t product = 1;
  for (int i = 0; i < rank; ++i) product *= dims[i];
  return product;
}

Result<TensorTable> TensorTable::parse(const uint8_t* bytes, size_t size) {
  if (size < kPrefix) return damaged("it has " + std::to_string(size) + " bytes");
  const uint64_t header_size = little_endian(bytes);
  if (header_size > kMaxHeader || header_size > size - kPrefix) {
    return damaged("its header should have " + std::to_string(header_size) + " bytes");
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes) + kPrefix, static_cast<size_t>(header_size));
  const uint8_t* data = bytes + kPrefix + header_size;
  const uint64_t data_size = size - kPrefix - header_size;
  Result<Json> header = Json::parse(text);
  if (!header) return damaged("its header is not JSON: " + header.error().text);
  if (!header->is(Json::Kind::Object)) return damaged("its header is no JSON object");

  TensorTable table;
  std::vector<Extent> extents;
  size_t name_bytes = 0;
  for (const JsonMember& member : header->members()) name_bytes += member.name.size();
  table.names_.reserve(name_bytes);
  for (const auto& [name, raw_name, entry] : header->members()) {
    if (name == kNotes) continue;
    Tensor tensor;
    Extent extent;
    const char* problem = read_entry(entry, data_size, tensor, extent);
    if (problem != nullptr) return damaged("array '" + name + "': " + problem);
    const size_t start = table.names_.size();
    table.names_.insert(table.names_.end(), name.begin(), name.end());
    tensor.name = std::string_view(table.names_.data() + start, name.size());
    tensor.data = data + extent.begin;
    table.tensors_.push_back(tensor);
    extents.push_back(extent);
  }
  if (!cover_exactly(std::move(extents), data_size)) return damaged("its arrays leave gaps, overlap or end too early");
  std::sort(table.tensors_.begin(), table.tensors_.end(), [](auto& a, auto& b) { return a.name < b.name; });
  return table;
}

const Tensor* TensorTable::find(std::string_view name) const {
  const auto found =
      std::lower_bound(tensors_.begin(), tensors_.end(), name,
                       [](const Tensor& tensor, std::string_view wanted) { return tensor.name < wanted; });
  return found != tensors_.end() && found->name == name ? &*found : nullptr;
}

}  // namespace pstmo_edge
