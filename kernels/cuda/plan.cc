#include "plan.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "../runtime/json.h"
#include "cubin.h"

namespace pstmo_edge {
namespace cuda {
namespace {

constexpr int64_t kMost = int64_t{1} << 31;  // of any number; times kMostWindows it is far from overflowing
constexpr int64_t kMostWindows = 65536;
constexpr size_t kMostBuffers = 64, kMostKernels = 1024, kMostLaunches = 4096, kMostSlots = 4096;
constexpr int64_t kMostPrograms = 65535;  // of a grid's second and third axis

// Reads a plan; the first mistake is kept, and after it everything reads as a harmless default.
class PlanReader {
 public:
  PlanReader(const Json& document, const TensorTable& weights, const TensorTable& cubins)
      : document_(document), weights_(weights), cubins_(cubins) {}

  Plan read(int frames) {
    integer(document_, "frames", frames, frames);
    plan_.driver = static_cast<int>(integer(document_, "driver", 0, 1000000));
    plan_.few_below = static_cast<int>(integer(document_, "few_below", 0, 1 << 20));
    plan_.most_windows = static_cast<int>(std::min(integer(document_, "most_windows", 1, kMost), kMostWindows));
    plan_.weights_sha256 = text(document_, "weights_sha256");
    read_buffers(frames);
    read_kernels();
    for (const Json& launch : list(document_, "launches", kMostLaunches)) plan_.launches.push_back(read_launch(launch));
    if (plan_.launches.empty()) note("launches: none");
    const Json* const single = document_.find("single");
    if (single != nullptr && !single->is(Json::Kind::Null)) plan_.single = read_single(*single);
    return std::move(plan_);
  }

  const std::string& mistake() const { return mistake_; }

 private:
  void read_buffers(int frames) {
    for (const JsonMember& buffer : members(document_, "buffers", kMostBuffers)) {
      plan_.buffers.push_back({buffer.name, value(buffer.value, buffer.name, 1, kMost)});
    }
    plan_.keypoints = buffer("keypoints", int64_t{frames} * PSTMO_EDGE_JOINTS * 2 * 4);
    plan_.poses = buffer("poses", PSTMO_EDGE_JOINTS * 3 * 4);
  }

  size_t buffer(std::string_view name, int64_t bytes) {
    const size_t index = find(plan_.buffers, [&](const Buffer& each) { return each.name == name; });
    if (index == plan_.buffers.size() || plan_.buffers[index].bytes != bytes) {
      note("buffers." + std::string(name) + ": " + std::to_string(bytes) + " bytes were expected");
      return 0;
    }
    return index;
  }

  void read_kernels() {
    for (const JsonMember& member : members(document_, "kernels", kMostKernels)) {
      names_.push_back(member.name);
      plan_.kernels.push_back(read_kernel(member.value, member.name));
    }
  }

  Kernel read_kernel(const Json& from, const std::string& name) {
    Kernel kernel;
    kernel.entry = text(from, "entry");
    kernel.threads = static_cast<unsigned>(integer(from, "threads", 32, 1024));
    kernel.shared_bytes = static_cast<unsigned>(integer(from, "shared_bytes", 0, 1 << 20));
    kernel.cubin = cubins_.find(name);
    if (kernel.cubin == nullptr) {
      note("kernels." + name + ": it has no cubin");
    } else if (!is_whole_cubin(static_cast<const uint8_t*>(kernel.cubin->data),
                               static_cast<size_t>(kernel.cubin->bytes()))) {
      note("kernels." + name + ": its cubin is cut short or no cubin");
    }
    return kernel;
  }

  Single read_single(const Json& from) {
    Single single;
    single.kernel = read_kernel(from, "single_window");
    single.driver = static_cast<int>(integer(from, "driver", 0, 1000000));
    single.workspace = integer(from, "workspace", 1, kMost);
    for (const Json& slot : list(from, "network", kMostSlots)) {
      single.network.push_back(read_argument(slot));
      const Argument::Kind kind = single.network.back().kind;
      if (kind == Argument::Kind::Buffer || kind == Argument::Kind::Float) {
        note("single: a slot of its network is a buffer or a float");
      }
    }
    if (single.network.empty()) note("single: its network has no slots");
    return single;
  }

  Launch read_launch(const Json& from) {
    Launch launch;
    launch.tokens = integer(from, "tokens", 1, kMost);
    for (const Json& argument : list(from, "arguments", kMostArguments)) {
      launch.arguments.push_back(read_argument(argument));
    }
    launch.few = read_choice(from, "few");
    launch.many = read_choice(from, "many");
    return launch;
  }

  Argument read_argument(const Json& from) {
    Argument argument;
    const std::vector<Json>& parts = from.items();
    const std::string* const kind = parts.empty() ? nullptr : parts[0].text();
    const std::string* const name = parts.size() == 2 ? parts[1].text() : nullptr;
    if (kind != nullptr && *kind == "null" && parts.size() == 1) return argument;
    if (kind != nullptr && *kind == "buffer" && name != nullptr) {
      argument.kind = Argument::Kind::Buffer;
      argument.index = find(plan_.buffers, [&](const Buffer& each) { return each.name == *name; });
      if (argument.index < plan_.buffers.size()) return argument;
    } else if (kind != nullptr && *kind == "weight" && name != nullptr) {
      argument.kind = Argument::Kind::Weight;
      const Tensor* const found = weights_.find(*name);
      if (found != nullptr) return argument.index = static_cast<size_t>(found - &weights_[0]), argument;
    } else if (kind != nullptr && *kind == "count" && parts.size() == 3) {
      argument.kind = Argument::Kind::Count;
      argument.count = read_count(parts[1], parts[2]);
      return argument;
    } else if (kind != nullptr && *kind == "float" && parts.size() == 2 && parts[1].number()) {
      argument.kind = Argument::Kind::Float;
      argument.number = static_cast<float>(*parts[1].number());
      return argument;
    }
    note("an argument " + (name == nullptr ? std::string("of an unknown form") : "'" + *name + "' is not there"));
    return {};
  }

