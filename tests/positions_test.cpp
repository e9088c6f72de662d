// Position embeddings of another size against open_clip's in reference/weights_features.json.
#include "models/positions.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/random.h"
#include "tests/error_message.h"
#include "tests/reference_path.h"
#include "tests/tiny_clip.h"

namespace clip {
namespace {

constexpr int64_t kWidth = 2;

std::vector<float> draw(int64_t count, const std::string& name) {
  Random random(4, random_stream(name));
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) values.push_back(static_cast<float>(random.uniform(-1, 1)));
  return values;
}

void expect_reference(const std::string& name, const std::vector<float>& ours) {
  const auto reference =
      nlohmann::json::parse(std::ifstream(reference_path("weights_features.json")))["positions"];
  const std::vector<float> theirs = reference.at(name);
  ASSERT_EQ(ours.size(), theirs.size()) << name;
  // Theirs are sums of up to 64 products in F32 whose weights sum to 1.
  for (size_t i = 0; i < ours.size(); ++i)
    EXPECT_NEAR(ours[i], theirs[i], 1e-6) << name << ' ' << i;
}

TEST(Positions, OfPicturesEqualOpenClipsToF32Rounding) {
  for (const auto& [side, new_side] : {std::pair<int64_t, int64_t>(3, 5), {7, 4}, {4, 4}, {2, 9}}) {
    const std::string name = concat("image ", side, " ", new_side);
    expect_reference(
        name, resize_image_positions(draw((1 + side * side) * kWidth, name), side, new_side));
  }
}

TEST(Positions, OfTextsEqualOpenClipsToF32Rounding) {
  for (const auto& [length, longer] :
       {std::pair<int64_t, int64_t>(12, 20), {12, 7}, {5, 5}, {2, 9}}) {
    const std::string name = concat("text ", length, " ", longer);
    expect_reference(name, resize_text_positions(draw(length * kWidth, name), length, longer));
  }
}

TEST(Positions, AModelOfAnotherSizeKeepsAllElse) {
  ClipConfig config = preset("emoji");
  ClipModel model(config, cpu_backend());
  initialize(model.parameters, config, 1);
  const auto resized = with_positions(model, 48, 20);
  EXPECT_EQ(resized->clip.config.vision.image_size, 48);
  EXPECT_EQ(resized->clip.config.text.context_length, 20);
  for (const Parameter& parameter : model.parameters.parameters()) {
    const Tensor& other = resized->parameters.find(parameter.name).value();
    if (parameter.name.ends_with("positional_embedding")) {
      EXPECT_NE(other.shape(), parameter.variable.shape()) << parameter.name;
    } else {
      EXPECT_EQ(other.to_vector<float>(), parameter.variable.value().to_vector<float>())
          << parameter.name;
    }
  }
  const std::string message = error_message([&] { with_positions(model, 33, 16); });
  EXPECT_TRUE(says(message, "image_size 33", "patch_size 4")) << message;
}

TEST(Positions, AResNetReadsLongerTextsWithItsRunningStatisticsAndNoOtherPictures) {
  ClipModel model(tiny_resnet_config(), cpu_backend());
  randomize(model.parameters);
  const auto longer = with_positions(model, 64, 20);
  EXPECT_EQ(longer->parameters.buffer_values().to_vector<float>(),
            model.parameters.buffer_values().to_vector<float>());
  const Tensor images = tiny_images(0, cpu_backend(), 64);
  EXPECT_EQ(longer->clip.encode_image(images).value().to_vector<float>(),
            model.clip.encode_image(images).value().to_vector<float>());
  const std::string message = error_message([&] { with_positions(model, 96, 12); });
  EXPECT_TRUE(says(message, "ResNet", "64", "96")) << message;
}

}  // namespace
}  // namespace clip
