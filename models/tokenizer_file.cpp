// A vocabulary's files: Hugging Face's tokenizer.json or vocab.json, and lists of merges.
#include <algorithm>
#include <filesystem>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "engine/check.h"
#include "models/atomic_file.h"
#include "models/strict_json.h"
#include "models/tokenizer.h"
#include "models/tokenizer_text.h"
#include "models/unpacked_file.h"

namespace clip {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;
namespace fs = std::filesystem;

constexpr size_t kMostBytes = size_t{1} << 28;   // CLIP's has 3 MB
constexpr size_t kClipMerges = 49152 - 256 - 2;  // CLIP uses the first of its file's 262,144

Tokenizer::Merge read_merge(const std::string& line, const std::string& where) {
  std::istringstream words(line);
  Tokenizer::Merge merge;
  std::string more;
  CLIP_CHECK(words >> merge.first >> merge.second && !(words >> more), where,
             ": expected two symbols with a space between, found ", quoted(line));
  return merge;
}

/// `bytes` of the file at `path`.
std::vector<Tokenizer::Merge> read_merge_list(const std::string& bytes, const std::string& path) {
  std::istringstream text(bytes);
  std::vector<Tokenizer::Merge> merges;
  size_t most_merges = std::numeric_limits<size_t>::max();
  std::string line;
  for (int64_t number = 1; merges.size() < most_merges && std::getline(text, line); ++number) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (number == 1 && line.find("#version") != std::string::npos) {
      if (line.find("bpe_simple_vocab_16e6") != std::string::npos) most_merges = kClipMerges;
      continue;
    }
    if (line.empty() && text.peek() == std::istringstream::traits_type::eof()) break;
    merges.push_back(read_merge(line, concat(path, ", line ", number)));
  }
  CLIP_CHECK(!merges.empty(), path, ": expected merge rules, one a line, found none");
  return merges;
}

/// Merges are written "a b" (older files) or ["a", "b"].
std::vector<Tokenizer::Merge> read_json_merges(const json& merges, const std::string& path) {
  CLIP_CHECK(merges.is_array(), path, ": expected a list of merges, found ", quoted(merges.dump()));
  std::vector<Tokenizer::Merge> rules;
  for (const json& merge : merges) {
    const std::string where = concat(path, ", merge ", rules.size() + 1);
    if (merge.is_string()) {
      rules.push_back(read_merge(merge.get<std::string>(), where));
    } else {
      CLIP_CHECK(merge.is_array() && merge.size() == 2, where, ": expected two symbols, found ",
                 quoted(merge.dump()));
      rules.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
    }
  }
  return rules;
}

/// Another order of ids would read every embedding of the checkpoint for another token's.
void check_order(const Tokenizer& tokenizer, const json& vocabulary, const std::string& path) {
  CLIP_CHECK(std::ssize(vocabulary) == tokenizer.vocab_size(), path, ": expected ",
             tokenizer.vocab_size(), " tokens (512 bytes, the merges, start and end), found ",
             vocabulary.size());
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string token = tokenizer.spelling(id);
    const auto found = vocabulary.find(token);
    CLIP_CHECK(found != vocabulary.end() && *found == id, path, ": expected token ", quoted(token),
               " with id ", id, " (CLIP's order), found ",
               found == vocabulary.end() ? "none" : found->dump(-1, ' ', true));
  }
}

/// vocab.json lists the tokens with their ids and needs merges.txt beside it.
Tokenizer read_vocabulary(const json& vocabulary, const std::string& path) {
  const std::string merges = (fs::path(path).parent_path() / "merges.txt").string();
  CLIP_CHECK(fs::exists(merges), path, ": expected its merges.txt beside it, found none");
  Tokenizer tokenizer(read_merge_list(read_unpacked(merges, kMostBytes), merges));
  check_order(tokenizer, vocabulary, path);
  return tokenizer;
}

Tokenizer read_tokenizer_json(const json& root, const std::string& path) {
  const json& model = root.at("model");
  const std::string suffix = model.value("end_of_word_suffix", json()).is_string()
                                 ? model["end_of_word_suffix"].get<std::string>()
                                 : "";
  CLIP_CHECK(model.value("type", "BPE") == "BPE" && suffix == kEndOfWord, path,
             ": expected a BPE model with end_of_word_suffix \"", kEndOfWord, "\", found ",
             quoted(model.value("type", "no type")), " with ", quoted(suffix));
  Tokenizer tokenizer(read_json_merges(model.at("merges"), path));
  check_order(tokenizer, model.at("vocab"), path);
  return tokenizer;
}

/// The file in a folder of Hugging Face's that has the vocabulary.
std::string vocabulary_of(const std::string& folder) {
  for (const char* name : {"tokenizer.json", "vocab.json", "merges.txt"}) {
    const std::string path = (fs::path(folder) / name).string();
    if (fs::exists(path)) return path;
  }
  throw Error(concat(folder, ": expected a folder with tokenizer.json, vocab.json and merges.txt, ",
                     "or merges.txt, found none of them"));
}

Tokenizer read_vocabulary_file(const std::string& path) {
  const std::string bytes = read_unpacked(path, kMostBytes);
  const size_t begin = bytes.find_first_not_of(" \t\r\n");
  const bool object = begin != bytes.npos && bytes[begin] == '{';
  if (!object && !path.ends_with(".json")) return Tokenizer(read_merge_list(bytes, path));
  const json root = parse_json(bytes, path);
  const auto is_number = [](const json& value) { return value.is_number_integer(); };
  const bool vocabulary =
      root.is_object() && !root.empty() && std::all_of(root.begin(), root.end(), is_number);
  return vocabulary ? read_vocabulary(root, path) : read_tokenizer_json(root, path);
}

