#include "json.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace pstmo_edge {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

int hex_digit(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

void append_utf8(std::string& out, uint32_t code) {
  const auto byte = [&](uint32_t value) { out += static_cast<char>(value); };
  if (code < 0x80) {
    byte(code);
  } else if (code < 0x800) {
    byte(0xc0 | code >> 6), byte(0x80 | (code & 63));
  } else if (code < 0x10000) {
    byte(0xe0 | code >> 12), byte(0x80 | (code >> 6 & 63)), byte(0x80 | (code & 63));
  } else {
    byte(0xf0 | code >> 18), byte(0x80 | (code >> 12 & 63)), byte(0x80 | (code >> 6 & 63)), byte(0x80 | (code & 63));
  }
}

// The length of the UTF-8 sequence at the start of `bytes`, 0 where there is none (overlong forms, surrogates).
size_t utf8_length(std::string_view bytes) {
  const auto at = [&](size_t i) { return i < bytes.size() ? static_cast<unsigned char>(bytes[i]) : 0u; };
  const auto follows = [&](size_t i, unsigned low, unsigned high) { return at(i) >= low && at(i) <= high; };
  const unsigned first = at(0);
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf) return follows(1, 0x80, 0xbf) ? 2 : 0;
  if (first >= 0xe0 && first <= 0xef) {
    const unsigned low = first == 0xe0 ? 0xa0 : 0x80, high = first == 0xed ? 0x9f : 0xbf;
    return follows(1, low, high) && follows(2, 0x80, 0xbf) ? 3 : 0;
  }
  if (first >= 0xf0 && first <= 0xf4) {
    const unsigned low = first == 0xf0 ? 0x90 : 0x80, high = first == 0xf4 ? 0x8f : 0xbf;
    return follows(1, low, high) && follows(2, 0x80, 0xbf) && follows(3, 0x80, 0xbf) ? 4 : 0;
  }
  return 0;
}

}  // namespace

class JsonParser {
 public:
  explicit JsonParser(std::string_view text) : text_(text) {}

  Result<Json> run() {
    Json value;
    skip_space();
    if (read_value(value, 0)) {
      skip_space();
      if (at_ != text_.size()) fail("text follows the value");
    }
    if (reason_ == nullptr) return value;
    return Error{PSTMO_EDGE_STATUS_BUNDLE_DAMAGED, std::string(reason_) + " at byte " + std::to_string(at_)};
  }

 private:
  // Every read_ function returns whether all is well so far, with at_ behind what was read.
  bool fail(const char* reason) {
    if (reason_ == nullptr) reason_ = reason;
    return false;
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  bool take(char c) {
    if (peek() != c || at_ >= text_.size()) return false;
    ++at_;
    return true;
  }

  void skip_space() {
    while (at_ < text_.size() && is_space(text_[at_])) ++at_;
  }

  bool read_value(Json& out, int depth) {
    if (depth > Json::kMaxDepth) return fail("too many levels");
    if (++nodes_ > Json::kMaxNodes) return fail("too many values");
    switch (peek()) {
      case '{':
        return read_object(out, depth);
      case '[':
        return read_array(out, depth);
      case '"':
        out.kind_ = Json::Kind::String;
        return read_string(out.raw_, out.decoded_);
      case 't':
        return read_word(out, Json::Kind::Bool, "true");
      case 'f':
        return read_word(out, Json::Kind::Bool, "false");
      case 'n':
        return read_word(out, Json::Kind::Null, "null");
      default:
        return read_number(out);
    }
  }

  bool read_word(Json& out, Json::Kind kind, std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return fail("a value was expected");
    out.kind_ = kind, out.raw_ = text_.substr(at_, word.size());
    at_ += word.size();
    return true;
  }

  bool read_digits() {
    const size_t start = at_;
    while (is_digit(peek())) ++at_;
    return at_ > start || fail("a digit was expected");
  }

  bool read_number(Json& out) {
    const size_t start = at_;
    take('-');
    if (!is_digit(peek())) return fail("a value was expected");
    if (!take('0')) read_digits();
    if (take('.') && !read_digits()) return false;
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      if (!read_digits()) return false;
    }
    out.kind_ = Json::Kind::Number, out.raw_ = text_.substr(start, at_ - start);
    return true;
  }

  bool read_escaped_unit(uint32_t& unit) {
    unit = 0;
    for (int i = 0; i < 4; ++i) {
      const int digit = hex_digit(peek());
      if (digit < 0) return fail("four hexadecimal digits were expected");
      unit = unit << 4 | static_cast<uint32_t>(digit);
      ++at_;
    }
    return true;
  }

