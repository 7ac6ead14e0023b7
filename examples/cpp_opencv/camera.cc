// A camera loop in C++ with OpenCV: pictures in, 3D poses out, no Python anywhere.
//
//   camera BUNDLE POSE.onnx SOURCE [WIDTH HEIGHT]
//
// BUNDLE is a native bundle of weights that read COCO keypoints (pstmo-edge build --checkpoint p-stmo-s-27-coco),
// SOURCE a camera's number, a video or an address. POSE.onnx is an RTMPose of 17 COCO joints: input (1, 3, HEIGHT,
// WIDTH), by default 192 x 256, outputs simcc_x and simcc_y with two cells a pixel. One person; the crop follows them.
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <opencv2/dnn.hpp>
#include <opencv2/imgproc.hpp>
#include <opencv2/videoio.hpp>
#include <pstmo_edge.hpp>
#include <string>
#include <vector>

namespace {

constexpr float kFound = 0.3F;     // the confidence below which a joint was not seen
constexpr float kPadding = 1.25F;  // of the crop around a person, as RTMPose is trained
constexpr int kCells = 2;          // SimCC cells a pixel

// Finds one person's joints, in pixels of the picture.
class Keypointer {
 public:
  Keypointer(const std::string& model, cv::Size size) : net_(cv::dnn::readNetFromONNX(model)), size_(size) {}

  pstmo_edge::Keypoints operator()(const cv::Mat& picture) {
    const cv::Rect2f crop = followed_ ? box_ : fitted(cv::Rect2f(cv::Point2f(), cv::Size2f(picture.size())));
    const float scale = static_cast<float>(size_.width) / crop.width;
    const cv::Matx23f into(scale, 0, -crop.x * scale, 0, scale, -crop.y * scale);
    cv::Mat input;
    cv::warpAffine(picture, input, into, size_, cv::INTER_LINEAR, cv::BORDER_CONSTANT, kMean);
    input.convertTo(input, CV_32FC3);
    cv::subtract(input, kMean, input);
    cv::divide(input, kDeviation, input);
    net_.setInput(cv::dnn::blobFromImage(input, 1.0, {}, {}, /*swapRB=*/true));
    std::vector<cv::Mat> outputs;
    net_.forward(outputs, std::vector<std::string>{"simcc_x", "simcc_y"});
    return placed(outputs[0], outputs[1], crop, scale);
  }

 private:
  pstmo_edge::Keypoints placed(const cv::Mat& across, const cv::Mat& down, const cv::Rect2f& crop, float scale) {
    pstmo_edge::Keypoints joints{};
    if (across.dims != 3 || down.dims != 3 || across.size[1] != PSTMO_EDGE_JOINTS || down.size[1] != PSTMO_EDGE_JOINTS)
      throw std::runtime_error("the pose model does not give SimCC of 17 joints");
    cv::Point2f low(1e9F, 1e9F), high(-1e9F, -1e9F);
    int seen = 0;
    for (int joint = 0; joint < PSTMO_EDGE_JOINTS; ++joint) {
      const auto [x, sure_x] = largest(across.ptr<float>(0, joint), across.size[2]);
      const auto [y, sure_y] = largest(down.ptr<float>(0, joint), down.size[2]);
      const cv::Point2f at(crop.x + static_cast<float>(x) / kCells / scale,
                           crop.y + static_cast<float>(y) / kCells / scale);
      const float sure = std::clamp(std::min(sure_x, sure_y), 0.0F, 1.0F);
      float* const out = &joints[static_cast<std::size_t>(joint) * 3];
      out[0] = at.x, out[1] = at.y, out[2] = sure;
      if (sure < kFound) continue;
      ++seen;
      low = {std::min(low.x, at.x), std::min(low.y, at.y)};
      high = {std::max(high.x, at.x), std::max(high.y, at.y)};
    }
    followed_ = seen >= 5 && high.x - low.x > 8 && high.y - low.y > 8;
    if (followed_) box_ = fitted(padded(cv::Rect2f(low, high)));
    return joints;
  }

