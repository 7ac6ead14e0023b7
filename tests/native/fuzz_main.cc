// fuzz_bundle or fuzz_plan MUTANTS [SEED]: good inputs, changed in ways that break readers, deterministically. Run it
// under ASan and UBSan: what is wrong ends the program.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "fuzz.h"

namespace {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 6364136223846793005u + 1442695040888963407u) {}
  uint64_t bits() {
    state_ ^= state_ << 13, state_ ^= state_ >> 7, state_ ^= state_ << 17;
    return state_;
  }
  size_t below(size_t n) { return n == 0 ? 0 : static_cast<size_t>(bits() % n); }

 private:
  uint64_t state_;
};

// What readers of numbers and JSON stumble over.
const char* const kWords[] = {"0",
                              "-1",
                              "1",
                              "2",
                              "9",
                              "65535",
                              "65536",
                              "2147483647",
                              "2147483648",
                              "4294967295",
                              "4294967296",
                              "9223372036854775807",
                              "9223372036854775808",
                              "18446744073709551615",
                              "1e309",
                              "1e-9",
                              "0.5",
                              "null",
                              "true",
                              "[]",
                              "{}",
                              "\"\"",
                              "[[[[",
                              "]]]]",
                              "}",
                              "\\u0000",
                              "\\ud800",
                              "\"",
                              ",",
                              ":",
                              "F16",
                              "BF16",
                              "I8",
                              "U8",
                              "I32",
                              "[1,1,1,1]",
                              "[0,4]",
                              "__metadata__",
                              "../x",
                              "p-stmo",
                              "int8",
                              "I16"};

// A place inside the text parts (the JSON text and the file's header), where changes matter most; else anywhere.
size_t place(const std::string& input, Random& random) {
  const size_t text = static_cast<unsigned char>(input[1]) + 256u * static_cast<unsigned char>(input[2]);
  const size_t header = 4 + text;
  switch (random.below(8)) {
    case 0:
      return random.below(input.size());
    case 1:
    case 2:
    case 3:
      return 4 + random.below(text);
    default:
      return header + random.below(8 + 4096);
  }
}

// Numbers of the text are found and replaced as a whole: a random byte seldom leaves a well-formed one.
void replace_number(std::string& input, Random& random) {
  size_t at = place(input, random);
  while (at < input.size() && (input[at] < '0' || input[at] > '9')) ++at;
  size_t end = at;
  while (end < input.size() && end < at + 20 && input[end] >= '0' && input[end] <= '9') ++end;
  if (at >= input.size()) return;
  const std::string word = random.below(2) == 0 ? kWords[random.below(14)] : std::to_string(random.below(4096));
  // The same length where possible, so that lengths and offsets elsewhere stay right.
  if (random.below(2) == 0 && word.size() <= end - at) {
    input.replace(at, end - at, std::string(end - at - word.size(), ' ') + word);
  } else {
    input.replace(at, end - at, word);
  }
}

void mutate(std::string& input, Random& random) {
  const size_t at = place(input, random);
  if (at >= input.size()) return;
  switch (random.below(9)) {
    case 0:
      input[at] = static_cast<char>(input[at] ^ 1 << random.below(8));
      break;
    case 1:
      input[at] = static_cast<char>(random.bits());
      break;
    case 2:
      input.erase(at, 1 + random.below(random.below(4) == 0 ? 400 : 8));
      break;
    case 3:
      input.insert(at, kWords[random.below(sizeof kWords / sizeof *kWords)]);
      break;
    case 4:
      input.insert(at, input.substr(std::min(place(input, random), input.size()), random.below(64)));
      break;
    case 5:
      input.resize(4 + random.below(input.size() - 4));
      break;
    default:
      replace_number(input, random);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const unsigned long long mutants = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 10000;
  Random random(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1);
  const std::vector<std::string> seeds = pstmo_edge::testing::fuzz_seeds();
  for (const std::string& seed : seeds) {
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(seed.data()), seed.size());
  }
  for (unsigned long long i = 0; i < mutants; ++i) {
    std::string input = seeds[random.below(seeds.size())];
    for (size_t changes = 1 + random.below(4); changes > 0 && input.size() > 16; --changes) mutate(input, random);
    const std::vector<uint8_t> exact(input.begin(), input.end());
    LLVMFuzzerTestOneInput(exact.data(), exact.size());
  }
  std::printf("%llu mutants\n", mutants);
  return 0;
}
