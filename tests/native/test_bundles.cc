// Bundles that must not open: changed, cut short, foreign, newer, linked. Each gets its status and one sentence.
//   test_bundles [all]: `all` tries every single bit of the manifest through files, not only in memory.
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>

#include "bundle.h"
#include "bundles.h"
#include "check.h"
#include "pstmo_edge.h"

using namespace pstmo_edge::testing;

namespace {

struct Answer {
  pstmo_edge_status status;
  std::string text;
};

Answer open(const std::string& path) {
  pstmo_edge_engine* engine = nullptr;
  pstmo_edge_engine_options options = PSTMO_EDGE_ENGINE_OPTIONS_INIT;
  options.threads = 1;
  char text[512] = "";
  const pstmo_edge_status status = pstmo_edge_engine_open(path.c_str(), &options, &engine, text, sizeof text);
  CHECK((status == PSTMO_EDGE_STATUS_OK) == (engine != nullptr));
  CHECK((status == PSTMO_EDGE_STATUS_OK) == (text[0] == '\0'));
  CHECK(std::strchr(text, '\n') == nullptr);
  pstmo_edge_engine_close(engine);
  return {status, text};
}

void expect(const Answer& answer, pstmo_edge_status status, const char* words) {
  CHECK(answer.status == status);
  CHECK(answer.text.find(words) != std::string::npos);
  if (answer.status != status || answer.text.find(words) == std::string::npos) {
    std::fprintf(stderr, "  wanted %d '%s', got %d '%s'\n", status, words, answer.status, answer.text.c_str());
  }
}

// A bundle whose manifest says something else, with a digest that is right.
Answer open_with(const BundleSpec& spec) { return open(write_bundle(spec)); }

Answer open_edited(const std::string& from, const std::string& to) {
  const std::string folder = write_bundle(BundleSpec{});
  const std::string weights = read_file(folder + "/weights.safetensors");
  std::string manifest = manifest_of({}, weights);
  const size_t at = manifest.find(from);
  CHECK(at != std::string::npos);
  manifest.replace(at, from.size(), to);
  write_file(folder + "/manifest.json", sealed(manifest));
  return open(folder);
}

void what_is_wrong_is_said() {
  expect(open("/nonexistent/folder"), PSTMO_EDGE_STATUS_BUNDLE_UNREADABLE, "no such folder");
  expect(open(""), PSTMO_EDGE_STATUS_BUNDLE_UNREADABLE, "no such folder");
  expect(open(make_folder()), PSTMO_EDGE_STATUS_BUNDLE_UNREADABLE, "manifest.json");
  BundleSpec spec;
  spec.schema_version = 2;
  expect(open_with(spec), PSTMO_EDGE_STATUS_BUNDLE_NEWER, "schema 2, this library reads up to 1");
  spec = {};
  spec.backend = "onnxruntime";
  expect(open_with(spec), PSTMO_EDGE_STATUS_BUNDLE_FOREIGN, "--backend native");
  spec = {};
  spec.model = "poseformer";
  expect(open_with(spec), PSTMO_EDGE_STATUS_BUNDLE_FOREIGN, "'poseformer'");
  spec = {};
  spec.target = "cuda-sm90", spec.required = R"(["sm_90"])";
  expect(open_with(spec), PSTMO_EDGE_STATUS_CPU_UNSUPPORTED, "no sm_90");
  spec = {};
  spec.target_index = 9;
  expect(open_with(spec), PSTMO_EDGE_STATUS_BUNDLE_DAMAGED, "input.target_index");
  spec = {};
  spec.heads = 3;
  expect(open_with(spec), PSTMO_EDGE_STATUS_BUNDLE_DAMAGED, "heads");
  spec = {};
  spec.frames = 10, spec.lookahead_frames = 5;
  expect(open_with(spec), PSTMO_EDGE_STATUS_BUNDLE_FOREIGN, "");
  expect(open_edited(R"("frames":null)", R"("frames":{"first":4,"count":2})"), PSTMO_EDGE_STATUS_BUNDLE_FOREIGN,
         "many poses");
  expect(open_edited(R"("target_index":4)", R"("target_index":4,"news":1)"), PSTMO_EDGE_STATUS_BUNDLE_DAMAGED,
         "input.news");
  expect(open_edited(R"("accuracy")", R"("acuracy")"), PSTMO_EDGE_STATUS_BUNDLE_DAMAGED, "acuracy");
  expect(open_edited(R"("frame_rate":50.0)", R"("frame_rate":0)"), PSTMO_EDGE_STATUS_BUNDLE_DAMAGED, "frame_rate");
  expect(open_edited(R"("frame_rate":50.0)", R"("frame_rate":"x")"), PSTMO_EDGE_STATUS_BUNDLE_DAMAGED, "frame_rate");
  expect(open_edited(R"("units":"metres")", R"("units":"feet")"), PSTMO_EDGE_STATUS_BUNDLE_FOREIGN, "metres");
  expect(open_edited("\"weights.safetensors\"", "\"../weights.safetensors\""), PSTMO_EDGE_STATUS_BUNDLE_DAMAGED,
         "files.0.path");
  expect(open_edited("\"weights.safetensors\"", "\"weights\""), PSTMO_EDGE_STATUS_BUNDLE_UNREADABLE, "weights");
  expect(open_edited(R"("versions":{})", R"("versions":{"libpstmo_edge":">=99.0"})"), PSTMO_EDGE_STATUS_BUNDLE_NEWER,
         "libpstmo_edge >=99.0");
  expect(open_edited(R"("versions":{})", R"("versions":{"onnxruntime":">=1.0"})"), PSTMO_EDGE_STATUS_BUNDLE_NEWER,
         "onnxruntime");
  CHECK(open_edited(R"("versions":{})", R"("versions":{"libpstmo_edge":">=0.0.1"})").status == PSTMO_EDGE_STATUS_OK);
  expect(open_edited("\"layers\":1", "\"layers\":2"), PSTMO_EDGE_STATUS_BUNDLE_FOREIGN, "layers.1");
  expect(open_edited("\"channels\":32", "\"channels\":64"), PSTMO_EDGE_STATUS_BUNDLE_FOREIGN, "");
}

// `damage` changes the files of a good bundle.
void expect_damage(const std::function<void(const std::string&)>& damage, pstmo_edge_status status, const char* words) {
  const std::string folder = write_bundle(BundleSpec{});
  damage(folder);
  expect(open(folder), status, words);
}

void changed_files_are_refused() {
  const auto weights = [](const std::string& folder) { return folder + "/weights.safetensors"; };
  const auto manifest = [](const std::string& folder) { return folder + "/manifest.json"; };
  using Folder = const std::string&;
  expect_damage([&](Folder f) { ::unlink(weights(f).c_str()); }, PSTMO_EDGE_STATUS_BUNDLE_UNREADABLE, "does not exist");
  expect_damage([&](Folder f) { ::truncate(weights(f).c_str(), 100); }, PSTMO_EDGE_STATUS_BUNDLE_DAMAGED,
                "has 100 bytes");
  expect_damage([&](Folder f) { write_file(weights(f), read_file(weights(f)) + "x"); },
                PSTMO_EDGE_STATUS_BUNDLE_DAMAGED, "bytes");
  expect_damage(
      [&](Folder f) {
        std::string bytes = read_file(weights(f));
        bytes[bytes.size() / 2] ^= 1;
        write_file(weights(f), bytes);
      },
      PSTMO_EDGE_STATUS_BUNDLE_DAMAGED, "SHA-256 differs");
  expect_damage(
      [&](Folder f) {
        const std::string moved = make_folder() + "/weights.safetensors";
        write_file(moved, read_file(weights(f)));
        ::unlink(weights(f).c_str());
        CHECK(::symlink(moved.c_str(), weights(f).c_str()) == 0);
      },
      PSTMO_EDGE_STATUS_BUNDLE_UNREADABLE, "it is a link");
  expect_damage(
      [&](Folder f) {
        ::rename(manifest(f).c_str(), (f + "/m").c_str());
        CHECK(::symlink("m", manifest(f).c_str()) == 0);
      },
      PSTMO_EDGE_STATUS_BUNDLE_UNREADABLE, "it is a link");
  expect_damage([&](Folder f) { ::unlink(weights(f).c_str()), ::mkfifo(weights(f).c_str(), 0600); },
                PSTMO_EDGE_STATUS_BUNDLE_UNREADABLE, "no regular file");
  expect_damage([&](Folder f) { ::unlink(weights(f).c_str()), ::mkdir(weights(f).c_str(), 0700); },
                PSTMO_EDGE_STATUS_BUNDLE_UNREADABLE, "no regular file");
  expect_damage([&](Folder f) { write_file(manifest(f), ""); }, PSTMO_EDGE_STATUS_BUNDLE_DAMAGED, "not JSON");
  expect_damage([&](Folder f) { write_file(manifest(f), "{}"); }, PSTMO_EDGE_STATUS_BUNDLE_DAMAGED, "schema_version");
  expect_damage([&](Folder f) { write_file(manifest(f), std::string(5 << 20, ' ')); }, PSTMO_EDGE_STATUS_BUNDLE_DAMAGED,
                "allowed");
}

void other_files_are_verified_too() {
  const std::string folder = write_bundle(BundleSpec{});
  const std::string weights = read_file(folder + "/weights.safetensors");
  const std::string digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";  // of "x"
  std::string manifest = manifest_of({}, weights);
  manifest.replace(manifest.size() - 2, 2, R"(,{"path":"notes.txt","size":1,"sha256":")" + digest + "\"}]}");
  write_file(folder + "/manifest.json", sealed(manifest));
  expect(open(folder), PSTMO_EDGE_STATUS_BUNDLE_UNREADABLE, "notes.txt");
  write_file(folder + "/notes.txt", "y");
  expect(open(folder), PSTMO_EDGE_STATUS_BUNDLE_DAMAGED, "SHA-256 differs");
  write_file(folder + "/notes.txt", "xx");
  expect(open(folder), PSTMO_EDGE_STATUS_BUNDLE_DAMAGED, "has 2 bytes and the manifest says 1");
  write_file(folder + "/notes.txt", "x");
  CHECK(open(folder).status == PSTMO_EDGE_STATUS_OK);
}

