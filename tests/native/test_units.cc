// SHA-256, JSON, safetensors, the clock and fp16, alone.
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "../../kernels/cuda/half.h"
#include "bundles.h"
#include "check.h"
#include "clock.h"
#include "json.h"
#include "sha256.h"
#include "tensors.h"
#include "trt_plan.h"

using pstmo_edge::Clock;
using pstmo_edge::Json;
using pstmo_edge::TensorTable;

namespace {

void sha256_is_that_of_the_standard() {  // FIPS 180-4's examples, and one of a million letters
  CHECK(pstmo_edge::sha256_hex("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(pstmo_edge::sha256_hex("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(pstmo_edge::sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  const std::string million(1000000, 'a');
  const std::string wanted = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";
  CHECK(pstmo_edge::sha256_hex(million) == wanted);
  for (const size_t piece : {1u, 63u, 64u, 65u, 1000u}) {
    pstmo_edge::Sha256 digest;
    for (size_t at = 0; at < million.size(); at += piece) {
      digest.update(million.data() + at, std::min(piece, million.size() - at));
    }
    CHECK(digest.hex() == wanted);
  }
}

void hmac_is_that_of_the_standard() {  // RFC 4231's first and second case
  CHECK(pstmo_edge::hmac_sha256_hex(std::string(20, '\x0b'), "Hi There") ==
        "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
  CHECK(pstmo_edge::hmac_sha256_hex("Jefe", "what do ya want for nothing?") ==
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

void json_is_strict() {
  const char* const good[] = {"null",
                              "true",
                              "0",
                              "-0",
                              "1e5",
                              "1.5E+3",
                              "\"\"",
                              "[]",
                              "{}",
                              " [1, 2] ",
                              "{\"a\":{\"b\":[]}}",
                              "\"\\u00e9\\ud83d\\ude00\\n\"",
                              "\"\xc3\xa9\xf0\x9f\x98\x80\""};
  for (const char* text : good) CHECK(Json::parse(text).ok());
  const char* const bad[] = {"",
                             " ",
                             "nul",
                             "+1",
                             "01",
                             "1.",
                             ".5",
                             "1e",
                             "--1",
                             "NaN",
                             "Infinity",
                             "[1,]",
                             "[1 2]",
                             "[",
                             "]",
                             "{\"a\":1,}",
                             "{a:1}",
                             "{\"a\" 1}",
                             "{\"a\":1,\"a\":2}",
                             "{\"a\":1,\"\\u0061\":2}",
                             "\"",
                             "\"\\x\"",
                             "\"\\u12\"",
                             "\"\\ud800\"",
                             "\"\\udc00\"",
                             "\"\\ud800\\u0041\"",
                             "\"a\nb\"",
                             "\"\xff\"",
                             "\"\xc0\xaf\"",
                             "\"\xed\xa0\x80\"",
                             "\"\xf4\x90\x80\x80\"",
                             "1 2",
                             "{}x",
                             "'a'",
                             "[1]]"};
  for (const char* text : bad) CHECK(!Json::parse(text).ok());
  CHECK(!Json::parse(std::string("1\0", 2)).ok());
  CHECK(!Json::parse(std::string(100000, '[')).ok());  // depth, not the stack
  CHECK(Json::parse(std::string(32, '[') + std::string(32, ']')).ok());
  CHECK(!Json::parse(std::string(34, '[') + std::string(34, ']')).ok());
  std::string many = "[0";
  for (int i = 0; i < 70000; ++i) many += ",0";
  CHECK(!Json::parse(many + "]").ok());
}

void json_gives_back_what_it_read() {
  const std::string text = "{\n  \"b\": [\n    1e-05,\n    \"\\u00e9\"\n  ],\n  \"a\": {},\n  \"c\": []\n}";
  const auto parsed = Json::parse(text);
  CHECK(parsed.ok());
  CHECK(parsed.value().indented() == text);
  CHECK(parsed.value().canonical() == "{\"a\":{},\"b\":[1e-05,\"\\u00e9\"],\"c\":[]}");
  CHECK(parsed.value().canonical("b") == "{\"a\":{},\"c\":[]}");
  CHECK(*parsed.value().find("b")->items()[1].text() == "\xc3\xa9");
  CHECK(parsed.value().find("d") == nullptr);
  const auto numbers = Json::parse("[9223372036854775807, 9223372036854775808, 1.0, 29.97, 1e999, \"1\"]");
  const auto& items = numbers.value().items();
  CHECK(items[0].integer() == INT64_MAX && !items[1].integer() && !items[2].integer() && !items[5].integer());
  CHECK(items[3].number() == 29.97 && !items[4].number() && !items[5].number());
}

std::string tensors(const std::string& header, size_t data) {
  std::string bytes(8, '\0');
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(header.size() >> (8 * i) & 255);
  return bytes + header + std::string(data, '\1');
}

bool opens(const std::string& bytes) {
  // In memory of exactly this size, so that a sanitizer sees one byte too many.
  std::vector<uint8_t> copy(bytes.begin(), bytes.end());
  return TensorTable::parse(copy.data(), copy.size()).ok();
}

void safetensors_are_checked_against_the_file() {
  const std::string a = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  const std::string b = R"("b":{"dtype":"I8","shape":[1,3],"data_offsets":[8,11]})";
  CHECK(opens(tensors("{" + a + "," + b + "}", 11)));
  CHECK(opens(tensors("{" + b + "," + a + ",\"__metadata__\":{\"x\":\"y\"}}   ", 11)));
  CHECK(opens(tensors("{}", 0)));
  CHECK(opens(tensors(R"({"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})", 4)));
  CHECK(!opens(tensors("{" + a + "," + b + "}", 12)));  // bytes left over
  CHECK(!opens(tensors("{" + a + "," + b + "}", 10)));  // cut short
  CHECK(!opens(tensors("{" + b + "}", 11)));            // a gap
  CHECK(!opens(tensors("{" + a + ",\"b\":{\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[7,11]}}", 11)));  // overlap
  CHECK(!opens(tensors("{" + a + "," + a + "}", 8)));                                                        // twice
  const char* const wrong[] = {
      R"({"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}})",
      R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})",
      R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})",
      R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}})",
      R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})",
      R"({"a":{"dtype":"F32","shape":[1,1,1,1,2],"data_offsets":[0,8]}})",
      R"({"a":{"dtype":"F32","shape":[4611686018427387904,2],"data_offsets":[0,8]}})",
      R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}})",
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})",
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}})",
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}})",
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})",
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,9223372036854775807]}})",
      R"({"a":{"dtype":"F32","shape":[2]}})",
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}})",
      R"({"a":[]})",
      R"([])",
      R"({"a":)",
  };
  for (const char* header : wrong) CHECK(!opens(tensors(header, 8)));
  CHECK(!opens(""));
  CHECK(!opens(std::string(7, '\0')));
  CHECK(!opens(std::string(8, '\xff')));
  std::string longer = tensors("{}", 0);
  longer[0] = 3;
  CHECK(!opens(longer));
}