  bool read_escape(std::string& out) {
    constexpr std::string_view kLetters = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
    const size_t known = kLetters.find(peek());
    if (known != std::string_view::npos && at_ < text_.size()) {
      ++at_;
      out += kMeanings[known];
      return true;
    }
    if (!take('u')) return fail("no such escape");
    uint32_t code = 0, low = 0;
    if (!read_escaped_unit(code)) return false;
    if (code >= 0xd800 && code <= 0xdfff) {
      const bool paired = code < 0xdc00 && take('\\') && take('u') && read_escaped_unit(low);
      if (!paired || low < 0xdc00 || low > 0xdfff) return fail("half a surrogate pair");
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    append_utf8(out, code);
    return true;
  }

  // A string as it was written, with its quotes, and what it means.
  bool read_string(std::string_view& raw, std::string& decoded) {
    const size_t start = at_;
    if (!take('"')) return fail("a string was expected");
    while (!take('"')) {
      if (at_ >= text_.size()) return fail("the text ends within a string");
      if (take('\\')) {
        if (!read_escape(decoded)) return false;
        continue;
      }
      const size_t length = utf8_length(text_.substr(at_));
      if (length == 0) return fail("no UTF-8");
      if (static_cast<unsigned char>(text_[at_]) < 0x20) return fail("a control character within a string");
      decoded.append(text_.substr(at_, length));
      at_ += length;
    }
    raw = text_.substr(start, at_ - start);
    return true;
  }

  bool read_array(Json& out, int depth) {
    out.kind_ = Json::Kind::Array;
    ++at_;
    skip_space();
    if (take(']')) return true;
    do {
      skip_space();
      if (!read_value(out.items_.emplace_back(), depth + 1)) return false;
      skip_space();
    } while (take(','));
    return take(']') || fail("',' or ']' was expected");
  }

  bool read_object(Json& out, int depth) {
    out.kind_ = Json::Kind::Object;
    ++at_;
    skip_space();
    if (take('}')) return true;
    do {
      skip_space();
      JsonMember& member = out.members_.emplace_back();
      if (!read_string(member.raw_name, member.name)) return false;
      skip_space();
      if (!take(':')) return fail("':' was expected");
      skip_space();
      if (!read_value(member.value, depth + 1)) return false;
      skip_space();
    } while (take(','));
    if (!take('}')) return fail("',' or '}' was expected");
    return has_distinct_names(out) || fail("an object names one member twice");
  }

  static bool has_distinct_names(const Json& object) {
    std::vector<std::string_view> names;
    names.reserve(object.members_.size());
    for (const JsonMember& member : object.members_) names.push_back(member.name);
    std::sort(names.begin(), names.end());
    return std::adjacent_find(names.begin(), names.end()) == names.end();
  }

  std::string_view text_;
  size_t at_ = 0;
  size_t nodes_ = 0;
  const char* reason_ = nullptr;
};

Result<Json> Json::parse(std::string_view text) { return JsonParser(text).run(); }

const Json* Json::find(std::string_view name) const {
  const auto found =
      std::find_if(members_.begin(), members_.end(), [&](const JsonMember& member) { return member.name == name; });
  return found == members_.end() ? nullptr : &found->value;
}

std::optional<int64_t> Json::integer() const {
  if (kind_ != Kind::Number) return std::nullopt;
  int64_t value = 0;
  const char* end = raw_.data() + raw_.size();
  const auto [stopped, problem] = std::from_chars(raw_.data(), end, value);
  if (problem != std::errc() || stopped != end) return std::nullopt;
  return value;
}

std::optional<double> Json::number() const {
  if (kind_ != Kind::Number) return std::nullopt;
  double value = 0;  // from_chars, unlike strtod, does not ask the process's locale what a decimal point looks like
  const char* end = raw_.data() + raw_.size();
  const auto [stopped, problem] = std::from_chars(raw_.data(), end, value);
  if (problem != std::errc() || stopped != end || !std::isfinite(value)) return std::nullopt;
  return value;
}

const std::string* Json::text() const { return kind_ == Kind::String ? &decoded_ : nullptr; }

std::string Json::canonical(std::string_view except) const {
  std::string out;
  write_canonical(out, except);
  return out;
}

void Json::write_canonical(std::string& out, std::string_view except) const {
  if (kind_ == Kind::Array) {
    out += '[';
    for (const Json& item : items_) {
      if (&item != &items_.front()) out += ',';
      item.write_canonical(out, {});
    }
    out += ']';
  } else if (kind_ == Kind::Object) {
    std::vector<const JsonMember*> sorted;
    for (const JsonMember& member : members_) {
      if (except.empty() || member.name != except) sorted.push_back(&member);
    }
    // UTF-8 sorts as its code points do, which is how Python sorts.
    std::sort(sorted.begin(), sorted.end(), [](auto* a, auto* b) { return a->name < b->name; });
    out += '{';
    for (const JsonMember* member : sorted) {
      if (member != sorted.front()) out += ',';
      out.append(member->raw_name) += ':';
      member->value.write_canonical(out, {});
    }
    out += '}';
  } else {
    out.append(raw_);
  }
}

std::string Json::indented() const {
  std::string out;
  write_indented(out, 0);
  return out;
}

void Json::write_indented(std::string& out, size_t depth) const {
  const auto line = [&](size_t level) { out.append("\n").append(2 * level, ' '); };
  if (!items_.empty()) {
    out += '[';
    for (const Json& item : items_) {
      if (&item != &items_.front()) out += ',';
      line(depth + 1);
      item.write_indented(out, depth + 1);
    }
    line(depth);
    out += ']';
  } else if (!members_.empty()) {
    out += '{';
    for (const JsonMember& member : members_) {
      if (&member != &members_.front()) out += ',';
      line(depth + 1);
      out.append(member.raw_name).append(": ");
      member.value.write_indented(out, depth + 1);
    }
    line(depth);
    out += '}';
  } else if (kind_ == Kind::Array) {
    out += "[]";
  } else if (kind_ == Kind::Object) {
    out += "{}";
  } else {
    out.append(raw_);
  }
}

}  // namespace pstmo_edge
