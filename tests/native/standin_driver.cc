#include "standin_driver.h"

#include <unistd.h>

#include <algorithm>

namespace pstmo_edge {
namespace standin {
namespace {

// A thread that ends leaves no context behind.
struct Contexts {
  std::vector<ContextHandle*> stack;
  ~Contexts() {
    if (!stack.empty()) violate("a thread ends with a current context");
  }
};

}  // namespace

State& state() {
  static State all;
  return all;
}

std::vector<ContextHandle*>& current() {
  static thread_local Contexts contexts;
  return contexts.stack;
}

void violate(const std::string& what) {
  const std::lock_guard<std::recursive_mutex> lock(state().mutex);
  if (state().violation.empty()) state().violation = what;
}

Code enter(const char* name, Needs needs, WhileCapturing allowed) {
  State& all = state();
  ++all.calls;
  if (needs != Needs::Nothing && all.process == 0) violate(std::string(name) + " before cuInit");
  if (all.process != 0 && all.process != ::getpid()) {
    if (needs != Needs::Nothing) violate(std::string(name) + " in a forked process");
    return kNotInitialized;
  }
  const bool in_context = !current().empty() && current().back() == &all.context;
  if (needs == Needs::Context && !in_context) violate(std::string(name) + " without its context current");
  const bool capturing = std::any_of(all.streams.begin(), all.streams.end(), [](auto& each) {
    return each->capturing && each->capturer == std::this_thread::get_id();
  });
  if (capturing && allowed == WhileCapturing::Never) violate(std::string(name) + " while a graph is captured");
  const bool fails = (all.is_broken() && needs == Needs::Context) || (all.fail_at != 0 && all.calls == all.fail_at);
  if (fails && *all.failed == '\0') all.failed = name;
  return fails ? all.fail_with : kSuccess;
}

long State::things() const {
  return static_cast<long>(device.size() + pinned.size() + modules.size() + streams.size() + graphs.size() +
                           execs.size());
}

void State::drop_things() {
  device.clear(), pinned.clear(), sizes.clear();
  modules.clear(), graphs.clear(), execs.clear(), streams.clear();
}

size_t room(Address address) {
  auto after = state().sizes.upper_bound(address);
  if (after == state().sizes.begin()) return 0;
  --after;
  return address >= after->first + after->second ? 0 : static_cast<size_t>(after->first + after->second - address);
}

void check_room(Address address, size_t bytes, const char* name) {
  if (room(address) < bytes) violate(std::string(name) + " outside of memory that was taken");
}

Code submit(StreamHandle* stream, std::function<void()> work) {
  if (!is_live(state().streams, stream, "work")) return kInvalidHandle;
  (stream->capturing ? stream->captured : stream->queue).push_back(std::move(work));
  return kSuccess;
}

}  // namespace standin
}  // namespace pstmo_edge

// ---- what tests tell it and ask it
// -----------------------------------------------------------------------------------

using pstmo_edge::cuda::Code;
using pstmo_edge::standin::current;
using pstmo_edge::standin::State;
using pstmo_edge::standin::state;
using Lock = std::lock_guard<std::recursive_mutex>;

EXPORTED void standin_set(int capability, int multiprocessors, int version, size_t memory, int computes) {
  State& all = state();
  const Lock lock(all.mutex);
  all.capability = capability, all.multiprocessors = multiprocessors, all.version = version, all.memory = memory;
  all.computes = computes != 0;
  all.calls = all.fail_at = all.break_at = all.launches = all.replays = all.together = 0;
  all.unreachable = false;
  all.failed = "";
  all.violation.clear();
}

// The `number`-th call from now on answers `code`; 0: none does.
EXPORTED void standin_fail(long number, Code code) {
  const Lock lock(state().mutex);
  state().fail_at = number == 0 ? 0 : state().calls + number;
  state().fail_with = code;
}

// It and everything after it in the context does, as after a kernel that crashed.
EXPORTED void standin_break(long number, Code code) {
  standin_fail(number, code);
  const Lock lock(state().mutex);
  state().break_at = state().fail_at;
}

// The device is reset by somebody else in the process.
EXPORTED void standin_reset() {
  const Lock lock(state().mutex);
  state().drop_things();
  state().context.destroyed = true;
}

// Another library's context is current on this thread from now on; then whether it is still, and no other.
EXPORTED void standin_enter_other() { current().push_back(&state().other); }
EXPORTED int standin_leave_other() {
  const bool is_alone = current().size() == 1 && current().back() == &state().other;
  current().clear();
  return is_alone;
}

#define PSTMO_EDGE_STANDIN_COUNT(name, value) \
  EXPORTED long name() {                      \
    const Lock lock(state().mutex);           \
    return value;                             \
  }
PSTMO_EDGE_STANDIN_COUNT(standin_calls, state().calls)
PSTMO_EDGE_STANDIN_COUNT(standin_launches, state().launches)
PSTMO_EDGE_STANDIN_COUNT(standin_together, state().together)
PSTMO_EDGE_STANDIN_COUNT(standin_replays, state().replays)
// Things taken and not given back, with the contexts that this thread left current.
PSTMO_EDGE_STANDIN_COUNT(standin_live, state().things() + static_cast<long>(current().size()) + state().context.owners)

EXPORTED const char* standin_failed() { return state().failed; }
EXPORTED const char* standin_violation() { return state().violation.c_str(); }
