#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <iostream>

#include "apps/common/program.h"
#include "apps/common/report.h"
#include "apps/common/training_run.h"
#include "models/evaluation.h"

namespace clip {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

std::string clock_text(double seconds) {
  const long whole = std::lround(seconds);
  return whole < 3600 ? formatted("%ld:%02ld", whole / 60, whole % 60)
                      : formatted("%ld:%02ld:%02ld", whole / 3600, whole / 60 % 60, whole % 60);
}

nlohmann::json to_json(const Proportion& p) {
  return {{"value", p.value()},
          {"correct", p.correct},
          {"tried", p.tried},
          {"low", p.low()},
          {"high", p.high()}};
}

std::string line_of(const std::string& what, const Proportion& p) {
  return formatted("  %-32s %5.1f %%   (%lld of %lld, 95 %%: %.1f to %.1f)\n", what.c_str(),
                   100 * p.value(), static_cast<long long>(p.correct),
                   static_cast<long long>(p.tried), 100 * p.low(), 100 * p.high());
}

}  // namespace

Progress::Progress(const RunFolder& run, const TrainOptions& options, LossKind loss,
                   Communicator& ranks, int64_t first_step)
    : run_(run),
      loss_(loss),
      ranks_(ranks),
      first_step_(first_step),
      last_step_(options.lr.total_steps),
      log_every_(options.log_every),
      global_batch_(options.pairs_per_step(ranks.size())),
      // mpirun gives a rank a terminal even where its own output goes to a file.
      terminal_(ranks.size() == 1 && isatty(STDOUT_FILENO) != 0),
      start_(Clock::now()),
      last_told_(start_),
      last_told_step_(first_step) {}

void Progress::step(int64_t step, double lr, const StepMetrics& metrics, const HostBatch& batch,
                    const Tensor& logit_scale_tensor, const AdamW& optimizer) {
  if (step % log_every_ != 0 && step != 1 && step != last_step_) return;
  const double logit_scale = logit_scale_tensor.item(), loss = metrics.loss();
  const int64_t skipped = optimizer.steps_skipped();
  if (skipped > skipped_)
    say(concat("steps ", last_told_step_ + 1, " to ", step, ": ", skipped - skipped_,
               " skipped, because the gradient's norm was not finite"));
  const auto now = Clock::now();
  const double rate = static_cast<double>((step - last_told_step_) * global_batch_) /
                      seconds_between(last_told_, now);
  const double left = seconds_between(start_, now) / static_cast<double>(step - first_step_) *
                      static_cast<double>(last_step_ - step);
  last_told_ = now;
  last_told_step_ = step;
  const Captions captions = all_captions(batch.tokens, ranks_);
  const double floor = loss_floor(captions, loss_);
  const double chance_loss = loss_of_copies(loss_, global_batch_);
  const double top1 =
      in_batch_top1(metrics.image_features, metrics.text_features, captions, ranks_);
  run_.log({{"step", step},
            {"loss", loss},
            {"loss_floor", floor},
            {"loss_chance", chance_loss},
            {"logit_scale", logit_scale},
            {"lr", lr},
            {"grad_norm", metrics.gradient_norm()},
            {"skipped", skipped - skipped_},
            {"in_batch_top1", top1},
            {"pairs_per_s", rate}});
  skipped_ = skipped;
  const std::string line = formatted(
      "step %5lld/%lld  loss %.3f (floor %.3f, %s %.3f)  scale %5.1f  top-1 %5.1f %%  %5.0f "
      "pairs/s  %s left",
      static_cast<long long>(step), static_cast<long long>(last_step_), loss, floor,
      loss_ == LossKind::kSoftmax ? "ln G" : "chance", chance_loss, std::exp(logit_scale),
      100 * top1, rate, clock_text(left).c_str());
  std::cout << (terminal_ ? "\r\033[K" : "") << line
            << (terminal_ && step != last_step_ ? "" : "\n") << std::flush;
}

void Progress::say(const std::string& sentence) {
  std::cout << (terminal_ ? "\r\033[K" : "") << one_line(sentence) << std::endl;
}