void tensors_are_found_by_name() {
  const std::string bytes = pstmo_edge::testing::weights_of({});
  const auto table = TensorTable::parse(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  CHECK(table.ok());
  if (!table.ok()) return;
  const pstmo_edge::Tensor* tensor = table.value().find("encoder.fc_1.weight");
  CHECK(tensor != nullptr && tensor->rank == 2 && tensor->dims[0] == 64 && tensor->dims[1] == 34);
  CHECK(table.value().find("encoder.fc_1") == nullptr && table.value().find("") == nullptr);
  for (size_t i = 0; i < table.value().size(); ++i)
    CHECK(table.value().find(table.value()[i].name) == &table.value()[i]);
}

// The moments that a clock takes from frames at these times: how many each frame ends, and whether it is the last one's
// own.
std::vector<int> moments(Clock clock, const std::vector<double>& times) {
  std::vector<int> made;
  clock.start(times[0]);
  for (size_t i = 1; i < times.size(); ++i) {
    int count = 0;
    for (; clock.reaches(times[i]); ++count) clock.is_at(times[i]) ? clock.pass_frame(times[i]) : clock.pass();
    made.push_back(count);
  }
  return made;
}

int sum(const std::vector<int>& values) {
  int total = 0;
  for (const int value : values) total += value;
  return total;
}

std::vector<double> even(double fps, int count) {
  std::vector<double> times;
  for (int i = 0; i < count; ++i) times.push_back(1.7e9 + i / fps);
  return times;
}

void the_clock_follows_a_faithful_camera() {
  CHECK(moments(Clock(50, 1, 50), even(50, 10000)) == std::vector<int>(9999, 1));
  CHECK(moments(Clock(30, 1, 30), even(30000.0 / 1001, 10000)) == std::vector<int>(9999, 1));  // 29.97 is 30
  CHECK(moments(Clock(50, 2, 25), even(25, 1000)) == std::vector<int>(999, 1));
  CHECK(moments(Clock(50, 2, 50), even(50, 1000)) == std::vector<int>(999, 1));
  CHECK(Clock(50, 2, 50).steps() == 2 && Clock(50, 2, 25).steps() == 1 && Clock(50, 2, 500).steps() == 2);
  CHECK(Clock(50, 3, 34).steps() == 2 && Clock(50, 1, 10).steps() == 1);
  CHECK(sum(moments(Clock(50, 1, 25), even(25, 1001))) == 2000);  // two moments a frame
  CHECK(sum(moments(Clock(50, 1, 100), even(100, 2001))) == 1000);
  CHECK(sum(moments(Clock(50, 1, 60), even(60, 6001))) == 5000);
  std::vector<double> jittery = even(30, 3000);
  for (size_t i = 0; i < jittery.size(); ++i) jittery[i] += 0.008 * std::sin(static_cast<double>(i * i));
  CHECK(moments(Clock(30, 1, 30), jittery) == std::vector<int>(2999, 1));
  std::vector<double> holed = even(30, 1000);
  holed.erase(holed.begin() + 500, holed.begin() + 503);
  CHECK(moments(Clock(30, 1, 30), holed)[499] == 4 && sum(moments(Clock(30, 1, 30), holed)) == 999);
}

}  // namespace

