// apps/embed from outside: its files hold what models/features computes, in the order of the input.
#include <gtest/gtest.h>
#include <signal.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "models/embedding_stream.h"
#include "models/features.h"
#include "models/preprocess.h"
#include "tests/app_process.h"
#include "tests/app_samples.h"
#include "tests/error_message.h"

namespace clip {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int64_t kWidth = 16, kPictures = 11;
// Unit vectors of F32 whose products were blocked for batches of other sizes.
constexpr double kRounding = 2e-6;

struct Array {
  int64_t rows = 0, width = 0;
  std::vector<float> values;
};

/// Reads a .npy file as NumPy's description of format 1.0 has it.
Array read_npy(const std::string& path) {
  const std::string bytes = file_bytes(path);
  Array array;
  if (bytes.size() < 10 || bytes.substr(0, 8) != std::string("\x93NUMPY\x01\x00", 8)) {
    ADD_FAILURE() << path << " is no .npy file";
    return array;
  }
  const size_t data = 10 + static_cast<uint8_t>(bytes[8]) + 256 * static_cast<uint8_t>(bytes[9]);
  EXPECT_EQ(data % 64, 0u);
  EXPECT_EQ(bytes.at(data - 1), '\n');
  long long rows = -1, width = -1;
  EXPECT_EQ(std::sscanf(bytes.c_str() + 10,
                        "{'descr': '<f4', 'fortran_order': False, 'shape': (%lld, %lld), }", &rows,
                        &width),
            2);
  array.rows = rows;
  array.width = width;
  array.values.resize((bytes.size() - data) / sizeof(float));
  if (!array.values.empty())
    std::memcpy(array.values.data(), bytes.data() + data, array.values.size() * sizeof(float));
  EXPECT_EQ(data + array.values.size() * sizeof(float), bytes.size());
  EXPECT_EQ(std::ssize(array.values), rows * width);
  return array;
}

void expect_near(const Array& array, const std::vector<float>& expected, double tolerance) {
  EXPECT_EQ(array.width, kWidth);
  ASSERT_EQ(array.values.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i)
    ASSERT_NEAR(array.values[i], expected[i], tolerance) << "value " << i;
}

/// Besides the model, pictures of many sizes and kinds.
class EmbedApp : public AppWithModel {
 protected:
  EmbedApp() : AppWithModel("model") {
    for (int64_t i = 0; i < kPictures; ++i) {
      paths_.push_back(concat("pictures/", i % 2 == 0 ? "even/" : "odd/", sample_name(i), ".png"));
      save_png(noise_picture(17 + 9 * i, 40 - i, static_cast<uint64_t>(i)),
               folder_.path(paths_.back()));
    }
    std::sort(paths_.begin(), paths_.end());
    folder_.write("pictures/notes.txt", "no picture");
  }

  AppResult embed(const Strings& own, const Strings& launcher = {}) const {
    const Strings all = with({"--checkpoint", "model", "--device", "cpu"}, own);
    return AppProcess("embed", all, folder_, ".stdout", launcher).wait();
  }

  Array embedded(const Strings& own) const {
    const AppResult result = embed(with(own, {"--out", "f.npy", "--overwrite"}));
    EXPECT_EQ(result.status, 0) << result.err;
    return read_npy(folder_.path("f.npy"));
  }

  Strings written_paths() const { return lines_of(file_bytes(folder_.path("f.txt"))); }

  Image prepared(const std::string& path) const {
    return prepare_image(load_image(folder_.path(path)), config().vision.image_size, {});
  }

  std::vector<float> features_of(const Strings& paths) const {
    return image_features(model_.clip, std::ssize(paths),
                          [&](int64_t i) { return prepared(paths[static_cast<size_t>(i)]); })
        .to_vector<float>();
  }

  std::string list_of(const Strings& paths) const {
    std::string text;
    for (const std::string& path : paths) text += path + '\n';
    return folder_.write("list", text);
  }

