// The transforms of open_clip and of Hugging Face, against stored results of both.
#include "models/preprocess.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "engine/check.h"
#include "tests/error_message.h"
#include "tests/image_reference.h"
#include "tests/tiny_clip.h"

namespace clip {
namespace {

using nlohmann::json;

constexpr int64_t kSize = 32;

/// What most of Hugging Face's CLIP folders hold, for pictures of 32 x 32.
json processor() {
  return {{"crop_size", {{"height", 32}, {"width", 32}}},
          {"do_center_crop", true},
          {"do_convert_rgb", true},
          {"do_normalize", true},
          {"do_rescale", true},
          {"do_resize", true},
          {"image_mean", {0.48145466, 0.4578275, 0.40821073}},
          {"image_processor_type", "CLIPImageProcessor"},
          {"image_std", {0.26862954, 0.26130258, 0.27577711}},
          {"resample", 3},
          {"rescale_factor", 0.00392156862745098},
          {"size", {{"shortest_edge", 32}}}};
}

Preprocess from_hugging_face(const json& fields) {
  return preprocess_from_hugging_face(fields.dump(), "folder/preprocessor_config.json", kSize);
}

TEST(Preprocess, EqualsOpenClipAndHuggingFaceInEveryBit) {
  int cases = 0;
  for (const std::string& line : reference_lines("image_transforms.txt")) {
    SCOPED_TRACE(line);
    std::istringstream in(line);
    std::string kind, fields;
    int64_t width = 0, height = 0, size = 0;
    in >> kind >> width >> height >> size >> fields;
    const Preprocess rules = kind == "open_clip"
                                 ? preprocess_from_open_clip(json::parse(fields), "reference")
                                 : preprocess_from_hugging_face(fields, "reference", size);
    const Image result = prepare_image(synthetic_picture(width, height), size, rules);
    EXPECT_EQ(result.width, size);
    EXPECT_EQ(result.height, size);
    expect_equal(result, read_summary(in));
    ++cases;
  }
  EXPECT_GE(cases, 40);
}

TEST(Preprocess, ByDefaultItsStatisticsAreClips) {
  EXPECT_EQ(Preprocess{}.statistics().mean, kPixelMean);
  EXPECT_EQ(Preprocess{}.statistics().std, kPixelStd);
}

TEST(Preprocess, RefusesPicturesThatTheLongestSideLeavesNoRowOf) {
  const Preprocess rules{.resize_mode = ResizeMode::kLongest};
  const std::string message =
      error_message([&] { prepare_image(synthetic_picture(2000, 1), kSize, rules); });
  EXPECT_TRUE(says(message, "2000 x 1", "32 x 32")) << message;
}

TEST(Preprocess, RefusesAShortSideBelowTheCrop) {
  const Preprocess rules{.short_side = 31};
  EXPECT_THROW(prepare_image(synthetic_picture(40, 40), kSize, rules), Error);
}

TEST(Preprocess, ItsStatisticsAreThoseThatTheImageTowerNormalisesWith) {
  Backend& backend = cpu_backend();
  const auto features_of = [&](uint8_t value, double mean, double std, bool resnet = false) {
    ClipConfig config = resnet ? tiny_resnet_config() : tiny_config();
    config.vision.preprocess.mean.fill(mean);
    config.vision.preprocess.std.fill(std);
    ClipModel model(config, backend);
    randomize(model.parameters);
    const int64_t size = config.vision.image_size;
    Tensor image = Tensor::empty(backend, {1, size, size, 3}, DType::kU8);
    std::fill_n(image.data<uint8_t>(), image.numel(), value);
    return to_doubles(model.clip.encode_image(image).value());
  };
  // (51 / 255 - 0) / 1 = (102 / 255 - 0) / 2 = (153 / 255 - 0.5) / 0.5
  const auto features = features_of(51, 0, 1);
  for (const auto& same : {features_of(102, 0, 2), features_of(153, 0.5, 0.5)}) {
    for (size_t i = 0; i < features.size(); ++i)
      EXPECT_NEAR(same[i], features[i], 1e-4);  // F32 through two blocks
  }
  EXPECT_GT(std::abs(features_of(51, 0.1, 1)[0] - features[0]), 1e-3);
  EXPECT_EQ(features_of(51, 0, 1, true), features_of(102, 0, 2, true));
  EXPECT_NE(features_of(51, 0, 1, true), features_of(51, 0.1, 1, true));
}

TEST(HuggingFaceProcessor, OfPublishedFoldersIsClipsOwnButForTheRoundingOfTheCrop) {
  EXPECT_EQ(from_hugging_face(processor()), Preprocess{.crop_rounding = CropRounding::kDown});
}

TEST(HuggingFaceProcessor, SizesMayBeNumbers) {
  json fields = processor();
  fields["size"] = 32;
  fields["crop_size"] = 32;
  EXPECT_EQ(from_hugging_face(fields), from_hugging_face(processor()));
  fields["size"] = 40;
  EXPECT_EQ(from_hugging_face(fields).short_side, 40);
}

TEST(HuggingFaceProcessor, ASquareSizeIsSquashedTo) {
  json fields = processor();
  fields["size"] = {{"height", 32}, {"width", 32}};
  EXPECT_EQ(from_hugging_face(fields).resize_mode, ResizeMode::kSquash);
  fields["do_center_crop"] = false;
  EXPECT_EQ(from_hugging_face(fields).resize_mode, ResizeMode::kSquash);
}

TEST(HuggingFaceProcessor, FoldsItsRescalingIntoTheStatistics) {
  json fields = processor();
  fields.update({{"image_mean", {0.5, 1.0, 0.25}}, {"image_std", {1, 2, 4}}});
  fields["rescale_factor"] = 2.0 / 255;  // values from 0 to 2
  const Preprocess doubled = from_hugging_face(fields);
  for (size_t c = 0; c < 3; ++c) {
    EXPECT_DOUBLE_EQ(doubled.mean[c], fields["image_mean"][c].get<double>() / 2);
    EXPECT_DOUBLE_EQ(doubled.std[c], fields["image_std"][c].get<double>() / 2);
  }
  fields["do_rescale"] = false;
  fields["do_normalize"] = false;
  EXPECT_DOUBLE_EQ(from_hugging_face(fields).std[0], 1.0 / 255);
}

TEST(HuggingFaceProcessor, ReadsWhatIsWrittenForIt) {
  for (const Preprocess& rules :
       {Preprocess{.crop_rounding = CropRounding::kDown},
        Preprocess{.mean = {0, 0.5, 1},
        .std = {1, 2, 0.3},
        .interpolation = Interpolation::kBilinear,
        .short_side = 40,
        .crop_rounding = CropRounding::kDown},
        Preprocess{.resize_mode = ResizeMode::kSquash, .crop_rounding = CropRounding::kDown}})
    EXPECT_EQ(preprocess_from_hugging_face(to_preprocessor_json(rules, kSize), "file", kSize),
              rules);
}

TEST(HuggingFaceProcessor, RefusesWhatIsNotComputedHere) {
  const std::vector<std::pair<const char*, json>> cases = {
      {"do_resize", false},
      {"do_center_crop", false},
      {"do_center_crop", "yes"},
      {"do_pad", true},
      {"image_processor_type", "SiglipImageProcessor"},
      {"feature_extractor_type", 1},
      {"size", {{"shortest_edge", 31}}},
      {"size", {{"longest_edge", 32}}},
      {"size", {{"height", 32}, {"width", 48}}},
      {"size", -32},
      {"crop_size", {{"height", 16}, {"width", 16}}},
      {"crop_size", {{"height", 32}, {"width", 48}}},
      {"resample", 1},
      {"rescale_factor", 0},
      {"image_mean", {0.5, 0.5}},
      {"image_std", {0.5, 0.5, 0}},
  };
  for (const auto& [field, value] : cases) {
    json fields = processor();
    fields[field] = value;
    const std::string message = error_message([&] { from_hugging_face(fields); });
    const std::string named = std::string(field) == "do_center_crop" && value == false
                                  ? "crop_size (none)"
                                  : std::string(field);
    EXPECT_TRUE(says(message, "folder/preprocessor_config.json: ", named)) << message;
  }
  EXPECT_THROW(preprocess_from_hugging_face("[]", "file", kSize), Error);
  EXPECT_THROW(preprocess_from_hugging_face("{", "file", kSize), Error);
}

}  // namespace
}  // namespace clip