// Weights whose digest is right and whose content is not what the model needs.
void foreign_weights_are_refused() {
  const std::string folder = write_bundle(BundleSpec{});
  const std::string good = read_file(folder + "/weights.safetensors");
  std::string renamed = good;
  renamed.replace(renamed.find("encoder.fc_1.bias"), 17, "encoder.fc_9.bias");
  for (const std::string& weights : {std::string("no weights at all"), renamed, good.substr(0, good.size() - 4)}) {
    write_file(folder + "/weights.safetensors", weights);
    write_file(folder + "/manifest.json", sealed(manifest_of({}, weights)));
    const Answer answer = open(folder);
    CHECK(answer.status == PSTMO_EDGE_STATUS_BUNDLE_DAMAGED || answer.status == PSTMO_EDGE_STATUS_BUNDLE_FOREIGN);
  }
}

void every_flipped_bit_and_every_cut_is_refused(bool through_files) {
  const std::string folder = write_bundle(BundleSpec{});
  const std::string path = folder + "/manifest.json", good = read_file(path);
  CHECK(pstmo_edge::parse_manifest(good).ok());
  for (size_t i = 0; i < good.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string changed = good;
      changed[i] = static_cast<char>(changed[i] ^ 1 << bit);
      CHECK(!pstmo_edge::parse_manifest(changed).ok());
      if (!through_files && (i % 32 != 0 || bit != static_cast<int>(i / 32 % 8))) continue;
      write_file(path, changed);
      CHECK(open(folder).status != PSTMO_EDGE_STATUS_OK);
    }
    CHECK(!pstmo_edge::parse_manifest(good.substr(0, i)).ok());
  }
  write_file(path, good);
  CHECK(open(folder).status == PSTMO_EDGE_STATUS_OK);

  // The header of the weights, and a sample of what follows: the digest in the manifest stands for them.
  const std::string file = folder + "/weights.safetensors", weights = read_file(file);
  const size_t header = 8 + static_cast<unsigned char>(weights[0]) + 256u * static_cast<unsigned char>(weights[1]);
  const size_t step = through_files ? 1 : 61;
  for (size_t i = 0; i < weights.size(); i += i < header ? step : 9973) {
    for (int bit = 0; bit < 8; ++bit) {
      if (!through_files && bit != static_cast<int>(i % 8)) continue;
      std::string changed = weights;
      changed[i] = static_cast<char>(changed[i] ^ 1 << bit);
      write_file(file, changed);
      CHECK(open(folder).status == PSTMO_EDGE_STATUS_BUNDLE_DAMAGED);
    }
    if (!through_files && i % 4 != 0) continue;
    write_file(file, weights.substr(0, i));
    CHECK(open(folder).status == PSTMO_EDGE_STATUS_BUNDLE_DAMAGED);
  }
}