  Strings paths_;
};

TEST_F(EmbedApp, AFolderGivesTheLibrarysFeaturesInSortedOrderAtAnyBatchSizeAndNumberOfWorkers) {
  const std::vector<float> expected = features_of(paths_);
  for (const auto& [batch_size, workers] :
       {std::pair("4", "3"), {"64", "1"}, {"1", "2"}, {"3", "0"}}) {
    expect_near(
        embedded({"--images", "pictures", "--batch-size", batch_size, "--workers", workers}),
        expected, kRounding);
    EXPECT_EQ(written_paths(), paths_);
  }
}

TEST_F(EmbedApp, AListKeepsItsOrderFromAFileAndFromStandardInput) {
  const Strings order = {paths_[7], paths_[0], paths_[7], paths_[3]};
  folder_.write("list", order[0] + "\r\n\n" + order[1] + "\n" + order[2] + "\n" + order[3]);
  expect_near(embedded({"--images", "list", "--batch-size", "3"}), features_of(order), kRounding);
  EXPECT_EQ(written_paths(), order);
  const AppResult piped = embed({"--images", "-", "--out", "piped.npy", "--batch-size", "3"},
                                {"sh", "-c", "cat list | \"$0\" \"$@\""});
  EXPECT_EQ(piped.status, 0) << piped.err;
  EXPECT_EQ(file_bytes(folder_.path("piped.npy")), file_bytes(folder_.path("f.npy")));
  EXPECT_EQ(file_bytes(folder_.path("piped.txt")), file_bytes(folder_.path("f.txt")));
}

TEST_F(EmbedApp, EachLineOfATextFileIsARowBlankOnesToo) {
  folder_.write("texts", "a cat\r\n\na house by the sea\nthe sea and a very long way to it\n");
  const std::vector<float> expected =
      text_features(model_.clip, tokenizer_,
                    {"a cat", "", "a house by the sea", "the sea and a very long way to it"})
          .to_vector<float>();
  expect_near(embedded({"--texts", "texts", "--batch-size", "3"}), expected, kRounding);
  EXPECT_FALSE(fs::exists(folder_.path("f.txt")));
  expect_near(embedded({"--texts", "texts", "--batch-size", "1", "--workers", "3"}), expected,
              kRounding);
}

TEST_F(EmbedApp, RawRowsAreTheProjectionsOfTheTower) {
  std::vector<uint8_t> pixels;
  for (const std::string& path : paths_) {
    const Image image = prepared(path);
    pixels.insert(pixels.end(), image.pixels.begin(), image.pixels.end());
  }
  const Tensor raw =
      model_.clip.encode_image(Tensor::from<uint8_t>(cpu_backend(), {kPictures, 16, 16, 3}, pixels))
          .value();
  const std::vector<float> expected = on_host(raw);
  double square = 0;
  for (int64_t c = 0; c < kWidth; ++c) square += std::pow(expected[static_cast<size_t>(c)], 2);
  ASSERT_GT(std::abs(square - 1), 0.01) << "of unit length anyhow";
  // Not of unit length, so rounding is relative to the row's.
  expect_near(embedded({"--images", "pictures", "--raw"}), expected,
              kRounding * std::max(1.0, std::sqrt(square)));
}

TEST_F(EmbedApp, Bf16RowsAreUnitVectorsNearThoseOfF32) {
  const Array rows = embedded({"--images", "pictures", "--precision", "bf16"});
  const std::vector<float> expected = features_of(paths_);
  ASSERT_EQ(rows.values.size(), expected.size());
  EXPECT_NE(rows.values, expected);
  for (int64_t i = 0; i < kPictures; ++i) {
    double dot = 0, square = 0;
    for (int64_t c = 0; c < kWidth; ++c) {
      const auto at = static_cast<size_t>(i * kWidth + c);
      dot += rows.values[at] * expected[at];
      square += rows.values[at] * rows.values[at];
    }
    EXPECT_NEAR(square, 1, 1e-5);  // normalised in F32
    EXPECT_GT(dot, 0.999);  // factors of 8 bits through one block; mixed_precision_test's bound
  }
}

TEST_F(EmbedApp, ABrokenPictureStopsItWithItsNameAndWithoutFiles) {
  folder_.write("pictures/even/05.png", "no picture");
  const AppResult result = embed({"--images", "pictures", "--out", "f.npy", "--batch-size", "2"});
  expect_refused(result, "embed", 1, {"pictures/even/05.png"});
  list_of({paths_[0], "nowhere.png"});
  expect_refused(embed({"--images", "list", "--out", "f.npy"}), "embed", 1, {"nowhere.png"});
  EXPECT_FALSE(fs::exists(folder_.path("f.npy")) || fs::exists(folder_.path("f.txt")));
  EXPECT_FALSE(holds_temporaries(folder_.path()));
}

TEST_F(EmbedApp, SkipBrokenLeavesRowsOutAndTheListSaysWhichAreThere) {
  folder_.write("bad.png", "no picture");
  list_of({"bad.png", paths_[0], "nowhere.png", paths_[1], paths_[2], "bad.png"});
  const Strings ask = {"--images", "list", "--out", "f.npy", "--skip-broken", "--batch-size", "2"};
  const AppResult result = embed(ask);
  ASSERT_EQ(result.status, 0) << result.err;
  const Strings kept = {paths_[0], paths_[1], paths_[2]};
  expect_near(read_npy(folder_.path("f.npy")), features_of(kept), kRounding);
  EXPECT_EQ(written_paths(), kept);
  const Strings told = lines_of(result.err);
  ASSERT_EQ(told.size(), 5u) << result.err;
  EXPECT_TRUE(says(told[0], "left out: ", "bad.png"));
  EXPECT_TRUE(says(told[1], "left out: ", "nowhere.png"));
  EXPECT_TRUE(says(told[2], "left out: ", "bad.png"));
  EXPECT_TRUE(says(told[3], "3 pictures (3 left out) in ", "/s", "first embedding after"));
  EXPECT_EQ(told[4], "f.npy: float32 [3, 16]");
}

TEST_F(EmbedApp, JsonTellsWhatWasDoneAndHowFast) {
  const AppResult result = embed({"--images", "pictures", "--out", "f.npy", "--json"});
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(result.err, "");
  const json told = json::parse(result.out);
  EXPECT_EQ(told["rows"], kPictures);
  EXPECT_EQ(told["width"], kWidth);
  EXPECT_EQ(told["left_out"], 0);
  EXPECT_EQ(told["out"], "f.npy");
  EXPECT_EQ(told["paths"], "f.txt");
  EXPECT_NEAR(told["rows_per_second"].get<double>() * told["seconds"].get<double>(), kPictures,
              1e-6);
  EXPECT_LE(told["first_seconds"].get<double>(),
            told["load_seconds"].get<double>() + told["seconds"].get<double>());
}

TEST_F(EmbedApp, AnEmptyListIsAFileOfNoRows) {
  list_of({});
  const Array array = embedded({"--images", "list"});
  EXPECT_EQ(array.rows, 0);
  EXPECT_EQ(array.width, kWidth);
  EXPECT_TRUE(fs::exists(folder_.path("f.txt")));
  const json told = json::parse(embed({"--texts", "list", "--out", "t.npy", "--json"}).out);
  EXPECT_EQ(told["rows"], 0);
  EXPECT_TRUE(told.at("first_seconds").is_null());
}

TEST_F(EmbedApp, FilesThatExistAreNotReplacedUnasked) {
  list_of({paths_[0]});
  for (const char* name : {"f.npy", "f.txt"}) {
    folder_.write(name, "precious");
    expect_refused(embed({"--images", "list", "--out", "f.npy"}), "embed", 2,
                   {name, "--overwrite"});
    EXPECT_EQ(file_bytes(folder_.path(name)), "precious");
    fs::remove(folder_.path(name));
  }
  fs::copy(folder_.path("list"), folder_.path("f.txt"));
  expect_refused(embed({"--images", "f.txt", "--out", "f.npy", "--overwrite"}), "embed", 2,
                 {"its own input", "f.txt"});
}

TEST_F(EmbedApp, BadRequestsAreOneSentence) {
  list_of({paths_[0]});
  fs::create_directory(folder_.path("empty"));
  const Strings out = {"--out", "f.npy"};
  expect_refused(embed(out), "embed", 2, {"--images", "--texts"});
  expect_refused(embed(with(out, {"--images", "list", "--texts", "list"})), "embed", 2,
                 {"--images", "--texts"});
  expect_refused(embed({"--images", "list"}), "embed", 2, {"--out"});
  expect_refused(embed({"--images", "list", "--out", "f.bin"}), "embed", 2, {".npy", "f.bin"});
  expect_refused(embed(with(out, {"--images", "list", "--batch-size", "0"})), "embed", 2,
                 {"--batch-size", "0"});
  expect_refused(embed(with(out, {"--images", "nowhere"})), "embed", 1, {"nowhere"});
  expect_refused(embed(with(out, {"--images", "empty"})), "embed", 1, {"empty", "no picture"});
  expect_refused(embed(with(out, {"--texts", "pictures"})), "embed", 1, {"pictures", "folder"});
  expect_refused(embed({"--images", "list", "--out", "no/f.npy"}), "embed", 1, {"no/f.npy"});
}

TEST_F(EmbedApp, KilledMidwayItLeavesNoFileOfTheFinalName) {
  // A list that never ends; its writer does when nobody reads.
  AppProcess process("embed",
                     {"--checkpoint", "model", "--images", "-", "--out", "f.npy", "--batch-size",
                      "1", "--device", "cpu"},
                     folder_, ".stdout",
                     {"sh", "-c", "yes '" + paths_[0] + "' | { exec \"$0\" \"$@\"; }"});
  const auto has_rows = [&] {
    for (const auto& entry : fs::directory_iterator(folder_.path()))
      if (entry.path().filename().string().starts_with(".f.npy.tmp-") && entry.file_size() > 128)
        return true;
    return false;
  };
  while (!has_rows() && !process.has_ended())
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  ASSERT_FALSE(process.has_ended());
  for (const auto& entry : fs::directory_iterator(folder_.path())) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(".f.npy.tmp-")) ::kill(std::stoi(name.substr(11)), SIGKILL);
  }
  process.wait();
  EXPECT_TRUE(holds_temporaries(folder_.path()));
  EXPECT_FALSE(fs::exists(folder_.path("f.npy")) || fs::exists(folder_.path("f.txt")));
  list_of({paths_[0]});
  EXPECT_EQ(embedded({"--images", "list"}).rows, 1);
  EXPECT_FALSE(holds_temporaries(folder_.path())) << "the next run cleans up";
}

TEST_F(EmbedApp, ReadsAtMostTwoBatchesAhead) {
  constexpr int64_t kItems = 100, kBatch = 3;
  for (const int64_t workers : {0, 3}) {
    int64_t asked_for = 0, delivered = 0;
    EmbeddingStream stream =
        embed_pictures(model_.clip,
                       [&]() -> std::optional<std::string> {
                         if (asked_for == kItems) return std::nullopt;
                         return folder_.path(paths_[static_cast<size_t>(asked_for++ % kPictures)]);
                       },
                       {.batch_size = kBatch, .workers = workers});
    while (const auto batch = stream.next()) {
      delivered += std::ssize(batch->items);
      ASSERT_LE(asked_for - delivered, EmbeddingStream::kAhead * kBatch);
    }
    EXPECT_EQ(delivered, kItems);
  }
}

}  // namespace
}  // namespace clip
