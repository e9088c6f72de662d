// A vocabulary's files: Hugging Face's tokenizer.json, and lists of merges.
#include <archive.h>
#include <archive_entry.h>

#include <filesystem>
#include <iterator>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "engine/check.h"
#include "models/atomic_file.h"
#include "models/strict_json.h"
#include "models/tokenizer.h"
#include "models/tokenizer_text.h"

namespace clip {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

/// The file's bytes, unpacked if it is gzipped.
std::string read_unpacked(const std::string& path) {
  constexpr size_t kMostBytes = size_t{1} << 28;  // CLIP's has 3 MB; a packed bomb must not fill us
  CLIP_CHECK(!std::filesystem::is_directory(path), path,
             ": expected a vocabulary's file, found a folder");
  const std::unique_ptr<archive, int (*)(archive*)> file(archive_read_new(), archive_read_free);
  const auto check = [&](la_ssize_t status) {
    if (status >= ARCHIVE_WARN) return;
    const char* reason = archive_error_string(file.get());
    throw Error(concat(path, ": cannot be read: ", reason ? reason : "unknown error"));
  };
  check(archive_read_support_filter_gzip(file.get()));
  check(archive_read_support_format_raw(file.get()));
  check(archive_read_support_format_empty(file.get()));
  check(archive_read_open_filename(file.get(), path.c_str(), 1 << 16));
  archive_entry* entry = nullptr;
  const int header = archive_read_next_header(file.get(), &entry);
  check(header);
  std::string bytes;
  if (header == ARCHIVE_EOF) return bytes;
  std::vector<char> chunk(1 << 16);
  for (;;) {
    const la_ssize_t count = archive_read_data(file.get(), chunk.data(), chunk.size());
    check(count);
    if (count <= 0) return bytes;
    bytes.append(chunk.data(), static_cast<size_t>(count));
    CLIP_CHECK(bytes.size() <= kMostBytes, path, ": expected at most ", kMostBytes,
               " bytes of vocabulary, found more");
  }
}

Tokenizer::Merge read_merge(const std::string& line, const std::string& where) {
  std::istringstream words(line);
  Tokenizer::Merge merge;
  std::string more;
  CLIP_CHECK(words >> merge.first >> merge.second && !(words >> more), where,
             ": expected two symbols with a space between, found ", quoted(line));
  return merge;
}

std::vector<Tokenizer::Merge> read_merge_list(const std::string& path) {
  constexpr size_t kClipMerges = 49152 - 256 - 2;  // CLIP uses the first of its file's 262,144
  std::istringstream text(read_unpacked(path));
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

Tokenizer read_tokenizer_json(const std::string& path) {
  const json root = parse_json(read_unpacked(path), path);
  const json& model = root.at("model");
  const std::string suffix = model.value("end_of_word_suffix", json()).is_string()
                                 ? model["end_of_word_suffix"].get<std::string>()
                                 : "";
  CLIP_CHECK(model.value("type", "BPE") == "BPE" && suffix == kEndOfWord, path,
             ": expected a BPE model with end_of_word_suffix \"", kEndOfWord, "\", found ",
             quoted(model.value("type", "no type")), " with ", quoted(suffix));
  Tokenizer tokenizer(read_json_merges(model.at("merges"), path));

  // Another order of ids would read every embedding of the checkpoint for another token's.
  const json& vocabulary = model.at("vocab");
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
  return tokenizer;
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
    return path.ends_with(".json") ? read_tokenizer_json(path) : Tokenizer(read_merge_list(path));
  } catch (const json::exception&) {  // a field that is missing or of another type
    throw Error(concat(path,
                       ": expected a tokenizer.json of Hugging Face, with model.type, model.vocab "
                       "and model.merges"));
  } catch (const Error& error) {
    const std::string reason = error.what();
    throw Error(reason.starts_with(path) ? reason : concat(path, ": ", reason));
  }
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
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  write_file((folder / "tokenizer_config.json").string(), config.dump(1) + "\n");
  write_file(path, to_json());
}

}  // namespace clip
