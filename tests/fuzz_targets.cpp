#include "tests/fuzz_targets.h"

#include <algorithm>

#include "models/config.h"
#include "models/image.h"
#include "models/pickle.h"
#include "models/tokenizer.h"
#include "models/torch_file.h"
#include "models/weights.h"
#include "tests/dataset_samples.h"
#include "tests/torch_archive.h"

namespace clip {
namespace {

constexpr int64_t kMostNumbers = 1 << 20;  // of a tensor that is read

void read_all_weights(const std::string& path) {
  const Weights weights(path);
  for (const auto& [name, weight] : weights.all()) {
    if (!weight.pieces[0].is_readable() || weight.numel() > kMostNumbers) continue;
    std::vector<float> numbers(static_cast<size_t>(weight.numel()));
    weight.read(DType::kF32, numbers.data());
  }
  try {
    infer_config(weights, {.model = "", .force_quick_gelu = true});
  } catch (const Error&) {  // most are no whole model
  }
}

void read_pickle(const std::string& path) {
  const std::string bytes = file_bytes(path);
  const auto any = [](const std::string&) { return true; };
  Pickle(std::as_bytes(std::span(bytes)), path, {any, any});
}

void read_shard(const std::string& path) {
  const auto dataset = open_dataset(path, {});
  dataset->captions();
  for (int64_t i = 0; i < std::min<int64_t>(dataset->size(), 4); ++i) dataset->get(i, 0);
}

void read_vocabulary(const std::string& path) {
  const Tokenizer tokenizer = Tokenizer::load(path);
  tokenizer.decode(tokenizer.encode("a dog's 12 cats!"));
}

std::vector<std::string> safetensors_seeds(const ScratchFolder& folder) {
  const std::vector<float> numbers(64, 1.5f);
  const std::string path = folder.path("seed.safetensors");
  write_safetensors(path,
                    {{"ln_final.weight", DType::kF32, {8}, numbers.data()},
                     {"module.x", DType::kF32, {4, 4}, numbers.data(), {}, "F16"},
                     {"text_model.embeddings.position_ids", DType::kF64, {2}, numbers.data()},
                     {"y", DType::kF32, {}, numbers.data(), {}, "BF16"}},
                    {{"format", "pt"}});
  return {file_bytes(path)};
}

PickleBytes turned_matrix() { return PickleBytes().tensor("FloatStorage", 6, 1, {2, 2}, {1, 2}); }

std::vector<std::string> pickle_seeds(const ScratchFolder&) {
  return {dict_of(turned_matrix()), dict_of(PickleBytes().raw("](K\1K\2e"))};
}

std::vector<std::string> torch_seeds(const ScratchFolder& folder) {
  const std::vector<float> numbers(64, 1.5f);
  const std::string path = folder.path("seed.pt");
  write_torch_file(path, {{"module.a", DType::kF32, {4, 4}, numbers.data()},
                          {"b", DType::kF32, {}, numbers.data(), {}, "F16"}});
  return {file_bytes(path), file_bytes(write_torch_archive(folder, dict_of(turned_matrix())))};
}

std::vector<std::string> shard_seeds(const ScratchFolder& folder) {
  const std::vector<Member> members = {{"0.ppm", picture(7)},
                                       {"0.txt", "a cat"},
                                       {"1.ppm", picture(9)},
                                       {"1.txt", "a dog"},
                                       {std::string(150, 'n') + ".txt", "a long name"}};
  return {file_bytes(write_tar(folder, "seed.tar", members))};
}

std::vector<std::string> json_vocabulary_seeds(const ScratchFolder&) {
  return {Tokenizer::learn({"two lions", "two small lions"}, 530).to_json()};
}

std::vector<std::string> merge_list_seeds(const ScratchFolder&) {
  return {"#version: 0.2\nt h\nth e</w>\na n</w>\n", "i n\ni n</w>\nt h\n"};
}

constexpr int64_t kPreprocessorSize = 224;  // that of a file which does not say

std::vector<std::string> config_seeds(const ScratchFolder&) {
  return {to_json(preset("tiny")), to_hugging_face_json(preset("tiny"), Towers::kBoth),
          to_preprocessor_json(Preprocess(), kPreprocessorSize)};
}

void read_configuration(const std::string& path) {
  const std::string text = file_bytes(path);
  for (const auto& read : {config_from_json, config_from_hugging_face}) {
    try {
      read(text, path);
    } catch (const Error&) {
    }
  }
  preprocess_from_hugging_face(text, path, kPreprocessorSize);
}

std::vector<std::string> none(const ScratchFolder&) { return {}; }

}  // namespace

const std::map<std::string, FuzzTarget>& fuzz_targets() {
  static const std::map<std::string, FuzzTarget> table = {
      {"safetensors", {".safetensors", read_all_weights, safetensors_seeds}},
      {"torch", {".pt", read_all_weights, torch_seeds}},
      {"pickle", {".pkl", read_pickle, pickle_seeds}},
      {"tar", {".tar", read_shard, shard_seeds}},
      {"tokenizer", {".json", read_vocabulary, json_vocabulary_seeds}},
      {"merges", {".txt", read_vocabulary, merge_list_seeds}},
      {"config", {".json", read_configuration, config_seeds}},
      {"image", {".image", [](const std::string& path) { load_image(path); }, none}},
  };
  return table;
}

}  // namespace clip
