// What the tests of apps/zero_shot share: a checkpoint, pictures, and the definition of what it says.
#pragma once

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "models/labelled_pictures.h"
#include "models/zero_shot.h"
#include "tests/app_process.h"
#include "tests/app_samples.h"

namespace clip {

inline const Strings kClasses = {"cat", "dog", "green_bird", "house", "lion", "sea", "tree"};

/// What stands before and after the label.
using Templates = std::vector<std::pair<std::string, std::string>>;
inline const Templates kPhoto = {{"a photo of a ", ""}};

/// The model is a checkpoint of the run "runs/a"; three pictures lie beside it.
class ZeroShotApp : public AppWithModel {
 protected:
  ZeroShotApp() : AppWithModel("runs/a/checkpoints/step_7") {
    for (int64_t i = 0; i < 3; ++i)
      save_png(noise_picture(24, 20, static_cast<uint64_t>(i)), folder_.path(concat(i, ".png")));
  }

  std::string checkpoint() const { return folder_.path("runs/a/checkpoints/step_7"); }

  AppResult zero_shot(const Strings& own) const {
    return run_app("zero_shot", with({"--checkpoint", "runs/a", "--device", "cpu"}, own), folder_);
  }

  nlohmann::json zero_shot_json(const Strings& own) const {
    Strings all = own;
    all.push_back("--json");
    const AppResult result = zero_shot(all);
    EXPECT_EQ(result.status, 0) << result.err;
    return nlohmann::json::parse(result.out);
  }

  Tensor features_of(const Strings& paths) const {
    return image_features(model_.clip, static_cast<int64_t>(paths.size()), [&](int64_t i) {
      return resize_and_center_crop(load_image(folder_.path(paths[static_cast<size_t>(i)])),
                                    config().vision.image_size);
    });
  }

  /// The sums that define it: prompts' unit vectors averaged and made unit, then softmax.
  std::vector<double> probabilities(const std::string& picture, const Strings& labels,
                                    const Templates& templates) const {
    const Tensor image = features_of({picture});
    const int64_t width = image.width();
    std::vector<double> logits, result;
    for (const std::string& label : labels) {
      Strings prompts;
      for (const auto& [before, after] : templates) prompts.push_back(before + label + after);
      const Tensor text = text_features(model_.clip, tokenizer_, prompts);
      double dot = 0, squares = 0;
      for (int64_t c = 0; c < width; ++c) {
        double sum = 0;
        for (int64_t row = 0; row < text.size(0); ++row) sum += text.data<float>()[row * width + c];
        dot += sum * image.data<float>()[c];
        squares += sum * sum;
      }
      logits.push_back(dot / std::sqrt(squares) / 0.07);
    }
    double total = 0;
    for (double logit : logits) total += std::exp(logit);
    for (double logit : logits) result.push_back(std::exp(logit) / total);
    return result;
  }

  /// The three templates of several tests, as a prompts file has them for each label.
  static std::string prompts_json(const Strings& labels) {
    nlohmann::json prompts;
    for (const std::string& label : labels)
      prompts[label] = {"a photo of a " + in_words(label) + ".", "the {} by the sea", "{}"};
    return prompts.dump();
  }

  /// Expects a picture's guesses to be all labels, most probable first, as `expected` has them.
  static void expect_guesses(const nlohmann::json& guesses, const Strings& labels,
                             const std::vector<double>& expected) {
    ASSERT_EQ(guesses.size(), labels.size());
    double last = 1;
    for (const nlohmann::json& guess : guesses) {
      const auto place = std::find(labels.begin(), labels.end(), guess["label"]);
      ASSERT_NE(place, labels.end()) << guess;
      const double probability = guess["probability"];
      // F32 features of about 1 times a scale of 14.
      EXPECT_NEAR(probability, expected[static_cast<size_t>(place - labels.begin())], 1e-5);
      EXPECT_LE(probability, last);
      last = probability;
    }
  }

  /// DIR/<class>/<k>.png for the classes above, `per_class` pictures each.
  Strings write_classes(int64_t per_class) const {
    Strings paths;
    for (size_t c = 0; c < kClasses.size(); ++c) {
      for (int64_t i = 0; i < per_class; ++i) {
        paths.push_back(concat("data/", kClasses[c], '/', i, ".png"));
        save_png(noise_picture(20, 20, 100 * c + static_cast<uint64_t>(i)),
                 folder_.path(paths.back()));
      }
    }
    return paths;
  }
};

}  // namespace clip
