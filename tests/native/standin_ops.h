#ifndef PSTMO_EDGE_TESTS_NATIVE_STANDIN_OPS_H_
#define PSTMO_EDGE_TESTS_NATIVE_STANDIN_OPS_H_

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

// The kernels of kernels/triton/device.py on the host, program by program: what a launch leaves out stays unwritten.

namespace pstmo_edge {
namespace standin {

struct Argument {
  std::string name, type;  // "*fp16", "i32", "fp32"
  bool is_pointer() const { return type[0] == '*'; }
  size_t bytes() const { return type == "*i8" ? 1 : type == "*bf16" || type == "*fp16" ? 2 : 4; }
};

// What stands for a cubin: a text that ends with a zero, made by tests/kernels/cuda/standin.py.
struct Source {
  std::string entry;
  int threads = 0, shared_bytes = 0;
  std::vector<Argument> arguments;
  std::map<std::string, int> constants;
};

bool parse_source(const char* text, Source& source);

struct Value {
  union {
    unsigned long long address;
    int32_t count;
    float number;
  };
  size_t elements = 0;  // behind an address
  Value() : address(0) {}
};

struct Call {
  const Source* source;
  std::array<unsigned, 3> grid;
  std::vector<Value> values;
};

// "", or what went outside of memory.
std::string compute(const Call& call);

// The kernel of single_window.h on the host, once by one worker and once by all of the grid's, the last one first: what
// a stage reads of what the same stage writes would differ.
std::string lift_one(const Call& call);

}  // namespace standin
}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_TESTS_NATIVE_STANDIN_OPS_H_
