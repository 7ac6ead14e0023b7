#ifndef PSTMO_EDGE_RUNTIME_FORWARD_H_
#define PSTMO_EDGE_RUNTIME_FORWARD_H_

#include "engine.h"
#include "network.h"

namespace pstmo_edge {

constexpr int kBlockRows = 36;  // rows that one thread carries through a layer at a time

// One window on its way through the network. What a block of rows reads of its neighbours (keys and values) is written
// by one stage and read by the next, so there are two sets, which take turns.
struct Window {
  float* tokens[2];   // [frames][channels], the residual stream
  float* queries[2];  // [frames][channels]
  float* keys[2];     // of each head, in attention's panels
  float* values[2];
};

// What one thread needs for a block of rows; "operand" is what a product reads, floats or codes.
struct Scratch {
  float* stream;     // residual stream of the queries, [rows][channels]
  float* queries;    // [rows][channels]
  float* middle;     // between the sublayers
  float* key_value;  // [rows][2 channels]
  float* scores;
  void* normed;   // operand, [rows][channels]
  void* mixed;    // operand
  void* wide;     // operand, [rows][hidden], or the encoder's [rows][2 channels]
  void* wider;    // operand
  float* frames;  // the encoder's residual [rows][2 channels]
  Profile* profile = nullptr;
};

// Where a window's first stage finds its frames: keypoints to encode, or tokens that were encoded before.
struct Source {
  const float* keypoints = nullptr;
  const float* const* tokens = nullptr;
};

// The network by stages. Stage 0 makes the first layer's input and its keys and values; stage i is layer i - 1 up to
// the next layer's keys and values, or to the pose. A stage's rows are independent of each other, and need all of the
// stage before.
class Forward {
 public:
  explicit Forward(const Network& network) : network_(network), kernels_(*network.kernels) {}

  Window new_window(Memory& memory) const;
  Scratch new_scratch(Memory& memory) const;

  int stages() const { return static_cast<int>(network_.layers.size()) + 1; }
  int rows_of(int stage) const;        // that a stage puts out
  int block_rows_of(int stage) const;  // at most at a time
  void run(int stage, int first, int count, const Source& source, Window& window, Scratch& scratch, float* pose) const;

  // Frames (count, joints, 2) to tokens (count, channels); at most kBlockRows.
  void encode(const float* keypoints, int count, float* tokens, Scratch& scratch) const;

 private:
  void start(int first, int count, const Source& source, Window& window, Scratch& scratch) const;
  void prepare_attention(size_t layer, int first, int count, Window& window, Scratch& scratch) const;
  void run_layer(size_t layer, int first, int count, Window& window, Scratch& scratch) const;
  void attend(size_t layer, const float* queries, int rows, const Window& window, Scratch& scratch) const;
  void gather(const Layer& layer, int first, int rows, const Window& window, int side, Scratch& scratch) const;
  void clear_outside(const Layer& layer, int first, int rows, Scratch& scratch) const;
  void finish(const Window& window, Scratch& scratch, float* pose) const;
  void multiply(const void* rows, ptrdiff_t stride, int count, const Linear& linear, const Out& out,
                Scratch& scratch) const;
  size_t key_floats() const;

  const Network& network_;
  const Kernels& kernels_;
};

}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_RUNTIME_FORWARD_H_