void fp16_is_ieee_754s() {
  using pstmo_edge::cuda::float_of;
  using pstmo_edge::cuda::Half;
  using pstmo_edge::cuda::half_of;
  CHECK(float_of(1) == 0x1p-24F && float_of(0x3ff) == 0x1.ff8p-15F && float_of(0x400) == 0x1p-14F);
  CHECK(float_of(0x3c01) == 0x1.004p0F && float_of(0xc000) == -2 && float_of(0x7bff) == 65504);
  CHECK(std::signbit(float_of(0x8000)) && std::isinf(float_of(0x7c00)) && std::isnan(float_of(0xfe00)));
  CHECK(half_of(65519.996F) == 0x7bff && half_of(65520) == 0x7c00 && half_of(-HUGE_VALF) == 0xfc00);
  CHECK((half_of(NAN) & 0x7c00) == 0x7c00 && (half_of(NAN) & 0x3ff) != 0);
  // Every value comes back, and between two neighbours the nearer one or the even one does.
  for (unsigned bits = 0; bits < 0x7bff; ++bits) {
    const auto low = static_cast<Half>(bits), high = static_cast<Half>(bits + 1), even = bits % 2 == 0 ? low : high;
    const float middle = (float_of(low) + float_of(high)) / 2;
    const bool good = half_of(float_of(low)) == low && half_of(middle) == even &&
                      half_of(std::nextafterf(middle, 0)) == low && half_of(std::nextafterf(middle, 1e6F)) == high &&
                      half_of(-middle) == (even | 0x8000);
    CHECK(good);
    if (!good) return;
  }
  CHECK(half_of(0x1p-26F) == 0 && half_of(-0.0F) == 0x8000);
}

int main() {
  sha256_is_that_of_the_standard();
  hmac_is_that_of_the_standard();
  json_is_strict();
  json_gives_back_what_it_read();
  safetensors_are_checked_against_the_file();
  tensors_are_found_by_name();
  the_clock_follows_a_faithful_camera();
  fp16_is_ieee_754s();
  return check_result();
}