void weights_for_any_cpu_run_on_all() {
  using pstmo_edge::check_target;
  pstmo_edge::Manifest manifest;
  manifest.precision = "int8", manifest.target = "x86-vnni", manifest.weight_bits = 8;
  for (const std::vector<std::string>& features : std::vector<std::vector<std::string>>{
           {}, {"avx2", "vnni"}, {"neon", "dotprod"}}) {  // one of the two no CPU has beside the other
    manifest.requires_features = features;
    CHECK(check_target(manifest).ok());
  }
  manifest.requires_features = {"avx2", "sm_90"};
  CHECK(check_target(manifest).error().text.find("a CPU has no sm_90") != std::string::npos);

  BundleSpec wide;
  wide.int8 = true, wide.weight_bits = 8, wide.target = "arm64-dotprod", wide.required = R"(["neon","dotprod"])";
  CHECK(open(write_bundle(wide)).status == PSTMO_EDGE_STATUS_OK);
  wide.target = "x86-vnni", wide.required = R"(["avx2","vnni"])";
  CHECK(open(write_bundle(wide)).status == PSTMO_EDGE_STATUS_OK);
}

}  // namespace

int main(int argc, char** argv) {
  const bool all = argc > 1 && std::strcmp(argv[1], "all") == 0;
  CHECK(open(write_bundle(BundleSpec{})).status == PSTMO_EDGE_STATUS_OK);
  BundleSpec int8;
  int8.int8 = true;
  CHECK(open(write_bundle(int8)).status == PSTMO_EDGE_STATUS_OK);
  int8.words = true;
  CHECK(open(write_bundle(int8)).status == PSTMO_EDGE_STATUS_OK);
  what_is_wrong_is_said();
  changed_files_are_refused();
  other_files_are_verified_too();
  foreign_weights_are_refused();
  every_flipped_bit_and_every_cut_is_refused(all);
  weights_for_any_cpu_run_on_all();
  return check_result();
}
