#include <filesystem>
#include <unordered_map>

#include "models/dataset.h"
#include "models/dataset_files.h"

namespace fs = std::filesystem;

namespace clip {
namespace {

std::string extension_of(const std::string& path) {
  const std::string extension = fs::path(path).extension().string();
  return extension.empty() ? extension : lower_case(extension.substr(1));
}

std::string without_extension(const std::string& path) {
  return fs::path(path).replace_extension().string();
}

void check_folder(const std::string& path) {
  std::error_code error;
  CLIP_CHECK(fs::exists(path, error), "there is no folder ", path);
  CLIP_CHECK(fs::is_directory(path, error), path, " is not a folder");
}

class FolderDataset : public Dataset {
 public:
  explicit FolderDataset(const std::string& path) : path_(path) {
    check_folder(path);
    const std::vector<std::string> files = files_under(path);
    std::unordered_map<std::string, std::string> captions;  // path without extension -> .txt
    for (const std::string& file : files) {
      if (extension_of(file) == "txt") captions.emplace(without_extension(file), file);
    }
    for (const std::string& file : files) {
      if (!is_picture_extension(extension_of(file))) continue;
      const auto caption = captions.find(without_extension(file));
      if (caption == captions.end()) {
        ++without_caption_;
      } else {
        pairs_.push_back({file, caption->second});
      }
    }
    check_not_empty();
  }

  int64_t size() const override { return static_cast<int64_t>(pairs_.size()); }

  Sample get(int64_t index, int64_t) const override { return {picture(index), caption(index)}; }

  Image picture(int64_t index) const override {
    return load_sample_image(pairs_.at(static_cast<size_t>(index)).image);
  }

  std::string caption(int64_t index) const override {
    try {
      return std::string(trim(read_whole_file(pairs_.at(static_cast<size_t>(index)).caption)));
    } catch (const Error& error) {
      throw BrokenSample(error.what());
    }
  }

  std::vector<std::string> captions() const override {
    return spread_captions(size(), [this](int64_t index) { return caption(index); });
  }

  std::string describe() const override {
    std::string text = concat("folder ", path_, ": ", size(), size() == 1 ? " sample" : " samples");
    if (without_caption_ > 0) {
      text += concat(" (pictures left out for want of a .txt: ", without_caption_, ")");
    }
    return text;
  }

 private:
  struct Pair {
    std::string image;
    std::string caption;
  };

  void check_not_empty() const {
    if (!pairs_.empty()) return;
    const std::string found =
        without_caption_ > 0
            ? concat(
                  without_caption_,
                  " pictures without one (classes of pictures in subfolders are for zero_shot and "
                  "evaluate linear_probe)")
            : "no picture";
    throw Error(concat("the folder ", path_, " holds no sample: expected pictures (",
                       kPictureExtensions, "), each with a .txt of the same name, found ", found));
  }

  std::string path_;
  std::vector<Pair> pairs_;
  int64_t without_caption_ = 0;
};

std::vector<std::string> class_names(const std::string& path) {
  std::vector<std::string> names;
  try {
    for (const fs::directory_entry& entry : fs::directory_iterator(path)) {
      const std::string name = entry.path().filename().string();
      if (entry.is_directory() && !name.starts_with('.')) names.push_back(name);
    }
  } catch (const fs::filesystem_error& error) {
    throw Error(concat("cannot list the folder ", path, ": ", error.code().message()));
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

std::unique_ptr<Dataset> open_folder_dataset(const std::string& path) {
  return std::make_unique<FolderDataset>(path);
}

std::vector<std::string> pictures_under(const std::string& path) {
  check_folder(path);
  std::vector<std::string> files = files_under(path);
  std::erase_if(files,
                [](const std::string& file) { return !is_picture_extension(extension_of(file)); });
  return files;
}

ClassFolder read_class_folder(const std::string& path) {
  check_folder(path);
  ClassFolder folder;
  folder.classes = class_names(path);
  CLIP_CHECK(!folder.classes.empty(), "the folder ", path,
             " has no subfolder: expected one of pictures for each class");
  for (size_t label = 0; label < folder.classes.size(); ++label) {
    const std::string class_path = (fs::path(path) / folder.classes[label]).string();
    const size_t before = folder.pictures.size();
    for (const std::string& file : pictures_under(class_path))
      folder.pictures.push_back({file, static_cast<int64_t>(label)});
    CLIP_CHECK(folder.pictures.size() > before, "the class folder ", class_path,
               " holds no picture (", kPictureExtensions, ")");
  }
  return folder;
}

}  // namespace clip
