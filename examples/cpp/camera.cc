// A camera loop in C++: keypoints come in, poses go out. The arguments are those of ../c/camera.c.
//
//   c++ -std=c++17 camera.cc -o camera $(pkg-config --cflags --libs pstmo_edge)
#include <cstdio>
#include <fstream>
#include <iostream>
#include <pstmo_edge.hpp>
#include <sstream>
#include <string>

namespace {

// One line: a timestamp, then x, y and confidence of 17 joints. What cannot be read is a missing joint.
bool read_frame(std::istream& file, double& timestamp, pstmo_edge::Keypoints& frame) {
  std::string line;
  if (!std::getline(file, line)) return false;
  std::istringstream fields(line);
  fields >> timestamp;
  for (float& value : frame) {
    fields.ignore(1, ',');
    if (!(fields >> value)) value = 0;
  }
  return true;
}

void print(const pstmo_edge::Pose& pose) {
  std::printf("%.6f %s", pose.timestamp, pose.flags == PSTMO_EDGE_POSE_VALID ? "valid" : "doubtful");
  for (const auto& joint : pose.joints) std::printf(" %.4f %.4f %.4f", joint[0], joint[1], joint[2]);
  std::printf("\n");
}

void run(const char* bundle, std::istream& file, const pstmo_edge::StreamOptions& options) {
  pstmo_edge::Engine engine(bundle);
  pstmo_edge::Stream stream = engine.stream(options);
  double timestamp = 0;
  pstmo_edge::Keypoints frame{};
  while (read_frame(file, timestamp, frame)) {
    stream.push(frame, timestamp);
    while (const auto pose = stream.read()) print(*pose);
  }
  stream.finish();
  while (const auto pose = stream.read()) print(*pose);
  const pstmo_edge::Counters counters = stream.counters();
  std::cerr << counters.received << " frames: " << counters.delivered << " poses, " << counters.dropped << " dropped, "
            << counters.rejected << " rejected\n";
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 6) {
    std::cerr << "usage: camera BUNDLE KEYPOINTS.csv WIDTH HEIGHT FPS\n";
    return 2;
  }
  std::ifstream file(argv[2]);
  if (!file) throw std::runtime_error(std::string("cannot read ") + argv[2]);
  run(argv[1], file,
      pstmo_edge::live(static_cast<std::uint32_t>(std::stoul(argv[3])), static_cast<std::uint32_t>(std::stoul(argv[4])),
                       std::stod(argv[5])));
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
