// Records of RFC 4180 with the liberties that real files take: any line ends, blank lines, a byte
// order mark, tabs instead of commas.
#include <filesystem>

#include "models/dataset.h"
#include "models/dataset_files.h"

namespace fs = std::filesystem;

namespace clip {
namespace {

/// Reads one record after the other from a file's text.
class CsvReader {
 public:
  CsvReader(std::string_view text, const std::string& path) : text_(text), path_(path) {}

  void set_separator(char separator) { separator_ = separator; }

  /// The next record that is no blank line; false at the end.
  bool next(std::vector<std::string>& fields) {
    while (at_line_end()) skip_line_end();
    if (at_end()) return false;
    first_line_ = line_;
    fields.clear();
    fields.push_back(next_field());
    while (!at_end() && text_[place_] == separator_) {
      ++place_;
      fields.push_back(next_field());
    }
    skip_line_end();
    return true;
  }

  /// Where the last record began, from 1.
  int64_t line() const { return first_line_; }

 private:
  bool at_end() const { return place_ >= text_.size(); }
  bool at_line_end() const { return !at_end() && (text_[place_] == '\n' || text_[place_] == '\r'); }

  void skip_line_end() {
    if (at_end()) return;
    const bool carriage_return = text_[place_++] == '\r';
    if (carriage_return && !at_end() && text_[place_] == '\n') ++place_;
    ++line_;
  }

  std::string next_field() {
    if (!at_end() && text_[place_] == '"') return quoted_field();
    const size_t begin = place_;
    while (!at_end() && !at_line_end() && text_[place_] != separator_) ++place_;
    return std::string(text_.substr(begin, place_ - begin));
  }

  std::string quoted_field() {
    const int64_t opened = line_;
    std::string field;
    for (++place_; !at_end(); ++place_) {
      const char c = text_[place_];
      if (c == '"') {
        if (place_ + 1 >= text_.size() || text_[place_ + 1] != '"') break;
        ++place_;
      }
      if (c == '\n') ++line_;
      field += c;
    }
    CLIP_CHECK(!at_end(), path_, ":", opened, ": a quoted field is never closed");
    ++place_;
    CLIP_CHECK(at_end() || at_line_end() || text_[place_] == separator_, path_, ":", line_,
               ": a closing quote must be followed by a separator or a line end (a quote inside a "
               "quoted field is written twice), found '",
               text_[place_], "'");
    return field;
  }

  std::string_view text_;
  const std::string& path_;
  char separator_ = ',';
  size_t place_ = 0;
  int64_t line_ = 1;
  int64_t first_line_ = 1;
};

char choose_separator(const CsvOptions& options, std::string_view text) {
  if (options.separator.empty()) {
    text.remove_prefix(std::min(text.find_first_not_of("\r\n"), text.size()));
    const std::string_view header = text.substr(0, text.find_first_of("\r\n"));
    return header.find('\t') == std::string_view::npos ? ',' : '\t';
  }
  if (options.separator == "\\t") return '\t';  // as shells pass it on
  if (options.separator.size() != 1 || options.separator.find_first_of("\"\r\n") == 0) {
    throw UsageError(concat("a CSV separator is one character, found '", options.separator, "'"));
  }
  return options.separator[0];
}

size_t find_column(const std::vector<std::string>& header, const std::string& key,
                   const std::string& path) {
  const auto found = std::find(header.begin(), header.end(), key);
  if (found != header.end()) return static_cast<size_t>(found - header.begin());
  std::string names;
  for (const std::string& name : header) names += (names.empty() ? "'" : ", '") + name + "'";
  throw Error(concat(path, " has no column '", key, "': its columns are ", names));
}

class CsvDataset : public Dataset {
 public:
  CsvDataset(const std::string& path, const CsvOptions& options)
      : path_(path), folder_(fs::path(path).parent_path()) {
    const std::string text = read_whole_file(path);
    CLIP_CHECK(text.find('\0') == std::string::npos, path,
               " is no CSV text: expected UTF-8, found a zero byte");
    std::string_view rest = text;
    if (rest.starts_with("\xEF\xBB\xBF")) rest.remove_prefix(3);
    read_rows(rest, options);
    CLIP_CHECK(!rows_.empty(), path, " holds no sample: expected a header line and rows");
  }

  int64_t size() const override { return static_cast<int64_t>(rows_.size()); }

  Sample get(int64_t index, int64_t) const override { return {picture(index), caption(index)}; }

  Image picture(int64_t index) const override { return load_sample_image(picture_name(index)); }

  std::string caption(int64_t index) const override {
    return rows_.at(static_cast<size_t>(index)).caption;
  }

  std::string picture_name(int64_t index) const override {
    return (folder_ / rows_.at(static_cast<size_t>(index)).image).string();
  }

  std::vector<std::string> captions() const override {
    std::vector<std::string> all;
    all.reserve(rows_.size());
    for (const Row& row : rows_) all.push_back(row.caption);
    return all;
  }

  std::string describe() const override {
    return concat("CSV ", path_, ": ", size(), size() == 1 ? " sample" : " samples");
  }

 private:
  struct Row {
    std::string image;
    std::string caption;
  };

  void read_rows(std::string_view text, const CsvOptions& options) {
    CsvReader reader(text, path_);
    reader.set_separator(choose_separator(options, text));
    std::vector<std::string> header, fields;
    if (!reader.next(header)) return;
    const size_t image = find_column(header, options.image_key, path_);
    const size_t caption = find_column(header, options.caption_key, path_);
    while (reader.next(fields)) {
      CLIP_CHECK(fields.size() == header.size(), path_, ":", reader.line(), ": expected ",
                 header.size(), " fields as in the header, found ", fields.size());
      rows_.push_back({fields[image], fields[caption]});
    }
  }

  std::string path_;
  fs::path folder_;
  std::vector<Row> rows_;
};

}  // namespace

std::unique_ptr<Dataset> open_csv_dataset(const std::string& path, const CsvOptions& options) {
  return std::make_unique<CsvDataset>(path, options);
}

}  // namespace clip
