#include "models/evaluation.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "models/retrieval.h"

namespace clip {
namespace {

constexpr int64_t kCounts = 3, kSizes = 2;

/// A caption of any scene, encoded once: candidates are numbered by (count, size, object, color).
int64_t candidate(const EmojiScenes& scenes, const Scene& scene) {
  return ((scene.count * kSizes + scene.size) * scenes.object_count() + scene.object) *
             scenes.color_count() +
         scene.color;
}

Tensor candidate_features(const Clip& clip, const Tokenizer& tokenizer, const EmojiScenes& scenes,
                          Communicator* ranks) {
  std::vector<std::string> captions;
  for (int64_t count = 0; count < kCounts; ++count)
    for (int64_t size = 0; size < kSizes; ++size)
      for (std::string& caption : scenes.candidate_captions(count, size))
        captions.push_back(std::move(caption));
  return text_features(clip, tokenizer, captions, ranks);
}

/// Scenes of one split with the cosines of each with every candidate.
struct Asked {
  std::vector<Scene> scenes;
  Tensor features;    // [N, E]
  Tensor similarity;  // [N, candidates]
};

Asked ask(const Clip& clip, const EmojiScenes& scenes, const Tensor& candidates, SceneSplit split,
          int64_t count, Communicator* ranks) {
  Asked asked;
  for (int64_t i = 0; i < count; ++i) asked.scenes.push_back(scenes.scene(split, i));
  const uint64_t stream = static_cast<uint64_t>(split) << 32;
  const auto draw = [&](int64_t i) {
    return scenes.draw(asked.scenes[static_cast<size_t>(i)], 0, stream + static_cast<uint64_t>(i));
  };
  asked.features = image_features(clip, count, draw, ranks);
  asked.similarity = cosines(asked.features, candidates);
  return asked;
}

/// Is the scene's own caption nearer than that of every other scene in `others`?
template <class ForEachOther>
bool named_right(const EmojiScenes& scenes, const float* row, const Scene& truth,
                 const ForEachOther& for_each_other) {
  const float own = row[candidate(scenes, truth)];
  bool right = true;
  for_each_other([&](const Scene& other) {
    right = right && (other == truth || row[candidate(scenes, other)] < own);
  });
  return right;
}

/// The proportion named right when `vary(truth, visit)` lists the captions in question.
template <class Vary>
Proportion proportion_of(const EmojiScenes& scenes, const Asked& asked, const Vary& vary) {
  Proportion result;
  for (size_t i = 0; i < asked.scenes.size(); ++i) {
    const float* row =
        asked.similarity.data<float>() + static_cast<int64_t>(i) * asked.similarity.size(1);
    const Scene& truth = asked.scenes[i];
    result.count(named_right(scenes, row, truth, [&](const auto& visit) { vary(truth, visit); }));
  }
  return result;
}

/// Lists `truth` with one of its words replaced by each of `values`.
auto vary_word(int64_t Scene::*word, int64_t values) {
  return [=](const Scene& truth, const auto& visit) {
    for (int64_t value = 0; value < values; ++value) {
      Scene other = truth;
      other.*word = value;
      visit(other);
    }
  };
}

/// x F32 [N, E]; returns the rows named, in their order
Tensor rows_of(const Tensor& x, const std::vector<int64_t>& rows) {
  Tensor picked =
      Tensor::empty(cpu_backend(), {static_cast<int64_t>(rows.size()), x.width()}, x.dtype());
  for (size_t i = 0; i < rows.size(); ++i)
    std::copy_n(x.data<float>() + rows[i] * x.width(), x.width(),
                picked.data<float>() + static_cast<int64_t>(i) * x.width());
  return picked;
}

Retrieval first_places(const RetrievalPlaces& places) {
  return {recall_at(1, places.of_text), recall_at(1, places.of_image)};
}

/// The first scene of each caption, and that caption's features.
Retrieval retrieval_of(const EmojiScenes& scenes, const Asked& asked, const Tensor& candidates) {
  std::set<int64_t> used;
  std::vector<int64_t> images, texts;
  for (size_t i = 0; i < asked.scenes.size(); ++i) {
    const int64_t caption = candidate(scenes, asked.scenes[i]);
    if (!used.insert(caption).second) continue;
    images.push_back(static_cast<int64_t>(i));
    texts.push_back(caption);
  }
  return retrieve(rows_of(asked.features, images), rows_of(candidates, texts));
}

/// Those that rank 0 can read: what a rank reads for itself must not change how many rows there are.
CaptionedPictures group_captions_once(const Dataset& dataset, Communicator* ranks, int64_t limit) {
  const auto group = [&] {
    return group_captions(
        dataset, [](const std::string&) {}, limit);
  };
  if (ranks == nullptr) return group();
  return CaptionedPictures::from_text(
      text_of_first_rank(ranks->rank() == 0 ? group().to_text() : std::string(), *ranks));
}

}  // namespace

Retrieval retrieve(const Tensor& images, const Tensor& texts) {
  std::vector<int64_t> same_row(static_cast<size_t>(images.size(0)));
  std::iota(same_row.begin(), same_row.end(), 0);
  return first_places(retrieval_places(images, texts, same_row));
}

SceneReport evaluate_scenes(const Clip& clip, const Tokenizer& tokenizer, const EmojiScenes& scenes,
                            Communicator* ranks, int64_t scenes_per_split) {
  const Tensor candidates = candidate_features(clip, tokenizer, scenes, ranks);
  const int64_t objects = scenes.object_count(), colors = scenes.color_count();
  const auto vary_cell = [&](const Scene& truth, const auto& visit) {
    for (int64_t object = 0; object < objects; ++object)
      for (int64_t color = 0; color < colors; ++color)
        visit(Scene{object, color, truth.count, truth.size});
  };
  const auto asked = [&](SceneSplit split) {
    return ask(clip, scenes, candidates, split, scenes_per_split, ranks);
  };
  SceneReport report;
  report.objects = objects;
  report.colors = colors;
  report.seen = proportion_of(scenes, asked(SceneSplit::kSeen), vary_cell);
  report.unseen_objects = proportion_of(scenes, asked(SceneSplit::kUnseenObjects), vary_cell);
  const Asked unseen = asked(SceneSplit::kUnseenCells);
  report.unseen_cells = proportion_of(scenes, unseen, vary_cell);
  report.object = proportion_of(scenes, unseen, vary_word(&Scene::object, objects));
  report.color = proportion_of(scenes, unseen, vary_word(&Scene::color, colors));
  report.size = proportion_of(scenes, unseen, vary_word(&Scene::size, kSizes));
  report.count = proportion_of(scenes, unseen, vary_word(&Scene::count, kCounts));
  report.retrieval = retrieval_of(scenes, unseen, candidates);
  return report;
}

Retrieval evaluate_retrieval(const Clip& clip, const Tokenizer& tokenizer, const Dataset& dataset,
                             Communicator* ranks, int64_t limit) {
  const CaptionedPictures all = group_captions_once(dataset, ranks, limit);
  CLIP_CHECK(all.size() > 0, "no sample of ", dataset.describe(), " has a caption");
  const int64_t count = all.size(), size = clip.config.vision.image_size;
  const RowRange share = share_of_rows(count, ranks);
  Tensor readable = Tensor::zeros(cpu_backend(), {share.size()}, DType::kU8);
  const auto picture = [&](int64_t i) {
    try {
      const Image image = dataset.picture(all.samples[static_cast<size_t>(i)]);
      readable.data<uint8_t>()[i - share.begin] = 1;
      return prepare_image(image, size, clip.config.vision.preprocess);
    } catch (const BrokenSample&) {
      return Image{size, size, std::vector<uint8_t>(static_cast<size_t>(3 * size * size))};
    }
  };
  const Tensor images = image_features(clip, count, picture, ranks);
  if (ranks != nullptr) readable = gather_shares(readable, count, *ranks);
  std::vector<int64_t> rows;
  for (int64_t i = 0; i < count; ++i)
    if (readable.data<uint8_t>()[i] != 0) rows.push_back(i);
  CLIP_CHECK(!rows.empty(), "none of the pictures of ", dataset.describe(), " can be read");
  const CaptionedPictures kept = all.only(rows);
  return first_places(retrieval_places(
      rows_of(images, rows), text_features(clip, tokenizer, kept.captions, ranks), kept.image_of));
}

}  // namespace clip
