// make_bundle FOLDER [tiny|small|medium|int8|long|cuda]: a bundle of random weights, for tests that are not written in
// C++.
//   tiny: 9 frames, one layer of 32 channels; small: p-stmo-s with 9 frames; medium: with 27; int8: the small one in
//   INT8; long: that with 243 frames; cuda: the tiny one with kernels for the stand-in of the CUDA driver.
#include <cstdio>
#include <string>

#include "cuda_bundles.h"

int main(int argc, char** argv) {
  if (argc < 2) return std::fprintf(stderr, "make_bundle FOLDER [tiny|small|medium|int8|long|cuda]\n"), 2;
  const std::string kind = argc > 2 ? argv[2] : "tiny";
  pstmo_edge::testing::BundleSpec spec;
  if (kind == "cuda") {
    pstmo_edge::testing::write_cuda_bundle(argv[1], spec, pstmo_edge::testing::cuda_files_of(spec));
    return 0;
  }
  if (kind != "tiny") spec.layers = 3, spec.channels = 256, spec.hidden = 512, spec.heads = 8;
  spec.int8 = kind == "int8" || kind == "long";
  if (kind == "medium") spec.frames = 27, spec.target_index = spec.lookahead_frames = 13;
  if (kind == "long") spec.frames = 243, spec.target_index = spec.lookahead_frames = 121;
  pstmo_edge::testing::write_bundle(argv[1], spec);
  return 0;
}
