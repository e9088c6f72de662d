// Where pictures and captions come from.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/check.h"
#include "models/image.h"

namespace clip {

/// A picture (any size) and the caption beside it.
struct Sample {
  Image image;
  std::string caption;
};

/// A sample whose picture or caption cannot be read; the loader skips, counts and names it once.
/// Everything else is fatal.
class BrokenSample : public Error {
 public:
  using Error::Error;
};

/// A fixed collection of samples. Reading is thread-safe.
class Dataset {
 public:
  virtual ~Dataset() = default;

  /// Number of samples; an epoch visits each once.
  virtual int64_t size() const = 0;

  /// Sample `index` in [0, size()).
  ///
  /// epoch     matters only to sets that draw fresh pictures each time
  /// throws    BrokenSample if its picture or caption cannot be read
  virtual Sample get(int64_t index, int64_t epoch) const = 0;

  /// The caption of sample `index`, where possible without reading its picture. throws BrokenSample
  virtual std::string caption(int64_t index) const { return get(index, 0).caption; }

  /// The picture of sample `index`, where possible without reading its caption. throws BrokenSample
  virtual Image picture(int64_t index) const { return get(index, 0).image; }

  /// The same for samples that show the same picture.
  virtual std::string picture_name(int64_t index) const { return concat("sample ", index); }

  /// The captions a vocabulary is learned from: all, or of large sets evenly spaced ones.
  virtual std::vector<std::string> captions() const = 0;

  /// Side of the pictures if all are squares drawn at the size asked for, so that no crop is
  /// wanted; else 0.
  virtual int64_t native_size() const { return 0; }

  /// One line for the log: kind, place, number of samples.
  virtual std::string describe() const = 0;
};

/// Which columns a CSV or TSV has.
struct CsvOptions {
  std::string image_key = "filepath";
  std::string caption_key = "title";
  /// One character or "\t"; empty: tab if the header holds one, else comma.
  std::string separator = {};
};

/// A CSV or TSV with a header. RFC 4180 quotes (line ends inside quotes too), any line ends, a
/// UTF-8 byte order mark is skipped. Relative picture paths are taken from the file's folder; a
/// picture that is missing is found out, as a BrokenSample, when it is read.
///
/// throws    clip::Error if the file is missing or holds no sample, a column is missing (names
///           those found), or a row has not as many fields as the header (names the line)
std::unique_ptr<Dataset> open_csv_dataset(const std::string& path, const CsvOptions& options);

/// A folder (and its subfolders, links to folders aside) of pictures, each with a .txt of the same
/// name that holds its caption, in the order of their paths. Pictures without one are no samples.
///
/// throws    clip::Error if the folder is missing or holds no pair
std::unique_ptr<Dataset> open_folder_dataset(const std::string& path);

/// WebDataset tar shards: "shard-{0000..0009}.tar", "{a,b}.tar", several joined by "::". Members of
/// one shard that share a name up to its first dot form a sample: a picture and a txt; a picture
/// without a txt is a BrokenSample. Shards are indexed once and read at random places.
///
/// text_extension    which members are the captions: "cls" takes those of labels for them
/// throws    clip::Error if a shard is missing, compressed, cut short, no tar, or holds no sample
std::unique_ptr<Dataset> open_tar_dataset(const std::string& pattern,
                                          const std::string& text_extension = "txt");

/// Which files of data sets that have both.
enum class Split { kTrain, kTest };

/// Chooses by the argument's form: a folder, *.csv / *.tsv, else *.tar, braces or "::". A folder of
/// CIFAR's or MNIST's files (models/labelled_pictures.h) gives the pictures of one split, each with
/// the caption "a photo of a <class>".
std::unique_ptr<Dataset> open_dataset(const std::string& train_data, const CsvOptions& options,
                                      Split split = Split::kTrain);

/// Pictures sorted into classes for evaluation: DIR/<class>/..., subfolders of a class included.
struct ClassFolder {
  struct Picture {
    std::string path;
    int64_t label;  ///< index into `classes`
  };
  std::vector<std::string> classes;  ///< names of the folders, sorted; hidden ones are left out
  std::vector<Picture> pictures;     ///< by class, then by path
};

/// Every picture of a folder and its subfolders, sorted by path; hidden ones and links to folders
/// are left out.
/// throws    clip::Error if a folder is missing or cannot be read
std::vector<std::string> pictures_under(const std::string& path);

/// throws    clip::Error if the folder is missing, has no subfolder, or one holds no picture
ClassFolder read_class_folder(const std::string& path);

}  // namespace clip
