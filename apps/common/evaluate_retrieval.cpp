#include <array>
#include <iomanip>
#include <iostream>

#include "apps/common/evaluation.h"
#include "apps/common/percent.h"
#include "models/features.h"
#include "models/retrieval.h"

namespace po = boost::program_options;

namespace clip {
namespace {

constexpr const char* kUsage =
    "Recall at 1, 5 and 10 between pictures and their captions. A picture is found right if one of "
    "its\ncaptions is among the first K of all captions, a caption if its picture is among the "
    "first "
    "K of all\npictures. Equal cosines count against.\n"
    "Examples:\n"
    "  ./apps/evaluate retrieval --checkpoint runs/first --data flickr30k.csv --csv-img-key image "
    "--csv-caption-key caption\n"
    "  ./apps/evaluate retrieval --checkpoint ViT-B-32.pt --data 'coco-{00..09}.tar' --json "
    "coco.json\n";

po::options_description option_list() {
  const CsvOptions csv;
  po::options_description options("Options");
  // clang-format off
  options.add_options()
    ("data", po::value<std::string>()->default_value(""), "a .csv or .tsv file (rows of one picture are its captions), "
                                                          ".tar shards, or a folder (pictures with a .txt beside them); "
                                                          "every line of a caption is a caption")
    ("csv-img-key", po::value<std::string>()->default_value(csv.image_key), "column of the pictures' paths")
    ("csv-caption-key", po::value<std::string>()->default_value(csv.caption_key), "column of the captions")
    ("csv-separator", po::value<std::string>()->default_value(""), "empty: a tab if the header has one, else a comma");
  // clang-format on
  add_evaluation_options(options);
  return options;
}

constexpr std::array<int64_t, 3> kCounts = {1, 5, 10};

void print_recalls(const std::string& name, const std::vector<int64_t>& places) {
  std::cout << "  " << std::left << std::setw(22) << name << std::right;
  for (const int64_t k : kCounts) std::cout << "   " << percent(recall_at(k, places).value());
  std::cout << '\n';
}

nlohmann::ordered_json recalls(const std::vector<int64_t>& places) {
  nlohmann::ordered_json result;
  for (const int64_t k : kCounts) result[concat("recall@", k)] = recall_at(k, places).value();
  return result;
}

}  // namespace

void evaluate_retrieval_word(int argc, const char* const* argv) {
  const po::variables_map values = parse_options(argc, argv, option_list(), kUsage);
  const auto text = [&](const char* option) { return values[option].as<std::string>(); };
  const std::string data = text("data");
  if (data.empty()) throw UsageError("--data FILE is needed");
  Evaluation evaluation(values);
  const std::unique_ptr<Dataset> dataset = open_dataset(
      data, {text("csv-img-key"), text("csv-caption-key"), text("csv-separator")}, Split::kTest);
  const CaptionedPictures all = group_captions(
      *dataset, [&](const std::string& sentence) { evaluation.leave_out(sentence); });
  CLIP_CHECK(all.size() > 0, "no sample of ", dataset->describe(), " has a caption");

  const LoadedModel& loaded = evaluation.load(Words::kNeeded);
  const auto picture = [&](int64_t i) {
    return dataset->picture(all.samples[static_cast<size_t>(i)]);
  };
  const NumberedFeatures images =
      picture_features(loaded.clip(), all.size(), picture, evaluation.embedding());
  const CaptionedPictures pictures = all.only(images.numbers);
  const RetrievalPlaces places = retrieval_places(
      images.rows, text_features(loaded.clip(), *loaded.tokenizer, pictures.captions),
      pictures.image_of);

  const auto count_of = [](int64_t count, const char* word) {
    return concat(count, ' ', word, count == 1 ? "" : "s");
  };
  std::cout << dataset->describe() << '\n'
            << count_of(pictures.size(), "picture") << " and "
            << count_of(std::ssize(pictures.captions), "caption");
  if (evaluation.left_out() > 0) std::cout << " (" << evaluation.left_out() << " left out)";
  std::cout << "\n  recall at                      1          5         10\n";
  print_recalls("caption of a picture", places.of_text);
  print_recalls("picture of a caption", places.of_image);
  evaluation.write([&] {
    return nlohmann::ordered_json{{"data", data},
                                  {"pictures", pictures.size()},
                                  {"captions", pictures.captions.size()},
                                  {"left_out", evaluation.left_out()},
                                  {"caption_of_picture", recalls(places.of_text)},
                                  {"picture_of_caption", recalls(places.of_image)}};
  });
}

}  // namespace clip
