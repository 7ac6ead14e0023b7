#ifndef PSTMO_EDGE_RUNTIME_JSON_H_
#define PSTMO_EDGE_RUNTIME_JSON_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "result.h"

namespace pstmo_edge {

struct JsonMember;

// A JSON value (RFC 8259) that remembers how each of its scalars was written, so that a text can be rendered again byte
// for byte. Strict: no duplicate names, no text after the value, valid UTF-8, no half surrogates. Bounded: at most
// kMaxDepth levels and kMaxNodes values, whatever the text. The text must outlive the value.
class Json {
 public:
  enum class Kind : uint8_t { Null, Bool, Number, String, Array, Object };
  static constexpr int kMaxDepth = 32;
  static constexpr size_t kMaxNodes = 1 << 16;

  // The value of a whole text; the error's text says what is wrong and at which byte.
  static Result<Json> parse(std::string_view text);

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }

  // An array's values in order; empty for other kinds.
  const std::vector<Json>& items() const { return items_; }
  // An object's members in order; empty for other kinds.
  const std::vector<JsonMember>& members() const { return members_; }
  // The value of that name in an object, or nullptr.
  const Json* find(std::string_view name) const;

  // Nothing (nullptr) where the value is of another kind or out of range; 1.0 and 1e3 are no integers.
  std::optional<int64_t> integer() const;
  std::optional<double> number() const;
  const std::string* text() const;  // decoded, UTF-8

  // As Python's json.dumps(value, sort_keys=True, separators=(",", ":")), without the top level's member `except`.
  std::string canonical(std::string_view except = {}) const;
  // As Python's json.dumps(value, indent=2).
  std::string indented() const;

 private:
  friend class JsonParser;
  void write_canonical(std::string& out, std::string_view except) const;
  void write_indented(std::string& out, size_t depth) const;

  Kind kind_ = Kind::Null;
  std::string_view raw_;  // a scalar as it was written, a string with its quotes
  std::string decoded_;   // a string's meaning
  std::vector<Json> items_;
  std::vector<JsonMember> members_;
};

struct JsonMember {
  std::string name;           // decoded
  std::string_view raw_name;  // as it was written, with its quotes
  Json value;
};

}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_RUNTIME_JSON_H_