namespace {

/// Zero-shot results as the last lines of a run print them, and as log.jsonl keeps them.
void report_scenes(const SceneReport& report, const RunFolder& run, int64_t step) {
  const double chance = 1.0 / static_cast<double>(report.objects * report.colors);
  run.log({{"step", step},
           {"eval",
            {{"seen", to_json(report.seen)},
             {"unseen_cells", to_json(report.unseen_cells)},
             {"unseen_objects", to_json(report.unseen_objects)},
             {"chance", chance},
             {"color", to_json(report.color)},
             {"object", to_json(report.object)},
             {"size", to_json(report.size)},
             {"count", to_json(report.count)},
             {"text_of_image", to_json(report.retrieval.text_of_image)},
             {"image_of_text", to_json(report.retrieval.image_of_text)}}}});
  std::cout << formatted("\nZero-shot top-1 among %.0f captions (chance %.2f %%)\n", 1 / chance,
                         100 * chance)
            << line_of("seen cells", report.seen) << line_of("unseen cells", report.unseen_cells)
            << line_of("unseen objects", report.unseen_objects)
            << "One word in question, unseen cells\n"
            << line_of(concat("colour (", report.colors, ")"), report.color)
            << line_of(concat("object (", report.objects, ")"), report.object)
            << line_of("size (2)", report.size) << line_of("count (3)", report.count)
            << "Retrieval R@1, unseen cells\n"
            << line_of("caption of a picture", report.retrieval.text_of_image)
            << line_of("picture of a caption", report.retrieval.image_of_text);
}

void report_retrieval(const Retrieval& retrieval, const RunFolder& run, int64_t step) {
  run.log({{"step", step},
           {"eval",
            {{"text_of_image", to_json(retrieval.text_of_image)},
             {"image_of_text", to_json(retrieval.image_of_text)}}}});
  std::cout << "\nRetrieval R@1 on --val-data\n"
            << line_of("caption of a picture", retrieval.text_of_image)
            << line_of("picture of a caption", retrieval.image_of_text);
}

constexpr int64_t kSamples = 4;

Scene sample_scene(const EmojiScenes& scenes, int64_t i) {
  Scene scene = scenes.scene(SceneSplit::kUnseenCells, i);
  scene.count = 0;
  scene.size = 1;
  return scene;
}

Image sample_picture(const EmojiScenes& scenes, int64_t i) {
  return scenes.draw(sample_scene(scenes, i), 0, static_cast<uint64_t>(i));
}

/// Draws a few scenes of unseen cells into a folder.
void write_samples(const EmojiScenes& scenes, const fs::path& folder) {
  std::error_code failure;
  fs::create_directories(folder, failure);
  CLIP_CHECK(!failure, "cannot make ", folder.string(), ": ", failure.message());
  for (int64_t i = 0; i < kSamples; ++i)
    save_png(sample_picture(scenes, i), (folder / concat(i + 1, ".png")).string());
}

/// What the model says of them: of all captions with their count and size the three most probable.
void write_captions(const Clip& clip, const Tokenizer& tokenizer, const EmojiScenes& scenes,
                    const fs::path& folder, int64_t step) {
  const Scene first = sample_scene(scenes, 0);
  const Classifier classifier = build_classifier(
      clip, tokenizer,
      {.labels = scenes.candidate_captions(first.count, first.size), .templates = {"{}"}});
  const Tensor features =
      image_features(clip, kSamples, [&](int64_t i) { return sample_picture(scenes, i); });
  const auto guesses = classify(
      classifier, features, clip.logit_scale.value().item(),
      clip.logit_bias.defined() ? std::optional(clip.logit_bias.value().item()) : std::nullopt);
  nlohmann::json told = {{"step", step}};
  for (int64_t i = 0; i < kSamples; ++i) {
    nlohmann::json best = nlohmann::json::array();
    for (size_t k = 0; k < 3; ++k) {
      const Guess& guess = guesses[static_cast<size_t>(i)][k];
      best.push_back({{"caption", classifier.words.labels[static_cast<size_t>(guess.label)]},
                      {"probability", guess.probability}});
    }
    told["pictures"].push_back({{"file", concat(i + 1, ".png")},
                                {"shows", scenes.full_caption(sample_scene(scenes, i))},
                                {"guesses", best}});
  }
  write_file((folder / kSampleCaptions).string(), told.dump(2) + '\n');
}

/// Asks apps/zero_shot about the samples.
std::string next_command(const EmojiScenes& scenes, const RunFolder& run, const fs::path& folder) {
  std::string labels;
  for (int64_t i = 0; i < kSamples; ++i) {
    const Scene scene = sample_scene(scenes, i);
    labels += concat(i == 0 ? "" : ",", scenes.object_name(scene.object), " on a ",
                     scenes.color_name(scene.color), " background");
  }
  return concat("./apps/zero_shot --checkpoint ", run.path(), " --images ", folder.string(),
                "/*.png --labels \"", labels, "\" --template \"a large {}\"");
}

}  // namespace

void report_results(const Clip& clip, const Tokenizer& tokenizer, const TrainingData& data,
                    const RunFolder& run, int64_t step, Communicator& ranks) {
  if (data.scenes != nullptr && step > 0) {
    report_scenes(evaluate_scenes(clip, tokenizer, *data.scenes, &ranks), run, step);
    if (run.writes()) {
      const fs::path folder = fs::path(run.path()) / "samples";
      write_samples(*data.scenes, folder);
      write_captions(clip, tokenizer, *data.scenes, folder, step);
      std::cout << "\nTry next:\n  " << next_command(*data.scenes, run, folder) << '\n';
    }
  }
  if (data.validation != nullptr)
    report_retrieval(evaluate_retrieval(clip, tokenizer, *data.validation, &ranks), run, step);
  renew_report(run);
}

}  // namespace clip
