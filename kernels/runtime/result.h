#ifndef PSTMO_EDGE_RUNTIME_RESULT_H_
#define PSTMO_EDGE_RUNTIME_RESULT_H_

#include <string>
#include <utility>
#include <variant>

#include "pstmo_edge.h"

namespace pstmo_edge {

// What went wrong: a status for programs and one sentence for people, which names the value, the limit and the way out.
struct Error {
  pstmo_edge_status status = PSTMO_EDGE_STATUS_INTERNAL;
  std::string text;
};

// A value, or the error that took its place. Memory that runs out is the one thing still thrown (std::bad_alloc): the
// C ABI catches it at its border.
template <typename T>
class Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  // Only where ok().
  T& value() { return *std::get_if<0>(&state_); }
  const T& value() const { return *std::get_if<0>(&state_); }
  T& operator*() { return value(); }
  T* operator->() { return &value(); }

  // Only where not ok().
  Error& error() { return *std::get_if<1>(&state_); }
  const Error& error() const { return *std::get_if<1>(&state_); }

 private:
  std::variant<T, Error> state_;
};

// Success, or an error.
struct Unit {};
using Outcome = Result<Unit>;

}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_RUNTIME_RESULT_H_
