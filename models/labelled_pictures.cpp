#include "models/labelled_pictures.h"

#include <algorithm>
#include <array>
#include <exception>
#include <filesystem>
#include <sstream>
#include <utility>

#include "engine/parallel.h"
#include "models/dataset_files.h"
#include "models/unpacked_file.h"

namespace fs = std::filesystem;

namespace clip {
namespace {

using Strings = std::vector<std::string>;

std::string inside(const std::string& folder, const std::string& name) {
  return (fs::path(folder) / name).string();
}

bool is_file(const std::string& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

int64_t byte_at(const std::string& bytes, int64_t place) {
  return static_cast<uint8_t>(bytes[static_cast<size_t>(place)]);
}

// ---- CIFAR: records of one or two labels and the red, green and blue plane of a 32 x 32 picture.

constexpr int64_t kCifarSide = 32, kCifarPlane = kCifarSide * kCifarSide;

Strings lines_of(const std::string& path, size_t expected) {
  Strings lines;
  std::istringstream text(read_whole_file(path));
  for (std::string line; std::getline(text, line);) {
    if (!trim(line).empty()) lines.emplace_back(trim(line));
  }
  CLIP_CHECK(lines.size() == expected, path, " must have the names of ", expected,
             " classes, one a line, found ", lines.size());
  return lines;
}

/// label_bytes before each picture; the last of them is the class
LabelledPictures read_cifar(const std::string& description, const Strings& paths,
                            const Strings& classes, int64_t label_bytes) {
  const int64_t record = label_bytes + 3 * kCifarPlane;
  const auto records = std::make_shared<std::string>();
  for (const std::string& path : paths) {
    const std::string bytes = read_whole_file(path);
    CLIP_CHECK(!bytes.empty() && std::ssize(bytes) % record == 0, path,
               " must hold whole records of ", record, " bytes, found ", bytes.size(), " bytes");
    *records += bytes;
  }
  LabelledPictures pictures{.description = description, .classes = classes};
  for (int64_t at = label_bytes - 1; at < std::ssize(*records); at += record) {
    const int64_t label = byte_at(*records, at);
    CLIP_CHECK(label < std::ssize(classes), description, ": picture ", pictures.size(),
               " must be of one of ", classes.size(), " classes, found class ", label);
    pictures.labels.push_back(label);
  }
  pictures.picture = [records, record, label_bytes](int64_t index) {
    const char* planes = records->data() + index * record + label_bytes;
    Image image{kCifarSide, kCifarSide, std::vector<uint8_t>(3 * kCifarPlane)};
    for (int64_t i = 0; i < kCifarPlane; ++i) {
      for (int64_t c = 0; c < 3; ++c)
        image.pixels[static_cast<size_t>(3 * i + c)] =
            static_cast<uint8_t>(planes[c * kCifarPlane + i]);
    }
    return image;
  };
  return pictures;
}

std::optional<LabelledPictures> find_cifar(const std::string& folder, Split split) {
  CLIP_CHECK(!is_file(inside(folder, "data_batch_1")) &&
                 !is_file(inside(folder, "fine_label_names")) &&
                 !(is_file(inside(folder, "meta")) && is_file(inside(folder, "train"))),
             "the folder ", folder,
             " holds CIFAR's version for Python: expected the binary version (*.bin)");
  const bool is_test = split == Split::kTest;
  if (is_file(inside(folder, "batches.meta.txt"))) {
    Strings paths = {inside(folder, "test_batch.bin")};
    if (!is_test) {
      paths.clear();
      for (int i = 1; i <= 5; ++i)
        paths.push_back(inside(folder, concat("data_batch_", i, ".bin")));
    }
    return read_cifar(concat("CIFAR-10 ", folder), paths,
                      lines_of(inside(folder, "batches.meta.txt"), 10), 1);
  }
  if (is_file(inside(folder, "fine_label_names.txt"))) {
    return read_cifar(concat("CIFAR-100 ", folder),
                      {inside(folder, is_test ? "test.bin" : "train.bin")},
                      lines_of(inside(folder, "fine_label_names.txt"), 100), 2);
  }
  return std::nullopt;
}

// ---- MNIST and its like: idx files, a header of big-endian numbers and then bytes.

/// Bytes of an idx file and its sizes, the number of items first.
struct IdxFile {
  std::string bytes;
  std::vector<int64_t> sizes;
  int64_t start = 0;  ///< of the items
};

IdxFile read_idx(const std::string& path, size_t dimensions) {
  constexpr size_t kLimit = size_t{1} << 31;
  IdxFile file{.bytes = read_unpacked(path, kLimit), .sizes = {}};
  const std::string magic = {0, 0, 8, static_cast<char>(dimensions)};
  CLIP_CHECK(file.bytes.starts_with(magic) && file.bytes.size() >= 4 + 4 * dimensions, path,
             " must begin with the header of an idx file of bytes in ", dimensions, " dimensions");
  file.start = static_cast<int64_t>(4 + 4 * dimensions);
  int64_t expected = 1;
  for (int64_t at = 4; at < file.start; at += 4) {
    int64_t size = 0;
    for (int64_t i = 0; i < 4; ++i) size = 256 * size + byte_at(file.bytes, at + i);
    CLIP_CHECK(size > 0 && size <= static_cast<int64_t>(kLimit) / expected, path,
               " must have 1 to ", kLimit, " bytes of data; its header says otherwise");
    file.sizes.push_back(size);
    expected *= size;
  }
  CLIP_CHECK(std::ssize(file.bytes) - file.start == expected, path, " must have ", expected,
             " bytes after its header, found ", std::ssize(file.bytes) - file.start);
  return file;
}

/// "train-images-idx3-ubyte", "train-images.idx3-ubyte", either with ".gz"; empty if there is none.
std::string find_idx(const std::string& folder, const std::string& start, const std::string& end) {
  for (const char* between : {"-", "."}) {
    for (const char* last : {"", ".gz"}) {
      const std::string path = inside(folder, concat(start, between, end, last));
      if (is_file(path)) return path;
    }
  }
  return {};
}

/// The two well-known sets have files of the same names but not the same first labels.
struct KnownSet {
  std::string name;
  std::array<std::array<int64_t, 10>, 2> first_labels;  ///< of train, of test
  Strings classes;
};

const KnownSet kMnist = {"MNIST",
                         {{{5, 0, 4, 1, 9, 2, 1, 3, 1, 4}, {7, 2, 1, 0, 4, 1, 4, 9, 5, 9}}},
                         {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}};
const KnownSet kFashionMnist = {"Fashion-MNIST",
                                {{{9, 0, 0, 3, 0, 2, 7, 2, 5, 5}, {9, 2, 1, 1, 6, 1, 4, 6, 5, 7}}},
                                {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal",
                                 "Shirt", "Sneaker", "Bag", "Ankle boot"}};

void name_classes(LabelledPictures& pictures, const std::string& folder) {
  pictures.description = concat("idx files ", folder);
  for (const KnownSet* known : {&kMnist, &kFashionMnist}) {
    for (const auto& first : known->first_labels) {
      if (pictures.size() < 10 || !std::equal(first.begin(), first.end(), pictures.labels.begin()))
        continue;
      pictures.description = concat(known->name, ' ', folder);
      pictures.classes = known->classes;
    }
  }
  const int64_t largest = *std::max_element(pictures.labels.begin(), pictures.labels.end());
  for (int64_t label = std::ssize(pictures.classes); label <= largest; ++label)
    pictures.classes.push_back(concat(label));
}

std::optional<LabelledPictures> find_idx_pair(const std::string& folder, Split split) {
  const std::string start = split == Split::kTest ? "t10k" : "train";
  const std::string other = split == Split::kTest ? "train" : "t10k";
  const std::string image_path = find_idx(folder, start + "-images", "idx3-ubyte");
  const std::string label_path = find_idx(folder, start + "-labels", "idx1-ubyte");
  if (image_path.empty() && label_path.empty()) {
    CLIP_CHECK(find_idx(folder, other + "-images", "idx3-ubyte").empty(), "the folder ", folder,
               " has ", other, "-images-idx3-ubyte, but no ", start, "-images-idx3-ubyte");
    return std::nullopt;
  }
  CLIP_CHECK(!image_path.empty() && !label_path.empty(), "the folder ", folder, " has no ", start,
             image_path.empty() ? "-images-idx3-ubyte" : "-labels-idx1-ubyte");
  const auto images = std::make_shared<IdxFile>(read_idx(image_path, 3));
  const IdxFile labels = read_idx(label_path, 1);
  CLIP_CHECK(images->sizes[0] == labels.sizes[0], image_path, " has ", images->sizes[0],
             " pictures, but ", label_path, " has ", labels.sizes[0], " labels");
  LabelledPictures pictures;
  for (int64_t i = 0; i < labels.sizes[0]; ++i)
    pictures.labels.push_back(byte_at(labels.bytes, labels.start + i));
  name_classes(pictures, folder);
  pictures.picture = [images](int64_t index) {
    const int64_t height = images->sizes[1], width = images->sizes[2], size = height * width;
    Image image{width, height, {}};
    for (int64_t i = 0; i < size; ++i) {
      const int64_t value = byte_at(images->bytes, images->start + index * size + i);
      image.pixels.insert(image.pixels.end(), 3, static_cast<uint8_t>(value));
    }
    return image;
  };
  return pictures;
}

LabelledPictures read_classes(const std::string& path) {
  const auto folder = std::make_shared<ClassFolder>(read_class_folder(path));
  LabelledPictures pictures{.description = concat("class folders ", path),
                            .classes = folder->classes};
  for (const ClassFolder::Picture& picture : folder->pictures)
    pictures.labels.push_back(picture.label);
  pictures.picture = [folder](int64_t index) {
    return load_image(folder->pictures.at(static_cast<size_t>(index)).path);
  };
  return pictures;
}

/// The number that a text of digits is, if all texts are such and no number is absurd.
std::optional<std::vector<int64_t>> class_numbers(const Strings& texts) {
  constexpr size_t kMostDigits = 5;
  std::vector<int64_t> numbers;
  for (const std::string& text : texts) {
    if (text.empty() || text.size() > kMostDigits ||
        text.find_first_not_of("0123456789") != std::string::npos)
      return std::nullopt;
    numbers.push_back(std::stoll(text));
  }
  return numbers;
}

/// The captions of a data set, trimmed; throws clip::Error about the first that is missing or blank.
Strings label_texts(const Dataset& dataset, const std::string& description) {
  Strings texts(static_cast<size_t>(dataset.size()));
  std::vector<std::exception_ptr> errors(texts.size());
  parallel_for_dynamic(dataset.size(), [&](int64_t i) {
    const auto place = static_cast<size_t>(i);
    try {
      texts[place] = trim(dataset.caption(i));
      CLIP_CHECK(!texts[place].empty(), description, ": the label of sample ", i, " is blank");
    } catch (...) {
      errors[place] = std::current_exception();  // must not leave the parallel region
    }
  });
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
  return texts;
}

/// A data set whose captions are classes: numbers from 0, or names.
LabelledPictures read_labels(const std::string& description,
                             const std::shared_ptr<const Dataset>& dataset) {
  const Strings texts = label_texts(*dataset, description);
  LabelledPictures pictures{.description = description};
  if (auto numbers = class_numbers(texts)) {
    pictures.labels = std::move(*numbers);
    pictures.numbered = true;
    const int64_t largest = *std::max_element(pictures.labels.begin(), pictures.labels.end());
    for (int64_t label = 0; label <= largest; ++label) pictures.classes.push_back(concat(label));
  } else {
    pictures.classes = texts;
    std::sort(pictures.classes.begin(), pictures.classes.end());
    pictures.classes.erase(std::unique(pictures.classes.begin(), pictures.classes.end()),
                           pictures.classes.end());
    for (const std::string& text : texts)
      pictures.labels.push_back(
          std::lower_bound(pictures.classes.begin(), pictures.classes.end(), text) -
          pictures.classes.begin());
  }
  pictures.picture = [dataset](int64_t index) { return dataset->picture(index); };
  return pictures;
}

class CaptionedByClass : public Dataset {
 public:
  explicit CaptionedByClass(LabelledPictures pictures) : pictures_(std::move(pictures)) {}

  int64_t size() const override { return pictures_.size(); }

  Sample get(int64_t index, int64_t) const override {
    try {
      return {pictures_.picture(index), caption(index)};
    } catch (const Error& error) {
      throw BrokenSample(error.what());
    }
  }

  std::string caption(int64_t index) const override {
    const int64_t label = pictures_.labels.at(static_cast<size_t>(index));
    return concat("a photo of a ", in_words(pictures_.classes[static_cast<size_t>(label)]));
  }

  std::vector<std::string> captions() const override {
    return spread_captions(size(), [this](int64_t index) { return caption(index); });
  }

  std::string describe() const override {
    return concat(pictures_.description, ": ", size(), " samples of ", pictures_.classes.size(),
                  " classes");
  }

 private:
  LabelledPictures pictures_;
};

}  // namespace

std::optional<LabelledPictures> find_labelled_files(const std::string& folder, Split split) {
  auto pictures = find_cifar(folder, split);
  return pictures ? std::move(pictures) : find_idx_pair(folder, split);
}

std::string in_words(std::string name) {
  std::replace(name.begin(), name.end(), '_', ' ');
  return name;
}

LabelledPictures open_labelled_pictures(const std::string& data, Split split,
                                        const CsvOptions& csv) {
  switch (data_kind(data)) {
    case DataKind::kCsv:
      return read_labels(concat("CSV ", data), open_csv_dataset(data, csv));
    case DataKind::kTar:
      return read_labels(concat("tar ", data), open_tar_dataset(data, "cls"));
    default:
      auto pictures = find_labelled_files(data, split);
      return pictures ? std::move(*pictures) : read_classes(data);
  }
}

std::unique_ptr<Dataset> caption_by_class(LabelledPictures pictures) {
  return std::make_unique<CaptionedByClass>(std::move(pictures));
}

}  // namespace clip
