// A model and pairs so small that a program trains on them in a second.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/backend.h"
#include "engine/random.h"
#include "models/checkpoint.h"
#include "models/clip.h"
#include "models/image.h"
#include "tests/dataset_samples.h"
#include "tests/scratch_folder.h"

namespace clip {

inline constexpr const char* kSmallModel = R"({
  "embed_dim": 16,
  "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
  "text_cfg": {"context_length": 16, "vocab_size": 530, "width": 32, "heads": 2, "layers": 1}
})";

inline constexpr const char* kSmallResNet = R"({
  "embed_dim": 32, "quick_gelu": true,
  "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
  "text_cfg": {"context_length": 16, "vocab_size": 700, "width": 32, "heads": 2, "layers": 1}
})";

/// What a program must say that was left to choose its device: "" where there is a GPU.
inline std::string why_the_cpu() {
  try {
    make_cuda_backend(0);
    return "";
  } catch (const Error& error) {
    return concat("cpu, as there is ", error.what(), '\n');
  }
}

/// A picture that is different for every seed.
inline Image noise_picture(int64_t width, int64_t height, uint64_t seed) {
  Image image{width, height, std::vector<uint8_t>(static_cast<size_t>(3 * width * height))};
  Random random(seed, 0);
  for (uint8_t& value : image.pixels) value = static_cast<uint8_t>(random.below(256));
  return image;
}

/// The names sort in the order of the numbers.
inline std::string sample_name(int64_t i) { return concat(i < 10 ? "0" : "", i); }

inline std::string sample_caption(int64_t i) {
  const Strings colors = {"red", "green", "blue", "white"}, things = {"cat", "house", "tree"};
  return concat(colors[static_cast<size_t>(i % 4)], ' ', things[static_cast<size_t>(i / 4 % 3)],
                " number ", i);
}

/// Writes NAME/00.png, NAME/00.txt, ... and NAME.csv, NAME.tsv, NAME.tar of the same pairs in the
/// same order.
inline void write_pairs(const ScratchFolder& folder, const std::string& name, int64_t count) {
  std::string csv = "filepath,title\n", tsv = "filepath\ttitle\n";
  std::vector<Member> members;
  for (int64_t i = 0; i < count; ++i) {
    const std::string picture_name = name + "/" + sample_name(i) + ".png";
    const std::string caption = sample_caption(i);
    save_png(noise_picture(20, 18, static_cast<uint64_t>(i)), folder.path(picture_name));
    folder.write(name + "/" + sample_name(i) + ".txt", caption);
    csv += picture_name + "," + caption + "\n";
    tsv += picture_name + "\t" + caption + "\n";
    members.push_back({sample_name(i) + ".png", file_bytes(folder.path(picture_name))});
    members.push_back({sample_name(i) + ".txt", caption});
  }
  folder.write(name + ".csv", csv);
  folder.write(name + ".tsv", tsv);
  write_tar(folder, name + ".tar", members);
}

/// What tests of programs that use a model share: one of random weights, here and as a checkpoint.
class AppWithModel : public testing::Test {
 protected:
  /// checkpoint    its place in the folder
  explicit AppWithModel(const std::string& checkpoint)
      : tokenizer_(Tokenizer::learn({"a photo of a cat", "a drawing of a house by the sea"}, 530)),
        model_(config(), cpu_backend()) {
    initialize(model_.parameters, config(), 5);
    save_checkpoint(folder_.path(checkpoint), config(), model_.parameters, tokenizer_, nullptr);
  }

  static ClipConfig config() {
    ClipConfig config = config_from_json(kSmallModel, "test");
    config.text.vocab_size = 530;
    return config;
  }

  ScratchFolder folder_;
  Tokenizer tokenizer_;
  ClipModel model_;
};

}  // namespace clip
