// Pictures or texts to a file of features, however many there are.
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "apps/common/model_options.h"
#include "apps/common/option_values.h"
#include "apps/common/program.h"
#include "models/dataset.h"
#include "models/embedding_stream.h"
#include "models/npy_file.h"

namespace clip {
namespace {

namespace fs = std::filesystem;
namespace po = boost::program_options;
using NextItem = EmbeddingStream::NextItem;

constexpr const char* kUsage =
    "Writes the features of pictures or of texts to a NumPy file: float32 [count, E], rows of "
    "unit\n"
    "length in the order of the input. Beside F.npy, F.txt has the path of each row of pictures.\n"
    "Examples:\n"
    "  ./apps/embed --checkpoint runs/emoji-1 --images photos/ --out photos.npy\n"
    "  find . -name '*.jpg' | ./apps/embed --checkpoint runs/first --images - --out all.npy\n"
    "  ./apps/embed --checkpoint runs/first --texts captions.txt --out captions.npy\n";

po::options_description option_list() {
  const auto text = [] { return po::value<std::string>()->default_value(""); };
  const auto number = [](int64_t value) { return po::value<int64_t>()->default_value(value); };
  po::options_description options("Options");
  // clang-format off
  add_first_options(options)
    ("images", text(), "a folder (all pictures below it, sorted), a file with a path a line, or - for standard input")
    ("texts", text(), "a file with a text a line, or - for standard input; a blank line is a text too")
    ("out", text(), "the .npy file to write")
    ("overwrite", po::bool_switch(), "replace files that exist")
    ("skip-broken", po::bool_switch(), "leave out pictures that cannot be read, and name them, instead of stopping")
    ("raw", po::bool_switch(), "features as the projection gives them, not of unit length")
    ("json", po::bool_switch(), "print what was done and how fast as JSON, on standard output")
    ("batch-size", number(32), "rows that the tower takes at once")
    ("workers", number(2), "threads that read pictures ahead; 0: none");
  // clang-format on
  add_device_options(options);
  add_model_options(options);
  return options;
}

/// What the command line asks for.
struct Request {
  std::string checkpoint, images, texts, out, device, precision;
  std::string list;  ///< of the rows' paths; empty for texts
  bool skip_broken, json;
  EmbeddingOptions embedding;
  ModelOptions model;
};

Request parse(int argc, const char* const* argv) {
  const po::variables_map values = parse_options(argc, argv, option_list(), kUsage);
  const auto text = [&](const char* option) { return values[option].as<std::string>(); };
  Request request{.checkpoint = text("checkpoint"),
                  .images = text("images"),
                  .texts = text("texts"),
                  .out = text("out"),
                  .device = text("device"),
                  .precision = text("precision"),
                  .list = {},
                  .skip_broken = values["skip-broken"].as<bool>(),
                  .json = values["json"].as<bool>(),
                  .embedding = {.batch_size = at_least(1, values, "batch-size"),
                                .workers = at_least(0, values, "workers"),
                                .form = values["raw"].as<bool>() ? FeatureForm::kProjected
                                                                 : FeatureForm::kUnitLength},
                  .model = ModelOptions(values)};
  if (request.checkpoint.empty()) throw UsageError("--checkpoint MODEL is needed");
  if (request.images.empty() == request.texts.empty())
    throw UsageError("give either --images LIST or --texts FILE");
  if (!request.out.ends_with(".npy") || fs::path(request.out).stem().empty())
    throw UsageError(concat("--out must name a .npy file, got '", request.out, "'"));
  const bool overwrite = values["overwrite"].as<bool>();
  const std::string input = request.images + request.texts;
  check_output("--out", request.out, {input}, overwrite);
  if (request.images.empty()) return request;
  request.list = fs::path(request.out).replace_extension(".txt").string();
  check_output("--out", request.list, {input}, overwrite);
  return request;
}

/// The lines of a file, or of standard input if it is "-", without their ends.
NextItem lines_of(const std::string& path) {
  const auto file = std::make_shared<std::ifstream>();
  if (path != "-") {
    std::error_code ignored;
    CLIP_CHECK(!fs::is_directory(path, ignored), "cannot read ", path, ": it is a folder");
    file->open(path, std::ios::binary);
    CLIP_CHECK(*file, "cannot open ", path, ": ", std::generic_category().message(errno));
  }
  std::istream& stream = path == "-" ? std::cin : *file;
  return [path, file, &stream]() -> std::optional<std::string> {
    std::string line;
    if (std::getline(stream, line)) {
      if (line.ends_with('\r')) line.pop_back();
      return line;
    }
    CLIP_CHECK(stream.eof(), "cannot read ", path == "-" ? "standard input" : path);
    return std::nullopt;
  };
}

NextItem paths_of(const std::string& images) {
  if (std::error_code ignored; fs::is_directory(images, ignored)) {
    const auto paths = std::make_shared<std::vector<std::string>>(pictures_under(images));
    CLIP_CHECK(!paths->empty(), "the folder ", images, " holds no picture");
    return [paths, i = size_t{0}]() mutable {
      return i < paths->size() ? std::optional((*paths)[i++]) : std::nullopt;
    };
  }
  return [next_line = lines_of(images)] {
    std::optional<std::string> line = next_line();
    while (line && line->empty()) line = next_line();
    return line;
  };
}

struct Result {
  int64_t rows = 0, width = 0, broken = 0;
  double load_seconds = 0, seconds = 0;      ///< of the model; from the first path to the file
  std::optional<double> first_seconds = {};  ///< from the program's start to the first batch
  double rate() const { return static_cast<double>(rows) / seconds; }
};

Result embed(Request& request) {
  using Clock = std::chrono::steady_clock;
  const auto seconds_since = [](Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  const Clock::time_point start = Clock::now();
  const bool pictures = !request.images.empty();
  NextItem next_item = pictures ? paths_of(request.images) : lines_of(request.texts);
  const ChosenDevice device = choose_device(request.device);
  device.print_note();
  const LoadedModel loaded = load_model(request.checkpoint, request.model, *device.backend,
                                        choose_precision(request.precision, *device.backend),
                                        pictures ? Words::kIfThere : Words::kNeeded);
  const ConstantWeights constant(loaded.model->parameters);
  const Clip& clip = loaded.clip();
  Result result{.width = clip.config.embed_dim, .load_seconds = seconds_since(start)};
  NpyRows file(request.out, result.width);
  std::optional<AtomicFile> list;
  if (pictures) list.emplace(request.list);

  const Clock::time_point loaded_at = Clock::now();
  if (request.skip_broken) {
    request.embedding.left_out = [&](const std::string& sentence) {
      std::cerr << concat("left out: ", one_line(sentence), '\n');
      ++result.broken;
    };
  }
  EmbeddingStream stream =
      pictures ? embed_pictures(clip, std::move(next_item), request.embedding)
               : embed_texts(clip, *loaded.tokenizer, std::move(next_item), request.embedding);
  while (const std::optional<EmbeddedBatch> batch = stream.next()) {
    if (!result.first_seconds) result.first_seconds = seconds_since(start);
    file.append(batch->features);
    if (!list) continue;
    for (const std::string& path : batch->items) {
      CLIP_CHECK(path.find('\n') == std::string::npos, path, " cannot be listed in ", request.list,
                 ": its name has a line end");
      const std::string line = path + '\n';
      list->write(line.data(), std::ssize(line));
    }
  }
  if (list) list->commit();
  file.commit();  // last: where there is one, its list is complete
  result.rows = file.rows();
  result.seconds = seconds_since(loaded_at);
  return result;
}

void report(const Result& result, const Request& request) {
  const bool pictures = !request.images.empty();
  if (request.json) {
    nlohmann::ordered_json object = {{"out", request.out},
                                     {"rows", result.rows},
                                     {"width", result.width},
                                     {"left_out", result.broken},
                                     {"load_seconds", result.load_seconds},
                                     {"seconds", result.seconds},
                                     {"rows_per_second", result.rate()},
                                     {"first_seconds", nullptr}};
    if (result.first_seconds) object["first_seconds"] = *result.first_seconds;
    if (pictures) object["paths"] = request.list;
    std::cout << object.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
    return;
  }
  std::ostringstream line;
  line << std::fixed << std::setprecision(1) << result.rows << (pictures ? " pictures" : " texts");
  if (result.broken > 0) line << " (" << result.broken << " left out)";
  line << " in " << result.seconds << " s: " << result.rate() << "/s; model loaded in "
       << result.load_seconds << " s";
  if (result.first_seconds) line << ", first embedding after " << *result.first_seconds << " s";
  std::cerr << concat(line.str(), '\n', request.out, ": float32 [", result.rows, ", ", result.width,
                      "]\n");
}

}  // namespace
}  // namespace clip

int main(int argc, char** argv) {
  return clip::run_program("embed", [&] {
    clip::Request request = clip::parse(argc, argv);
    clip::report(clip::embed(request), request);
  });
}