ordered_json special_token(std::string_view content, int32_t id) {
  return {{"id", id},        {"content", content}, {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", true}, {"special", true}};
}

ordered_json replace(ordered_json pattern, const char* content) {
  return {{"type", "Replace"}, {"pattern", std::move(pattern)}, {"content", content}};
}

ordered_json byte_level() {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", false}};
}

/// Text to words, as models/tokenizer_text.h has it but for ftfy's repairs and HTML, which
/// open_clip does itself.
ordered_json normalizer() {
  return {{"type", "Sequence"},
          {"normalizers",
           {{{"type", "NFC"}},
            replace({{"Regex", "\\s+"}}, " "),
            // Lowercase below knows no capital sigma at the end of a word.
            replace({{"Regex", "(?<=\\p{Cased})\u03a3(?!\\p{Cased})"}}, "\u03c2"),
            {{"type", "Lowercase"}}}}};
}

ordered_json pre_tokenizer() {
  const char* pattern =
      "<\\|startoftext\\|>|<\\|endoftext\\|>|'[s\u017f]|'t|'re|'ve|'m|'ll|'d|"
      "[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}\u0345]+";
  return {{"type", "Sequence"},
          {"pretokenizers",
           {{{"type", "Split"},
             {"pattern", {{"Regex", pattern}}},
             {"behavior", "Removed"},
             {"invert", true}},
            byte_level()}}};
}

ordered_json decoder() {
  return {{"type", "Sequence"},
          {"decoders",
           {byte_level(),
            replace({{"String", kEndOfWord}}, " "),
            {{"type", "Strip"}, {"content", " "}, {"start", 0}, {"stop", 1}}}}};
}

}  // namespace

Tokenizer Tokenizer::load(const std::string& path) {
  try {
    return read_vocabulary_file(fs::is_directory(path) ? vocabulary_of(path) : path);
  } catch (const json::exception&) {  // a field that is missing or of another type
    throw Error(concat(path,
                       ": expected a tokenizer.json of Hugging Face, with model.type, model.vocab "
                       "and model.merges"));
  } catch (const Error& error) {
    const std::string reason = error.what();  // of the constructor, or it names its file already
    throw Error(reason.starts_with("[tokenizer]") ? concat(path, ": ", reason) : reason);
  }
}

std::optional<std::string> find_clip_merges() {
  std::error_code none;
  std::vector<fs::path> folders{""};
  for (fs::path at = fs::read_symlink("/proc/self/exe", none); at.has_relative_path();) {
    at = at.parent_path();
    folders.push_back(at);
  }
  for (const fs::path& folder : folders) {
    const fs::path file = folder / "data" / "bpe_simple_vocab_16e6.txt.gz";
    if (fs::exists(file, none)) return file.string();
  }
  return std::nullopt;
}

Tokenizer clip_tokenizer(const std::string& merges_file) {
  const std::optional<std::string> file =
      merges_file.empty() ? find_clip_merges() : std::optional(merges_file);
  CLIP_CHECK(file.has_value(),
             "CLIP's merges, data/bpe_simple_vocab_16e6.txt.gz, are neither in this folder nor in "
             "one above the program: make deps fetches them, or name the file with --bpe");
  Tokenizer tokenizer = Tokenizer::load(*file);
  CLIP_CHECK(tokenizer.merges().size() == kClipMerges, *file, ": expected CLIP's ", kClipMerges,
             " merges, found ", tokenizer.merges().size());
  return tokenizer;
}

std::string Tokenizer::to_json() const {
  // Not vocabulary[token] = id: an ordered object looks for the name in all that came before.
  ordered_json vocabulary = ordered_json::object();
  auto& tokens = vocabulary.get_ref<ordered_json::object_t&>();
  for (int32_t id = 0; id < vocab_size(); ++id) tokens.emplace_back(spelling(id), id);
  ordered_json merges = ordered_json::array();
  for (const auto& [left, right] : merges_) merges.push_back(left + " " + right);

  const ordered_json root = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens",
       {special_token(kStartOfText, start_of_text()), special_token(kEndOfText, end_of_text())}},
      {"normalizer", normalizer()},
      {"pre_tokenizer", pre_tokenizer()},
      {"post_processor",
       {{"type", "RobertaProcessing"},
        {"sep", {kEndOfText, end_of_text()}},
        {"cls", {kStartOfText, start_of_text()}},
        {"trim_offsets", false},
        {"add_prefix_space", false}}},
      {"decoder", decoder()},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", kEndOfText},
        {"continuing_subword_prefix", ""},
        {"end_of_word_suffix", kEndOfWord},
        {"fuse_unk", false},
        {"vocab", std::move(vocabulary)},
        {"merges", std::move(merges)}}}};
  return root.dump(1) + "\n";
}

void Tokenizer::save(const std::string& path) const {
  const ordered_json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                               {"bos_token", kStartOfText},
                               {"eos_token", kEndOfText},
                               {"unk_token", kEndOfText},
                               {"pad_token", kEndOfText},
                               {"clean_up_tokenization_spaces", false}};
  const fs::path folder = fs::path(path).parent_path();
  write_file((folder / "tokenizer_config.json").string(), config.dump(1) + "\n");
  write_file(path, to_json());
}

}  // namespace clip
