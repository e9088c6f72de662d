// Pictures with a class each: folders of classes, CSV, tar shards, the files of CIFAR and MNIST.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "models/dataset.h"
#include "models/image.h"

namespace clip {

struct LabelledPictures {
  std::string description = {};           ///< kind and place
  std::vector<std::string> classes = {};  ///< as the data set names them
  std::vector<int64_t> labels = {};       ///< of each picture: an index into `classes`
  bool numbered = false;                  ///< CSV and tar: classes are the numbers 0, 1, ...
  /// Picture i in [0, size()); thread-safe. throws clip::Error that names it if it cannot be read
  std::function<Image(int64_t)> picture = {};

  int64_t size() const { return std::ssize(labels); }
};

/// Opens a .csv or .tsv file with a column of labels; .tar shards, a .cls beside each picture, as
/// WebDataset's ImageNet has it; or a folder, by what it holds:
///   data_batch_1.bin ... test_batch.bin, batches.meta.txt                 CIFAR-10, binary version
///   train.bin, test.bin, fine_label_names.txt                             CIFAR-100, fine classes
///   train-images-idx3-ubyte, t10k-labels-idx1-ubyte ..., also ".gz" or
///   "images.idx3"                                                         MNIST and its like
///   else subfolders of pictures                                           classes named by them
/// The classes of MNIST and Fashion-MNIST, told by their first labels, have their known names;
/// those of other files of that kind have numbers for names. Labels of CSV and tar that are all
/// numbers (of at most 5 digits) number the classes from 0; others name them, in sorted order. One
/// label that is missing, blank or cannot be read refuses the whole set.
///
/// split     which files of CIFAR and MNIST; everything else has one split only
/// csv       the columns; caption_key is that of the labels
/// throws    clip::Error that names the file, what was expected and what was found
LabelledPictures open_labelled_pictures(const std::string& data, Split split,
                                        const CsvOptions& csv = {.caption_key = "label"});

/// The same without folders of classes: nothing if the folder is no CIFAR and no MNIST.
std::optional<LabelledPictures> find_labelled_files(const std::string& folder, Split split);

/// A class name as captions have it: "maple_tree" is "maple tree".
std::string in_words(std::string name);

/// Pairs for training: each picture with the caption "a photo of a <class>".
std::unique_ptr<Dataset> caption_by_class(LabelledPictures pictures);

}  // namespace clip