  Choice read_choice(const Json& from, std::string_view regime) {
    Choice choice;
    const Json* const found = from.find(regime);
    if (found == nullptr) return note("launches: one has no kernel for " + std::string(regime) + " tokens"), choice;
    const std::string name = text(*found, "kernel");
    choice.kernel = find(names_, [&](const std::string& each) { return each == name; });
    if (choice.kernel == names_.size()) note("launches: there is no kernel '" + name + "'");
    const std::vector<Json>& axes = list(*found, "grid", choice.grid.size());
    for (size_t i = 0; i < axes.size(); ++i) {
      const std::vector<Json>& parts = axes[i].items();
      if (parts.size() != 3) return note("grid: three numbers an axis were expected"), choice;
      choice.grid[i] = {read_count(parts[0], parts[1]), value(parts[2], "grid", 1, kMost)};
      if (i > 0 && choice.grid[i].things.at(plan_.most_windows) / choice.grid[i].each >= kMostPrograms) {
        note("grid: more programs than an axis has");
      }
    }
    for (size_t i = axes.size(); i < choice.grid.size(); ++i) choice.grid[i] = {{1, 0}, 1};
    return choice;
  }

  // At least 1 for one window, and a 32-bit number for the most that there are.
  Count read_count(const Json& fixed, const Json& by_window) {
    const Count count = {value(fixed, "count", -kMost, kMost), value(by_window, "count", 0, kMost)};
    if (count.at(1) >= 1 && count.at(plan_.most_windows) < kMost) return count;
    note("count: it leaves 32 bits");
    return {1, 0};
  }

  int64_t integer(const Json& from, std::string_view name, int64_t low, int64_t high) {
    const Json* const field = from.find(name);
    if (field != nullptr) return value(*field, name, low, high);
    note(std::string(name) + " is missing");
    return low;
  }

  int64_t value(const Json& from, std::string_view name, int64_t low, int64_t high) {
    const std::optional<int64_t> found = from.integer();
    if (found && *found >= low && *found <= high) return *found;
    note(std::string(name) + ": a whole number from " + std::to_string(low) + " to " + std::to_string(high) +
         " was expected");
    return low;
  }

  std::string text(const Json& from, std::string_view name) {
    const Json* const field = from.find(name);
    const std::string* const found = field == nullptr ? nullptr : field->text();
    if (found != nullptr && !found->empty() && found->size() <= 200 && found->find('\0') == std::string::npos) {
      return *found;
    }
    note(std::string(name) + ": a text was expected");
    return {};
  }

  const std::vector<Json>& list(const Json& from, std::string_view name, size_t most) {
    static const std::vector<Json> kNone;
    const Json* const field = from.find(name);
    if (field != nullptr && field->is(Json::Kind::Array) && field->items().size() <= most) return field->items();
    note(std::string(name) + ": a list of at most " + std::to_string(most) + " was expected");
    return kNone;
  }

  const std::vector<JsonMember>& members(const Json& from, std::string_view name, size_t most) {
    static const std::vector<JsonMember> kNone;
    const Json* const field = from.find(name);
    if (field != nullptr && field->is(Json::Kind::Object) && field->members().size() <= most) return field->members();
    note(std::string(name) + ": an object of at most " + std::to_string(most) + " was expected");
    return kNone;
  }

  template <typename T, typename Is>
  static size_t find(const std::vector<T>& all, Is is) {
    return static_cast<size_t>(std::find_if(all.begin(), all.end(), is) - all.begin());
  }

  void note(std::string what) {
    if (mistake_.empty()) mistake_ = std::move(what);
  }

  const Json& document_;
  const TensorTable& weights_;
  const TensorTable& cubins_;
  Plan plan_;
  std::vector<std::string> names_;
  std::string mistake_;
};

Error damaged(const std::string& what) {
  return {PSTMO_EDGE_STATUS_BUNDLE_DAMAGED, "its launch plan cannot be used: " + what + "; compile it again"};
}

}  // namespace

Result<Plan> parse_plan(std::string_view text, int frames, const TensorTable& weights, const TensorTable& cubins) {
  const Result<Json> document = Json::parse(text);
  if (!document) return damaged("it is not JSON: " + document.error().text);
  const Json* const schema = document.value().find("schema");
  const std::optional<int64_t> version = schema == nullptr ? std::nullopt : schema->integer();
  if (version && *version > kPlanSchema) {
    return Error{PSTMO_EDGE_STATUS_BUNDLE_NEWER, "its launch plan was made by a newer pstmo-edge (schema " +
                                                     std::to_string(*version) + ", this library reads up to " +
                                                     std::to_string(kPlanSchema) + "): install a newer libpstmo_edge"};
  }
  if (!version || *version < 1) return damaged("it has no schema");
  PlanReader reader(document.value(), weights, cubins);
  Plan plan = reader.read(frames);
  if (!reader.mistake().empty()) return damaged(reader.mistake());
  return plan;
}

}  // namespace cuda
}  // namespace pstmo_edge