  static std::pair<int, float> largest(const float* values, int count) {
    const float* const best = std::max_element(values, values + count);
    return {static_cast<int>(best - values), *best};
  }

  static cv::Rect2f padded(const cv::Rect2f& box) {
    const cv::Point2f more(box.width * (kPadding - 1) / 2, box.height * (kPadding - 1) / 2);
    return {box.tl() - more, box.br() + more};
  }

  // The smallest box of the input's shape around another.
  cv::Rect2f fitted(const cv::Rect2f& box) const {
    const cv::Size2f shape(size_);
    const float share = std::max(box.width / shape.width, box.height / shape.height);
    const cv::Point2f middle = (box.tl() + box.br()) * 0.5F;
    const cv::Point2f half(shape.width * share / 2, shape.height * share / 2);
    return {middle - half, middle + half};
  }

  // ImageNet's, in the order of OpenCV's pictures: blue, green, red.
  const cv::Scalar kMean{103.53, 116.28, 123.675};
  const cv::Scalar kDeviation{57.375, 57.12, 58.395};
  cv::dnn::Net net_;
  cv::Size size_;
  cv::Rect2f box_;
  bool followed_ = false;
};

bool is_number(const std::string& text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
}

void print(const pstmo_edge::Pose& pose) {
  std::printf("%.3f %s", pose.timestamp, pose.flags == PSTMO_EDGE_POSE_VALID ? "valid" : "doubtful");
  for (const auto& joint : pose.joints) std::printf(" %.3f %.3f %.3f", joint[0], joint[1], joint[2]);
  std::printf("\n");
}

void run(const std::string& bundle, const std::string& model, const std::string& source, cv::Size size) {
  pstmo_edge::Engine engine(bundle, /*threads=*/1);
  if (std::strcmp(engine.info().skeleton, "coco-17") != 0)
    throw std::runtime_error(bundle + " reads " + engine.info().skeleton +
                             " and RTMPose gives coco-17: build it with " + "--checkpoint p-stmo-s-27-coco");
  Keypointer keypointer(model, size);
  cv::VideoCapture video;
  const bool live = is_number(source);
  if (!(live ? video.open(std::stoi(source)) : video.open(source)))
    throw std::runtime_error(source + " cannot be opened");
  const double told = video.get(cv::CAP_PROP_FPS);
  const double fps = told >= 1 && told <= 1000 ? told : 30;

  cv::Mat picture;
  std::optional<pstmo_edge::Stream> stream;
  const auto begun = std::chrono::steady_clock::now();
  for (std::uint64_t frame = 0; video.read(picture); ++frame) {
    // A camera's frame is as old as its arrival; a file's is where it lies in the file.
    const double now = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
    const double timestamp = live ? now : static_cast<double>(frame) / fps;
    if (!stream)
      stream.emplace(engine.stream(
          pstmo_edge::live(static_cast<std::uint32_t>(picture.cols), static_cast<std::uint32_t>(picture.rows), fps)));
    stream->push(keypointer(picture), timestamp);
    while (const auto pose = stream->read()) print(*pose);
  }
  if (!stream) throw std::runtime_error(source + " gave no picture");
  stream->finish();
  while (const auto pose = stream->read()) print(*pose);
  const auto counters = stream->counters();
  std::cerr << counters.received << " frames: " << counters.delivered << " poses, " << counters.dropped << " dropped, "
            << counters.rejected << " rejected\n";
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 4 && argc != 6) {
    std::cerr << "usage: camera BUNDLE POSE.onnx SOURCE [WIDTH HEIGHT]\n";
    return 2;
  }
  run(argv[1], argv[2], argv[3], argc == 6 ? cv::Size(std::stoi(argv[4]), std::stoi(argv[5])) : cv::Size(192, 256));
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
